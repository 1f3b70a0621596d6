"""The table of a comparison: numbers for machines, and the same for people."""

import csv
import math
import re
from collections.abc import Collection, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from pt_flows.compare.areas import AREA, areas, counted
from pt_flows.compare.groups import Criterion, Group, differ_in_sampling
from pt_flows.compare.runs import Run
from pt_flows.compare.statistics import components, mean_interval
from pt_flows.errors import UserError
from pt_flows.files import checked_target

Row = dict[str, Any]
"""Text, whole numbers and numbers by column; NaN for missing numbers."""
PER_SAMPLE = "evaluations per sample"
"""Column of tables in which groups differ by it."""
TABLES = (".md", ".csv", ".tex")
"""Suffixes of the files of a table."""


def table(groups: Sequence[Group], criterion: Criterion, goal: float | None) -> list[Row]:
    """One row of numbers for each group, best mean first; those without a finished run last."""
    values = lambda group: group.values(criterion.key)
    order = lambda group: (not values(group), criterion.sign * mean(values(group)))
    ordered = sorted(groups, key=order)
    runs = [run for group in ordered for run in group.runs]
    found = iter(areas(runs, criterion.key, counted(runs, criterion.key)))
    rows = [row_of(group, criterion, goal, [next(found) for _ in group.runs]) for group in ordered]
    if differ_in_sampling(groups, criterion.key):
        for row, group in zip(rows, ordered, strict=True):
            row[PER_SAMPLE] = group.evaluations_per_sample(criterion.key)
    intervals = [group.sampling_interval(criterion.key) for group in ordered]
    if not all(math.isnan(low) for low, _ in intervals):
        for row, (low, high) in zip(rows, intervals, strict=True):
            row |= {"sampling low": low, "sampling high": high}
    return rows


def row_of(group: Group, criterion: Criterion, goal: float | None, under_curves: Sequence[float]) -> Row:
    """The numbers of one group.

    Args:
        group: The group.
        criterion: The number that is compared.
        goal: Value for which the row has the time to reach it.
        under_curves: The mean of each run's curve at equal cost.
    """
    key, sign = criterion.key, criterion.sign
    runs = group.finished(key)
    curves = [[v for _, v in run.curve(key)] for run in runs if run.curve(key)]
    last = mean_interval(group.values(key)) if runs else (math.nan,) * 3
    spread = components([run.last(key) for run in runs])
    worst = max(runs, key=lambda run: sign * fmean(run.last(key)), default=None)
    row: Row = {"method": group.name, "runs": len(group.runs)}
    row["tuned"] = "; ".join(dict.fromkeys(filter(None, (run.tuned for run in group.runs))))
    row["failed"] = len(group.runs) - len(runs)
    row["failed seeds"] = ", ".join(str(run.seed) for run in group.runs if run.failed(key))
    row |= {column_of(key): last[0], "95 % low": last[1], "95 % high": last[2]}
    row |= {"worst": fmean(worst.last(key)) if worst else math.nan, "worst seed": str(worst.seed) if worst else ""}
    row["best"] = mean([sign * min(sign * v for v in curve) for curve in curves])
    row["mean at equal cost"] = mean(under_curves)
    row |= {"sd of training": spread.training, "sd of sampling": spread.sampling}
    row["minutes"] = mean([cost(run, "seconds") / 60 for run in group.runs])
    row["data seen"] = mean([cost(run, "images_seen") for run in group.runs])
    if goal is not None:
        times = [first for run in group.runs if (first := minutes_to(goal, run, key, sign)) is not None]
        there = len(times) if any(run.is_logged for run in group.runs) else math.nan
        row |= {f"minutes to {number(goal)}": mean(times), f"runs at {number(goal)}": there}
    return row


def column_of(key: str) -> str:
    """The column of a number: the last one of a run, or the area under its curve.

    Example:
        >>> column_of("w2_1k"), column_of("area of w2_1k over evaluations")
        ('w2_1k, last', 'area of w2_1k over evaluations')
    """
    return key if key.startswith(AREA) else f"{key}, last"


def mean(values: Sequence[float]) -> float:
    """The mean of the known values; NaN if there are none."""
    known = [value for value in values if not math.isnan(value)]
    return fmean(known) if known else math.nan


def cost(run: Run, name: str) -> float:
    """The last known cost of a run, from its log or else from its records."""
    logged = (row[f"cost/{name}"] for row in reversed(run.rows) if f"cost/{name}" in row)
    latest = sorted(run.records, key=lambda record: -record[0].iteration)
    return next(logged, next((passport.cost[name] for passport, _ in latest if name in passport.cost), math.nan))


def minutes_to(goal: float, run: Run, key: str, sign: int) -> float | None:
    """Minutes of training until a number is at least as good as the goal; None if it never is."""
    reached = (costs for costs, value in run.curve(key) if sign * value <= sign * goal)
    return next((costs.get("cost/seconds", math.nan) / 60 for costs in reached), None)


