"""Additions to a finished run in W&B: online by its id, or offline as one more part that `wandb sync` uploads."""

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pt_flows.errors import UserError
from pt_flows.runs.folder import FAILED, read_config
from pt_flows.runs.lock import is_locked
from pt_flows.runs.metrics_csv import readable_rows
from pt_flows.runs.options import WandbMode, quiet_offline, waiting_parts, wandb_mode

SECONDS = 30
"""Time that the server has to respond."""


def add_to_summary(folder: Path, values: Mapping[str, Any]) -> str:
    """Add values to the summary of a run in W&B, if its training was recorded there.

    Args:
        folder: The run folder.
        values: Plain values by name.

    Returns:
        A sentence about the place of the values; empty if the run has none in W&B.
    """
    options = recorded_options(folder)
    wanted: WandbMode = options.get("wandb") or "auto"
    if not any((folder / "wandb").glob("*run-*_*-*")) or wandb_mode(wanted) == "disabled":
        return ""
    if is_locked(folder):
        return "W&B: this run is still training, so its summary stays as it is. Evaluate again when it has ended"
    mode = "offline" if waiting_parts(folder) else wandb_mode(wanted)
    before = logged_summary(folder) if mode == "offline" else {}  # a part that is synced later replaces the summary
    import wandb
    from wandb.errors import Error

    if mode == "offline":
        quiet_offline()
    settings = wandb.Settings(init_timeout=SECONDS, console="off", x_disable_stats=True)
    project, run_id = options.get("project") or "pt_flows", folder.name.rsplit("-", 1)[-1]
    try:
        with wandb.init(
            project=project, id=run_id, dir=str(folder), mode=mode, resume="allow", settings=settings
        ) as run:
            run.summary.update({**before, **values})
            url = run.url
    except (Error, OSError) as error:
        reason = str(error).splitlines()[0]
        return f"W&B: the numbers are in the run folder alone ({reason}). Evaluate again to add them to the summary"
    if mode == "online":
        return f"W&B: the numbers are in the summary of {url}"
    return f"W&B: recorded offline. To upload it: {upload_command(folder)}"


def upload_command(folder: Path) -> str:
    """Return the command that uploads the offline parts of a run; empty if there are none to upload."""
    waiting = waiting_parts(folder)
    if len(list(folder.glob("wandb/offline-run-*"))) == len(waiting) > 1:  # short, however often it was evaluated
        return f"wandb sync {shlex.quote(str(folder / 'wandb'))}/offline-run-*"
    return shlex.join(["wandb", "sync", *map(str, waiting)]) if waiting else ""


def recorded_options(folder: Path) -> dict[str, Any]:
    """Return the section `run` of a run's configuration; empty without one."""
    try:
        return read_config(folder).get("run") or {}
    except UserError:
        return {}


def logged_summary(folder: Path) -> dict[str, Any]:
    """Return the summary that training has sent to W&B, from the log and the failure of a run folder."""
    log, failure = folder / "metrics.csv", folder / FAILED
    rows, _ = readable_rows(log.read_text(errors="replace")) if log.is_file() else ([], 0)
    values: dict[str, list[float]] = {}
    for row in rows:
        for key, value in row.items():
            values.setdefault(key, []).append(float(value))
    found: dict[str, Any] = {key: known[-1] for key, known in values.items()}
    for key in found:
        if key.startswith("eval/"):
            found[key] = {"last": values[key][-1], "min": min(values[key]), "max": max(values[key])}
    return found | ({"failed": failure.read_text().strip()} if failure.is_file() else {})
