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
    """Read what a checkpoint describes.

    Args:
        path: The file.
        base: The class that is asked for.

    Returns:
        The class that the checkpoint holds, and its arguments.

    Raises:
        UserError: It is no checkpoint of this version, or holds another class.
    """
    if not isinstance(path, str | Path):  # a file that is open
        return base, {}
    file = Path(path)
    if file.is_dir():
        raise UserError(f"{path}: expected a checkpoint file, got a folder. Give {file / 'checkpoints' / 'last.ckpt'}")
    if not file.is_file():
        raise UserError(f"{path}: expected a checkpoint file, got nothing there. Give another path")
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
        raise UserError(
            f"{path}: expected a class that can be imported, got {class_path} ({error}). Put its folder on PYTHONPATH"
        ) from None
    if not issubclass(cls, base):
        raise UserError(
            f"{path}: expected a {base.__name__}, got {class_path}. Call load_from_checkpoint of that class"
        )
    return cls, arguments


def completed(cls: type, arguments: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    """Build the arguments that a checkpoint describes, and add those that are given.

    Args:
        cls: The class that takes them.
        arguments: What the checkpoint describes.
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
        name: Class that is asked for.
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
        raise UserError(
            f"{path}: expected a description of all arguments of {name}, got less ({reason.strip(' -')}). Give the "
            f"rest: {name}.load_from_checkpoint(path, generator=...)"
        ) from None
    if lost := [name for name in cast(Any, method).not_described if name.partition(".")[0] not in given]:
        rank_zero_warn(
            f"{path} does not describe its {', '.join(lost)}: the defaults are used. To continue training, give "
            "load_from_checkpoint the values that it was trained with"
        )
    return method
