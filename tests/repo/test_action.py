"""The GitHub Action and the workflows: their rules, and their steps run as the runner runs them."""

import json
import re
import shutil
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import yaml
from ci_runner import Command, commands
from command import CODE, ndtool
from host_tools import require_tool
from safetensors.numpy import load_file, save_file

from ndtool.files import (
    json_text,
    sha256_file,
)
from ndtool.rundir import (
    MANIFEST,
    STUDENT,
    TFLITE,
)

ROOT = Path(__file__).resolve().parents[2]
RUN, BASELINE = "examples/digits/ds-cnn", "examples/digits/main.toml"
ACTION = ROOT / "action.yml"
EXAMPLE = ROOT / "examples/ci.yml"
WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))
FILES = {path.name: path for path in (ACTION, EXAMPLE, *WORKFLOWS)}
EXPRESSION = re.compile(r"\$\{\{\s*([\w.-]+)\s*\}\}")
INPUTS = yaml.safe_load(ACTION.read_text())["inputs"]
HOSTILE = (
    "$(touch owned)",
    "`touch owned`",
    "; touch owned",
    "x && touch owned #",
    "x\ntouch owned",
    "x\nverdict=pass",
    "\n::error::owned",
    "--help",
    "--force",
    "-rf",
    "two  words",
    "*",
    "~",
    "quote ' and \"",
    "trailing\\",
)


def load(path: Path) -> dict[str, Any]:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def steps(document: dict[str, Any]) -> list[dict[str, Any]]:
    if "runs" in document:
        return document["runs"]["steps"]
    return [step for job in document["jobs"].values() for step in job["steps"]]


# -- rules -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FILES)
def test_no_expression_is_written_into_a_shell_line(name: str) -> None:
    """Inputs and contexts come as variables; a name in them can then start no command."""
    scripts = [step["run"] for step in steps(load(FILES[name])) if "run" in step]
    assert scripts or name in ("ci.yml", "gate.yml")
    for script in scripts:
        assert "${{" not in script
        subprocess.run(["bash", "-n", "-c", script], check=True, timeout=60)


@pytest.mark.parametrize("name", FILES)
def test_foreign_actions_are_pinned_by_commit(name: str) -> None:
    """With the tag in a comment; one commit an action in all files."""
    text = FILES[name].read_text(encoding="utf-8")
    used = [line.partition("uses: ")[2] for line in text.splitlines() if "uses: " in line]
    assert len(used) == len([step for step in steps(load(FILES[name])) if "uses" in step])
    for use in used:
        if use != "./" and not use.startswith("OWNER/ndtool@COMMIT"):
            assert re.fullmatch(r"actions/[\w-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", use), use
            (pinned,) = {
                line
                for path in FILES.values()
                for line in re.findall(r"uses: (.*)", path.read_text(encoding="utf-8"))
                if line.partition("@")[0] == use.partition("@")[0]
            }
            assert pinned == use


@pytest.mark.parametrize("name", sorted(set(FILES) - {"action.yml"}))
def test_workflows_may_only_read_and_end(name: str) -> None:
    workflow = load(FILES[name])
    assert workflow["permissions"] == {"contents": "read"}
    events = workflow[True]  # YAML reads the key `on` as a boolean
    assert "pull_request_target" not in events  # a fork's code with our rights
    for job in workflow["jobs"].values():
        assert "permissions" not in job
        assert 1 <= job["timeout-minutes"] <= 60
    if name != "ci.yml":
        assert workflow["concurrency"]["cancel-in-progress"] is True
        for step in steps(workflow):
            if step.get("uses", "").startswith("actions/checkout@"):
                assert step["with"]["persist-credentials"] is False


def test_the_short_lane_judges_the_committed_example() -> None:
    (step,) = [s for s in steps(load(FILES["gate.yml"])) if s.get("uses") == "./"]
    assert step["with"] == {"run": RUN, "baseline": BASELINE, "junit": "junit.xml"}
    assert (ROOT / RUN / "manifest.json").is_file()


