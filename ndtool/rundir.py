"""The run folder: file names, the manifest, the lock, what is up to date.

Layout: design, section 3. A kill at any moment leaves the old state or the new one: each
file is replaced at once (`ndtool.files`); the manifest comes last.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path, PurePosixPath
from typing import IO, ClassVar, Final

from ndtool import console
from ndtool.contract import Contract, load_contract
from ndtool.errors import InputError
from ndtool.files import json_text, read_bounded, sha256_file, write_atomic, write_text_atomic
from ndtool.types import Sha256

CONFIG: Final = "config.toml"
CONTRACT: Final = "contract.json"
LABELS: Final = "labels.txt"
MANIFEST: Final = "manifest.json"
METRICS: Final = "metrics.json"
CHECKPOINT: Final = "train/checkpoint.pt"
BEST: Final = "train/best.pt"
HISTORY: Final = "train/history.csv"
SPLIT: Final = "train/split.csv"
SPEC: Final = "train/spec.json"
SKIPPED: Final = "train/skipped.csv"
TRAIN_LOG: Final = "train/train.log"
CURVES: Final = "train/curves.svg"
TENSORBOARD: Final = "train/tensorboard/events.out.tfevents.ndtool"  # one of its word for it
STUDENT: Final = "export/student.safetensors"
STUDENT_SPEC: Final = "export/student.json"
ONNX: Final = "export/model.onnx"
TENSORS: Final = "export/tensors.json"
RANGES: Final = "export/ranges.json"
TFLITE: Final = "export/model_int8.tflite"
LAYERS: Final = "export/layers.csv"
PREDICTIONS: Final = "export/predictions"  # /{float,onnx,int8,c}.npz
CODEGEN: Final = "codegen"  # /TEMPLATE
# What later stages and `check` go by: only as some stage wrote it
ARTIFACTS: Final = (CONTRACT, LABELS, STUDENT, STUDENT_SPEC, ONNX, RANGES, TFLITE)
LOCK: Final = ".lock"
GIT_TIMEOUT_S: Final = 10
MAX_KEYS: Final = 5  # of metrics.json named in a problem
LOCK_ATTEMPTS: Final = 1000  # to open a lock whose folder others remove
MAX_CHECKPOINT_BYTES: Final = 2 * 1024**3

_SLUG: Final = re.compile(r"[^a-z0-9.-]+")
_REMEDY: Final = "name a folder made by ndtool train"
Value = str | int | float | bool | None


def slug(text: str) -> str:
    """Lower case, `[a-z0-9.-]` only."""
    return _SLUG.sub("-", text.lower()).strip("-.") or "run"


@dataclass(frozen=True, slots=True, kw_only=True)
class FileRow:
    """One artifact of the run."""

    __pydantic_config__: ClassVar[dict[str, object]] = {"extra": "forbid"}

    sha256: Sha256
    bytes: int
    stage: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StageRow:
    """How a stage was run and what it measured."""

    __pydantic_config__: ClassVar[dict[str, object]] = {"extra": "forbid"}

    version: int
    options: dict[str, Value]
    reads: dict[str, Sha256]  # file or source -> hash
    figures: dict[str, Value]  # projected into metrics.json
    packages: dict[str, str]
    command: str
    folder: str  # name of the working directory only
    seed: int | None
    start: str  # ISO 8601, UTC
    seconds: float
    git: str = ""  # commit of the working folder, "-dirty" behind it; empty outside a repository


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """Everything that is known of how the folder came about."""

    __pydantic_config__: ClassVar[dict[str, object]] = {"extra": "forbid"}

    schema: str = "ndtool.manifest/1"
    files: dict[str, FileRow] = field(default_factory=dict)
    stages: dict[str, StageRow] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class StageKey:
    """What decides whether a stage's result still holds."""

    stage: str
    version: int  # raised when the stage's output changes for the same input
    options: Mapping[str, Value]
    files: tuple[str, ...] = ()  # files of the run folder that it reads
    sources: Mapping[str, Sha256] = field(default_factory=dict)  # what it reads elsewhere


