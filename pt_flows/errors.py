"""The two errors of this package, a mistake that the user can correct and a run that diverged, and its warning."""


class UserError(ValueError):
    """A mistake that the user can correct. The command line prints its sentence without a traceback.

    Write `<key or file>: expected <what>, got <what>. <One imperative sentence>`.
    """


class DivergenceError(RuntimeError):
    """A run that cannot continue because a quantity is no longer finite."""


class RunWarning(UserWarning):
    """A fault that does not stop the work. The command line prints its sentence alone."""


def warn(text: str) -> None:
    """Warn of a fault that does not stop the work, from the first process alone."""
    from lightning_utilities.core.rank_zero import rank_zero_warn  # slow, and not every command needs it

    rank_zero_warn(text, stacklevel=5, category=RunWarning)
