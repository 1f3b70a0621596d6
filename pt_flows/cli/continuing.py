"""Where a run is written, and the checkpoint that it starts from."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pt_flows.errors import UserError
from pt_flows.metrics.features import file_hash
from pt_flows.runs.checkpoint import find_checkpoint, open_checkpoint, settings_of
from pt_flows.runs.folder import new_run_folder, rank, run_folder_of, say
from pt_flows.runs.lock import RunLock
from pt_flows.runs.settings import NAMED, differences, short, within


@dataclass(frozen=True)
class Place:
    """Where a run is written, and what it starts from.

    Attributes:
        folder: The run folder.
        checkpoint: The file that is loaded, if one is.
        iteration: Of the checkpoint; 0 without one.
        parent: For environment.json, the checkpoint that a new run starts from.
        damaged: The last checkpoint, if it cannot be read and the one before is loaded.
    """

    folder: Path
    checkpoint: Path | None = None
    iteration: int = 0
    parent: dict[str, Any] | None = None
    damaged: Path | None = None


def place_to_train(config: Any, experiment: str, settings: dict[str, Any], lock: RunLock, branches: bool) -> Place:
    """The place of `fit`: the run folder of a last checkpoint, which is continued there, or else a new one.

    From an earlier checkpoint, what came after it would be overwritten, so that it starts a run of its own.

    Args:
        config: The configuration of the command.
        experiment: The folder below `run.root`.
        settings: The configuration, as YAML reads it.
        lock: Is taken for a run folder that is continued.
        branches: Whether a run from a checkpoint is always a new one.

    Raises:
        UserError: There is no such checkpoint, or it does not fit.
    """
    root = Path(config.run.root)
    if not config.ckpt_path:
        return Place(new_run_folder(root, experiment))
    wanted = find_checkpoint(config.ckpt_path, root, experiment, settings)
    continued = run_folder_of(wanted) if wanted.name == "last.ckpt" and not branches else None
    if continued is not None and rank() == 0:
        lock.acquire(continued)  # before reading, or another process could write a later one
    checkpoint, iteration = opened(wanted, settings)
    if continued is not None:
        return Place(continued, checkpoint, iteration, damaged=wanted if checkpoint != wanted else None)
    if iteration >= config.trainer.max_steps:
        raise UserError(
            f"trainer.max_steps: expected more than {iteration}, the iteration of {checkpoint}, got "
            f"{config.trainer.max_steps}. Raise it"
        )
    parent = {"checkpoint": str(checkpoint), "sha256": file_hash(checkpoint), "iteration": iteration}
    return Place(new_run_folder(root, experiment), checkpoint, iteration, parent)


def place_to_measure(config: Any, experiment: str, settings: dict[str, Any]) -> Place:
    """The place of `validate` and `test`: the run folder of the checkpoint.

    Args:
        config: The configuration of the command, with `ckpt_path`.
        experiment: The folder below `run.root`.
        settings: The configuration, as YAML reads it.

    Raises:
        UserError: There is no such checkpoint, or it does not fit.
    """
    wanted = find_checkpoint(config.ckpt_path, Path(config.run.root), experiment, settings)
    checkpoint, iteration = opened(wanted, settings)
    return Place(run_folder_of(checkpoint) or Path.cwd(), checkpoint, iteration)


def opened(wanted: Path, settings: dict[str, Any]) -> tuple[Path, int]:
    """The checkpoint that can be read and its iteration; says where the configuration differs from its own.

    Args:
        wanted: The checkpoint that was asked for.
        settings: The configuration, as YAML reads it.

    Raises:
        UserError: It cannot be read, or is of another method.
    """
    checkpoint, saved = open_checkpoint(wanted)
    iteration = int(saved["pt_flows"]["iteration"])
    say(f"checkpoint: {checkpoint}, iteration {iteration}")
    if rank() > 0:
        return checkpoint, iteration
    class_path = settings["model"]["class_path"]
    trained = saved.get("hyper_parameters", {}).get("_class_path", class_path)
    if trained != class_path:
        raise UserError(f"the checkpoint holds {trained}, the configuration {class_path}: they cannot mix")
    found = within(differences(settings_of(checkpoint, saved), settings), NAMED)
    found.pop("seed_everything", None)  # the method says what another seed means
    for key, (there, here) in found.items():
        say(f"note: {key} is {short(there)} in the checkpoint's run and {short(here)} here; the latter is used")
    return checkpoint, iteration
