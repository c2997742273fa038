"""What a run came to: the figures that `run`, `export` and `codegen` end with (users.md, 2.9).

They are those that the stages recorded; of a stage that is older than its input they are as unknown
as if they had never been measured. Only whether the C fits is worked out here.
"""

from __future__ import annotations

import shlex
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Final

from ndtool.config import NAME, load_run_table
from ndtool.console import visible, warn
from ndtool.contract import Contract
from ndtool.errors import ConfigError, FitError, InputError, UnsupportedError
from ndtool.evaluate import Accuracy, drop_points
from ndtool.export.analyze import analyze
from ndtool.export.c_project import ARRAY, MAX_TFLITE_BYTES, load_projects
from ndtool.export.codegen.boards import DEFAULT_BOARD, find_board
from ndtool.export.codegen.costs import estimate
from ndtool.export.codegen.engine import Compiled, compile_graph
from ndtool.export.codegen.project import folder_names
from ndtool.export.fit import fit_error
from ndtool.export.int8.ir import Graph, op_name
from ndtool.export.layers import op_macs
from ndtool.export.tflite.reader import read_tflite
from ndtool.export.verify_run import ON_HOST
from ndtool.files import read_bounded
from ndtool.options import CODEGEN as DEFAULTS
from ndtool.options import CodegenOptions
from ndtool.rundir import (
    CODEGEN,
    CONFIG,
    ONNX,
    TFLITE,
    Manifest,
    RunDir,
    StageKey,
    StageRow,
    Value,
)
from ndtool.targets import Fit, Need, Target, built_in_targets, find_target, judge_fit, load_targets
from ndtool.types import Hop

BASELINE: Final = "baselines/main.toml"  # where a first one is proposed
STAGE: Final = "fit"
TEMPLATES: Final = (*ON_HOST, ARRAY)  # the first of them that the run has is the run's C
CORE: Final = f"cortex-{find_board(DEFAULT_BOARD).core}"  # on which flash and stack are measured


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """None, and a hop that `accuracies` lacks: not known yet.

    `accuracies` is None where there are no images to be right about. `fits` is the verdict on
    `target`, without one those on all built-in boards; empty where it cannot be told, or not yet.
    `refusal`: why it does not fit the target. `hints` has, by line of the block, the command that
    fills what is not known. Commands are quoted for a shell and hold paths as they are.
    """

    accuracies: Mapping[Hop, Accuracy] | None
    template: str  # empty: there is no C yet
    bit_exact: str | None
    arena_bytes: int | None
    arena_bytes_tflm: int | None
    tflite_bytes: int | None
    flash_bytes: int | None
    stack_bytes: int | None
    instructions: int | None
    core: str  # of the instructions
    macs: int | None
    params: int | None
    ops: str | None
    target: Target | None
    fits: tuple[Fit, ...]
    refusal: FitError | None
    files: Path
    hints: Mapping[str, str]
    next: str  # empty: nothing more can be done; of one that is too large, what is large in it

    @property
    def drop(self) -> Fraction | None:
        """Accuracy lost from the first hop to int8, or the C if it is known; in points."""
        found = self.accuracies or {}
        before = [found[hop] for hop in (Hop.FLOAT, Hop.ONNX) if hop in found]
        after = [found[hop] for hop in (Hop.C, Hop.INT8) if hop in found]
        return drop_points(before[0], after[0]) if before and after else None

    @property
    def fit(self) -> Fit | None:
        """The verdict on the target."""
        return self.fits[0] if self.target is not None and self.fits else None

    def document(self) -> dict[str, object]:
        """The --json form; accuracies are shares 0..1."""
        drop = self.drop
        hops = {} if self.accuracies is None else self.accuracies
        return {
            "accuracies": {
                hop.value: {"correct": row.correct, "count": row.count, "accuracy": row.fraction}
                for hop, row in hops.items()
            },
            "drop_points": None if drop is None else float(drop),
            "template": self.template or None,
            "bit_exact": self.bit_exact,
            "arena_bytes": self.arena_bytes,
            "arena_bytes_tflm": self.arena_bytes_tflm,
            "tflite_bytes": self.tflite_bytes,
            "flash_bytes": self.flash_bytes,
            "stack_bytes": self.stack_bytes,
            "instructions": self.instructions,
            "instructions_core": None if self.instructions is None else self.core,
            "macs": self.macs,
            "params": self.params,
            "ops": None if self.ops is None else self.ops.split(),
            "target": None if self.target is None else self.target.name,
            "fits": [_fit_document(fit) for fit in self.fits],
            "files": str(self.files),
            "next": self.next,
        }


