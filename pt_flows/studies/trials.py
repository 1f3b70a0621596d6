"""The trials of a search that Optuna keeps, and which process works on which."""

import os
import socket
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

from filelock import FileLock, Timeout

from pt_flows.files import replacing
from pt_flows.runs.settings import defining_settings, digest
from pt_flows.studies.space import Space

SECONDS_TO_CLAIM = 60.0


class Begun(NamedTuple):
    """A trial that this process has begun: Optuna's trial, its number in messages, and its lock."""

    proposed: Any
    number: int
    claim: FileLock


class Trials:
    """The trials of a search.

    Args:
        folder: Folder of the claims.
        identity: See the function.
        study: Optuna's study.
        num: Number of trials.
        distributions: Optuna's distributions of the values to try.
        own: The recipe's own values, which the first trial has.
    """

    def __init__(
        self, folder: Path, identity: str, study: Any, num: int, distributions: Mapping[str, Any], own: dict[str, Any]
    ) -> None:
        self.folder, self.identity, self.study, self.num = folder, identity, study, num
        self.distributions, self.own = distributions, own
        self.place = self.place_of(folder)

    @staticmethod
    def place_of(folder: Path) -> str:
        """Return the name of a search's folder, the same for all hosts that share it."""
        file = folder / "place.txt"
        with FileLock(folder / "locks" / "asking.lock"):
            if not file.is_file():
                with replacing(file) as partial_file:
                    partial_file.write_text(f"{socket.gethostname()}:{folder.resolve()} ({os.urandom(4).hex()})\n")
            return file.read_text().strip()

    def known(self) -> list[Any]:
        """Return Optuna's trials, without those that were interrupted and are continued by others."""
        trials = self.study.get_trials(deepcopy=False)
        return [trial for trial in trials if trial.state.name != "FAIL" or "reason" in trial.user_attrs]

    def counts(self) -> Counter[str]:
        """Return the number of trials in each state."""
        return Counter(trial.state.name.lower() for trial in self.known())

    @property
    def num_ended(self) -> int:
        """The number of trials that have ended."""
        counts = self.counts()
        return counts["complete"] + counts["pruned"] + counts["fail"]

    def begin(self) -> Begun | None:
        """Begin a trial, the recipe's own values first; None if there are enough."""
        from optuna.samplers import TPESampler

        with FileLock(self.folder / "locks" / "asking.lock"):
            self.recover()
            known = self.known()
            if len(known) >= self.num and all(trial.state.name != "WAITING" for trial in known):
                return None
            if not known:
                self.study.enqueue_trial(self.own)
            # a new seed for every trial: a sampler that begins anew would repeat its first proposals
            self.study.sampler = TPESampler(seed=len(self.study.get_trials(deepcopy=False)))
            proposed = self.study.ask(self.distributions)
            claim = self.claim(proposed.number)
            claim.acquire(timeout=0)
            number = proposed.user_attrs.get("number", proposed.number)
            for key, value in (("number", number), ("place", self.place)):
                proposed.set_user_attr(key, value)
        return Begun(proposed, number, claim)

    def claim(self, number: int) -> FileLock:
        """Return the lock of a trial."""
        return FileLock(self.folder / "locks" / f"{self.identity}-{number}.lock", thread_local=False)

    def recover(self) -> None:
        """Propose the trials of dead processes again, which continues their runs."""
        from optuna.trial import TrialState

        for trial in self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            if "place" not in trial.user_attrs:  # a process died in the midst of beginning it
                begun = trial.datetime_start or datetime.min
                if (datetime.now() - begun).total_seconds() > SECONDS_TO_CLAIM:
                    self.study.tell(trial.number, state=TrialState.FAIL)
            elif trial.user_attrs["place"] == self.place and is_free(self.claim(trial.number)):
                self.study.tell(trial.number, state=TrialState.FAIL)
                self.study.enqueue_trial(trial.params, {"number": trial.user_attrs["number"]})


def identity(config: Mapping[str, Any], space: Space, seeds: Sequence[int], metric: str | None) -> str:
    """Eight hexadecimal digits of everything that defines a search but the number of its trials.

    Args:
        config: Complete configuration of a trial with the recipe's own values.
        space: The values to try.
        seeds: Seeds of the runs of each trial.
        metric: The number that ranks trials.
    """
    what = {
        "config": defining_settings(config),
        "space": repr(space.dimensions),
        "seeds": list(seeds),
        "metric": metric,
    }
    return digest(what)


def is_free(claim: FileLock) -> bool:
    """Whether no process holds a claim."""
    try:
        claim.acquire(timeout=0)
    except Timeout:
        return False
    claim.release()
    return True