def test_every_input_is_used_and_every_use_is_an_input() -> None:
    text = ACTION.read_text(encoding="utf-8")
    assert set(re.findall(r"\$\{\{ inputs\.([\w-]+) \}\}", text)) == set(INPUTS)
    for workflow in (EXAMPLE, FILES["gate.yml"]):
        (step,) = [s for s in steps(load(workflow)) if s["uses"] in ("./", "OWNER/ndtool@COMMIT")]
        assert set(step["with"]) <= set(INPUTS)


def test_the_example_to_copy_has_twelve_lines_and_is_that_of_the_page() -> None:
    text = EXAMPLE.read_text(encoding="utf-8")
    assert len(text.splitlines()) == 12
    page = (ROOT / "docs/ci.md").read_text(encoding="utf-8")
    assert f"```yaml\n{text}```" in page


def test_what_the_page_leaves_out_is_what_the_example_leaves_out() -> None:
    lines = (ROOT / RUN / ".gitignore").read_text(encoding="utf-8").splitlines()
    assert "\n".join(("```", *lines[1:], "```")) in (ROOT / "docs/ci.md").read_text(
        encoding="utf-8"
    )


def test_the_committed_run_holds_no_place_and_no_person() -> None:
    files = [path for path in (ROOT / "examples").rglob("*") if path.suffix in (".json", ".toml")]
    assert len(files) >= 5
    for path in files:
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"/(home|root|tmp|work|Users)\b|[A-Z]:\\\\", text), path
    manifest = load_json(ROOT / RUN / MANIFEST)
    assert {row["folder"] for row in manifest["stages"].values()} == {"ndtool"}
    assert {row["git"] for row in manifest["stages"].values()} == {""}


def test_the_committed_run_is_small() -> None:
    """users.md, 5.4: checkpoint below 300 KB, evaluation set below 2 MB."""
    assert (ROOT / RUN / STUDENT).stat().st_size < 300_000
    assert (ROOT / "examples/digits/digits.npz").stat().st_size < 2_000_000


# -- the steps, one by one -------------------------------------------------------------------------


@dataclass(frozen=True)
class Finished:
    """What a run of the action left behind. Outputs are the action's own."""

    code: int
    log: str
    outputs: dict[str, str]
    summary: str

    @property
    def commands(self) -> list[Command]:
        return commands(self.log)


@dataclass(frozen=True)
class Runner:
    """A job on `workspace`, which holds the checkout of a user.

    `python` takes the place of the one that setup-python installs.
    """

    workspace: Path
    temp: Path
    python: Path

    def run(self, **given: str) -> Finished:
        """Run the action with inputs as `max_drop="1"`; a failed step ends it."""
        inputs = {name: str(row.get("default", "")) for name, row in INPUTS.items()}
        inputs |= {name.replace("_", "-"): value for name, value in given.items()}
        assert set(inputs) == set(INPUTS)
        known = {f"inputs.{name}": value for name, value in inputs.items()}
        known |= {"runner.os": "Linux", "runner.arch": "X64"}
        known["steps.python.outputs.python-path"] = str(self.python)
        known["steps.python.outputs.python-version"] = "3.11.7"
        code, log = 0, ""
        for step in load(ACTION)["runs"]["steps"]:
            if "run" in step and code == 0:
                code, text, outputs = self._step(step, known)
                log += text
                for name, value in outputs.items():
                    known[f"steps.{step['id']}.outputs.{name}"] = value
            for value in step.get("with", {}).values():
                filled(str(value), known)
        wanted = {name: row["value"] for name, row in load(ACTION)["outputs"].items()}
        shown = {name: filled(value, GATE_UNSET | known) for name, value in wanted.items()}
        return Finished(code, log, shown, self._file("summary").read_text(encoding="utf-8"))

    def _step(self, step: dict[str, Any], known: dict[str, str]) -> tuple[int, str, dict[str, str]]:
        """(exit code, what it printed, what it wrote to GITHUB_OUTPUT) of one shell step."""
        assert step["shell"] == "bash"
        script, output = self._file("step.sh"), self._file("output")
        script.write_text(step["run"], encoding="utf-8")
        output.write_bytes(b"")
        files = {"GITHUB_OUTPUT": str(output), "GITHUB_STEP_SUMMARY": str(self._file("summary"))}
        env = {name: filled(value, known) for name, value in step.get("env", {}).items()}
        done = subprocess.run(
            ["bash", "--noprofile", "--norc", "-eo", "pipefail", script],
            cwd=self.workspace / filled(step.get("working-directory", ""), known),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            check=False,
            timeout=300,
            env={
                "PATH": str(self.temp / "tools"),
                "HOME": str(self.temp),
                "OMP_NUM_THREADS": "1",
                "GITHUB_ACTIONS": "true",
                "CI": "true",
                "GITHUB_WORKSPACE": str(self.workspace),
                "GITHUB_ACTION_PATH": str(ROOT),
                "RUNNER_TEMP": str(self.temp),
                **files,
                **env,
            },
        )
        lines = output.read_text(encoding="utf-8").splitlines()
        assert all(line.count("=") == 1 for line in lines), lines
        return (
            done.returncode,
            done.stdout.decode("utf-8"),
            dict(line.split("=") for line in lines),
        )

    def _file(self, name: str) -> Path:
        path = self.temp / name
        path.touch()
        return path