def _fit_document(fit: Fit) -> dict[str, object]:
    return {
        "target": fit.target.name,
        "fits": fit.fits,
        "ram_bytes": fit.ram_used,
        "ram_budget_bytes": fit.ram_budget,
        "flash_bytes": fit.need.flash_bytes,
        "flash_budget_bytes": fit.flash_budget,
        "flash_estimated": fit.need.flash_estimated,
        "binding": fit.binding,
    }


# -- the board -------------------------------------------------------------------------------------


def named_target(options: CodegenOptions) -> Target | None:
    """The board of `options`; None: they name none.

    Raises:
        ConfigError: no such board, a wrong file of boards, or a template that says nothing of it.
    """
    if options.target and options.template == ARRAY:
        raise ConfigError(
            "whether an array fits cannot be told: it is the interpreter that takes most",
            where=f"--target {visible(options.target)}",
            remedy=f"leave it out, or take --template {DEFAULTS.template}",
            code="codegen.array-target",
        )
    files = (Path(options.boards),) if options.boards else ()
    return find_target(options.target, load_targets(files)) if options.target else None


def wanted_target(run: RunDir, options: CodegenOptions) -> Target | None:
    """The board of `options`, else the one that the run was trained for; None: no board.

    Raises:
        ConfigError: as `named_target`; or the run's board is not known here.
    """
    return named_target(options) or _told_target(run, "train")


def recorded_target(run: RunDir) -> Target | None:
    """The board that codegen was last told, else the one that the run was trained for.

    None, with a warning, where it is no longer known: this run was not told it.
    """
    try:
        return _told_target(run, "codegen") or _told_target(run, "train")
    except InputError as problem:
        warn("summary.target", f"not held against the board of {CONFIG}: {problem}")
        return None


def _told_target(run: RunDir, verb: str) -> Target | None:
    """The board that config.toml has for `verb`; None: it has none.

    Raises:
        ConfigError: it is in no list of boards here, or its file is gone.
        InputError: a list of boards is wrong.
    """
    told = _told(run, verb)
    if not told.target:
        return None
    try:
        return named_target(told)
    except InputError as problem:
        if problem.code not in ("target.unknown", "input.missing"):
            raise
        name, deed = visible(told.target), "trained" if verb == "train" else "made into C"
        unlisted = problem.code == "target.unknown"
        why = "it is in no list of boards" if unlisted else f"no file {visible(told.boards)}"
        raise ConfigError(
            f"the run was {deed} for board {name}, which is not known here: {why}",
            where=f"{visible(str(run / CONFIG))}: {verb}.target",
            remedy=f"write [boards.{name}] in {visible(told.boards) or NAME}, or ndtool codegen"
            f" RUN --target {name} --boards FILE",
            code="target.not-here",
        ) from None


def _told(run: RunDir, verb: str) -> CodegenOptions:
    """The board that config.toml has for `verb`."""
    table = load_run_table(run / CONFIG, verb)
    target, boards = (str(table.get(name) or "") for name in ("target", "boards"))
    return replace(DEFAULTS, target=target, boards=boards)


def record_fit(run: RunDir, fit: Fit | None) -> None:
    """Keep the verdict on the target in manifest and metrics.json; None: there is none."""
    if fit is None:
        run.forget(STAGE)
        return
    options: dict[str, Value] = {
        "target": fit.target.name,
        "ram_budget": fit.ram_budget,
        "flash_budget": fit.flash_budget,
        "ram_bytes": fit.ram_used,
        "flash_bytes": fit.need.flash_bytes,
        "flash_estimated": fit.need.flash_estimated,
    }
    key = StageKey(stage=STAGE, version=1, options=options, files=(TFLITE,))
    if run.stale_reason(key) is not None:
        figures: dict[str, Value] = {"target": fit.target.name, "fits": fit.fits}
        run.record(key, files=(), figures=figures, packages=(), seed=None, started=time.time())


