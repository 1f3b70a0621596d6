"""Compare runs: a table with intervals and costs, and a verdict for each pair of methods."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pt_flows.compare.curves import curves_figure
from pt_flows.compare.groups import comparable
from pt_flows.compare.online import api, asking
from pt_flows.compare.sampling import sampling_figure
from pt_flows.compare.table import Row, markdown, shown, table, table_target, without_nan, write_files
from pt_flows.compare.verdicts import judged, said
from pt_flows.errors import UserError
from pt_flows.runs.settings import digest


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

    Runs whose configurations differ only in the seed are one group, for each of the weights and samplers that were
    measured. The last number of a run is the mean over its sampling seeds, if `pt-flows evaluate` measured several. A
    verdict tells which method is better in most seeds: a permutation test by ranks and Welch's test must both reject,
    with Holm's correction for the number of pairs. Runs that diverged are failed seeds, worse than any other. Copies
    and repetitions of a seed are omitted.

    Args:
        runs: Run folders, folders above them, patterns, or W&B paths entity/project/run.
        metric: The number, such as w2_1k or fd_lite0_64_10k_train; by default one that all runs have. "area of w2_1k"
            is its mean while an equal number of samples is evaluated by networks, and "area of w2_1k over seconds" its
            mean over equal seconds of training.
        level: Probability of any wrong verdict among all pairs.
        goal: Value for which the table also shows the time to reach it.
        out: Name of files to write the table to, as .md, .csv and .tex.
        plot: A .png to draw: the number against iterations, images, minutes and network evaluations, and the best
            number at every cost. If groups differ in evaluations per sample, the number against these is drawn beside
            it, in a file whose name ends in _sampling.png.
        wandb: W&B project to show the table in. The same command later updates it in place.
    """
    if not 0 < level < 0.5:
        raise UserError(f"--level: expected a number in (0, 0.5), got {level}")
    if plot is not None and not plot.endswith(".png"):
        raise UserError(f"--plot: expected a .png, got {plot}")
    target = None if out is None else table_target(out)
    if wandb == "":
        raise UserError("--wandb: expected a project, got none. Name one, or omit the option")
    notes: list[str] = []
    groups, criterion = comparable(runs, metric, notes.append)
    rows, found = table(groups, criterion, goal), judged(groups, criterion, level)
    cells = shown(rows, criterion.key, goal)
    parts = [
        "\n".join(f"note: {note}" for note in notes),
        str(criterion),
        markdown(cells),
        "\n".join(f"- {line}" for line in said(groups, criterion, found)),
    ]
    text = "\n\n".join(part for part in parts if part)
    print(text)
    if target is not None:
        write_files(target, rows, cells, text)
    if plot is not None:
        Path(plot).absolute().parent.mkdir(parents=True, exist_ok=True)
        curves_figure(groups, criterion).savefig(plot, dpi=100)
        print(f"wrote {plot}")
        if (figure := sampling_figure(groups, criterion)) is not None:
            figure.savefig(second := f"{plot.removesuffix('.png')}_sampling.png", dpi=100)
            print(f"wrote {second}")
    if wandb is not None:
        place = place_of(runs, criterion.key)
        show_in_wandb(wandb, place, criterion.key, without_nan(rows), [vars(verdict) for verdict in found])


def place_of(runs: Sequence[str], key: str) -> str:
    """The id of the W&B run of a comparison, the same for the same runs or patterns and the same number."""
    return f"compare-{digest([key, sorted(runs)])}"


def show_in_wandb(project: str, run_id: str, key: str, rows: Sequence[Row], found: Sequence[Row]) -> None:
    """Show the tables `compare` and `verdicts` in a W&B run, numbers as numbers; offline if W&B is not set up.

    Args:
        project: The W&B project.
        run_id: Id of the run, whose tables are replaced if it exists.
        key: The number that is compared.
        rows: The table.
        found: The verdicts.
    """
    import wandb

    from pt_flows.runs.options import wandb_mode

    tables = {"compare": rows} | ({"verdicts": found} if found else {})
    place: Any = {"project": project, "id": run_id, "resume": "allow", "mode": wandb_mode("auto")}
    with asking(project, "a W&B project that you can write to", "Check its name and your rights"):
        if place["mode"] == "online":
            api()  # it limits how long W&B tries
        with wandb.init(job_type="compare", name=f"compare {key}", **place) as run:
            for name, content in tables.items():
                columns: Any = list(content[0])
                run.log({name: wandb.Table(columns=columns, data=[list(row.values()) for row in content])})
            print(f"W&B: {run.url or run.settings.sync_dir}")
