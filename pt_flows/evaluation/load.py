"""Load a finished run: its method, its data, and a device for them."""

import os
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from jsonargparse import ArgumentParser

from pt_flows.contracts import MapsLatents
from pt_flows.data.base import FlowData
from pt_flows.errors import UserError
from pt_flows.evaluation.power import offer
from pt_flows.loop.describing import built
from pt_flows.loop.method import Method
from pt_flows.runs.checkpoint import find_checkpoint, open_checkpoint
from pt_flows.runs.exported import WEIGHTS, is_exported
from pt_flows.runs.folder import read_config, run_folder_of, say


class FinishedRun(NamedTuple):
    """A trained method, with its checkpoint and its run folder.

    Attributes:
        checkpoint: The file.
        method: The method, in evaluation mode.
        folder: The run folder; None for a file outside one.
    """

    checkpoint: Path
    method: Method
    folder: Path | None

    def data(self) -> FlowData:
        """Load the data that the method was trained on.

        Raises:
            UserError: The checkpoint is outside its run folder.
        """
        if self.folder is None:
            wanted = "a checkpoint in its run folder, whose config.yaml names the data"
            raise UserError(f"{self.checkpoint}: expected {wanted}, got another folder. Put it into <run>/checkpoints")
        parser = ArgumentParser(exit_on_error=False)
        parser.add_subclass_arguments(FlowData, "data")
        config = read_config(self.folder)
        section = {"data": config["data"]}
        data: FlowData = cast(Any, parser.instantiate_classes(parser.parse_object(section))).data
        data.trained_seed = config.get("seed_everything")
        data.prepare_data()
        data.setup("test")
        return data


def finished(ckpt: str | Path) -> FinishedRun:
    """Load the run of the checkpoint that a command names: a file, a run folder, last or best.

    Raises:
        UserError: There is none, or it cannot be loaded.
    """
    path, content = open_checkpoint(find_checkpoint(str(ckpt)))
    if str(path) != str(ckpt):
        say(f"checkpoint: {path}, iteration {content['pt_flows']['iteration']}")
    folder = path.parent if path.name == WEIGHTS and is_exported(path.parent) else run_folder_of(path)
    run = FinishedRun(path, method_of(path, content), folder)
    offer(run.method, content, folder)
    if isinstance(run.method, MapsLatents) and run.method.generator.moves_data:
        run.method.generator.start_from(cast(Any, run.data()).source)
    return run


def method_of(ckpt: Path, content: dict[str, Any]) -> Method:
    """Build the method of a checkpoint from its content.

    Raises:
        UserError: It does not describe all of a method that was built in Python.
    """
    left_out = content["pt_flows"]["left_out"]
    class_path = content.get("hyper_parameters", {}).get("_class_path")
    if class_path is None or class_path.startswith("__main__."):
        raise built_in_python(ckpt, left_out)
    try:
        return built(content, ckpt, Method, {}).eval()
    except UserError as error:
        raise built_in_python(ckpt, left_out) if left_out else error from None


def built_in_python(ckpt: Path, left_out: list[str]) -> UserError:
    """Return the error for a checkpoint that only Python code can load."""
    got = f"one built in Python without {', '.join(left_out) or 'its class'}"
    advice = "Load it in Python with load_from_checkpoint(path, generator=...), docs/python.md"
    return UserError(f"{ckpt}: expected a checkpoint that describes its method, got {got}. {advice}")


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
