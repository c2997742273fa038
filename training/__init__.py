"""ndtool.training: the home of torch."""

if __name__ != "ndtool.training":
    raise ImportError("import ndtool.training, not 'training' (pip install -e .)")
