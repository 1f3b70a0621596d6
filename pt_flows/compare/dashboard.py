"""The command `pt-flows dashboard`: a dashboard of a W&B project without a click, and its update."""

import json
import os
from pathlib import Path
from typing import Any

from pt_flows.compare.groups import comparable
from pt_flows.compare.online import asking
from pt_flows.compare.project import Project, project_named
from pt_flows.compare.table import markdown, shown, table
from pt_flows.compare.verdicts import judged, said
from pt_flows.errors import UserError
from pt_flows.files import checked_target, replacing
from pt_flows.runs.folder import say

KNOWN = Path("runs") / "dashboards.json"
"""URLs of saved views. Without them a second command would make a second view."""


def dashboard(
    project: str,
    baseline: str | None = None,
    url: str | None = None,
    report: bool = False,
    dry_run: str | None = None,
) -> None:
    """Make a dashboard of a W&B project, or update the one of an earlier call.

    It has a section for each question: quality against every cost, samples, stability, energies, settings. Its URL is
    kept in runs/dashboards.json. The server is that of $WANDB_BASE_URL.

    Args:
        project: PROJECT or ENTITY/PROJECT. Its runs must have been trained with pt-flows.
        baseline: A run that others are compared with: its id, its folder or its W&B path.
        url: URL of the view to update; by default the one of the last call.
        report: Also write a report with the table and the verdicts of `pt-flows compare` over all runs.
        dry_run: A .json to write the specification to. Nothing is saved in W&B. Without a login, the specification is
            about the project's run folders under runs.
    """
    target = None if dry_run is None else checked_target(dry_run, (".json",), "--dry-run")
    content = project_named(project, offline=target is not None)
    from pt_flows.compare import workspace  # it takes a second

    pinned = None if baseline is None else run_named(baseline, content)
    views: dict[str, Any] = {"workspace": workspace.workspace(content, pinned)}
    if report:
        title, text, runs = comparison(content)
        views["report"] = workspace.report(content, runs, title, text)
    if target is not None:
        with replacing(target) as partial:
            partial.write_text(json.dumps({name: workspace.as_json(view) for name, view in views.items()}, indent=1))
        print(f"wrote {target}: {len(content.runs)} runs, {len(content.qualities)} numbers about quality")
        return
    savers = {"workspace": workspace.save_workspace, "report": workspace.save_report}
    for name, view in views.items():
        given = url if name == "workspace" else None
        with asking(content.path, f"the right to save a {name} there", "Ask its owner, or check --url"):
            where = savers[name](view, given or known_url(content, name))
        keep_url(content, name, where)
        print(f"{name}: {where}")


def run_named(word: str, project: Project) -> str:
    """The id of a run of a project.

    Raises:
        UserError: The project does not have it.
    """
    run_id = Path(word).name.rsplit("-", 1)[-1]
    if run_id not in project.runs:
        known = ", ".join([*project.runs][:4])
        raise UserError(f"--baseline: expected a run of {project.path} ({known}, ...), got {word}. Name one of them")
    return run_id


def comparison(project: Project) -> tuple[str, str, list[str]]:
    """The comparison of all runs: its title, its table and verdicts in Markdown, and the ids of the runs."""
    groups, criterion = comparable([*project.runs.values()], None, lambda text: say(f"note: {text}"))
    found = judged(groups, criterion, 0.05)
    lines = said(groups, criterion, found)
    text = markdown(shown(table(groups, criterion, None), criterion.key)) + "\n\n" + "\n".join(f"- {s}" for s in lines)
    runs = dict.fromkeys(run.id for group in groups for run in group.runs)
    return f"Comparison by {criterion}", text, list(runs)


def place_of(project: Project, name: str) -> str:
    """The name of a saved view in the file of URLs: the server, the project and the kind of view."""
    return f"{os.environ.get('WANDB_BASE_URL', 'https://api.wandb.ai')} {project.path} {name}"


def known_urls() -> dict[str, str]:
    """The URLs of earlier calls; none if the file is damaged."""
    try:
        found = json.loads(KNOWN.read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def known_url(project: Project, name: str) -> str | None:
    """The URL of the view that an earlier call saved."""
    return known_urls().get(place_of(project, name))


def keep_url(project: Project, name: str, url: str) -> None:
    """Keep the URL of a view for the next call."""
    KNOWN.parent.mkdir(exist_ok=True)
    with replacing(KNOWN) as partial:
        partial.write_text(json.dumps(known_urls() | {place_of(project, name): url}, indent=1) + "\n")