# -- the figures -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class _Facts:
    """What is known of a run or a project; `model` is what analyze is asked about.

    `graph`: the int8 model.
    """

    model: Path
    template: str
    figures: Mapping[str, Value]
    contract: Contract | None
    accuracies: Mapping[Hop, Accuracy] | None = None
    graph: Graph | None = None
    bit_exact: str | None = None

    def number(self, key: str) -> int | None:
        """A figure that is counted; None too where the manifest has been made to say no number."""
        value = self.figures.get(key)
        return value if type(value) is int else None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Onward:
    """The files to look at, the hints, the command to type next."""

    files: Path
    hints: Mapping[str, str]
    next: str


def summarize(
    run: RunDir, *, template: str = "", target: Target | None = None, baseline: str = ""
) -> Summary:
    """The figures of a run.

    Args:
        template: of the C project that is summed up; empty: of the first that the run has.
        baseline: the file that the next check is held against; empty: there is none yet.

    Raises:
        InputError: the int8 file is damaged.
    """
    manifest, stale = run.manifest(), run.stale_stages()
    stages = {name: row for name, row in manifest.stages.items() if name not in stale}
    templates = [name for name in TEMPLATES if f"codegen:{name}" in stages]
    template = template if template in templates else next(iter(templates), "")
    figures: dict[str, Value] = {}
    for name, row in stages.items():
        if name in ("onnx", "import", f"codegen:{template}") or name.startswith("verify"):
            figures |= row.figures
    facts = _Facts(
        model=run.path,
        template=template,
        figures=figures,
        contract=run.contract(),
        accuracies=_accuracies(stages),
        graph=_load_graph(run / TFLITE) if "int8" in stages else None,
        bit_exact=_bit_exact(manifest, stages, f"{CODEGEN}/{template}") if template else None,
    )
    return _summary(facts, _of_run(run, facts, baseline), target)


def summarize_project(
    folder: Path, options: CodegenOptions, figures: Mapping[str, Value], target: Target | None
) -> Summary:
    """The figures of a C project that was made of a lone .tflite; `figures` are codegen's."""
    is_array = options.template == ARRAY
    projects = () if is_array else load_projects(folder)
    project = next((one for one in projects if one.prefix == options.prefix), None)
    facts = _Facts(
        model=folder / folder_names(folder, options.prefix).tflite,
        template=options.template,
        figures=figures,
        contract=None if project is None else project.contract,
        graph=None if project is None else project.graph,
    )
    onward = _Onward(
        files=folder,
        hints={} if is_array else {"C code": _command("verify", folder, "--on", "qemu")},
        next="" if is_array else _command("verify", folder),
    )
    return _summary(facts, onward, target)


def _load_graph(path: Path) -> Graph:
    return read_tflite(read_bounded(path, MAX_TFLITE_BYTES), where=visible(str(path)))


def _accuracies(stages: Mapping[str, StageRow]) -> dict[Hop, Accuracy]:
    """Of the predict stage, and of the C that was verified on the same images."""
    rows = (stages[name].figures for name in ("predict", "verify") if name in stages)
    figures = {key: value for row in rows for key, value in row.items()}
    shares = {hop: figures.get(f"accuracy_{hop.value}") for hop in Hop}
    count = figures.get("eval_count")
    if type(count) is not int or count <= 0:
        return {}
    return {
        hop: Accuracy(round(share * count), count)
        for hop, share in shares.items()
        if isinstance(share, int | float) and 0 <= share <= 1
    }


def _bit_exact(manifest: Manifest, stages: Mapping[str, StageRow], folder: str) -> str | None:
    """`460/460` of a verification that read the same C as lies in `folder`, the host's first."""
    sources = {
        row.sha256
        for name, row in manifest.files.items()
        if name.startswith(f"{folder}/") and name.endswith((".c", ".h"))
        if not name.endswith("_main.c")  # of the place where it runs
    }
    for name in sorted(name for name in stages if name.startswith("verify")):
        row = stages[name]
        counts = [str(v) for key, v in row.figures.items() if key.startswith("bit_exact")]
        if counts and sources <= set(row.reads.values()):
            return counts[0]
    return None


