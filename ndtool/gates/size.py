"""Rules of `check` about size and speed: arena, flash, instructions, ops (users.md, 5.3)."""

from __future__ import annotations

from fractions import Fraction

from ndtool.gates.baseline import Bounds, Budget
from ndtool.gates.evidence import Evidence, Judged, Known, Measured, skip
from ndtool.gates.verdict import Judgement


def judge_arena(evidence: Evidence, bounds: Bounds) -> list[Judgement]:
    """Exact: the plan is our own, so the same on every machine.

    A model that has none, or C that does not state it, is not within its bound.
    """
    gate, key, limit = "arena", "bounds.arena_bytes", bounds.arena_bytes
    if limit is None:
        return []
    bound = f"at most {limit.max:,} bytes"
    if evidence.no_graph:
        return [skip(gate, evidence.no_graph, bound=bound, key=key)]
    if evidence.arena_bytes is None:
        why = f"no C of this model, or none that states its arena; {bound} demanded"
        return [Judgement(gate=gate, passed=False, text=why, bound=bound, key=key)]
    present = f"{evidence.arena_bytes:,} bytes"
    passed = evidence.arena_bytes <= limit.max
    text = f"{present}; {bound}"
    return [Judgement(gate=gate, passed=passed, text=text, present=present, bound=bound, key=key)]


def judge_budget(
    gate: str, budget: Budget | None, measured: Measured, known: Known | None
) -> list[Judgement]:
    """Gate `flash` or `instructions`; figures of two toolchains are not compared.

    C that cannot be measured because it does not compile, fit or run is no pass, but a failure.
    """
    if budget is None:
        return []
    unit, key = ("bytes", "flash_bytes") if gate == "flash" else (gate, "instructions")
    limit = limit_of(budget)
    bound = f"at most {limit:,} {unit}" + (f" on {budget.core}" if budget.core else "")
    why = measured.why if measured.value is None else _other_toolchain(measured, known)
    if measured.value is None or why:
        passed = False if measured.failed else None
        return [Judgement(gate=gate, passed=passed, text=why, bound=bound, key=f"bounds.{key}")]
    present = f"{measured.value:,} {unit}"
    text = f"{present}; {bound}"
    if budget.value is not None and budget.max_increase_percent is not None:
        text += f" ({budget.value:,} in the baseline, +{budget.max_increase_percent:f} %)"
    return [
        Judgement(
            gate=gate,
            passed=measured.value <= limit,
            text=text,
            present=present,
            bound=bound,
            key=f"bounds.{key}",
        )
    ]


def limit_of(budget: Budget) -> int:
    """The largest count that passes: the lower of `max` and of `value` with its percent more."""
    limits = [] if budget.max is None else [budget.max]
    if (accepted := _accepted(budget)) is not None:
        value, share = accepted
        limits.append(int(value * (1 + share)))
    return min(limits)


def _accepted(budget: Budget) -> tuple[int, Fraction] | None:
    """The value of the baseline and the share of it that may be added; both or none are there."""
    if budget.value is None or budget.max_increase_percent is None:
        return None
    return budget.value, Fraction(budget.max_increase_percent) / 100


def _other_toolchain(measured: Measured, known: Known | None) -> str:
    """How the tools differ from those of the baseline; empty when they do not."""
    if known is None:
        return ""
    if not measured.toolchain:
        return "the versions of the tools are not known"
    accepted = known.baseline.toolchain
    differing = [
        f"{name} is {version} here, {accepted.get(name, 'not named')} in the baseline"
        for name, version in sorted(measured.toolchain.items())
        if accepted.get(name) != version
    ]
    return f"another toolchain: {'; '.join(differing)}" if differing else ""


def judge_ops(evidence: Evidence, bounds: Bounds) -> Judged:
    """No op that is not in the list; one that is no more used gives a notice."""
    gate, key = "ops", "bounds.ops"
    if bounds.ops is None:
        return Judged(judgements=())
    bound = " ".join(bounds.ops)
    if evidence.no_graph:
        return Judged(judgements=(skip(gate, evidence.no_graph, bound=bound, key=key),))
    new = sorted({*evidence.ops} - {*bounds.ops})
    gone = sorted({*bounds.ops} - {*evidence.ops})
    judgement = Judgement(
        gate=gate,
        passed=not new,
        text=f"not in the list: {' '.join(new)}" if new else "every op is in the list",
        present=" ".join(evidence.ops),
        bound=bound,
        key=key,
    )
    notices = (f"ops of the list that the model has no more: {' '.join(gone)}",) if gone else ()
    return Judged(judgements=(judgement,), notices=notices)


def gains_of_size(evidence: Evidence, bounds: Bounds) -> dict[str, str]:
    """Gate -> what is smaller than accepted, by more than the percent that may be added."""
    gains = {}
    arena, limit = evidence.arena_bytes, bounds.arena_bytes
    if arena is not None and limit is not None and arena < limit.max:
        gains["arena"] = f"arena {limit.max - arena:,} bytes smaller"
    for gate, budget, measured in (
        ("flash", bounds.flash_bytes, evidence.flash.value),
        ("instructions", bounds.instructions, evidence.instructions.value),
    ):
        accepted = None if budget is None else _accepted(budget)
        if accepted is not None and measured is not None:
            value, share = accepted
            if measured < value * (1 - share):
                gains[gate] = f"{gate} {value - measured:,} less"
    return gains
