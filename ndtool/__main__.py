"""python -m ndtool."""

import sys

from ndtool.cli.main import main

sys.exit(main())
