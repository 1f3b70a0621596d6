"""Where a run is kept and how W&B shows it."""

import netrc
import os
from pathlib import Path
from typing import Literal
from urllib.parse import urlparse

WandbMode = Literal["auto", "online", "offline", "disabled"]


class RunOptions:
    """Where a run is kept and how W&B shows it.

    Args:
        root: Folder of all runs.
        name: Name in W&B; default `<data>-<model>`.
        project: W&B project.
        group: W&B group; give the runs of one comparison the same.
        tags: W&B tags.
        wandb: "auto" takes $WANDB_MODE where it is set; else it goes online where an API key is configured and offline
            elsewhere.
    """

    def __init__(
        self,
        root: str = "runs",
        name: str | None = None,
        project: str = "pt_flows",
        group: str | None = None,
        tags: list[str] | None = None,
        wandb: WandbMode = "auto",
    ) -> None:
        self.root, self.name, self.project = Path(root), name, project
        self.group, self.tags = group, tags
        self.wandb: WandbMode = wandb


def wandb_mode(wanted: WandbMode) -> Literal["online", "offline", "disabled"]:
    """Where W&B writes: decided without a prompt and without the network."""
    if wanted != "auto":
        return wanted
    if (given := os.environ.get("WANDB_MODE")) in ("online", "offline", "disabled"):
        return given
    return "online" if wandb_key_configured() else "offline"


def wandb_key_configured() -> bool:
    """Whether `wandb login` was done here: an API key in the environment or in the netrc file."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    host = urlparse(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname or ""
    try:
        return netrc.netrc(os.environ.get("NETRC")).authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False
