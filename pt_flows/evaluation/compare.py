"""Compare runs: a table with intervals and costs, and a verdict for each pair of methods."""

import csv
import itertools
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

import yaml

from pt_flows.contracts import UserError
from pt_flows.evaluation.passport import Passport, checked_record, read_record
from pt_flows.evaluation.statistics import components, holm, mean_interval, seeds_needed, welch
from pt_flows.runs import wandb_key_configured, wandb_mode

HIGHER_IS_BETTER = (
    "modes",
    "high_quality",
    "is_",
    "precision",
    "recall",
    "density",
    "coverage",
    "transfer_accuracy",
    "log_likelihood",
)
OWN = ("seed_everything", "run", "ckpt_path")
"""Keys of a configuration in which runs of one group may differ."""


@dataclass
class Run:
    """What a run folder says.

    Attributes:
        folder: Where it is.
        config: Its configuration.
        seed: Its training seed.
        rows: Of metrics.csv, numbers only.
        records: Of `evaluations/`: passports and numbers.
    """

    folder: Path
    config: dict[str, Any]
    seed: Any
    rows: list[dict[str, float]]
    records: list[tuple[Passport, dict[str, float]]] = field(default_factory=list)

    def curve(self, key: str) -> list[tuple[dict[str, float], float]]:
        """Rows with a number, each with the costs known by then."""
        costs: dict[str, float] = {}
        points = []
        for row in self.rows:
            costs |= {name: value for name, value in row.items() if name.startswith("cost/") or name == "iteration"}
            if f"eval/{key}" in row:
                points.append((dict(costs), row[f"eval/{key}"]))
        return points

    def last(self, key: str) -> list[float]:
        """The last number: of every sampling seed where `evaluate` measured it, else that of training."""
        measured = [(passport.iteration, numbers[key]) for passport, numbers in self.records if key in numbers]
        if measured:
            latest = max(iteration for iteration, _ in measured)
            return [value for iteration, value in measured if iteration == latest]
        return [value for _, value in self.curve(key)[-1:]]

    @property
    def keys(self) -> set[str]:
        """All numbers that were measured, without floors and errors."""
        found = {name.removeprefix("eval/") for row in self.rows for name in row if name.startswith("eval/")}
        found |= {key for _, numbers in self.records for key in numbers}
        return {key for key in found if not key.endswith(("_floor", "_error", "modes_of"))}


def find_runs(paths: Sequence[str]) -> list[Run]:
    """Runs of folders, and of folders of folders, and of W&B paths (entity/project/run).

    Raises:
        UserError: A path without a run.
    """
    runs: dict[Path, Run] = {}
    for path in map(Path, paths):
        if not path.is_dir() and len(path.parts) == 3 and not path.is_absolute():
            runs[path] = online_run(str(path))
            continue
        if not path.is_dir():
            raise UserError(
                f"there is no run folder {path}; give run folders, a folder above them, or W&B paths entity/project/run"
            )
        found = sorted(file.parent for file in path.rglob("config.yaml"))
        if not found:
            raise UserError(f"{path} holds no run: there is no config.yaml in or below it")
        runs |= {folder.resolve(): read_run(folder) for folder in found}
    return list(runs.values())


def read_run(folder: Path) -> Run:
    """A run folder.

    Raises:
        UserError: It is half-written or damaged.
    """
    try:
        config: dict[str, Any] = yaml.safe_load((folder / "config.yaml").read_text())
        seed = json.loads((folder / "environment.json").read_text())["seed"]
        with (folder / "metrics.csv").open(newline="") as file:
            rows = [{key: float(value) for key, value in row.items() if value} for row in csv.DictReader(file)]
    except FileNotFoundError as error:
        raise UserError(f"{folder} has no {Path(error.filename).name}: the run has measured nothing yet") from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError, yaml.YAMLError) as error:
        raise UserError(f"{folder} can not be read as a run ({error}); leave it out") from error
    records = [read_record(file) for file in sorted((folder / "evaluations").glob("*.json"))]
    return Run(folder, config, seed, rows, records)


def online_run(path: str) -> Run:
    """A run from W&B: what its run folder has sent there.

    Args:
        path: entity/project/run.

    Raises:
        UserError: It can not be reached, or is no run of pt_flows.
    """
    import wandb
    from wandb.errors import Error

    if not wandb_key_configured():
        raise UserError(f"there is no run folder {path}, and to read it from W&B you must log in first: wandb login")
    try:
        run: Any = wandb.Api().run(path)
        config, history = dict(run.config), list(run.scan_history())
        records = json.loads(run.summary.get("evaluations", "[]"))
    except (Error, ValueError, OSError) as error:
        raise UserError(
            f"there is no run folder {path}, and W&B has no such run that can be read ({str(error).splitlines()[0]})"
        ) from error
    if "model" not in config or "environment" not in config:
        raise UserError(f"the W&B run {path} was not made by pt_flows: its config has no model and environment")
    seed = config.pop("environment")["seed"]
    rows = [{k: float(v) for k, v in row.items() if isinstance(v, int | float)} for row in history]
    return Run(Path(path), config, seed, rows, [checked_record(record, path) for record in records])


