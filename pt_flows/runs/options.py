"""Options of a run: its folder and its place in W&B."""

import netrc
import os
from pathlib import Path
from typing import Literal
from urllib.parse import urlparse

from pt_flows.errors import UserError

WandbMode = Literal["auto", "online", "offline", "disabled"]


class RunOptions:
    """The folder of a run and its place in W&B.

    Args:
        root: Folder of all runs.
        name: Name in W&B; default `<data>-<model>-seed<seed>-<id>`.
        project: W&B project.
        group: W&B group. Runs of one comparison should share it.
        tags: W&B tags.
        tuned: The tuning of the recipe, such as "20 trials of 600 iterations". `pt-flows tune` writes it, and passports
            and comparisons show it.
        wandb: Mode of W&B. "auto" means $WANDB_MODE if it is set, else online with a configured API key and offline
            without one.
    """

    def __init__(
        self,
        root: str = "runs",
        name: str | None = None,
        project: str = "pt_flows",
        group: str | None = None,
        tags: list[str] | None = None,
        wandb: WandbMode = "auto",
        tuned: str | None = None,
    ) -> None:
        self.root, self.name, self.project = Path(root), name, project
        self.group, self.tags = group, tags
        self.wandb: WandbMode = wandb
        self.tuned = tuned


def wandb_mode(wanted: WandbMode) -> Literal["online", "offline", "disabled"]:
    """Choose the mode of W&B without a prompt and without the network.

    Raises:
        UserError: $WANDB_MODE is to decide, and is no mode.
    """
    if wanted != "auto":
        return wanted
    given = os.environ.get("WANDB_MODE") or None
    given = {"dryrun": "offline", "run": "online"}.get(given or "", given)  # earlier names
    if given in ("online", "offline", "disabled"):
        return given
    if given is not None:
        raise UserError(
            f"WANDB_MODE: expected online, offline or disabled, got {given!r}. Set one of them, or unset it"
        )
    return "online" if wandb_key_configured() else "offline"


def quiet_offline() -> None:
    """Keep an offline run of W&B from the network and from messages about uploading."""
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
    os.environ.setdefault("WANDB_SILENT", "true")


def wandb_key_configured() -> bool:
    """Whether there is an API key in the environment or in the netrc file, as after `wandb login`."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    host = urlparse(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname or ""
    try:
        return netrc.netrc(os.environ.get("NETRC")).authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False


def waiting_parts(folder: Path) -> list[Path]:
    """Return the offline parts of a run folder that are not uploaded, oldest first."""
    return [part for part in sorted(folder.glob("wandb/offline-run-*")) if not list(part.glob("*.synced"))]
