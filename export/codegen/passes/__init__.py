"""Passes over the int8 graph before code is generated: Graph -> Graph, verified after each."""