# ------------------------------------------------------------------------------------------------------------- groups


@dataclass
class Group:
    """Runs of one configuration that differ by their seed.

    Attributes:
        name: Method, with the arguments in which it differs from groups of the same method.
        runs: Its runs.
    """

    name: str
    runs: list[Run]

    def values(self, key: str) -> list[float]:
        """The last number of every run, mean over sampling seeds."""
        return [fmean(run.last(key)) for run in self.runs]


def grouped(runs: Sequence[Run]) -> list[Group]:
    """Runs with equal configurations together."""
    by_config: dict[str, list[Run]] = {}
    for run in runs:
        shared = {key: value for key, value in run.config.items() if key not in OWN}
        by_config.setdefault(json.dumps(shared, sort_keys=True, default=str), []).append(run)
    groups = list(by_config.values())
    flat = [flattened({key: runs[0].config.get(key) for key in ("model", "data", "trainer")}) for runs in groups]
    methods = [str(runs[0].config["model"]["class_path"]).rsplit(".", 1)[-1] for runs in groups]
    named = []
    for runs, own, method in zip(groups, flat, methods, strict=True):
        same = [other for other, name in zip(flat, methods, strict=True) if name == method]
        differing = sorted(key for key in own if len({repr(other.get(key)) for other in same}) > 1)
        details = ", ".join(f"{key.rsplit('.', 1)[-1]}={own[key]}" for key in differing[:4])
        named.append(Group(f"{method} ({details})" if details else method, runs))
    return named


def flattened(tree: Any, prefix: str = "") -> dict[str, Any]:
    """Leaves of nested dictionaries by dotted names."""
    if not isinstance(tree, dict):
        return {prefix: tree}
    return {
        k: v for key, value in tree.items() for k, v in flattened(value, f"{prefix}.{key}" if prefix else key).items()
    }


def chosen_metric(runs: Sequence[Run], wanted: str | None) -> str:
    """The number to compare.

    Raises:
        UserError: Some run lacks it, or no number is common to all.
    """
    common = set.intersection(*(run.keys for run in runs))
    if wanted is not None:
        wanted = wanted.removeprefix("eval/")
        if missing := [run for run in runs if wanted not in run.keys]:
            raise UserError(
                f"{missing[0].folder} has no {wanted}; all runs have {', '.join(sorted(common)) or 'nothing'}"
            )
        return wanted
    if not common:
        lines = "; ".join(f"{run.folder.name}: {', '.join(sorted(run.keys)) or 'nothing'}" for run in runs[:4])
        raise UserError(
            f"the runs have no number in common, as their protocols differ ({lines}); measure them alike with "
            "pt-flows evaluate"
        )
    leading = [key for key in common if key.startswith(("fd_", "w2_"))]
    return sorted(leading or common)[0]


def check_protocols(runs: Sequence[Run], key: str) -> None:
    """Refuse to put two protocols into one column.

    Raises:
        UserError: Names the fields that differ.
    """
    protocols = [(run, passport.protocol(key)) for run in runs for passport, numbers in run.records if key in numbers]
    for run, protocol in protocols[1:]:
        first_run, first = protocols[0]
        if differing := [name for name in first if first[name] != protocol[name]]:
            pairs = "; ".join(f"{name}: {first[name]} and {protocol[name]}" for name in differing)
            raise UserError(
                f"{key} of {first_run.folder} and of {run.folder} do not compare, their protocols differ ({pairs})"
            )


# ------------------------------------------------------------------------------------------------------------ the table


def higher_is_better(key: str) -> bool:
    """Direction of a number."""
    return key.startswith(HIGHER_IS_BETTER)


def table(groups: Sequence[Group], key: str, goal: float | None) -> list[dict[str, str]]:
    """One row for each group, best mean first."""
    sign = -1 if higher_is_better(key) else 1
    rows = []
    for group in sorted(groups, key=lambda g: sign * fmean(g.values(key))):
        last, curves = mean_interval(group.values(key)), [run.curve(key) for run in group.runs]
        best = [sign * min(sign * v for _, v in curve) for curve in curves if curve]
        spread = components([run.last(key) for run in group.runs])
        row = {"method": group.name, "runs": str(len(group.runs)), f"{key}, last": number(last.mean)}
        row["95 % interval"] = "one run" if math.isnan(last.low) else f"{number(last.low)} to {number(last.high)}"
        row["best"] = number(fmean(best)) if best else "-"
        row["mean over the run"] = (
            number(fmean([fmean(v for _, v in curve) for curve in curves if curve])) if best else "-"
        )
        row["sd of training / sampling"] = f"{number(spread.training)} / {number(spread.sampling)}"
        row["minutes"] = number(fmean([cost(run, "cost/seconds") / 60 for run in group.runs]))
        row["images seen"] = number(fmean([cost(run, "cost/images_seen") for run in group.runs]))
        if goal is not None:
            row[f"minutes to {number(goal)}"] = reached(group, key, goal)
        rows.append(row)
    return rows


