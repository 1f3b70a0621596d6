"""Records of the code and the machine that produced a number."""

import platform
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from typing import Any

PACKAGES = ("pt-flows", "torch", "torchvision", "lightning", "torchmetrics", "wandb", "numpy")


def environment(seed: Any) -> dict[str, Any]:
    """Return the seed, the command, the code and the machine of a run or of a measurement.

    Args:
        seed: Seed of the run.
    """
    import torch  # slow, and the other functions do not need it

    return {
        "seed": seed,
        "command": sys.argv,
        "git_commit": git_commit(),
        "python": platform.python_version(),
        "packages": {name: package_version(name) for name in PACKAGES},
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else platform.machine() or "cpu",
        "threads": torch.get_num_threads(),
    }


def package_version(name: str) -> str | None:
    """Return the installed version of a package, None if it is not installed."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def git_commit() -> str | None:
    """Return the commit of the working directory, with a + if files have changed; None outside a repository."""
    try:
        described = subprocess.run(
            ["git", "describe", "--always", "--abbrev=40", "--dirty=+", "--exclude=*"],
            capture_output=True, text=True, timeout=10, check=True,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return None
    return described.stdout.strip()
