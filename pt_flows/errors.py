"""The two errors of this package: a mistake that the user can mend, and a run that diverged."""


class UserError(ValueError):
    """A mistake that the user can mend: what was given, what was wanted, what to do. The CLI prints it bare."""


class DivergenceError(RuntimeError):
    """A run that cannot go on because a quantity stopped being finite."""