def cost(run: Run, name: str) -> float:
    """The last known cost of a run."""
    return next((row[name] for row in reversed(run.rows) if name in row), math.nan)


def reached(group: Group, key: str, goal: float) -> str:
    """Mean minutes of training until a number is at least as good as the goal, and in how many runs it was."""
    sign = -1 if higher_is_better(key) else 1
    times = [
        next((costs.get("cost/seconds", math.nan) / 60 for costs, v in run.curve(key) if sign * v <= sign * goal), None)
        for run in group.runs
    ]
    there = [t for t in times if t is not None]
    return f"{number(fmean(there))} ({len(there)} of {len(times)})" if there else f"never ({len(times)} runs)"


def number(value: float) -> str:
    """Four digits; a dash where there is none."""
    return "-" if math.isnan(value) else f"{value:,.0f}" if abs(value) >= 10_000 else f"{value:.4g}"


def verdicts(groups: Sequence[Group], key: str, level: float) -> list[str]:
    """A sentence for each pair: better, worse, or inconclusive with the runs that would settle it."""
    pairs = [(a, b) for a, b in itertools.combinations(groups, 2) if min(len(a.runs), len(b.runs)) > 1]
    adjusted = holm([welch(a.values(key), b.values(key)) for a, b in pairs])
    sentences = []
    for (a, b), p in zip(pairs, adjusted, strict=True):
        first_better = (fmean(a.values(key)) > fmean(b.values(key))) == higher_is_better(key)
        if p < level:
            sentences.append(
                f"{a.name} is {'better' if first_better else 'worse'} than {b.name} (adjusted p = {p:.2g})"
            )
            continue
        needed = seeds_needed(a.values(key), b.values(key), level / len(pairs))
        more = (
            f"about {needed} runs of each would settle it" if needed else "a thousand runs of each would not settle it"
        )
        sentences.append(f"{a.name} against {b.name}: inconclusive (adjusted p = {p:.2g}); if the gap is real, {more}")
    single = [group.name for group in groups if len(group.runs) < 2]
    return sentences + (
        [f"no verdict on {', '.join(single)}: one run has no spread; add training seeds"] if single else []
    )


# --------------------------------------------------------------------------------------------------------------- files


def compare(
    runs: list[str],
    metric: str | None = None,
    level: float = 0.05,
    goal: float | None = None,
    out: str | None = None,
    plot: str | None = None,
    wandb: str | None = None,
) -> None:
    """Compare runs by one number: a table, and a verdict for each pair of methods.

    Runs with the same configuration but for their seed are one group. The last number of a run is the mean over its
    sampling seeds, where `pt-flows evaluate` has measured several. Verdicts are Welch's tests between training seeds,
    with Holm's correction for the number of pairs.

    Args:
        runs: Run folders, folders above them, or W&B paths entity/project/run.
        metric: The number, such as w2_1k or fd_lite0_64_10k_train; default one that all runs have.
        level: Chance of any wrong verdict among all pairs.
        goal: Also how long each took to reach this value.
        out: Also write the table to files of this name, as .md, .csv and .tex.
        plot: Also draw the number against iterations, images, minutes and network evaluations, and what is best at
            its cost; a .png.
        wandb: Also show the table in this W&B project.
    """
    if not 0 < level < 0.5:
        raise UserError(f"--level must lie between 0 and 0.5, got {level}")
    if plot is not None and not plot.endswith(".png"):
        raise UserError(f"--plot must end in .png, got {plot}")
    found = find_runs(runs)
    key = chosen_metric(found, metric)
    check_protocols(found, key)
    if broken := [run for run in found if not all(map(math.isfinite, run.last(key)))]:
        raise UserError(f"{key} of {broken[0].folder} is not a number; leave the run out")
    groups = grouped(found)
    rows, sentences = table(groups, key, goal), verdicts(groups, key, level)
    arrow = "higher" if higher_is_better(key) else "lower"
    text = f"{key} ({arrow} is better)\n\n{markdown(rows)}\n\n" + "\n".join(f"- {line}" for line in sentences)
    print(text)
    if out is not None:
        write_files(Path(out), rows, text)
    if plot is not None:
        Path(plot).absolute().parent.mkdir(parents=True, exist_ok=True)
        curves_figure(groups, key).savefig(plot, dpi=100)
        print(f"wrote {plot}")
    if wandb is not None:
        show_in_wandb(wandb, key, rows, sentences)


