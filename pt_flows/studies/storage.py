"""Optuna and its storage: a file in the folder of a search, or a database."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pt_flows.errors import UserError

STARTUP = 5
"""Trials that must be complete before others are pruned."""
WARMUP = 1 / 3
"""The part of a trial in which it is not pruned."""


def opened(folder: Path, name: str, storage: str | None, iterations: int) -> Any:
    """Open the study of Optuna, or begin it.

    Raises:
        UserError: Optuna is not installed, or its file is damaged.
    """
    try:
        import optuna
        from optuna.storages import JournalStorage
        from optuna.storages.journal import JournalFileBackend
    except ImportError as error:
        raise UserError("tune: expected the package optuna, got none. Run pip install 'pt-flows[tune]'") from error
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
    pruner = optuna.pruners.MedianPruner(STARTUP, int(WARMUP * iterations))
    file = folder / "optuna.log"
    try:
        place = storage or JournalStorage(JournalFileBackend(str(file)))
        return optuna.create_study(storage=place, study_name=name, pruner=pruner, load_if_exists=True)
    except ValueError as error:
        if storage:
            raise
        advice = "Remove it: trials that have ended are found again in their run folders"
        raise UserError(f"{file}: expected a file of Optuna, got a damaged one. {advice}") from error


@contextmanager
def database(storage: str | None) -> Iterator[None]:
    """Turn errors of a database into one sentence.

    Args:
        storage: Its URL; None for a file.

    Raises:
        UserError: It does not answer, or its driver is not installed.
    """
    if storage is None:
        yield
        return
    try:
        import optuna
        from sqlalchemy.exc import SQLAlchemyError
    except ImportError:  # `opened` says what to install
        yield
        return
    try:
        yield
    except (SQLAlchemyError, optuna.exceptions.StorageInternalError, ImportError) as error:
        cause = error.__cause__ or error
        reason = str(getattr(cause, "orig", None) or cause).strip().splitlines()[0]
        advice = "Correct the URL, or repeat the command when it does"
        raise UserError(f"--storage: expected a database that answers, got an error ({reason}). {advice}") from error
