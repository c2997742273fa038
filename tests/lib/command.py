"""Run the real `ndtool` command."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

CODE = "import sys; from ndtool.cli.main import main; sys.exit(main())"
TIMEOUT_S = 300


@dataclass(frozen=True)
class Done:
    """What a command gave back."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> dict:
        """The one JSON document of --json."""
        return json.loads(self.out)


def ndtool_here(*args: object, capsys: pytest.CaptureFixture[str]) -> Done:
    """Run `ndtool ARGS` in this process: no start, no imports; for paths that are absolute."""
    from ndtool.cli.main import main

    capsys.readouterr()
    code = main([str(arg) for arg in args])
    out, err = capsys.readouterr()
    return Done(code, out, err)


def ndtool(*args: object, cwd: Path, env: dict[str, str] | None = None) -> Done:
    """Run `ndtool ARGS` in `cwd` as a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", CODE, *map(str, args)],
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
        timeout=TIMEOUT_S,
        env=os.environ | {"OMP_NUM_THREADS": "1"} | (env or {}),
    )
    return Done(done.returncode, done.stdout, done.stderr)
