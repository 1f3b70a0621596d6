"""The log of a run, `metrics.csv`: a row per logging call, a column per number."""

import csv
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only

from pt_flows.files import replacing

Rows = list[dict[str, Any]]


class MetricsCSV(Logger):
    """Writes `metrics.csv` in the run folder. The first row creates the file, and a continued run appends to it.

    A damaged file never stops a run. It is renamed, and its readable rows are kept.

    Args:
        folder: The run folder.
        resumed_at: Iteration of the checkpoint that the run continues from. Later rows are dropped.
    """

    def __init__(self, folder: Path, resumed_at: int = 0) -> None:
        super().__init__()
        self.path = folder / "metrics.csv"
        self.resumed_at = resumed_at
        self.columns: list[str] = []

    @property
    def name(self) -> str:
        """The name of this logger."""
        return "csv"

    @property
    def version(self) -> str:
        """Empty, because every run has its own folder."""
        return ""

    @property
    def save_dir(self) -> str:
        """The run folder."""
        return str(self.path.parent)

    @rank_zero_only
    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Do nothing: config.yaml has the hyperparameters."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Append a row to the file."""
        row = {"iteration": step or 0, **{key: float(value) for key, value in metrics.items()}}
        if not self.columns:
            rows = [before for before in self._rows() if int(before["iteration"]) <= self.resumed_at]
            self._write([*rows, row])
        elif any(key not in self.columns for key in row):
            self._write([*self._rows(), row])
        else:
            with self.path.open("a", newline="") as file:
                csv.DictWriter(file, self.columns).writerow(row)

    def _rows(self) -> Rows:
        """Return the readable rows of the file. A damaged file is renamed."""
        try:
            rows, num_damaged = readable_rows(self.path.read_bytes().decode(errors="replace"))
        except FileNotFoundError:
            return []
        except OSError:
            rows, num_damaged = [], 1
        if num_damaged:
            aside = self.path.with_name(f"metrics-damaged-{datetime.now():%Y%m%d-%H%M%S}.csv")
            self.path.replace(aside)
            print(
                f"note: {num_damaged} lines of {self.path} are damaged. The file is kept as {aside.name}, and its "
                f"{len(rows)} good rows stay in metrics.csv",
                flush=True,
            )
        return rows

    def _write(self, rows: Rows) -> None:
        self.columns = list(dict.fromkeys(["iteration", *self.columns, *(key for row in rows for key in row)]))
        with replacing(self.path) as partial, partial.open("w", newline="") as file:
            writer = csv.DictWriter(file, self.columns)
            writer.writeheader()
            writer.writerows(rows)


def readable_rows(text: str) -> tuple[Rows, int]:
    r"""Return the rows of a log without their empty cells, and the number of damaged lines.

    Args:
        text: Content of `metrics.csv`. A last line without a line break is damaged.

    Example:
        >>> readable_rows("iteration,loss\n10,0.5\n20\n30,0.2")
        ([{'iteration': '10', 'loss': '0.5'}], 2)
    """
    *lines, rest = text.split("\n")
    header, *cells = [*map(_cells, lines)] or [[]]
    if "iteration" not in header or len(set(header)) < len(header):
        return [], len(lines) + bool(rest)
    whole = [row for row in cells if len(row) == len(header)]
    rows = [{key: value for key, value in zip(header, row, strict=True) if value} for row in whole]
    good = [row for row in rows if _is_row(row)]
    return good, len(cells) - len(good) + bool(rest)


def _cells(line: str) -> list[str]:
    try:
        return next(csv.reader([line]), [])
    except csv.Error:
        return []


def _is_row(row: dict[str, Any]) -> bool:
    try:
        return int(row["iteration"]) >= 0 and len([float(value) for value in row.values()]) > 0
    except (KeyError, ValueError):
        return False
