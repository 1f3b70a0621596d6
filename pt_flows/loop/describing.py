"""Descriptions of methods in checkpoints, and methods built again from them."""

from argparse import ArgumentError
from collections.abc import Iterable
from importlib import import_module
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
from jsonargparse import ArgumentParser

from pt_flows.construction import Constructed, path_of
from pt_flows.errors import UserError, warn
from pt_flows.files import check_archive, reading
from pt_flows.formats import check_format

M = TypeVar("M")


def description(method: Constructed) -> dict[str, Any]:
    """Describe a method as a configuration does: the path of its class, and its arguments.

    Returns:
        The arguments alone if the class cannot be imported.
    """
    try:
        class_path = path_of(type(method))
    except TypeError:
        return dict(method.init_args)
    return hyperparameters(class_path, method.init_args)


def hyperparameters(class_path: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """Return a description in the form that Lightning reads, too."""
    how = {"_class_path": class_path, "_instantiator": "lightning.pytorch.cli.instantiate_module"}
    return how | arguments


def is_plain(value: Any) -> bool:
    """Whether a value loads with torch's `weights_only` guard."""
    if isinstance(value, dict):
        return all(is_plain(v) for v in value.values())
    if isinstance(value, list | tuple):
        return all(is_plain(v) for v in cast(Iterable[Any], value))
    return value is None or isinstance(value, bool | int | float | str)


def built(content: dict[str, Any], path: Any, base: type[M], given: dict[str, Any], strict: bool = True) -> M:
    """Build the method that a checkpoint describes, and load its weights.

    Args:
        content: The content of the checkpoint.
        path: The file, for messages.
        base: The requested class.
        given: Arguments that replace the checkpoint's.
        strict: As in `load_state_dict`.

    Raises:
        UserError: The checkpoint is of another class, or does not describe all arguments.
    """
    cls, arguments = described(content, path, base)
    without = tuple(content["pt_flows"].get("without", ()))  # an exported model lacks what training alone needs
    try:
        method: Any = cls(**completed(cls, arguments, given))
    except (TypeError, ValueError, ArgumentError) as error:
        lines = str(error).splitlines()
        reason = next((line for line in lines if "argument" in line), lines[0]).strip(" -")
        lack = f"expected a description of all arguments of {cls.__name__}, got less ({reason})"
        raise UserError(f"{path}: {lack}. Call {cls.__name__}.load_from_checkpoint(path, generator=...)") from None
    method.on_load_checkpoint(content)
    own = {name: value for name, value in method.state_dict().items() if name.startswith(without)} if without else {}
    method.load_state_dict(own | content["state_dict"], strict=strict)
    if lost := [name for name in method.not_described if name.partition(".")[0] not in given]:
        warn(
            f"{path} does not describe its {', '.join(lost)}, so the defaults are used. To continue training, give "
            "load_from_checkpoint the values of the training"
        )
    return method


def described(content: dict[str, Any], path: Any, base: type[M]) -> tuple[type[M], dict[str, Any]]:
    """Return the class that a checkpoint describes, and its arguments.

    Args:
        content: The content of the checkpoint.
        path: The file, for messages.
        base: The requested class.

    Raises:
        UserError: The class cannot be imported, or is another one.
    """
    saved = content.get("hyper_parameters", {})
    arguments = {key: value for key, value in saved.items() if not key.startswith("_")}
    class_path = saved.get("_class_path")
    if class_path is None:  # made inside a function
        return base, arguments
    module, _, name = class_path.rpartition(".")
    try:
        cls = getattr(import_module(module), name)
    except (ImportError, AttributeError) as error:
        wanted = "expected a class that can be imported"
        raise UserError(f"{path}: {wanted}, got {class_path} ({error}). Put its folder on PYTHONPATH") from None
    if not issubclass(cls, base):
        wanted = f"expected a {base.__name__}"
        raise UserError(f"{path}: {wanted}, got {class_path}. Call load_from_checkpoint of that class")
    return cls, arguments


def completed(cls: type, arguments: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    """Build the arguments that a checkpoint describes, and add the given ones.

    Args:
        cls: The class that takes them.
        arguments: The arguments in the checkpoint.
        given: Objects that replace some of them.
    """
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(cls, "method", fail_untyped=False, skip=set(given), instantiate=False)
    section = {name: value for name, value in arguments.items() if name not in given}
    instances: Any = parser.instantiate_classes(parser.parse_object({"method": section}))
    return vars(instances.method) | given


def read(path: Any, map_location: Any = None, weights_only: bool | None = True) -> dict[str, Any]:
    """Read a checkpoint file.

    Raises:
        UserError: There is no file, or it is damaged or of another version.
    """
    if isinstance(path, str | Path) and Path(path).is_dir():
        last = Path(path) / "checkpoints" / "last.ckpt"
        raise UserError(f"{path}: expected a checkpoint file, got a folder. Give {last}")
    if isinstance(path, str | Path) and not Path(path).is_file():
        raise UserError(f"{path}: expected a checkpoint file, got no file. Give another path")
    with reading(path, "a checkpoint", "Use another one, such as best.ckpt"):
        if isinstance(path, str | Path):
            check_archive(Path(path))
        content = torch.load(path, map_location=map_location, weights_only=weights_only)
    check_format(content, path)
    return content