GATE_UNSET = {f"steps.gate.outputs.{name}": "" for name in ("verdict", "exit-code")}


def filled(text: str, known: dict[str, str]) -> str:
    """`text` with every `${{ expression }}` replaced by its value."""
    return EXPRESSION.sub(lambda match: known[match[1]], text)


# What the short lane may need of the machine: no cross compiler, no QEMU.
TOOLS = ("bash", "cat", "sha256sum", "gcc", "as", "ld", "make", "mkdir", "rm")

# Stands for the Python of setup-python: makes a venv whose pip only notes what it was asked, and
# whose ndtool is `command`.
PYTHON = """\
#!{python}
import pathlib, sys
assert sys.argv[1:3] == ["-m", "venv"] and len(sys.argv) == 4
for name, lines in {{"python": {pip!r}, "ndtool": {ndtool!r}}}.items():
    path = pathlib.Path(sys.argv[3], "bin", name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("#!{python}\\n" + lines)
    path.chmod(0o755)
"""
NOTE = "import json, sys\nopen({file!r}, 'a').write(json.dumps(sys.argv[1:]) + '\\n')\n"
# Not even find_spec sees them, as in the environment that the action makes.
WITHOUT_TORCH = (
    "import sys\nsys.modules.update(dict.fromkeys(('torch', 'torchvision', 'sklearn')))\n"
)


def make_runner(folder: Path, ndtool: str) -> Runner:
    temp, workspace = folder / "runner temp", folder / "work space"
    temp.mkdir()
    workspace.mkdir()
    python = temp / "python"
    pip = NOTE.format(file=str(temp / "pip.json"))
    python.write_text(PYTHON.format(python=sys.executable, pip=pip, ndtool=ndtool))
    python.chmod(0o755)
    tools = temp / "tools"
    tools.mkdir()
    for name in ("gcc", "make"):
        require_tool(name)
    for name in TOOLS:
        (tools / name).symlink_to(shutil.which(name) or "nowhere")
    return Runner(workspace, temp, python)


@pytest.fixture
def noting(tmp_path: Path) -> Runner:
    """A runner whose ndtool only notes its arguments."""
    return make_runner(tmp_path, NOTE.format(file=str(tmp_path / "runner temp/ndtool.json")))


@pytest.fixture
def job(tmp_path: Path, tflite_micro: None) -> Runner:
    """A runner with our ndtool and a copy of the examples in the workspace."""
    runner = make_runner(tmp_path, WITHOUT_TORCH + CODE)
    shutil.copytree(ROOT / "examples", runner.workspace / "examples")
    remove_what_is_not_committed(runner.workspace / RUN)
    return runner


def remove_what_is_not_committed(run: Path) -> None:
    for line in (run / ".gitignore").read_text().splitlines():
        path = run / line.removeprefix("/")
        if line.startswith("/") and path.exists():
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def noted(runner: Runner, name: str) -> list[list[str]]:
    return [json.loads(line) for line in (runner.temp / name).read_text().splitlines()]


