"""Finding and reading checkpoints, for every command that takes one."""

import zipfile
from pathlib import Path
from typing import Any

import torch

from pt_flows.errors import UserError
from pt_flows.files import check_archive, reading
from pt_flows.formats import check_format
from pt_flows.runs.exported import WEIGHTS, is_exported, read_exported
from pt_flows.runs.folder import read_config, run_folder_of, say
from pt_flows.runs.settings import DEFINING, differences, told, within

LATEST = ("last", "previous")
"""Names of the checkpoint that a run continues from. The second one replaces a lost first one."""


def find_checkpoint(
    ckpt: str, root: Path = Path("runs"), experiment: str = "*", config: dict[str, Any] | None = None
) -> Path:
    """Return the checkpoint that a word means: a file, a run folder, an exported model, or `last` or `best`.

    `last` and `best` are of the newest run.

    Args:
        ckpt: The word.
        root: Folder of all runs, in which `last` and `best` are searched.
        experiment: Its subfolder, or "*" for all.
        config: A configuration. Only runs with the same data, model and seed are considered.

    Raises:
        UserError: There is none.
    """
    if ckpt in ("last", "best"):
        return _newest(ckpt, root, experiment, config)
    path = Path(ckpt)
    if is_exported(path):
        return path / WEIGHTS
    if path.is_dir():
        if not _is_there(path, "last"):
            raise UserError(f"{path}: expected a run folder, got a folder without checkpoints/last.ckpt. Give another")
        return path / "checkpoints" / "last.ckpt"
    lost = path.name == "last.ckpt" and path.with_name("previous.ckpt").is_file()
    if not path.is_file() and not lost:
        raise UserError(f"{path}: expected a checkpoint, got no file. Give a .ckpt file, a run folder, last or best")
    return path


def _is_there(folder: Path, name: str) -> bool:
    names = LATEST if name == "last" else (name,)
    return any((folder / "checkpoints" / f"{n}.ckpt").is_file() for n in names)


def _newest(name: str, root: Path, experiment: str, config: dict[str, Any] | None) -> Path:
    above = root / experiment if experiment != "*" else root
    folders = [folder for folder in root.glob(f"{experiment}/*") if _is_there(folder, name)]
    if not folders:
        of_studies = [folder for folder in root.glob(f"*/runs/{experiment}/*") if _is_there(folder, name)]
        got = f"only runs of studies, such as {max(of_studies, key=_written)}" if of_studies else "none"
        raise UserError(f"{above}: expected a run with checkpoints/{name}.ckpt, got {got}. Name a file or a run folder")
    folders.sort(key=_written, reverse=True)
    different = None
    for folder in folders:
        if config is None:
            return folder / "checkpoints" / f"{name}.ckpt"
        try:
            found = within(differences(read_config(folder), config), DEFINING)
        except UserError as error:
            say(f"note: {name} skips a run. {error}")
            continue
        if not found:
            return folder / "checkpoints" / f"{name}.ckpt"
        different = different or (folder, found)
    if (stopped := _without_checkpoint(name, root, experiment, config or {})) is not None:
        advice = (
            "It stopped before its first checkpoint: start it again without --ckpt_path, or name another run folder"
        )
        raise UserError(f"{name}: expected a run with checkpoints/{name}.ckpt, got {stopped} without one. {advice}")
    got = f"{different[0]} with another {told(different[1])}" if different else "none that can be read"
    raise UserError(
        f"{name}: expected a run of this data, model and seed under {above}, got {got}. Name a run folder to continue "
        "it with these changes"
    )


def _without_checkpoint(name: str, root: Path, experiment: str, config: dict[str, Any]) -> Path | None:
    """The newest run folder of this data, model and seed that has no checkpoint of this name."""
    files = sorted(root.glob(f"{experiment}/*/config.yaml"), key=lambda file: file.stat().st_mtime, reverse=True)
    for folder in [file.parent for file in files if not _is_there(file.parent, name)]:
        try:
            if not within(differences(read_config(folder), config), DEFINING):
                return folder
        except UserError:  # a damaged configuration is no such run
            continue
    return None


def _written(folder: Path) -> float:
    return max(file.stat().st_mtime for file in (folder / "checkpoints").glob("*.ckpt"))


def read_checkpoint(path: Path, of_any_version: bool = False) -> dict[str, Any]:
    """Read a checkpoint of this package with torch's `weights_only`.

    Args:
        path: The file.
        of_any_version: Whether to read checkpoints of other versions, too.

    Raises:
        UserError: The file does not exist, is damaged, or was written by another program or version.
    """
    with reading(path, "a checkpoint", "Use another one, such as best.ckpt"):
        check_archive(path)
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
        with zipfile.ZipFile(path) as file:
            if damaged := file.testzip():  # torch does not compare the checksums that it writes
                raise ValueError(f"{damaged} has other bytes than were written")
    record = checkpoint.get("pt_flows") if isinstance(checkpoint, dict) else None
    if not isinstance(record, dict) or "iteration" not in record:
        raise UserError(f"{path}: expected a checkpoint of pt_flows, got another file. Use one from a run folder")
    if not of_any_version:
        check_format(checkpoint, path)
    return checkpoint


def open_checkpoint(path: Path) -> tuple[Path, dict[str, Any]]:
    """Return a checkpoint and its content, or those of the previous one if the last one is damaged or lost.

    Raises:
        UserError: Neither can be read.
    """
    if path.name == WEIGHTS and is_exported(path.parent):
        return path, read_exported(path.parent)
    try:
        content = read_checkpoint(path, of_any_version=True)
    except UserError as error:
        previous = path.with_name("previous.ckpt")
        if path.name != "last.ckpt" or not previous.is_file():
            raise
        try:
            content = read_checkpoint(previous)
        except UserError as second:
            raise UserError(f"{error}. The previous one is damaged, too: {second}") from second
        say(f"note: {error}. Using {previous}, iteration {content['pt_flows']['iteration']}")
        return previous, content
    check_format(content, path)
    return path, content


def settings_of(checkpoint: Path, content: dict[str, Any]) -> dict[str, Any]:
    """Return the configuration of a checkpoint: that of its run folder, or else the arguments in the file.

    Args:
        checkpoint: The file.
        content: Its content.
    """
    folder = run_folder_of(checkpoint)
    if folder is not None:
        try:
            return read_config(folder)
        except UserError as error:
            say(f"note: {error}. Only the settings in the checkpoint itself are compared")
    saved = content.get("hyper_parameters", {})
    return {"model": {"init_args": saved} | ({"class_path": saved["_class_path"]} if "_class_path" in saved else {})}
