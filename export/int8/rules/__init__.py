"""The rules of a legal int8 graph, by subject; `ndtool.export.int8.spec` is the table of them."""
