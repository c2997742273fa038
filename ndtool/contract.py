"""The input contract: what a pixel means, from the first training image to the firmware.

Made when training starts, stored in every checkpoint and run folder, read by every later stage
(design, section 4). No later option can contradict it.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import ClassVar, Final, Literal

from ndtool.errors import ContractError
from ndtool.types import Sha256

MAX_SIDE: Final = 4096  # pixels; the contract's own bound, far above any microcontroller
MAX_CONTRACT_BYTES: Final = 4 * 1024 * 1024  # 10,000 labels of 200 characters fit
Color = Literal["RGB", "GRAY"]
Fit = Literal["crop", "squash", "pad"]
NormalizeKind = Literal["u8/255", "mean_std"]
Alpha = Literal["black", "white", "error"]
_STRICT: Final = {"extra": "forbid", "strict": True}


@dataclass(frozen=True, slots=True, kw_only=True)
class InputSpec:
    """The tensor of pixels: `height x width x channels` uint8, NHWC."""

    __pydantic_config__: ClassVar[dict[str, object]] = _STRICT

    height: int
    width: int
    channels: int
    color: Color
    layout: Literal["NHWC"] = "NHWC"
    dtype: Literal["uint8"] = "uint8"


@dataclass(frozen=True, slots=True, kw_only=True)
class Resize:
    """How an image of any size becomes `height x width` (Pillow's integer filters)."""

    __pydantic_config__: ClassVar[dict[str, object]] = _STRICT

    fit: Fit = "crop"
    crop_fraction: float = 1.0
    filter: Literal["bilinear"] = "bilinear"
    antialias: Literal[True] = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Normalize:
    """real = (pixel / 255 - mean[c]) / std[c]; `range` is its union over the channels."""

    __pydantic_config__: ClassVar[dict[str, object]] = _STRICT

    kind: NormalizeKind
    mean: tuple[float, ...]
    std: tuple[float, ...]
    range: tuple[float, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Contract:
    """What goes into the network and what its outputs are called.

    Raises:
        ContractError: a value contradicts another one.
    """

    __pydantic_config__: ClassVar[dict[str, object]] = _STRICT

    input: InputSpec
    resize: Resize
    normalize: Normalize
    labels: tuple[str, ...]
    alpha: Alpha = "black"
    version: Literal[1] = 1

    def __post_init__(self) -> None:
        spec, norm = self.input, self.normalize
        channels = {"RGB": 3, "GRAY": 1}[spec.color]
        good_range = _normalized_range(norm.mean, norm.std) if _sane(norm) else None
        checks = (
            (1 <= spec.height <= MAX_SIDE and 1 <= spec.width <= MAX_SIDE, "input.height/width"),
            (spec.channels == channels, "input.channels"),
            (0 < self.resize.crop_fraction <= 1, "resize.crop_fraction"),
            (len(norm.mean) == len(norm.std) == spec.channels, "normalize.mean/std"),
            (good_range is not None and norm.range == good_range, "normalize.range"),
            (norm.kind == "mean_std" or norm.range == (0.0, 1.0), "normalize.kind"),
            (len(self.labels) >= 2, "labels"),
            (len(set(self.labels)) == len(self.labels), "labels"),
            (all(label.strip() for label in self.labels), "labels"),
        )
        bad = [where for good, where in checks if not good]
        if bad:
            raise ContractError(
                f"the contract contradicts itself in {bad[0]}",
                where="contract.json",
                remedy="use the contract.json that train wrote",
                code="contract.invalid",
            )

    @property
    def num_classes(self) -> int:
        """Number of labels, at least 2."""
        return len(self.labels)

    def canonical_json(self) -> str:
        """Sorted keys, ASCII, no spaces: the text that is hashed."""
        return json.dumps(
            asdict(self), sort_keys=True, ensure_ascii=True, separators=(",", ":"), allow_nan=False
        )

    def sha256(self) -> Sha256:
        """The same 64 hex digits everywhere the contract is named."""
        return Sha256(hashlib.sha256(self.canonical_json().encode("ascii")).hexdigest())

    def to_file_text(self) -> str:
        """Readable JSON for contract.json; parses to the same contract."""
        return json.dumps(asdict(self), indent=1, ensure_ascii=True, allow_nan=False) + "\n"

    def labels_file(self) -> bytes:
        """The content of labels.txt: a label a line, file names that are no UTF-8 as they are."""
        text = "".join(f"{label}\n" for label in self.labels)
        return text.encode("utf-8", "surrogateescape")


def _sane(norm: Normalize) -> bool:
    values = (*norm.mean, *norm.std)
    return bool(values) and all(map(math.isfinite, values)) and all(s > 1e-6 for s in norm.std)


def _normalized_range(mean: Sequence[float], std: Sequence[float]) -> tuple[float, float]:
    """Union over the channels of what pixels 0 and 255 become; always holds 0."""
    lows = [(0.0 - m) / s for m, s in zip(mean, std, strict=False)]
    highs = [(1.0 - m) / s for m, s in zip(mean, std, strict=False)]
    return (min([0.0, *lows]), max([0.0, *highs]))


def unit_normalize(channels: int) -> Normalize:
    """Pixels become 0..1: quantising one is `pixel - 128` (quantisation, section 2, rule 2)."""
    return Normalize(kind="u8/255", mean=(0.0,) * channels, std=(1.0,) * channels, range=(0.0, 1.0))


def mean_std_normalize(mean: Sequence[float], std: Sequence[float]) -> Normalize:
    """(pixel / 255 - mean) / std per channel; the range follows from these, not from data."""
    return Normalize(
        kind="mean_std", mean=tuple(mean), std=tuple(std), range=_normalized_range(mean, std)
    )


def parse_contract(text: str, *, where: str) -> Contract:
    """Read contract JSON of unknown origin.

    Raises:
        ContractError: not JSON, an unknown key, a wrong type or a contradiction; names the key.
    """
    import pydantic

    remedy = "use the contract.json that train wrote"
    try:
        return pydantic.TypeAdapter(Contract).validate_json(text)
    except pydantic.ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(str(part) for part in first["loc"]) or "contract"
        raise ContractError(
            f"bad contract: {key}: {first['msg']}", where=where, remedy=remedy, code="contract.bad"
        ) from None
    except ContractError as error:
        raise ContractError(error.what, where=where, remedy=remedy, code=error.code) from None


def load_contract(path: Path) -> Contract:
    """The contract stored in `path`; raises ContractError as `parse_contract` does."""
    try:
        if path.exists() and (not path.is_file() or path.stat().st_size > MAX_CONTRACT_BYTES):
            raise ContractError(
                "not a contract file: no regular file, or too large",
                where=str(path),
                remedy="use the contract.json that train wrote",
                code="contract.bad",
            )
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ContractError(
            f"cannot read the contract: {type(error).__name__}",
            where=str(path),
            remedy="name a run folder made by ndtool train, or a contract file",
            code="contract.missing",
        ) from error
    return parse_contract(text, where=str(path))