def show_in_wandb(project: str, key: str, rows: Sequence[dict[str, str]], sentences: Sequence[str]) -> None:
    """A W&B run with the table `compare` and the verdicts; offline where W&B is not set up."""
    import wandb

    tables = {"compare": rows, "verdicts": [{"verdict": sentence} for sentence in sentences] or [{"verdict": "none"}]}
    with wandb.init(project=project, job_type="compare", name=f"compare {key}", mode=wandb_mode("auto")) as run:
        for name, table in tables.items():
            columns: Any = list(table[0])
            run.log({name: wandb.Table(columns=columns, data=[list(row.values()) for row in table])})
        print(f"W&B: {run.url or run.settings.sync_dir}")


def markdown(rows: Sequence[dict[str, str]]) -> str:
    """The table with aligned columns."""
    columns = list(rows[0])
    widths = [max(len(column), *(len(row[column]) for row in rows)) for column in columns]
    line = lambda cells: "| " + " | ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)) + " |"
    return "\n".join([line(columns), line(["-" * width for width in widths]), *(line(row.values()) for row in rows)])


def write_files(target: Path, rows: Sequence[dict[str, str]], text: str) -> None:
    """Markdown with the verdicts, CSV, and a LaTeX table."""
    if not target.absolute().parent.is_dir():
        raise UserError(f"--out: there is no folder {target.absolute().parent}; make it first")
    target.with_suffix(".md").write_text(text + "\n")
    with target.with_suffix(".csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    escape = lambda cell: cell.replace("%", r"\%").replace("_", r"\_")
    lines = [" & ".join(map(escape, cells)) + r" \\" for cells in (rows[0], *(row.values() for row in rows))]
    body = "\n".join([lines[0], r"\midrule", *lines[1:]])
    columns = "l" + "r" * (len(rows[0]) - 1)
    tex = f"\\begin{{tabular}}{{{columns}}}\n\\toprule\n{body}\n\\bottomrule\n\\end{{tabular}}\n"
    target.with_suffix(".tex").write_text(tex)
    print(f"wrote {', '.join(str(target.with_suffix(suffix)) for suffix in ('.md', '.csv', '.tex'))}")


COSTS: dict[str, Callable[[dict[str, float]], float]] = {
    "iterations": lambda costs: costs.get("iteration", math.nan),
    "images seen": lambda costs: costs.get("cost/images_seen", math.nan),
    "minutes of training": lambda costs: costs.get("cost/seconds", math.nan) / 60,
    "samples evaluated by networks": lambda costs: sum(v for k, v in costs.items() if "evaluations_" in k) or math.nan,
}


def curves_figure(groups: Sequence[Group], key: str) -> Any:
    """Curves of every run against four costs, a colour for each group, and the best of all that is had at each cost."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 6.6), layout="constrained")
    for axis, (label, of) in zip(figure.subplots(2, 2, sharey=True).flat, COSTS.items(), strict=True):
        points: list[tuple[float, float]] = []
        for i, group in enumerate(groups):
            for j, run in enumerate(group.runs):
                curve = [(of(costs), value) for costs, value in run.curve(key)]
                name = group.name if j == 0 else None
                axis.plot(*zip(*curve, strict=True) if curve else ([], []), c=f"C{i}", lw=1.2, alpha=0.8, label=name)
                points += curve
        front = pareto_front(points, higher_is_better(key))
        axis.plot([c for c, _ in front], [v for _, v in front], "k:", lw=1, drawstyle="steps-post", label="best so far")
        axis.set_xlabel(label)
        axis.locator_params(axis="x", nbins=5)
        axis.grid(alpha=0.3)
    for axis in figure.axes[::2]:
        axis.set_ylabel(key)
    if all(v > 0 for group in groups for run in group.runs for _, v in run.curve(key)):
        figure.axes[0].set_yscale("log")
    figure.axes[-1].legend(frameon=False, fontsize=8)
    return figure


def pareto_front(points: Sequence[tuple[float, float]], higher: bool) -> list[tuple[float, float]]:
    """Of (cost, number) those that no cheaper or equally cheap one equals, by rising cost.

    Example:
        >>> pareto_front([(1, 5.0), (2, 6.0), (2, 3.0), (3, 4.0)], higher=False)
        [(1, 5.0), (2, 3.0)]
    """
    sign, front = -1 if higher else 1, []
    for c, v in sorted(points, key=lambda point: (point[0], sign * point[1])):
        if c == c and (not front or sign * v < sign * front[-1][1]):
            front.append((c, v))
    return front
