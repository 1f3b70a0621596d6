"""Recipes: commands of `fit` with their complete configurations."""

import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pt_flows.errors import UserError


@dataclass(frozen=True)
class Recipe:
    """A command of `fit` whose parts can be built.

    Attributes:
        words: Its arguments, after `fit`.
        config: Its complete configuration, as in the config.yaml of a run folder.
        accelerator: The kind of device of a run: cpu, cuda or mps.
        num_devices: Number of devices of a run; of processes on a CPU.
        gpus: Number of GPUs of this machine.
    """

    words: tuple[str, ...]
    config: dict[str, Any]
    accelerator: str
    num_devices: int
    gpus: int


def completed(commands: Mapping[str, Sequence[str]]) -> dict[str, Recipe]:
    """Complete the configurations of commands, and build their parts once.

    Args:
        commands: For each name the arguments of `fit`.

    Raises:
        UserError: A configuration cannot be parsed or built. The error begins with its name, if it has one.
    """
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "answer.json"
        child = [sys.executable, "-m", "pt_flows.cli.complete", str(target)]
        text = json.dumps({name: list(words) for name, words in commands.items()})
        ended = subprocess.run(child, input=text, text=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        if not target.is_file():
            raise RuntimeError(f"the configurations cannot be read, because a process failed:\n{ended.stderr}")
        answer = json.loads(target.read_text())
    for name, found in answer["answers"].items():
        if "error" in found:
            raise UserError(f"{name}: {found['error']}" if name else found["error"])
    machine = answer["machine"]
    return {
        name: Recipe(tuple(words), config, *devices(name, config["trainer"], machine), machine["gpus"])
        for name, words in commands.items()
        for config in [answer["answers"][name]["config"]]
    }


def devices(name: str, trainer: Mapping[str, Any], machine: Mapping[str, Any]) -> tuple[str, int]:
    """Return the kind and the number of the devices of a run.

    Args:
        name: Name of the command, for errors.
        trainer: The section `trainer` of its configuration.
        machine: The kind of device that "auto" means, and the number of GPUs.

    Raises:
        UserError: The run wants devices by their numbers, or several machines.

    Example:
        >>> devices("seed 0", {"accelerator": "auto", "devices": "auto"}, {"accelerator": "cuda", "gpus": 2})
        ('cuda', 2)
    """
    prefix = f"{name}: " if name else ""
    kind = {"auto": machine["accelerator"], "gpu": machine["accelerator"]}.get(*[trainer["accelerator"]] * 2)
    wanted, nodes = trainer["devices"], trainer.get("num_nodes", 1)
    if nodes != 1:
        advice = "Start every run by pt-flows fit under the launcher of the cluster"
        raise UserError(f"{prefix}trainer.num_nodes: expected 1 in runs side by side, got {nodes}. {advice}")
    if wanted in ("auto", -1, "-1"):
        return kind, machine["gpus"] if kind == "cuda" else 1
    if not str(wanted).isdigit():
        advice = "Choose devices with CUDA_VISIBLE_DEVICES"
        raise UserError(f"{prefix}trainer.devices: expected a number of devices, got {wanted!r}. {advice}")
    return kind, int(wanted)
