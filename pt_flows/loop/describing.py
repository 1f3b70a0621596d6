"""Descriptions of methods in checkpoints, and methods built again from them."""

from argparse import ArgumentError
from collections.abc import Callable, Iterable
from importlib import import_module
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
from jsonargparse import ArgumentParser
from lightning.pytorch.utilities import rank_zero_warn

from pt_flows.construction import Constructed, path_of
from pt_flows.errors import UserError
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
    how = {"_class_path": class_path, "_instantiator": "lightning.pytorch.cli.instantiate_module"}
    return how | method.init_args


def is_plain(value: Any) -> bool:
    """Whether a value loads with torch's `weights_only` guard."""
    if isinstance(value, dict):
        return all(is_plain(v) for v in value.values())
    if isinstance(value, list | tuple):
        return all(is_plain(v) for v in cast(Iterable[Any], value))
    return value is None or isinstance(value, bool | int | float | str)


def described(path: Any, base: type[M]) -> tuple[type[M], dict[str, Any]]:
    """Read the description in a checkpoint.

    Args:
        path: The file.
        base: The requested class.

    Returns:
        The class in the checkpoint, and its arguments.

    Raises:
        UserError: The file is no checkpoint of this version, or holds another class.
    """
    if not isinstance(path, str | Path):  # an open file
        return base, {}
    file = Path(path)
    if file.is_dir():
        raise UserError(f"{path}: expected a checkpoint file, got a folder. Give {file / 'checkpoints' / 'last.ckpt'}")
    if not file.is_file():
        raise UserError(f"{path}: expected a checkpoint file, got no file. Give another path")
    content = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
    check_format(content, path)
    arguments = {key: v for key, v in content.get("hyper_parameters", {}).items() if not key.startswith("_")}
    class_path = content.get("hyper_parameters", {}).get("_class_path")
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
    built: Any = parser.instantiate_classes(parser.parse_object({"method": section}))
    return vars(built.method) | given


def rebuilt(name: str, path: Any, load: Callable[[], M], given: Iterable[str]) -> M:
    """Run Lightning's loader and turn its errors into sentences.

    Args:
        name: Name of the requested class.
        path: The checkpoint.
        load: Builds the method and loads its weights.
        given: Names of the arguments that replace the checkpoint's.

    Raises:
        UserError: The checkpoint does not describe all arguments.
    """
    try:
        method = load()
    except (TypeError, ValueError, ArgumentError) as error:
        text = str(error)
        reason = next((line for line in text.splitlines() if "argument" in line), text.splitlines()[0])
        lack = f"expected a description of all arguments of {name}, got less ({reason.strip(' -')})"
        raise UserError(f"{path}: {lack}. Call {name}.load_from_checkpoint(path, generator=...)") from None
    if lost := [name for name in cast(Any, method).not_described if name.partition(".")[0] not in given]:
        rank_zero_warn(
            f"{path} does not describe its {', '.join(lost)}, so the defaults are used. To continue training, give "
            "load_from_checkpoint the values of the training"
        )
    return method
