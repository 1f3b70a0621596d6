"""The two errors of this package: a mistake that the user can correct, and a run that diverged."""


class UserError(ValueError):
    """A mistake that the user can correct. The command line prints its sentence without a traceback.

    Write `<key or file>: expected <what>, got <what>. <One imperative sentence>`.
    """


class DivergenceError(RuntimeError):
    """A run that cannot continue because a quantity is no longer finite."""
