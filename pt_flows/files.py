"""Atomic writes of files."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


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
        partial.unlink(missing_ok=True)


def remove_partials(folder: Path) -> None:
    """Remove the temporary files of `replacing` that killed processes left.

    Args:
        folder: The folder of the files. No other process may be writing there.
    """
    for path in folder.glob("*.partial"):
        if re.fullmatch(r".+\.\d+\.partial", path.name):
            path.unlink(missing_ok=True)
