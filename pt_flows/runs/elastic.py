"""Runs whose processes `torchrun --max-restarts` starts again after one of them has died."""

import json
import os
from pathlib import Path


def launch() -> str | None:
    """Return the id of torchrun's job, the same after a restart; None without torchrun, and for its default, "none"."""
    job = os.environ.get("TORCHELASTIC_RUN_ID")
    return None if job == "none" else job


def interrupted_run(experiment: Path) -> Path | None:
    """Return the run folder of this job if torchrun has started it again; None if there is nothing to continue.

    Args:
        experiment: The folder of all runs of a method on a data set.
    """
    job = launch()
    if job is None or os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") == "0":
        return None
    own = [file.parent for file in experiment.glob("*/environment.json") if launch_in(file) == job]
    newest = max(own, default=None)  # names begin with the time
    names = ("last.ckpt", "previous.ckpt")
    return newest if newest and any((newest / "checkpoints" / name).is_file() for name in names) else None


def stale_addresses() -> str | None:
    """Return a warning if torchrun may start a killed group again with the addresses of the old one; None otherwise."""
    if os.environ.get("TORCHELASTIC_MAX_RESTARTS", "0") == "0":
        return None
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return None
    return (
        "torchrun keeps the addresses of a killed group, and a restart may fail to connect. "
        "Set TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 for torchrun, with --standalone or --rdzv-backend c10d"
    )


def launch_in(file: Path) -> str | None:
    """Return the name of the job that has written an environment.json; None if it has none or is damaged."""
    try:
        return json.loads(file.read_text()).get("launch")
    except (OSError, ValueError, AttributeError):
        return None
