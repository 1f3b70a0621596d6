"""Rolling back: a run of an energy-based model that diverges continues from its last good state."""

from pt_flows.errors import DivergenceError, warn
from pt_flows.loop.method import Method
from pt_flows.training.snapshots import Snapshot, restore, snapshot


class Rollback:
    """Copies of the state of a method at rows of the log.

    Attributes:
        num: Number of times that the run was rolled back.
    """

    def __init__(self) -> None:
        self.num = 0
        self._good: Snapshot | None = None

    def remember(self, method: Method) -> None:
        """Keep a copy of everything that training changes."""
        self._good = snapshot(method)

    def restore(self, method: Method, reason: DivergenceError | None) -> int:
        """Restore the last good state, chains included.

        Iterations, costs and noise continue from the present ones, because the run would otherwise fail again in the
        same way.

        Args:
            method: The method that diverges.
            reason: The error of this process; None if another process diverged.

        Returns:
            The iteration of the restored state.

        Raises:
            DivergenceError: There is no state yet.
        """
        if self._good is None:
            raise reason or DivergenceError("another process diverged before there was a state to restore")
        self.num += 1
        restore(method, self._good)
        cause = reason or "another process diverged"
        warn(f"{cause}; rolled back to the state of iteration {self._good['iteration']}")
        return int(self._good["iteration"])
