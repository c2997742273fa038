"""The float graph: from an ArchSpec, or from ONNX."""
