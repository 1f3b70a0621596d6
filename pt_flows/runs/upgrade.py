"""The command `pt-flows upgrade`: conversion of configurations, checkpoints and runs of version 0.1 to 0.2."""

import re
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

from pt_flows.errors import UserError
from pt_flows.files import replacing
from pt_flows.formats import CHECKPOINT_FORMAT
from pt_flows.runs.moves import METHODS, class_name, old_keys, upgraded_checkpoint, upgraded_config

VERSION = "0.2"


def upgrade(path: str, out: str | None = None) -> None:
    """Convert a configuration, a checkpoint or a run folder of version 0.1 to 0.2. The old one stays unchanged.

    Args:
        path: A .yaml or .ckpt file, or a run folder with its configurations and checkpoints.
        out: The new file or folder. Default: the same place and name, with 0.2 in it.

    Raises:
        UserError: There is nothing to convert, or the new file or folder exists.
    """
    old = Path(path)
    if not old.exists():
        raise UserError(f"{path}: expected a .yaml or .ckpt file or a run folder, got no file. Give another path")
    new = Path(out) if out else _new_name(old)
    if new.exists():
        raise UserError(f"--out: expected a new name, got {new}, which exists. Give another, or remove it")
    if old.is_dir():
        _upgrade_folder(old, new)
    elif old.suffix == ".ckpt":
        from pt_flows.runs.folder import run_folder_of

        folder = run_folder_of(old)
        _upgrade_checkpoint(old, new, _batch_size(folder) if folder else 0)
        print(f"{new}: checkpoint of {VERSION}, from {old}, which is unchanged")
    else:
        _upgrade_config(old, new)
        print(f"{new}: configuration of {VERSION}, without the comments of {old}, which is unchanged")


def advice(files: Iterable[Path]) -> str | None:
    """Return the sentence about the first configuration of 0.1 for one of this package's methods, if there is one.

    Args:
        files: Configuration files; those that do not exist are skipped.
    """
    for file in files:
        if file.is_file():
            config = _read_config(file)
            keys = old_keys(config)
            if keys and class_name(config["model"]) in METHODS:
                wanted = f"{file}: expected a configuration of pt_flows {VERSION}"
                return f"{wanted}, got {keys[0]}, which is of 0.1. Convert it: pt-flows upgrade {file}"
    return None


def _new_name(old: Path) -> Path:
    """Return the default name. In that of a run folder the id stays last, by which W&B identifies the run."""
    if old.is_dir():
        stem, run_id = re.fullmatch("(.*?)((?:-[0-9a-f]{8})?)", old.absolute().name).groups()  # pyright: ignore[reportOptionalMemberAccess]
        return old.absolute().with_name(f"{stem}-{VERSION}{run_id}")
    return old.with_name(f"{old.stem}-{VERSION}{old.suffix}")


def _upgrade_folder(old: Path, new: Path) -> None:
    """Copy a run folder, with its configurations and checkpoints converted."""
    configs, checkpoints = sorted(old.glob("config*.yaml")), sorted(old.glob("checkpoints/*.ckpt"))
    if not configs and not checkpoints:
        raise UserError(f"{old}: expected a run folder with config.yaml and checkpoints, got neither. Give another")
    batch_size = _batch_size(old)
    partial = new.with_name(f"{new.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        skipped = shutil.ignore_patterns("*.ckpt", "config*.yaml", "*.partial", ".lock", ".holder.json")
        shutil.copytree(old, partial, ignore=skipped)
        for file in configs:
            changed = upgraded_config(_read_config(file))
            (partial / file.name).write_text(_as_yaml(changed), encoding="utf-8")
        for file in checkpoints:
            _upgrade_checkpoint(file, partial / "checkpoints" / file.name, batch_size)
        partial.rename(new)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    print(f"{new}: run of {VERSION} with {len(checkpoints)} checkpoints, from {old}, which is unchanged")


def _upgrade_config(old: Path, new: Path) -> None:
    config = _read_config(old)
    if not old_keys(config):
        raise UserError(f"{old}: expected a configuration of pt_flows 0.1, got no keys of it. Use the file as it is")
    with replacing(new) as partial:
        partial.write_text(_as_yaml(upgraded_config(config)), encoding="utf-8")


def _upgrade_checkpoint(old: Path, new: Path, batch_size: int) -> None:
    import torch

    from pt_flows.runs.checkpoint import read_checkpoint

    content = read_checkpoint(old, of_any_version=True)
    if content["pt_flows"].get("format", 1) >= CHECKPOINT_FORMAT:
        raise UserError(f"{old}: expected a checkpoint of pt_flows 0.1, got one of {VERSION}. Use the file as it is")
    with replacing(new) as partial:
        torch.save(upgraded_checkpoint(content, batch_size), partial)


def _read_config(path: Path) -> dict[str, Any]:
    try:
        config = yaml.safe_load(path.read_bytes())
    except (ValueError, yaml.YAMLError) as error:
        raise UserError(f"{path}: expected YAML, got {str(error).splitlines()[0]}. Mend or restore it") from error
    if not isinstance(config, dict):
        raise UserError(f"{path}: expected a configuration, got a {type(config).__name__}. Name another file")
    return config


def _as_yaml(config: dict[str, Any]) -> str:
    return yaml.safe_dump(config, sort_keys=False, allow_unicode=True, width=120)


def _batch_size(folder: Path) -> int:
    """Return the batch size of a run, 0 if it is unknown."""
    from pt_flows.runs.folder import read_config

    try:
        data = read_config(folder)["data"]["init_args"]
        return int((data["target"]["init_args"] if isinstance(data.get("target"), dict) else data)["batch_size"])
    except (UserError, KeyError, TypeError):
        return 0
