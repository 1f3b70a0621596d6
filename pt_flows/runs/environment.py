"""What is needed to say which code made a number, and on which machine."""

import platform
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from typing import Any

PACKAGES = ("pt-flows", "torch", "torchvision", "lightning", "torchmetrics", "wandb", "numpy")


def environment(seed: Any) -> dict[str, Any]:
    """The seed, the command, the code and the machine of a run or of a measurement.

    Args:
        seed: Of the run.
    """
    import torch  # the other functions of this module do without

    return {
        "seed": seed,
        "command": sys.argv,
        "git_commit": git_commit(),
        "python": platform.python_version(),
        "packages": {name: package_version(name) for name in PACKAGES},
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else platform.machine() or "cpu",
    }


def package_version(name: str) -> str | None:
    """Installed version, None if there is none."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def git_commit() -> str | None:
    """Commit of the working directory, with a + where files differ from it; None outside a repository."""
    try:
        described = subprocess.run(
            ["git", "describe", "--always", "--abbrev=40", "--dirty=+", "--exclude=*"],
            capture_output=True, text=True, timeout=10, check=True,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return None
    return described.stdout.strip()