def load_json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))


def test_what_is_installed_is_this_checkout_without_torch(noting: Runner) -> None:
    assert noting.run(run=RUN).code == 0
    (pip,) = noted(noting, "pip.json")
    assert pip[:3] == ["-m", "pip", "install"]
    assert pip[-1] == f"{ROOT}[export,verify]"
    assert pip[pip.index("-c") + 1] == f"{ROOT}/constraints.txt"


def test_options_left_out_are_not_given(noting: Runner) -> None:
    assert noting.run(run=RUN).code == 0
    assert noted(noting, "ndtool.json") == [
        ["export", "--int8", "--", RUN],
        ["codegen", "--", RUN],
        ["check", "--github", "--", RUN],
    ]


@pytest.mark.parametrize("text", HOSTILE)
def test_inputs_arrive_whole_and_start_nothing(noting: Runner, text: str) -> None:
    given = dict.fromkeys(("run", "baseline", "data", "policy", "max_drop", "junit"), text)
    done = noting.run(**given)
    assert (done.code, done.outputs) == (0, {"verdict": "pass", "exit-code": "0"})
    options = [f"--{name}={text}" for name in ("data", "baseline", "policy", "max-drop", "junit")]
    assert noted(noting, "ndtool.json") == [
        ["export", "--int8", options[0], "--", text],
        ["codegen", options[0], "--", text],
        ["check", "--github", *options, "--", text],
    ]
    assert list(noting.workspace.iterdir()) == []
    assert done.commands == []


@pytest.mark.parametrize(
    ("codes", "code", "verdict"),
    [
        ({"check": 3}, 3, "fail"),
        ({"export": 2}, 2, "error"),  # check passes what is there: still no verdict
        ({"codegen": 5}, 5, "error"),
        ({"codegen": 4}, 4, "fail"),  # does not fit the board
        ({"export": 2, "check": 3}, 3, "fail"),  # the gate that names the cause
        ({"check": 7}, 7, "error"),
        ({"check": 1}, 1, "error"),
    ],
)
def test_only_three_passes_make_a_pass(
    tmp_path: Path, codes: dict[str, int], code: int, verdict: str
) -> None:
    runner = make_runner(tmp_path, f"import sys\nsys.exit({codes!r}.get(sys.argv[1], 0))\n")
    done = runner.run(run=RUN)
    assert done.code == code
    assert done.outputs == {"verdict": verdict, "exit-code": str(code)}
    told = [c.name for c in done.commands]
    assert told == ([] if code == 3 else ["error"])  # of a gate, check tells itself


def test_a_failed_installation_is_no_verdict(noting: Runner) -> None:
    noting.python.write_text("#!/bin/sh\nexit 1\n")
    done = noting.run(run=RUN)
    assert (done.code, done.outputs) == (1, {"verdict": "", "exit-code": ""})
    assert not (noting.temp / "ndtool.json").exists()


@pytest.mark.slow
def test_the_committed_model_passes(job: Runner) -> None:
    done = job.run(run=RUN, baseline=BASELINE, junit="junit.xml")
    assert done.code == 0, done.log
    assert done.outputs == {"verdict": "pass", "exit-code": "0"}
    assert "error" not in {command.name for command in done.commands}
    assert done.summary
    suites = ElementTree.parse(job.workspace / "junit.xml").getroot()
    assert (suites.get("failures"), suites.get("errors")) == ("0", "0")
    cases = {case.get("name") for case in suites.iter("testcase")}
    assert cases >= {"integrity", "drop", "determinism", "c", "arena", "ops"}
    # A pure function of what is committed: the same bytes on every machine.
    accepted = tomllib.loads((ROOT / BASELINE).read_text())["hash"]["model_int8"]
    assert sha256_file(job.workspace / RUN / TFLITE) == accepted


@pytest.mark.slow
def test_a_manifest_of_the_whole_chain_may_be_committed(job: Runner) -> None:
    """It names the C, its verification and predictions, which are not in the checkout."""
    for words in (["export", "--int8"], ["codegen"], ["verify", "--random", "1"]):
        assert ndtool(*words, RUN, cwd=job.workspace).code == 0
    remove_what_is_not_committed(job.workspace / RUN)
    assert "verify" in load_json(job.workspace / RUN / MANIFEST)["stages"]
    done = job.run(run=RUN, baseline=BASELINE)
    assert (done.code, done.outputs["verdict"]) == (0, "pass"), done.log


