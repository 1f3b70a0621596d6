"""Atomic writes of files, and the folder of cached results."""

import os
import pickle
import re
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from pt_flows.errors import UserError


@contextmanager
def replacing(target: Path) -> Iterator[Path]:
    """Yield a temporary path to write to, which replaces `target` when the block ends.

    A kill, an error or a full disk leaves the previous file.

    Args:
        target: The file to write or to replace. Its folder is made.

    Raises:
        OSError: The file cannot be written. The error names the target.
    """
    partial = target.with_name(f"{target.name}.{os.getpid()}.partial")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        yield partial
        partial.replace(target)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(target)) from error
    finally:
        with suppress(OSError):  # its folder may be a file
            partial.unlink(missing_ok=True)


def check_archive(path: Path) -> None:
    """Check that a file is a whole archive, as torch writes checkpoints.

    Raises:
        EOFError: It is empty or cut off.
        ValueError: Another program has written it.
    """
    if zipfile.is_zipfile(path):
        return
    with path.open("rb") as file:
        begin = file.read(4)
    if begin == b"PK\x03\x04" or not begin:
        raise EOFError("it is cut off" if begin else "it is empty")
    raise ValueError("it is no zip archive")


@contextmanager
def reading(path: object, wanted: str, advice: str) -> Iterator[None]:
    """Raise one sentence for whatever is wrong with a file that is read inside a `with` block.

    Args:
        path: The file, or its path.
        wanted: Its expected content.
        advice: An imperative sentence without a full stop.

    Raises:
        UserError: It cannot be read.
    """
    try:
        yield
    except Exception as error:  # torch raises many kinds for damaged and foreign files
        raise UserError(
            f"{path}: expected {wanted}, got a file that cannot be read ({reason_of(error)}). {advice}"
        ) from error


def reason_of(error: Exception) -> str:
    """The first line of an error, or a plain one where torch refuses a file with other objects than tensors."""
    if isinstance(error, pickle.UnpicklingError) and "global" in str(error).lower():
        return "it holds pickled objects, and only tensors and plain values are loaded"
    return (str(error).partition("\x1b")[0].splitlines() or [type(error).__name__])[0][:120]


def checked_target(out: str, suffixes: tuple[str, ...], option: str = "--out") -> Path:
    """Return the file that a command writes.

    Args:
        out: Its path.
        suffixes: The suffixes that the command can write.
        option: The option with this path, for errors.

    Raises:
        UserError: The suffix is another one, or the folder does not exist.
    """
    target = Path(out)
    if target.suffix not in suffixes:
        raise UserError(f"{option}: expected a file {' or '.join(suffixes)}, got {out}")
    if not (folder := target.absolute().parent).is_dir():
        raise UserError(f"{option}: expected an existing folder, got {folder}. Create it first")
    return target


def remove_partials(folder: Path) -> None:
    """Remove the temporary files of `replacing` that killed processes left.

    Args:
        folder: The folder of the files. No other process may be writing there.
    """
    for path in folder.glob("*.partial"):
        if re.fullmatch(r".+\.\d+\.partial", path.name):
            path.unlink(missing_ok=True)


def cache_folder() -> Path:
    """The folder of cached results: $PT_FLOWS_CACHE, else pt_flows in the user's cache folder."""
    if folder := os.environ.get("PT_FLOWS_CACHE"):
        return Path(folder)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "pt_flows"
