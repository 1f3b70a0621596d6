"""Files that are whole or not there."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pt_flows.errors import UserError


@contextmanager
def replacing(target: Path) -> Iterator[Path]:
    """A path beside `target` to write to, which takes its place when the block ends.

    A kill, an error or a full disk leaves what was there before.

    Args:
        target: The file to write or to replace; its folder is made.

    Raises:
        OSError: The file could not be written; names the target.
    """
    partial = target.with_name(f"{target.name}.{os.getpid()}.partial")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        yield partial
        partial.replace(target)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(target)) from error
    finally:
        partial.unlink(missing_ok=True)


def checked_target(out: str, suffixes: tuple[str, ...]) -> Path:
    """Return the file that a command writes.

    Args:
        out: Its path.
        suffixes: The suffixes that the command can write.

    Raises:
        UserError: The suffix is another one, or the folder does not exist.
    """
    target = Path(out)
    if target.suffix not in suffixes:
        raise UserError(f"--out: expected a file {' or '.join(suffixes)}, got {out}")
    if not (folder := target.absolute().parent).is_dir():
        raise UserError(f"--out: expected an existing folder, got {folder}. Create it first")
    return target


def remove_partials(folder: Path) -> None:
    """Remove files that killed processes left half-written in `replacing`; those of other programs stay.

    Args:
        folder: Holds the files; no other process may be writing there.
    """
    for path in folder.glob("*.partial"):
        if re.fullmatch(r".+\.\d+\.partial", path.name):
            path.unlink(missing_ok=True)
