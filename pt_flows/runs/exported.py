"""Exported models: what draws from a method, without what trains it. Reading one runs no code from its files.

DIR/
model.safetensors   the weights, and the method's other tensors
method.json         class and arguments of the method, its plain state, the hash of the weights
config.yaml         the configuration of the run, without the paths of a machine
evaluations/        numbers with their passports
samples.png         samples, if there is a picture of them
README.md           the model card
"""

import hashlib
import json
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from pt_flows.errors import UserError
from pt_flows.runs.trust import Guard

FORMAT = 1
WEIGHTS, DESCRIPTION = "model.safetensors", "method.json"
OWN = ("pt_flows", "torch.nn")
"""Packages whose classes an exported model may name."""
AVERAGE = ".ema.network."
AVERAGES = re.compile(r"\w+\.(ema|further\.\d+)\.network\.")
"""Begin of the names of averaged weights in a checkpoint."""


def is_exported(folder: Path) -> bool:
    """Whether a folder is an exported model."""
    return (folder / DESCRIPTION).is_file()


def write_exported(
    folder: Path, content: dict[str, Any], averaged: Mapping[str, int], left_out: Collection[str]
) -> None:
    """Write the weights and the description of a method.

    Args:
        folder: The folder, which exists.
        content: Content of a checkpoint.
        averaged: Players whose averaged weights replace the others, each with the number of the average; the rest lose
            their averages.
        left_out: Parts of the state that training alone needs.
    """
    from safetensors.torch import save  # slow, and not every command needs it

    state: dict[str, Any] = {
        name: value for name, value in content["state_dict"].items() if not name.startswith(tuple(left_out))
    }
    averages = {name: value for name, value in state.items() if AVERAGES.match(name)}
    state = {name: value for name, value in state.items() if name not in averages}
    for player, number in averaged.items():
        chosen = f"{player}.further.{number - 1}.network." if number else f"{player}{AVERAGE}"
        own = {name: value for name, value in averages.items() if name.startswith(chosen)}
        state |= {f"{player}.network.{name.removeprefix(chosen)}": value for name, value in own.items()}
    tensors = {name: value.clone().contiguous() for name, value in state.items() if isinstance(value, Tensor)}
    (folder / WEIGHTS).write_bytes(save(tensors))
    arguments = {key: value for key, value in content["hyper_parameters"].items() if key != "_instantiator"}
    description = {
        "format": FORMAT,
        "checkpoint": content["pt_flows"],
        "method": _without_training(arguments, averaged),
        "averaged": sorted(averaged),
        "left_out": sorted(left_out),
        "state": {name: value for name, value in state.items() if not isinstance(value, Tensor)},
        "sha256": hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest(),
    }
    (folder / DESCRIPTION).write_text(json.dumps(description, indent=2) + "\n")


def _without_training(arguments: dict[str, Any], averaged: Mapping[str, int]) -> dict[str, Any]:
    """Arguments of a method whose players have default optimizers, and averages only if they are exported."""
    found = dict(arguments)
    if "ema_decay" in found:  # of the only averaged player
        found["ema_decay"] = _decay_of(found["ema_decay"], next(iter(averaged.values()), None))
    for name, value in arguments.items():
        if isinstance(value, dict) and "network" in value:
            found[name] = {key: inner for key, inner in value.items() if key != "optimizer"}
            if name not in averaged or isinstance(value.get("ema_decay"), list):
                found[name]["ema_decay"] = _decay_of(value.get("ema_decay"), averaged.get(name))
    return found


def _decay_of(decays: Any, number: int | None) -> Any:
    """The decay of an exported average; None without one."""
    return None if number is None else decays[number] if isinstance(decays, list) else decays


def read_exported(folder: Path, trusted: Collection[str] | None = ()) -> dict[str, Any]:
    """Read an exported model as the content of a checkpoint that cannot be continued.

    Args:
        folder: The folder.
        trusted: Packages beside this one whose classes may be built; None to build nothing and to check no class.

    Raises:
        UserError: A file is lost, damaged or of a newer version, or names a class of another package.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    told, weights = folder / DESCRIPTION, folder / WEIGHTS
    try:
        description = json.loads(told.read_text(encoding="utf-8"))
        version = int(description["format"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _damaged(told, error) from error
    if version > FORMAT:
        raise UserError(
            f"{told}: expected format {FORMAT} of exported models, got {version}. Update pt_flows to read it"
        )
    try:
        method, digest = description["method"], hashlib.sha256(weights.read_bytes()).hexdigest()
        if trusted is not None:
            arguments = {name: value for name, value in method.items() if name not in ("_class_path", "_instantiator")}
            Guard(told, (*OWN, *trusted)).check_object(method.get("_class_path"), arguments, "method")
        if digest != description["sha256"]:
            raise SafetensorError("other content than exported")
        state: dict[str, Any] = description["state"] | load_file(weights)
        for name in description["averaged"]:
            own = {key: value for key, value in state.items() if key.startswith(f"{name}.network.")}
            state |= {key.replace(".network.", AVERAGE, 1): value.clone() for key, value in own.items()}
        record = description["checkpoint"] | {"without": description["left_out"]}
    except (OSError, SafetensorError) as error:
        raise _damaged(weights, error) from error
    except (KeyError, TypeError, AttributeError) as error:
        raise _damaged(told, error) from error
    return {"pt_flows": record, "hyper_parameters": method, "state_dict": state}


def _damaged(file: Path, error: Exception) -> UserError:
    reason = error.strerror if isinstance(error, OSError) else str(error).splitlines()[0]
    return UserError(f"{file}: expected a file of an exported model, got a damaged one ({reason}). Export it again")