class RunDir:
    """One run folder, named by its path."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __truediv__(self, name: str) -> Path:
        return self.path / name

    def has(self, name: str) -> bool:
        """Whether the file `name` (relative, `/`) exists."""
        return (self.path / name).is_file()

    def contract(self) -> Contract:
        """The run's contract; raises ContractError."""
        return load_contract(self.path / CONTRACT)

    def write_bytes(self, name: str, data: bytes) -> str:
        """Write one artifact atomically; gives its name back."""
        write_atomic(self.path / name, data)
        return name

    def write_text(self, name: str, text: str) -> str:
        """Write one text artifact atomically; gives its name back."""
        write_text_atomic(self.path / name, text)
        return name

    # -- manifest ------------------------------------------------------------------------------

    def manifest(self) -> Manifest:
        """The manifest, empty when there is none.

        Raises:
            InputError: not a manifest of ours, or a path in it leaves the folder.
        """
        path = self.path / MANIFEST
        if not path.exists():
            return Manifest()
        import pydantic

        text = read_bounded(path)
        try:
            loaded = pydantic.TypeAdapter(Manifest).validate_json(text)
        except pydantic.ValidationError as error:
            first = error.errors(include_url=False)[0]
            key = ".".join(str(part) for part in first["loc"]) or "manifest"
            raise InputError(
                f"bad manifest: {key}: {first['msg']}",
                where=str(path),
                remedy=_REMEDY,
                code="run.manifest",
            ) from None
        for name in (*loaded.files, *_read_by(loaded)):
            if not stays_inside(name):
                raise InputError(
                    "bad manifest: a file name leaves the run folder",
                    where=f"{path}: {name}",
                    remedy=_REMEDY,
                    code="run.manifest",
                )
        if loaded.schema != "ndtool.manifest/1":
            raise InputError(
                f"manifest of another version: {loaded.schema}",
                where=str(path),
                remedy="use the ndtool that wrote it",
                code="run.manifest",
            )
        return loaded

    def stale_reason(self, key: StageKey) -> str | None:
        """Why the stage must run, or None when its result is up to date."""
        manifest = self.manifest()
        row = manifest.stages.get(key.stage)
        if row is None:
            return "first time"
        if row.version != key.version:
            return f"made by version {row.version} of the stage, now {key.version}"
        for name in sorted({*row.options, *key.options}):
            old, new = row.options.get(name), key.options.get(name)
            if old != new:
                was, now = ("none" if value is None else value for value in (old, new))
                return f"{name} {was} -> {now}"
        reads = self._reads(key)
        if row.reads != reads:
            changed = sorted(n for n in {*row.reads, *reads} if row.reads.get(n) != reads.get(n))
            return f"{changed[0]} changed"
        for name, entry in manifest.files.items():
            if entry.stage == key.stage:
                path = self.path / name
                if not path.is_file():
                    return f"{name} is missing"
                if path.stat().st_size != entry.bytes or sha256_file(path) != entry.sha256:
                    return f"{name} was changed by hand"
        return None

    def _reads(self, key: StageKey) -> dict[str, Sha256]:
        inside = {n: sha256_file(self.path / n) for n in key.files if self.has(n)}
        return inside | dict(key.sources)

    def record(
        self,
        key: StageKey,
        *,
        files: Iterable[str],
        figures: Mapping[str, Value],
        packages: Iterable[str],
        seed: int | None,
        started: float,
    ) -> None:
        """Write the stage's row, then metrics.json from all rows. The last act of a stage.

        Args:
            files: artifacts written, relative names; the stage's earlier ones are replaced.
            figures: what it measured, by the keys of design section 9.
            packages: distributions whose versions matter.
            started: `time.time()` at the start.
        """
        manifest = self.manifest()
        rows = {n: r for n, r in manifest.files.items() if r.stage != key.stage}
        for name in files:
            path = self.path / name
            rows[name] = FileRow(
                sha256=sha256_file(path), bytes=path.stat().st_size, stage=key.stage
            )
        row = StageRow(
            version=key.version,
            options=dict(key.options),
            reads=self._reads(key),
            figures=dict(figures),
            packages=package_versions(packages),
            git=git_state(),
            command=command_line(),
            folder=Path.cwd().name,
            seed=seed,
            start=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(started)),
            seconds=round(time.time() - started, 3),
        )
        stages = manifest.stages | {key.stage: row}
        written = Manifest(files=dict(sorted(rows.items())), stages=stages)
        self.write_text(MANIFEST, json_text(asdict(written)))
        self.write_metrics()

    def forget(self, stage: str) -> None:
        """Drop the row and the files of a stage that is about to be done anew."""
        manifest = self.manifest()
        if stage in manifest.stages:
            files = {n: r for n, r in manifest.files.items() if r.stage != stage}
            stages = {n: r for n, r in manifest.stages.items() if n != stage}
            self.write_text(MANIFEST, json_text(asdict(Manifest(files=files, stages=stages))))
            self.write_metrics()

    def forget_stale(self, kind: str) -> None:
        """Drop the stages `kind` and `kind:...` whose input has changed, with what they wrote.

        For figures about something that another stage has just replaced: they are absent until
        they are measured again. Those of which a file is gone are dropped, too: a committed run
        folder holds no predictions (design, 3).
        """
        manifest, stale = self.manifest(), self.stale_stages()
        lost = {row.stage for name, row in manifest.files.items() if not self.has(name)}
        for stage in manifest.stages:
            if stage.partition(":")[0] == kind and (stage in stale or stage in lost):
                console.info(f"{stage}: to be done again")
                for name, row in manifest.files.items():
                    if row.stage == stage:
                        (self.path / name).unlink(missing_ok=True)
                self.forget(stage)

    def write_metrics(self) -> None:
        """Make metrics.json the projection of the manifest's rows again."""
        text = json_text(_metrics(self.manifest().stages))
        path = self.path / METRICS
        if not path.is_file() or path.read_bytes() != text.encode("utf-8"):
            self.write_text(METRICS, text)

    def problems(self) -> list[str]:
        """What does not hold together: changed, missing or unknown artifacts, stale stages.

        A folder without train/ is complete for every stage after extract (design, 3).
        """
        manifest, found = self.manifest(), list[str]()
        now = self._hashes((*manifest.files, *_read_by(manifest)))
        without_train = not (self.path / "train").is_dir()
        for name, row in manifest.files.items():
            if without_train and name.startswith("train/"):
                continue
            if self._is_link(name):
                found.append(f"{name} is a link")
            elif now[name] is None:
                found.append(f"{name} is missing")
            elif now[name] != row.sha256:
                found.append(f"{name} is not what {row.stage} wrote")
            elif row.stage not in manifest.stages:
                found.append(f"{name} was written by {row.stage}, of which nothing else is known")
        unknown = [name for name in ARTIFACTS if self.has(name) and name not in manifest.files]
        found += [f"{name} was written by no stage" for name in unknown]
        found += [f"{stage} is older than what it reads" for stage in _stale(manifest, now)]
        return found + _other_metrics(self / METRICS, _metrics(manifest.stages))

    def stale_stages(self) -> list[str]:
        """Stages whose input files have changed since they ran, or were made by a stale one."""
        manifest = self.manifest()
        return _stale(manifest, self._hashes(_read_by(manifest)))

    def _hashes(self, names: Iterable[str]) -> dict[str, Sha256 | None]:
        """sha256 of every file, each read once; None where there is none."""
        once = dict.fromkeys(names)
        there = [name for name in once if self.has(name) and not self._is_link(name)]
        return once | {name: sha256_file(self.path / name) for name in there}

    def _is_link(self, name: str) -> bool:
        """Whether it is labels.txt and a link: its lines get into messages, so it is not read."""
        return name == LABELS and (self.path / name).is_symlink()

    # -- lock ----------------------------------------------------------------------------------

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Keep a second writer out; the system releases the lock of a process that dies.

        Temporary files that a killed writer left are removed, and at the end the folder itself
        where nothing was written: a refusal leaves no trace.

        Raises:
            InputError: another live process writes here.
        """
        path = self.path / LOCK
        if path.is_symlink() or (path.exists() and not path.is_file()):
            raise InputError(
                "the lock is no regular file",
                where=str(path),
                remedy="delete it",
                code="run.lock",
            )
        handle = _acquire(path)
        if handle is None:
            raise InputError(
                "another ndtool writes to this run folder",
                where=str(self.path),
                remedy="wait for it to end",
                code="run.locked",
            )
        try:
            for leftover in self.path.rglob(".*.tmp"):
                if leftover.is_file():
                    leftover.unlink(missing_ok=True)
            yield
        finally:
            path.unlink(missing_ok=True)  # while it is still ours
            handle.close()
            with contextlib.suppress(OSError):  # it holds something, as it nearly always does
                self.path.rmdir()


def _acquire(path: Path) -> IO[bytes] | None:
    """The locked file, or None when another process has it."""
    missed = 0
    while True:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            handle = path.open("ab")
        except (FileNotFoundError, FileExistsError):
            # The owner before us had nothing to keep, and took the folder away under our hands; a
            # link to nowhere or a file of that name looks the same, but stays.
            missed += 1
            if missed == LOCK_ATTEMPTS:
                raise
            continue
        if not _try_lock(handle):
            handle.close()
            return None
        # The owner before us may have deleted the file between our open and our lock.
        with contextlib.suppress(FileNotFoundError):
            if path.stat().st_ino == os.fstat(handle.fileno()).st_ino:
                return handle
        handle.close()


def _try_lock(handle: IO[bytes]) -> bool:
    """Lock without waiting; Windows has no flock and lets every writer in."""
    if sys.platform == "win32":
        return True
    import fcntl

    try:
        fcntl.flock(handle.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def stays_inside(name: str) -> bool:
    """Whether a file name with `/`, as manifests have it, names a place below its folder."""
    path = PurePosixPath(name)
    return not path.is_absolute() and ".." not in path.parts and "\\" not in name and name != ""


def _read_by(manifest: Manifest) -> list[str]:
    """Names of what the stages read: files of the folder, and sources such as `data`."""
    return [name for row in manifest.stages.values() for name in row.reads]


def _stale(manifest: Manifest, now: Mapping[str, Sha256 | None]) -> list[str]:
    """Stages whose input is not what it was, by the hashes of the files as they are `now`.

    A file that is gone is none that has changed.
    """
    stale: set[str] = set()
    while True:
        of_stale = {name for name, row in manifest.files.items() if row.stage in stale}
        found = {
            stage
            for stage, row in manifest.stages.items()
            for name, sha256 in row.reads.items()
            if name in of_stale or now[name] not in (None, sha256)
        }
        if found == stale:  # what a stale stage wrote can make more of them stale
            return [stage for stage in manifest.stages if stage in stale]
        stale = found


def _metrics(stages: Mapping[str, StageRow]) -> dict[str, Value]:
    merged: dict[str, Value] = {}
    for row in stages.values():
        merged |= {k: v for k, v in row.figures.items() if v is not None}
    return merged


def _other_metrics(path: Path, wanted: Mapping[str, Value]) -> list[str]:
    """How metrics.json at `path` differs from what the stages measured."""
    if not path.is_file():
        return [f"{METRICS} is missing"]
    try:
        text = read_bounded(path).decode("utf-8")
        if text == json_text(wanted):
            return []
        found = json.loads(text)
        if not isinstance(found, dict):
            raise ValueError("no table")
        keys = sorted(k for k in {*found, *wanted} if _form(found, k) != _form(wanted, k))
    # ValueError: UTF-8, JSON, and integers of thousands of digits. RecursionError: `[[[[...`.
    except (InputError, ValueError, RecursionError):
        return [f"{METRICS} is not what the stages measured: no table of figures"]
    names = [console.visible(key) for key in keys[:MAX_KEYS]]
    names += [f"{len(keys) - MAX_KEYS} more"] if len(keys) > MAX_KEYS else []
    differ = ", ".join(names) or "only its layout"
    return [f"{METRICS} is not what the stages measured: {differ}"]


def _form(table: Mapping[str, object], key: str) -> str | None:
    """A figure as it is written: 1, 1.0 and true are not the same; None where there is none."""
    return json.dumps(table[key], sort_keys=True) if key in table else None


def is_run(name: str) -> bool:
    """Whether `find_run` finds one."""
    return _run_path(name) is not None


def run_folder(name: str) -> Path | None:
    """The run folder of that name, also one that has lost its contract; None: there is none."""
    try:
        return _run_path(name) or _run_path(name, MANIFEST)
    except OSError:  # for who opens it to say
        return None


def checkpoint_file(name: str) -> Path:
    """The checkpoint that a user means: best.pt of a run folder, or the file of that name."""
    folder = run_folder(name) or Path(name)
    return folder / BEST if folder.is_dir() else Path(name)


def _run_path(name: str, mark: str = CONTRACT) -> Path | None:
    places = (Path(name), Path("runs") / name)
    return next((path for path in places if (path / mark).is_file()), None)


def find_run(name: str) -> RunDir:
    """The run folder at path `name`, or of that bare name under runs/.

    Raises:
        InputError: there is none.
    """
    path = _run_path(name)
    if path is not None:
        return RunDir(path)
    raise InputError("no run folder", where=name, remedy=_REMEDY, code="run.missing")


def package_versions(names: Iterable[str]) -> dict[str, str]:
    """Versions of Python, the platform, ndtool and the installed ones of `names`."""
    found = {
        "python": platform.python_version(),
        "platform": f"{platform.system()}-{platform.machine()}".lower(),
    }
    for name in ("ndtool", *names):
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def git_state() -> str:
    """Commit of the working folder's repository and whether it has changes; "" without one."""
    answers = []
    for words in (("rev-parse", "HEAD"), ("status", "--porcelain")):
        try:
            done = subprocess.run(
                ["git", *words],
                capture_output=True,
                text=True,
                errors="replace",
                check=False,
                timeout=GIT_TIMEOUT_S,
            )
        except (OSError, subprocess.TimeoutExpired):
            return ""
        if done.returncode != 0:
            return ""
        answers.append(done.stdout.strip())
    commit, changes = answers
    return f"{commit}-dirty" if changes else commit


def command_line() -> str:
    """The command that repeats this stage, quoted for a shell."""
    program = "ndtool" if Path(sys.argv[0]).name in ("ndtool", "__main__.py") else "python"
    return shlex.join([program, *sys.argv[1:]])


@dataclass(frozen=True, slots=True, kw_only=True)
class StageOutput:
    """What a stage wrote and measured."""

    files: tuple[str, ...]
    figures: Mapping[str, Value] = field(default_factory=dict)


def run_stage(
    run: RunDir,
    key: StageKey,
    work: Callable[[], StageOutput],
    *,
    force: bool,
    packages: Iterable[str] = (),
    seed: int | None = None,
) -> bool:
    """Do `work` and record it, unless its result is up to date; says which and why."""
    reason = "forced" if force else run.stale_reason(key)
    if reason is None:
        console.info(f"{key.stage}: up to date")
        run.write_metrics()
        return False
    console.info(f"{key.stage}: {reason}")
    started = time.time()
    made = work()
    run.record(
        key,
        files=made.files,
        figures=made.figures,
        packages=packages,
        seed=seed,
        started=started,
    )
    console.detail(f"{key.stage}: {time.time() - started:.1f} s")
    return True
