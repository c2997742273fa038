"""The history of a training as files: history.csv for programs, train.log for people."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence

from ndtool.rundir import HISTORY, TRAIN_LOG, RunDir
from ndtool.training.loop import HISTORY_COLUMNS, HistoryRow


def write_history(run: RunDir, rows: Sequence[HistoryRow]) -> None:
    """history.csv and train.log, both whole, so that a resume leaves no line twice."""
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(HISTORY_COLUMNS)
    writer.writerows(["" if v is None else f"{v:.8g}" for v in row.values()] for row in rows)
    run.write_text(HISTORY, table.getvalue())
    run.write_text(TRAIN_LOG, "".join(f"{epoch_line(row)}\n" for row in rows))


def epoch_line(row: HistoryRow) -> str:
    """One epoch for people: accuracies in percent."""
    parts = [f"epoch {row['epoch']:.0f}"]
    for column, name in (("student_loss", "loss"), ("teacher_loss", "teacher loss")):
        if row[column] is not None:
            parts.append(f"{name} {row[column]:.4f}")
    parts.append(f"val {100 * (row['val_accuracy'] or 0.0):.2f} %")
    if row["val_accuracy_teacher"] is not None:
        parts.append(f"teacher {100 * row['val_accuracy_teacher']:.2f} %")
    parts.append(f"{row['seconds']:.1f} s")
    return "  ".join(parts)
