"""ndtool: from a folder of images to a network that runs, proven, on a microcontroller."""

from importlib.util import find_spec

__version__ = "0.1.0"

# The clone's own ndtool/ shadows an installed package when Python starts in the clone's folder.
if find_spec("ndtool.training") is None:
    raise ImportError("ndtool is not installed here: run `pip install -e .` in the clone's folder")
