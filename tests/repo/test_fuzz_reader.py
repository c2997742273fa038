"""The fuzz driver: its cases are the same again, and it finds what is there to be found."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DRIVER = ROOT / "tools" / "fuzz_reader.py"

# each names a broken judge and the kind of finding it must give
BROKEN = {
    "IndexError": "return [][0]",
    "Hang": "import time\n    while True: time.process_time()",
    "MemoryError": "return len(bytearray(2**31))",
    "the process died": "import os\n    os.abort()",
}


def fuzz(*options: object, code: str = "") -> subprocess.CompletedProcess[str]:
    """The driver as a script; `code` runs before it."""
    program = f"import sys, runpy\nsys.path.insert(0, {str(DRIVER.parent)!r})\n{code}\n"
    program += f"runpy.run_path({str(DRIVER)!r}, run_name='__main__')"
    return subprocess.run(
        [sys.executable, "-c", program, *map(str, options)],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


@pytest.mark.slow
def test_two_seconds_of_damaged_files_have_no_finding(tmp_path: Path) -> None:
    done = fuzz("--seconds", 2, "--out", tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 findings" in done.stdout
    # all four outcomes but the rare third: the cases reach every stage
    for outcome in ("not a file", "refused", "compiled"):
        assert outcome in done.stdout
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize("kind", BROKEN)
def test_what_is_no_refusal_is_found_and_kept(kind: str, tmp_path: Path) -> None:
    code = f"import fuzz_cases\ndef judge(data):\n    {BROKEN[kind]}\nfuzz_cases.judge = judge\n"
    done = fuzz("--seconds", 0.3, "--out", tmp_path, code=code)
    assert done.returncode == 1, done.stdout + done.stderr
    assert f"finding: {kind}" in done.stdout
    assert {path.suffix for path in tmp_path.iterdir()} == {".tflite", ".txt"}
    assert "seed 0, case 0" in next(tmp_path.glob("*.txt")).read_text()


@pytest.mark.slow
def test_a_case_can_be_made_again() -> None:
    outcomes = {fuzz("--case", 17).stdout for _ in range(2)}
    assert len(outcomes) == 1 and outcomes != {""}
