"""The dashboard of a project as a workspace and a report of W&B. Only this module uses `wandb-workspaces`.

Facts about W&B that shape it:

* A number whose summary has its last and best value is addressed as `eval/x.last` and `eval/x.min`.
* Filters and groups by dotted keys of the configuration are unreliable, so only flat keys are used.
* A workspace shows ten runs unless it asks for more.
* Charts bucket their points before they average groups. Exact means are in tables alone.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from pt_flows.compare.project import Project
from pt_flows.errors import UserError

try:
    import wandb_workspaces.reports.v2 as reports
    import wandb_workspaces.workspaces as ws
    from wandb_workspaces import expr
except ImportError as error:
    wanted = "dashboard: expected the package wandb-workspaces, got none"
    raise UserError(f'{wanted}. Run pip install "pt-flows[dashboard]"') from error

wr: Any = reports
"""The panels and blocks, most of which the package does not declare as exported."""
MOST_RUNS = 100
TRAINING = "JobType = 'train'"
PROTOCOL = """**How to read this.** The name of a number is its protocol: the feature network, the number of generated
samples and the split of the real ones. Two numbers compare if their names agree. Curves show the weights and the
sampler of the evaluations in training. Lines are means over seeds, and areas their range. The charts bucket points
before they average, so read exact means, intervals and verdicts from `pt-flows compare`. `..._floor` is real data
against real data. Failed runs stay in every group: `failed` in their summary is the reason."""


def best(project: Project, key: str) -> str:
    """The address of the best value of a number in a summary."""
    return f"{key}.max" if project.direction(key) == "higher" else f"{key}.min"


def line(project: Project, key: str, x: str) -> Any:
    """A chart of a number and its floor against a cost."""
    floor = [f"{key}_floor"] if f"{key}_floor" in project.metrics else []
    log = project.direction(key) == "lower" and not key.startswith("eval/kid_")  # KID may be negative
    title = f"{key.removeprefix('eval/')} against {x.removeprefix('cost/').replace('_', ' ')}"
    return curve(title, x, [key, *floor], log_y=log or None)


def curve(title: str, x: str, y: list[str], **options: Any) -> Any:
    """A chart with a line for each group, and its range over seeds."""
    return wr.LinePlot(
        title=title,
        x=x,
        y=[*y],
        groupby_aggfunc="mean",
        groupby_rangefunc="minmax",
        max_runs_to_show=MOST_RUNS,
        **options,
    )


def bars(title: str, address: str) -> Any:
    """A bar for each method."""
    return wr.BarPlot(
        title=title, metrics=[wr.SummaryMetric(address)], groupby=wr.Config("method"),
        groupby_aggfunc="mean", groupby_rangefunc="minmax", max_runs_to_show=MOST_RUNS,
    )  # fmt: skip


def quality(project: Project) -> list[Any]:
    """Panels of every number about quality: against every cost, and its last and best value by method."""
    panels: list[Any] = [wr.MarkdownPanel(markdown=PROTOCOL)]
    for key in project.qualities:
        name = key.removeprefix("eval/")
        panels += [line(project, key, x) for x in project.costs]
        panels += [bars(f"{name}, last by method", f"{key}.last"), bars(f"{name}, best by method", best(project, key))]
    return panels


def pictures(project: Project) -> list[Any]:
    """Panels of pictures: a row for each step and a column for each run."""
    grid: dict[str, Any] = {"mode": "grid", "grid_x_axis": "run", "grid_y_axis": "step"}
    return [wr.MediaBrowser(title=key.replace("_", " "), media_keys=[key], **grid) for key in project.media]


def stability(project: Project) -> list[Any]:
    """Panels of every training term but energies and rates, and of the speed."""
    skipped = set(energy_keys(project)) | set(project.begin("train/lr_"))
    terms = [key for key in project.begin("train/") if key not in skipped]
    speed = project.begin("cost/iterations_per_second")
    return [curve(key.removeprefix("train/"), "iteration", [key]) for key in [*terms, *speed]]


def energies(project: Project) -> list[Any]:
    """Panels of energies and of acceptance."""
    return [curve(key.removeprefix("train/"), "iteration", [key]) for key in energy_keys(project)]


def energy_keys(project: Project) -> list[str]:
    """Log keys of terms of energy-based models."""
    return [key for key in project.begin("train/") if "energy" in key or "acceptance" in key]


def settings(project: Project) -> list[Any]:
    """Panels of settings and learning rates, and of the other measured numbers."""
    columns = [wr.ParallelCoordinatesPlotColumn(wr.Config(key)) for key in ("method", "num_parameters", "seed")]
    columns.append(wr.ParallelCoordinatesPlotColumn(wr.SummaryMetric(best(project, project.qualities[0]))))
    panels: list[Any] = [wr.RunComparer(diff_only=True), wr.ParallelCoordinatesPlot(columns=columns)]
    return panels + [curve(key.removeprefix("train/"), "iteration", [key]) for key in project.begin("train/lr_")]


def other_numbers(project: Project) -> list[Any]:
    """Panels of measured numbers that the first section does not show."""
    shown = {name for key in project.qualities for name in (key, f"{key}_floor")}
    others = [key for key in project.begin("eval/") if key not in shown]
    return [curve(key.removeprefix("eval/"), "iteration", [key]) for key in others]


def sections(project: Project) -> Iterator[Any]:
    """One section for each question, without empty ones."""
    questions = {
        "Quality: how good are samples at which cost?": quality(project),
        "Samples: how do they look?": pictures(project),
        "Stability: does training behave?": stability(project),
        "Energies: do chains mix?": energies(project),
        "Other measured numbers": other_numbers(project),
        "Settings: in what do runs differ?": settings(project),
    }
    for i, (name, panels) in enumerate(questions.items()):
        if panels:
            yield ws.Section(name=name, panels=panels, is_open=i < 2)


def workspace(project: Project, baseline: str | None) -> Any:
    """The dashboard as a workspace that is not saved.

    Args:
        project: The content of the project.
        baseline: Id of the run that others are compared with.
    """
    first = project.qualities[0]
    columns = [f"summary:{best(project, first)}", f"summary:{first}.last", "config:method.value", "config:seed.value",
               "config:num_parameters.value", "summary:cost/seconds", "summary:failed"]  # fmt: skip
    runs = ws.RunsetSettings(
        filters=TRAINING,
        groupby=[expr.Config("method"), expr.Config("group")],
        order=[expr.Ordering(expr.Summary(best(project, first)), ascending=project.direction(first) != "higher")],
        pinned_columns=columns,
        baseline_run=baseline,
    )
    shown = ws.WorkspaceSettings(x_axis="iteration", max_runs=MOST_RUNS, group_by_prefix="first")
    return ws.Workspace(
        entity=project.entity,
        project=project.name,
        name="pt_flows",
        sections=list(sections(project)),
        settings=shown,
        runset_settings=runs,
    )


def report(project: Project, runs: Sequence[str], title: str, text: str) -> Any:
    """A report that is not saved: a comparison, and charts of the runs that are compared.

    Args:
        project: The content of the project.
        runs: Ids of the runs.
        title: Its title.
        text: The comparison in Markdown.
    """
    names = ", ".join(f"'{name}'" for name in runs)
    pinned = wr.Runset(
        entity=project.entity, project=project.name, name="compared runs", filters=f"Metric('ID') in [{names}]",
        groupby=["config.method", "config.group"],
    )  # fmt: skip
    charts = [panel for panel in quality(project) if not isinstance(panel, wr.MarkdownPanel)]
    blocks = [
        wr.MarkdownBlock(text=text),
        wr.MarkdownBlock(text=PROTOCOL),
        wr.PanelGrid(runsets=[pinned], panels=[*charts, *pictures(project)]),
    ]
    return wr.Report(entity=project.entity, project=project.name, title=title[:128], blocks=blocks)


def as_json(view: Any) -> dict[str, Any]:
    """The specification of a workspace or a report that W&B receives."""
    return json.loads(view._to_model().spec.model_dump_json(by_alias=True, exclude_none=True))


def opened(from_url: Callable[[str], Any], url: str) -> Any:
    """Read a saved workspace or report.

    Raises:
        UserError: The URL is of another kind, or the view was deleted.
    """
    try:
        return from_url(url)
    except (ValueError, TypeError, LookupError) as error:  # the package has no error of its own for it
        advice = "Remove its line from runs/dashboards.json, or give --url another one"
        raise UserError(f"{url}: expected a saved view of W&B, got none. {advice}") from error


def save_workspace(built: Any, url: str | None) -> str:
    """Save a workspace in W&B, in place of the view at a URL if there is one, and return its URL."""
    if url is not None:
        known = opened(ws.Workspace.from_url, url)
        known.sections, known.settings, known.runset_settings = built.sections, built.settings, built.runset_settings
        built = known
    return str(built.save().url)


def save_report(built: Any, url: str | None) -> str:
    """Save a report in W&B, in place of the one at a URL if there is one, and return its URL."""
    if url is not None:
        known = opened(wr.Report.from_url, url)
        known.title, known.blocks = built.title, built.blocks
        built = known
    return str(built.save().url)
