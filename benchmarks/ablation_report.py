"""Statistics of an ablation over seeds, and its page."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ablation_rows import BASELINE, TAUGHT_FROM_OUTSIDE, TEACHER, opponents, parse_row
from scipy import stats

CONFIDENCE = 0.95
SAME_TIME = 0.2  # of a row's, by which a plain row's may differ to be held against it
ACCURACIES = ("test_last", "test_best")
COSTS = ("cpu_s", "step_s", "step_ratio", "gpu_percent", "arithmetic")

Result = dict[str, Any]  # of one run: what `ablation_run` measured, accuracies 0..1


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """Values over seeds."""

    mean: float
    sd: float | None  # n - 1; None of a single value
    n: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """A row minus another, seed by seed."""

    mean: float
    interval: tuple[float, float] | None  # of the mean, t, 95 %; None of a single pair
    n: int


def summarise(values: Sequence[float]) -> Summary:
    """Mean and standard deviation of at least one value."""
    sd = statistics.stdev(values) if len(values) > 1 else None
    return Summary(mean=statistics.fmean(values), sd=sd, n=len(values))


def difference(a: Mapping[int, float], b: Mapping[int, float]) -> Difference | None:
    """a - b over the seeds that both have; None where there is none."""
    pairs = [a[seed] - b[seed] for seed in sorted(set(a) & set(b))]
    if not pairs:
        return None
    one = summarise(pairs)
    interval = None
    if one.sd is not None:
        half = float(stats.t.ppf((1 + CONFIDENCE) / 2, one.n - 1)) * one.sd / one.n**0.5
        interval = (one.mean - half, one.mean + half)
    return Difference(mean=one.mean, interval=interval, n=one.n)


def by_row(results: Iterable[Result], order: Sequence[str]) -> dict[str, list[Result]]:
    """Results of each row that has any, rows in the given order, each by seed."""
    rows: dict[str, list[Result]] = {name: [] for name in order}
    for result in sorted(results, key=lambda r: r["seed"]):
        if result["row"] in rows:
            rows[result["row"]].append(result)
    return {name: found for name, found in rows.items() if found}


def compare(rows: Mapping[str, list[Result]]) -> list[dict[str, Any]]:
    """Each row against plain training of as many epochs and of equal time, in percentage points."""
    compared = []
    for name in rows:
        others = opponents(parse_row(name), rows) + _as_long(name, rows)
        for other in dict.fromkeys(others):
            line: dict[str, Any] = {"row": name, "minus": other}
            for key in ACCURACIES:
                mine, theirs = (
                    {r["seed"]: 100 * r[key] for r in rows[side]} for side in (name, other)
                )
                found = difference(mine, theirs)
                line[key] = None if found is None else _plain_difference(found)
            compared.append(line)
    return compared


def _times(name: str, rows: Mapping[str, list[Result]]) -> dict[int, float]:
    """Seconds of a row's steps by seed, process time on a CPU; with its outer teacher's."""
    own = {r["seed"]: r["time_s"] for r in rows.get(name, [])}
    if parse_row(name).form not in TAUGHT_FROM_OUTSIDE:
        return own
    outer = {r["seed"]: r["time_s"] for r in rows.get(TEACHER, [])}
    return {seed: own[seed] + outer[seed] for seed in own if seed in outer}


def _relative(own: Mapping[int, float], base: Mapping[int, float]) -> float | None:
    """How many times as long as `base`, mean over the seeds that both have."""
    ratios = [own[seed] / base[seed] for seed in own if base.get(seed)]
    return statistics.fmean(ratios) if ratios else None


def _as_long(name: str, rows: Mapping[str, list[Result]]) -> list[str]:
    """The plain rows that took as long as row `name`."""
    if parse_row(name).form in (BASELINE, TEACHER):
        return []
    own = _times(name, rows)
    return [
        other
        for other in rows
        if parse_row(other).form == BASELINE
        and (ratio := _relative(_times(other, rows), own)) is not None
        and abs(ratio - 1) <= SAME_TIME
    ]


def _plain_difference(found: Difference) -> dict[str, Any]:
    interval = None if found.interval is None else [round(end, 3) for end in found.interval]
    return {"mean": round(found.mean, 3), "interval": interval, "n": found.n}


def tabulate(rows: Mapping[str, list[Result]]) -> list[dict[str, Any]]:
    """One line a row: accuracies in percent, costs as means over the seeds."""
    plain = _times(BASELINE, rows)
    table = []
    for name, results in rows.items():
        line: dict[str, Any] = {"row": name, "n": len(results), "epochs": results[0]["epochs"]}
        for key in (*ACCURACIES, "train_last", "val_teacher"):
            values = [100 * r[key] for r in results if r[key] is not None]
            one = summarise(values) if values else None
            line[key] = None if one is None else round(one.mean, 2)
            line[f"{key}_sd"] = None if one is None or one.sd is None else round(one.sd, 2)
            line[f"{key}_values"] = [round(value, 2) for value in values]
        for key in COSTS:
            values = [r[key] for r in results if r[key] is not None]
            line[key] = round(statistics.fmean(values), 2) if values else None
        rates = [r["images_per_s"] * r["step_s"] / r["time_s"] for r in results]
        line["images_per_s"] = round(statistics.fmean(rates), 2)
        alone = {r["seed"]: r["time_s"] for r in results}
        for key, own in (("time_of_baseline", alone), ("time_with_teacher", _times(name, rows))):
            ratio = _relative(own, plain)
            line[key] = None if ratio is None else round(ratio, 2)
        for key in ("conflict_rate", "kl_share"):
            ends = [r[key] for r in results if r[key] is not None]
            line[key] = [round(statistics.fmean(e), 2) for e in zip(*ends, strict=True)] or None
        table.append(line)
    return table


def page(document: Mapping[str, Any]) -> str:
    """The document of `ablation.py` as Markdown."""
    table = document["table"]
    lines = [
        f"# Table {document['paper_table']}: {document['data']}",
        "",
        document["set_up"],
        "",
        *(f"    {command}" for command in document["commands"]),
        "",
        *_key_values(document["machine"]),
        "",
        "Test accuracy of the float student in percent: mean +- standard deviation (n - 1) over the"
        " seeds, and each seed's value. *last*: after the last epoch; *best*: of the epoch that is"
        " best on the validation part. The test part was read once for each finished run. *time*:"
        " of the training steps alone, over the baseline's; in brackets with that of the outer"
        " teacher, which is trained first; process time on a CPU, where the runs share the machine."
        " *images/s*: of the same time. *step*: time of the run's mean step over a plain one's,"
        " measured in turns with it at the end of the run. *arithmetic*: the same in"
        " multiply-accumulates.",
        "",
        "| row | n | epochs | last | best | train | teacher (val) | time | step | arithmetic"
        " | CPU s | images/s | GPU % | conflict | KL share |",
        f"|{'---|' * 15}",
    ]
    for line in table:
        cells = [
            line["row"],
            str(line["n"]),
            str(line["epochs"]),
            _accuracy(line, "test_last"),
            _accuracy(line, "test_best"),
            _number(line["train_last"]),
            _number(line["val_teacher"]),
            _time(line),
            _number(line["step_ratio"]),
            _number(line["arithmetic"]),
            _number(line["cpu_s"], 0),
            _number(line["images_per_s"], 0),
            _number(line["gpu_percent"], 0),
            _course(line["conflict_rate"]),
            _course(line["kl_share"]),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    lines += [
        "",
        "Paired by seed, in percentage points, with the 95 % t interval of the mean. An interval"
        " that holds 0 shows no difference.",
        "",
        "| row | minus | n | last | best |",
        "|---|---|---|---|---|",
    ]
    for line in document["differences"]:
        shown = [_difference(line[key]) for key in ACCURACIES]
        count = next((str(line[key]["n"]) for key in ACCURACIES if line[key]), "0")
        lines.append(f"| {line['row']} | {line['minus']} | {count} | {' | '.join(shown)} |")
    if document["unfinished"]:
        lines += ["", f"Not finished: {', '.join(document['unfinished'])}."]
    return "\n".join(lines) + "\n"


def _key_values(table: Mapping[str, object]) -> list[str]:
    return [", ".join(f"{key} {value}" for key, value in table.items())]


def _accuracy(line: Mapping[str, Any], key: str) -> str:
    sd = "" if line[f"{key}_sd"] is None else f" +- {line[f'{key}_sd']:.2f}"
    values = ", ".join(f"{value:.2f}" for value in line[f"{key}_values"])
    return f"{line[key]:.2f}{sd} ({values})"


def _time(line: Mapping[str, Any]) -> str:
    own, whole = line["time_of_baseline"], line["time_with_teacher"]
    return _number(own) if own == whole else f"{_number(own)} ({_number(whole)})"


def _number(value: float | None, digits: int = 2) -> str:
    return "-" if value is None else f"{value:,.{digits}f}"


def _course(ends: Sequence[float] | None) -> str:
    return "-" if ends is None else f"{ends[0]:.2f} -> {ends[1]:.2f}"


def _difference(found: Mapping[str, Any] | None) -> str:
    if found is None:
        return "-"
    if found["interval"] is None:
        return f"{found['mean']:+.2f}"
    low, high = found["interval"]
    return f"{found['mean']:+.2f} ({low:+.2f} to {high:+.2f})"