def flip_weights(run: Path) -> None:
    """The sign of every weight of one class."""
    tensors = load_file(run / STUDENT)
    tensors["classifier.weight"][3] *= -1
    save_file(tensors, run / STUDENT)


def remake_manifest(run: Path) -> None:
    """As if the weights had always been these."""
    manifest = load_json(run / MANIFEST)
    manifest["files"][STUDENT]["sha256"] = sha256_file(run / STUDENT)
    (run / MANIFEST).write_text(json_text(manifest))


def swap_labels(run: Path) -> None:
    (run / "labels.txt").write_text("\n".join("1023456789") + "\n")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("mutations", "causes"),
    [
        ([flip_weights], {"integrity": "student.safetensors"}),
        ([flip_weights, remake_manifest], {"drop": "35 images lost", "recall:3": "0.00 %"}),
        ([swap_labels], {"integrity": "labels.txt", "labels": "labels.txt"}),
    ],
    ids=["weights", "weights-and-hashes", "labels"],
)
def test_a_changed_model_fails(job: Runner, mutations: list, causes: dict[str, str]) -> None:
    for mutate in mutations:
        mutate(job.workspace / RUN)
    done = job.run(run=RUN, baseline=BASELINE, junit="junit.xml")
    assert done.code == 3, done.log
    assert done.outputs == {"verdict": "fail", "exit-code": "3"}
    assert "FAIL" in done.summary
    suites = ElementTree.parse(job.workspace / "junit.xml").getroot()
    cases = {case.get("name"): case.find("failure") for case in suites.iter("testcase")}
    errors = {c.properties["title"]: c.data for c in done.commands if c.name == "error"}
    for gate, cause in causes.items():
        failure = cases[gate]
        assert failure is not None and cause in failure.get("message", "")
        assert cause in errors[f"ndtool check: {gate}"]


@pytest.mark.slow
def test_a_missing_baseline_fails(job: Runner) -> None:
    done = job.run(run=RUN, baseline="nowhere.toml")
    assert (done.code, done.outputs["verdict"]) == (3, "fail")
    assert "nowhere.toml" in done.log


@pytest.mark.slow
def test_names_with_blanks_and_signs_are_only_names(job: Runner) -> None:
    """In another folder; data at another place; every name would be a command to a shell."""
    run, baseline, data = "-run $(touch owned)", "--base line.toml", "; touch owned.npz"
    place = job.workspace / "a folder"
    place.mkdir()
    (job.workspace / RUN).rename(place / run)
    (job.workspace / BASELINE).rename(place / baseline)
    pred = Path(BASELINE).with_suffix(".pred")
    (job.workspace / pred).rename((place / baseline).with_suffix(".pred"))
    (job.workspace / "examples/digits/digits.npz").rename(place / data)
    done = job.run(
        run=run,
        baseline=baseline,
        data=f"npz:{data}",
        junit="a report.xml",
        working_directory="a folder",
        policy="strict",
        max_drop="0",
    )
    assert done.code == 0, done.log
    assert done.outputs["verdict"] == "pass"
    left = {path.name for path in place.iterdir()}
    assert left == {run, baseline, "--base line.pred", data, "a report.xml"}


@pytest.mark.slow
def test_hostile_text_in_the_log_starts_no_command(job: Runner) -> None:
    text = "\n::error::owned\nx ##[error]owned\nverdict=pass"
    done = job.run(run=text, baseline=text, data=text)
    assert (done.code, done.outputs["verdict"]) == (2, "error")
    assert [c.properties for c in done.commands] == [{"title": "ndtool check"}, {"title": "ndtool"}]


def test_a_reader_finds_every_input_on_the_page() -> None:
    page = (ROOT / "docs/ci.md").read_text(encoding="utf-8")
    for name in INPUTS:
        assert f"`{name}`" in page, name