def _of_run(run: RunDir, facts: _Facts, baseline: str) -> _Onward:
    if facts.graph is None:
        export = _command("export", run.path, "--int8")
        hints = dict.fromkeys(("accuracy", "C code", "work", "fits"), export)
        return _Onward(files=run / ONNX, hints=hints, next=export)
    if not facts.template:
        codegen = _command("codegen", run.path)
        hints = dict.fromkeys(("accuracy", "C code", "fits"), codegen)
        return _Onward(files=run / TFLITE, hints=hints, next=codegen)
    files = run / f"{CODEGEN}/{facts.template}"
    if facts.template == ARRAY:
        engine = _command("codegen", run.path, "--template", DEFAULTS.template)
        return _Onward(files=files, hints={"fits": engine}, next=_command("check", run.path))
    verify = _command("verify", run.path)
    measured = facts.number("flash_bytes") is not None
    code = verify if measured else _command("verify", run.path, "--on", "qemu")
    if facts.bit_exact is None:
        following = verify
    elif baseline:
        following = _command("check", run.path, "--baseline", baseline)
    else:
        words = ("--baseline", BASELINE, "--reason", "first model")
        following = shlex.join(("ndtool", "baseline", "accept", str(run.path), *words))
    return _Onward(files=files, hints={"accuracy": verify, "C code": code}, next=following)


def _command(verb: str, path: Path, *words: str) -> str:
    return shlex.join(("ndtool", verb, str(path), *words))


def _summary(facts: _Facts, onward: _Onward, target: Target | None) -> Summary:
    graph, number = facts.graph, facts.number
    instructions, core = _instructions(facts.figures, target)
    macs, ops = number("macs"), facts.figures.get("ops")
    if graph is not None:
        macs = sum(op_macs(graph, op) for op in graph.ops)
        ops = " ".join(sorted({op_name(op) for op in graph.ops}))
    compiled = None if graph is None or facts.template == ARRAY else _compile(graph)
    fits = () if compiled is None else _judge(compiled, facts, target)
    refusal, following = None, onward.next
    if compiled is not None and target is not None and not fits[0].fits:
        following = _command("analyze", facts.model, *target.words)
        refusal = _refuse(compiled, fits[0], facts.model, remedy=following)
    everywhere = {"fits": _command("analyze", facts.model, "--all-targets")}
    hints = everywhere if compiled is not None and target is None else {}
    return Summary(
        accuracies=facts.accuracies,
        template=facts.template,
        bit_exact=facts.bit_exact,
        arena_bytes=number("arena_bytes"),
        arena_bytes_tflm=number("arena_bytes_tflm"),
        tflite_bytes=number("tflite_bytes"),
        flash_bytes=number("flash_bytes"),
        stack_bytes=number("stack_bytes"),
        instructions=instructions,
        core=core,
        macs=macs,
        params=number("params"),
        ops=None if ops is None else str(ops),
        target=target,
        fits=fits,
        refusal=refusal,
        files=onward.files,
        hints={**onward.hints, **hints},
        next=following,
    )


def _instructions(figures: Mapping[str, Value], target: Target | None) -> tuple[int | None, str]:
    """Measured ones and their core: the target's if they are known, else the default board's."""
    found = {
        key.removeprefix("instructions_").replace("_", "-"): value
        for key, value in figures.items()
        if key.startswith("instructions_") and type(value) is int
    }
    of_target = [] if target is None else [target.core.rstrip("f+")]  # no float is executed
    core = next((word for word in (*of_target, CORE, *found) if word in found), CORE)
    return found.get(core), core


def _compile(graph: Graph) -> Compiled | None:
    """None where the engine has no C for it, which codegen says in full."""
    try:
        return compile_graph(graph)
    except UnsupportedError:
        return None


def _judge(compiled: Compiled, facts: _Facts, target: Target | None) -> tuple[Fit, ...]:
    """On the target, or on every built-in board; with measured flash on the core it is of."""
    boards = tuple(built_in_targets().values()) if target is None else (target,)
    needs = {core: _need(compiled, facts, core) for core in {board.core for board in boards}}
    return tuple(judge_fit(needs[board.core], board) for board in boards)


def _need(compiled: Compiled, facts: _Facts, core: str) -> Need:
    flash = facts.number("flash_bytes") if core.rstrip("f") == CORE else None
    return Need(
        arena_bytes=compiled.plan.total,
        flash_bytes=estimate(compiled, core, contract=facts.contract).flash_bytes
        if flash is None
        else flash,
        flash_estimated=flash is None,
    )


def _refuse(compiled: Compiled, fit: Fit, model: Path, *, remedy: str) -> FitError:
    """Names the layers that take most; the numbers are those of `fit`."""
    layers = analyze(
        compiled,
        what=visible(str(model)),
        params=None,
        upper_bound=False,
        core=fit.target.core,
    )
    return fit_error(layers, fit, remedy=remedy)
