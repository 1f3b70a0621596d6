"""The folder of a run, and the checkpoint that it starts from."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pt_flows.errors import UserError
from pt_flows.metrics.features import file_hash
from pt_flows.runs.checkpoint import find_checkpoint, open_checkpoint, settings_of
from pt_flows.runs.elastic import interrupted_run
from pt_flows.runs.folder import new_run_folder, rank, run_folder_of, say
from pt_flows.runs.lock import RunLock
from pt_flows.runs.settings import NAMED, differences, short, within


@dataclass(frozen=True)
class Place:
    """The folder of a run, and the checkpoint that it starts from.

    Attributes:
        folder: The run folder.
        checkpoint: The file to load, if any.
        iteration: Iteration of the checkpoint; 0 without one.
        parent: Record of the checkpoint that a new run starts from, for environment.json.
        damaged: The last checkpoint, if it cannot be read and the previous one is loaded.
    """

    folder: Path
    checkpoint: Path | None = None
    iteration: int = 0
    parent: dict[str, Any] | None = None
    damaged: Path | None = None


def place_to_train(config: Any, experiment: str, settings: dict[str, Any], lock: RunLock, branches: bool) -> Place:
    """Return the place of `fit`: the run folder of a last checkpoint, or else a new one.

    A run continues in its folder from its last checkpoint alone. An earlier checkpoint starts a new run, because later
    results would be overwritten. If torchrun has started the command again, the run that it interrupted continues.

    Args:
        config: The configuration of the command.
        experiment: The folder below `run.root`.
        settings: The configuration, as YAML reads it.
        lock: The lock, which is acquired for a continued run.
        branches: Whether every checkpoint starts a new run.

    Raises:
        UserError: The checkpoint does not exist, or does not fit.
    """
    root = Path(config.run.root)
    interrupted = interrupted_run(root / experiment)
    if not config.ckpt_path and interrupted is None:
        return Place(new_run_folder(root, experiment))
    wanted = find_checkpoint(str(interrupted or config.ckpt_path), root, experiment, settings)
    branches = branches and interrupted is None
    continued = run_folder_of(wanted) if wanted.name == "last.ckpt" and not branches else None
    if continued is not None and rank() == 0:
        lock.acquire(continued)  # before reading, or another process could write a later one
    checkpoint, iteration = opened(wanted, settings)
    if continued is not None:
        return Place(continued, checkpoint, iteration, damaged=wanted if checkpoint != wanted else None)
    if iteration >= config.trainer.max_steps:
        got = config.trainer.max_steps
        raise UserError(f"trainer.max_steps: expected more than {iteration}, as in {checkpoint}, got {got}. Raise it")
    parent = {"checkpoint": str(checkpoint), "sha256": file_hash(checkpoint), "iteration": iteration}
    return Place(new_run_folder(root, experiment), checkpoint, iteration, parent)


def place_to_measure(config: Any, experiment: str, settings: dict[str, Any]) -> Place:
    """Return the place of `validate` and `test`: the run folder of the checkpoint.

    Args:
        config: The configuration of the command, with `ckpt_path`.
        experiment: The folder below `run.root`.
        settings: The configuration, as YAML reads it.

    Raises:
        UserError: The checkpoint does not exist, or does not fit.
    """
    wanted = find_checkpoint(config.ckpt_path, Path(config.run.root), experiment, settings)
    checkpoint, iteration = opened(wanted, settings)
    return Place(run_folder_of(checkpoint) or Path.cwd(), checkpoint, iteration)


def opened(wanted: Path, settings: dict[str, Any]) -> tuple[Path, int]:
    """Return the checkpoint, or a readable one in its place, and its iteration. Print settings that have changed.

    Args:
        wanted: The checkpoint of the command.
        settings: The configuration, as YAML reads it.

    Raises:
        UserError: It cannot be read, or is of another method.
    """
    checkpoint, saved = open_checkpoint(wanted)
    if "without" in saved["pt_flows"]:
        got = "an exported model, which cannot be trained further"
        advice = f"To measure it: pt-flows evaluate {checkpoint.parent}"
        raise UserError(f"--ckpt_path: expected a checkpoint, got {got}. {advice}")
    iteration = int(saved["pt_flows"]["iteration"])
    say(f"checkpoint: {checkpoint}, iteration {iteration}")
    if rank() > 0:
        return checkpoint, iteration
    class_path = settings["model"]["class_path"]
    trained = saved.get("hyper_parameters", {}).get("_class_path", class_path)
    if trained != class_path:
        raise UserError(f"model: expected {trained}, as in {checkpoint}, got {class_path}. Use the method of the run")
    found = within(differences(settings_of(checkpoint, saved), settings), NAMED)
    found.pop("seed_everything", None)  # the method itself reports another seed
    for key, (there, here) in found.items():
        say(f"note: {key} is {short(there)} in the checkpoint's run and {short(here)} here; the latter is used")
    return checkpoint, iteration
