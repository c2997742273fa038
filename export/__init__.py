"""ndtool.export: from the trained student to int8 TFLite and C."""

if __name__ != "ndtool.export":
    raise ImportError("import ndtool.export, not 'export' (pip install -e .)")