def number(value: float) -> str:
    """Four digits; a dash for NaN."""
    return "-" if math.isnan(value) else f"{value:,.0f}" if abs(value) >= 10_000 else f"{value:.4g}"


def between(row: Row, low: str, high: str) -> str:
    """The interval in two columns as text; a dash if it is unknown."""
    return "-" if math.isnan(row[low]) else f"{number(row[low])} to {number(row[high])}"


def shown(rows: Sequence[Row], key: str, goal: float | None = None) -> list[dict[str, str]]:
    """The rows as text, with related columns merged, and columns of tuning and failures if there are any."""
    optional = {name for name in ("tuned", "failed") if any(row[name] for row in rows)}
    return [shown_row(row, key, goal, optional) for row in rows]


def shown_row(row: Row, key: str, goal: float | None, optional: Collection[str]) -> dict[str, str]:
    """One row as text, with some of the columns that not every table has."""
    cells = {"method": row["method"], "runs": str(row["runs"])}
    if "tuned" in optional:
        cells["tuned"] = row["tuned"] or "not recorded"
    if "failed" in optional:
        cells["failed"] = f"{row['failed']} (seed {row['failed seeds']})" if row["failed"] else "0"
    cells[column_of(key)] = number(row[column_of(key)])
    cells["95 % interval"] = "one run" if row["runs"] - row["failed"] == 1 else between(row, "95 % low", "95 % high")
    if "sampling low" in row:
        cells["95 % of sampling"] = between(row, "sampling low", "sampling high")
    cells["worst seed"] = f"{number(row['worst'])} (seed {row['worst seed']})" if row["worst seed"] else "-"
    cells |= {name: number(row[name]) for name in ("best", "mean at equal cost")}
    cells["sd of training / sampling"] = f"{number(row['sd of training'])} / {number(row['sd of sampling'])}"
    cells |= {name: number(row[name]) for name in ("minutes", "data seen", PER_SAMPLE) if name in row}
    if goal is not None:
        name, there = f"minutes to {number(goal)}", row[f"runs at {number(goal)}"]
        reached = f"{number(row[name])} ({there} of {row['runs']})" if there else f"never ({row['runs']} runs)"
        cells[name] = "-" if math.isnan(there) else reached
    return cells


def markdown(rows: Sequence[dict[str, str]]) -> str:
    """The table with aligned columns."""
    columns = list(rows[0])
    widths = [max(len(column), *(len(row[column]) for row in rows)) for column in columns]
    line = lambda cells: "| " + " | ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)) + " |"
    return "\n".join([line(columns), line(["-" * width for width in widths]), *(line(row.values()) for row in rows)])


def table_target(out: str) -> Path:
    """Return the path of the files of a table, without a suffix.

    Raises:
        UserError: It has the suffix of another kind of file, or its folder does not exist.
    """
    out, suffix = str(Path(out)), Path(out).suffix
    if out in (".", "..") or out.endswith("/.."):
        raise UserError(f"--out: expected a name of files, got {out}. Add one")
    if re.fullmatch(r"\.[A-Za-z]+", suffix) and suffix not in TABLES:
        raise UserError(f"--out: expected a name without a suffix, as {', '.join(TABLES)} are written, got {out}")
    stem = out.removesuffix(suffix) if suffix in TABLES else out
    return checked_target(f"{stem}.md", TABLES).with_name(Path(stem).name)


def write_files(target: Path, rows: Sequence[Row], cells: Sequence[dict[str, str]], text: str) -> None:
    """Write Markdown with the verdicts, a CSV of numbers, and a LaTeX table.

    Args:
        target: Path of the files without a suffix.
        rows: The numbers.
        cells: The same numbers as text.
        text: The whole printed text.
    """
    markdown_file, csv_file, tex_file = (target.with_name(target.name + suffix) for suffix in TABLES)
    markdown_file.write_text(text + "\n")
    with csv_file.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(without_nan(rows))
    escape = lambda cell: cell.replace("%", r"\%").replace("_", r"\_")
    lines = [" & ".join(map(escape, line)) + r" \\" for line in (cells[0], *(row.values() for row in cells))]
    body = "\n".join([lines[0], r"\midrule", *lines[1:]])
    columns = "l" + "r" * (len(cells[0]) - 1)
    tex = f"\\begin{{tabular}}{{{columns}}}\n\\toprule\n{body}\n\\bottomrule\n\\end{{tabular}}\n"
    tex_file.write_text(tex)
    print(f"wrote {markdown_file}, {csv_file}, {tex_file}")


def without_nan(rows: Sequence[Row]) -> list[Row]:
    """Rows with None in place of NaN."""
    return [{k: None if isinstance(v, float) and math.isnan(v) else v for k, v in row.items()} for row in rows]
