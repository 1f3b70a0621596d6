"""Load a finished run: its method, its data, and a device for them."""

import os
from pathlib import Path
from typing import Any, cast

import torch
from jsonargparse import ArgumentParser

from pt_flows.contracts import MapsLatents
from pt_flows.data.base import FlowData
from pt_flows.errors import UserError
from pt_flows.loop.method import Method
from pt_flows.runs.checkpoint import find_checkpoint, open_checkpoint, read_checkpoint
from pt_flows.runs.folder import read_config, run_folder_of, say


def load_named(ckpt: str) -> tuple[Path, Method]:
    """Load the method of the checkpoint that a command names: a file, a run folder, last or best.

    Raises:
        UserError: There is none, or it cannot be loaded.
    """
    path, content = open_checkpoint(find_checkpoint(ckpt))
    if str(path) != ckpt:
        say(f"checkpoint: {path}, iteration {content['pt_flows']['iteration']}")
    return path, method_of(path, content)


def load_method(ckpt: Path) -> Method:
    """Load the method that a checkpoint file describes, including its networks and weights.

    Raises:
        UserError: The file is damaged or foreign, or does not describe all of a method that was built in Python.
    """
    return method_of(ckpt, read_checkpoint(ckpt))


def method_of(ckpt: Path, content: dict[str, Any]) -> Method:
    """Build the method of a checkpoint from its content.

    Raises:
        UserError: It does not describe all of a method that was built in Python, or is of another version.
    """
    left_out = content["pt_flows"]["left_out"]
    class_path = content.get("hyper_parameters", {}).get("_class_path")
    if class_path is None or class_path.startswith("__main__."):
        raise built_in_python(ckpt, left_out)
    try:
        method = Method.load_from_checkpoint(ckpt, map_location="cpu")
    except UserError as error:
        raise built_in_python(ckpt, left_out) if left_out else error from None
    method.eval()
    if isinstance(method, MapsLatents) and method.generator.moves_data:
        method.generator.start_from(cast(Any, data_of_run(ckpt)).source)
    return method


def built_in_python(ckpt: Path, left_out: list[str]) -> UserError:
    """Return the error for a checkpoint that only Python code can load."""
    got = f"one built in Python without {', '.join(left_out) or 'its class'}"
    advice = "Load it in Python with load_from_checkpoint(path, generator=...), docs/python.md"
    return UserError(f"{ckpt}: expected a checkpoint that describes its method, got {got}. {advice}")


def data_of_run(ckpt: Path) -> FlowData:
    """Load the data that a checkpoint of a run folder was trained on.

    Raises:
        UserError: The checkpoint is outside its run folder.
    """
    folder = run_folder_of(ckpt)
    if folder is None:
        wanted = "a checkpoint in its run folder, whose config.yaml names the data"
        raise UserError(f"{ckpt}: expected {wanted}, got another folder. Put it into <run>/checkpoints")
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(FlowData, "data")
    section = {"data": read_config(folder)["data"]}
    data: FlowData = cast(Any, parser.instantiate_classes(parser.parse_object(section))).data
    data.prepare_data()
    data.setup("test")
    return data


def device_named(name: str) -> torch.device:
    """A device by its name; "auto" is a GPU if there is one, a different one for each process of `torchrun`.

    Raises:
        UserError: It is not available here.
    """
    if name == "auto":
        own = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        return own if torch.cuda.is_available() else torch.device("cpu")
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"--device: expected an available device, got {name} ({reason}). Use cpu or cuda") from error
