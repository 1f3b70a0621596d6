"""The command `doctor`: what this machine has, and the problems that a run is most likely to meet."""

import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

from packaging.requirements import Requirement

import pt_flows
from pt_flows.cli.shipped import recipe_folder, recipe_names
from pt_flows.errors import UserError
from pt_flows.files import cache_folder
from pt_flows.runs.environment import PACKAGES
from pt_flows.runs.options import waiting_parts, wandb_key_configured, wandb_mode

DATA = {"CIFAR10": "cifar-10-batches-py", "MNIST": "MNIST/raw", "FashionMNIST": "FashionMNIST/raw", "USPS": "usps.bz2",
        "ImageNet": "imagenet64"}  # fmt: skip
"""Data sets with a file or folder of theirs."""
SHOWN = 3
"""Number of problems that are printed."""
ROOM = 2.0
"""Gigabytes that a run with images should find on its disk."""


HELP = """usage: pt-flows doctor

Print versions, devices, compiler, data, W&B's state and problems. The exit code is 1 if no run can start.
"""


def doctor(words: Sequence[str]) -> None:
    """Print versions, devices, compiler, data, W&B's state and problems. The exit code is 1 if no run can start.

    Args:
        words: None are taken.

    Raises:
        UserError: There are some.
    """
    if {"-h", "--help"} & set(words):
        print(HELP, end="")
        return
    if words:
        raise UserError(f"doctor: expected no arguments, got {' '.join(words)}. Omit them")
    blocking, problems = wrong_packages(), []
    report: list[tuple[str, str]] = [
        ("program", f"pt-flows {pt_flows.__version__} in {Path(pt_flows.__file__).parent}"),
        ("python", f"{platform.python_version()} on {platform.platform(terse=True)}, {sys.executable}"),
        ("packages", ", ".join(f"{name} {found}" for name in PACKAGES[1:] if (found := installed(name)))),
    ]
    for name, (text, problem) in {
        "devices": devices(),
        "compiler": compiler(),
        "disk": disk(),
        "data": data_sets(),
        "W&B": wandb_state(),
    }.items():
        report.append((name, text))
        problems += [problem] if problem else []
    report.append(("recipes", f"{len(recipe_names())} in {recipe_folder()}"))
    for name, text in report:
        print(f"{name:<9} {text}")
    if not blocking and not problems:
        print("no problems found")
        return
    for i, problem in enumerate([*blocking, *problems][:SHOWN], 1):
        print(f"{'problems' if i == 1 else '':<9} {i}. {problem}")
    if blocking:
        raise SystemExit(1)


def installed(name: str) -> str | None:
    """Version of a package; None if it is not there."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def wrong_packages() -> list[str]:
    """A sentence about every required package that is missing or of another version, and one about broken imports."""
    found = []
    for line in requires("pt-flows") or []:
        wanted = Requirement(line)
        if wanted.marker is not None and not wanted.marker.evaluate({"extra": ""}):
            continue
        here = installed(wanted.name)
        if here is None or not wanted.specifier.contains(here, prereleases=True):
            got = here or "none"
            found.append(f'{wanted.name}: expected {wanted.specifier}, got {got}. Run pip install "{line}"')
    if not found:
        try:
            import torchvision.ops  # noqa: F401  fails if torchvision was built for another torch
        except Exception as error:  # binary mismatches raise many kinds
            reason = str(error).splitlines()[0]
            found.append(f"torchvision does not fit torch ({reason}). Install both anew, in one command")
    return found


def devices() -> tuple[str, str]:
    """Cores, threads and GPUs; a sentence about a GPU that torch cannot use."""
    try:
        import torch  # slow, and it may be broken

        from pt_flows.runs.threads import threads_are_given
    except Exception as error:  # a broken installation raises many kinds
        return "torch cannot be imported", f"torch: {str(error).splitlines()[0]}. Install it anew"
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    num = torch.get_num_threads()
    text = f"{cores} CPU cores, {num} thread{'s' * (num > 1)} a process"
    try:
        threads_are_given()
    except UserError as error:
        return text, str(error)
    if torch.cuda.is_available():
        names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
        return f"{text}; {', '.join(names)} (CUDA {torch.version.cuda})", ""
    if torch.backends.mps.is_available():
        return f"{text}; Apple GPU", ""
    if shutil.which("nvidia-smi") and subprocess.run(["nvidia-smi", "-L"], capture_output=True).returncode == 0:
        wanted = f"torch {torch.__version__} (CUDA {torch.version.cuda}) cannot use the GPU that nvidia-smi shows"
        return f"{text}; GPU not usable", f"{wanted}. Update the driver, or install torch for its CUDA version"
    return f"{text}; no GPU", ""


def compiler() -> tuple[str, str]:
    """The C++ compiler that torch.compile needs on a CPU."""
    name = os.environ.get("CXX") or next((name for name in ("g++", "clang++") if shutil.which(name)), "")
    if not name:
        return "none, so --perf compile does not work on a CPU; nothing else needs one", ""
    if not shutil.which(name):
        return f"no {name}", f"CXX: expected a compiler, got {name}, which does not exist. Unset or correct it"
    told = subprocess.run([name, "--version"], capture_output=True, text=True).stdout.splitlines()
    return told[0] if told else name, ""


def disk() -> tuple[str, str]:
    """Space where runs are written."""
    place = Path.cwd()
    free, cache = shutil.disk_usage(place).free / 1e9, cache_folder()
    text = f"{free:,.0f} GB free in {place}"
    if not os.access(place, os.W_OK):
        return text, f"{place}: expected a folder that you may write to. Change to another, or set run.root"
    if free < ROOM:
        return text, f"{place}: expected {ROOM:g} GB for checkpoints, got {free:.1f}. Make room, or set run.root"
    if not next(part for part in (cache, *cache.parents) if part.exists()).is_dir():
        return text, f"PT_FLOWS_CACHE: expected a folder, got {cache}, which is a file or in one. Change or unset it"
    return text, ""


def data_sets() -> tuple[str, str]:
    """Data sets that are there."""
    given = os.environ.get("PT_FLOWS_DATA")
    root = Path(given or "data")
    found = [name for name, part in DATA.items() if (root / part).exists()]
    origin = "$PT_FLOWS_DATA" if given else "the default; $PT_FLOWS_DATA is not set"
    text = f"{', '.join(found) or 'none'} in {root} ({origin})"
    if given and not root.is_dir():
        what = "is a file" if root.exists() else "does not exist"
        return text, f"PT_FLOWS_DATA: expected a folder, got {given}, which {what}. Correct it"
    if not found:
        return text, f"{root}: no data set is there. Toys need none; others are downloaded when they are first used"
    return text, ""


def wandb_state() -> tuple[str, str]:
    """The mode of W&B, and runs that wait for their upload."""
    try:
        mode = wandb_mode("auto")
    except UserError as error:
        return "unknown", str(error)
    waiting = [part for folder in Path("runs").glob("*/*") for part in waiting_parts(folder)]
    text = mode if mode != "offline" or wandb_key_configured() else "offline: no API key is configured (wandb login)"
    text += f"; {len(waiting)} recorded parts under runs/ are not uploaded" if waiting else ""
    if mode == "online" and waiting:
        return text, "W&B: earlier runs wait for their upload. Run wandb sync runs/*/*/wandb/offline-run-*"
    return text, ""
