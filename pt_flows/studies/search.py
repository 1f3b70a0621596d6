"""Searches: trials of a recipe with other values, each in run folders, which Optuna proposes and ranks.

Optuna keeps what was proposed and its outcome, in a file of the search's folder or in a database. Everything else is
read from run folders: an interrupted trial is proposed again with the same values, and continues in its run folder.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

from filelock import FileLock

from pt_flows.compare.groups import chosen_metric, higher_is_better
from pt_flows.compare.runs import read_run
from pt_flows.compare.subjects import ranked
from pt_flows.errors import UserError
from pt_flows.studies.board import Board
from pt_flows.studies.pool import KILLED, STOPPED, Job, Slot, last_lines, run_jobs
from pt_flows.studies.space import Space
from pt_flows.studies.storage import opened
from pt_flows.studies.train import ENDED, file_name, folder_finder, job_of
from pt_flows.studies.trials import Trials
from pt_flows.studies.wanted import Wanted, curve, found, last_row


@dataclass
class Trial:
    """A trial that this process works on.

    Attributes:
        proposed: Optuna's trial.
        number: Its number in messages; it keeps that of the trial that it continues.
        claim: Lock that this process holds until the trial ends.
        runs: Its runs, one for each seed. They follow each other.
        values: The numbers of the runs that have ended.
        reported: Iterations of the first run whose numbers Optuna knows.
        is_pruned: Whether the first run was stopped because it is worse than others.
    """

    proposed: Any
    number: int
    claim: FileLock
    runs: list[Wanted]
    values: list[float] = field(default_factory=list)
    reported: set[int] = field(default_factory=set)
    is_pruned: bool = False

    @property
    def run(self) -> Wanted:
        """The run that is next."""
        return self.runs[len(self.values)]


class Search:
    """A search in a folder.

    Args:
        folder: Folder of runs, claims, logs and, by default, of Optuna's file.
        name: Name in messages.
        base: The run of a trial with the recipe's own values.
        space: The values to try.
        num: Number of trials.
        seeds: Seeds of the runs of each trial.
        metric: The number that ranks trials; None for the one that `compare` chooses.
        storage: URL of a database, instead of the file.
        identity: See the function.
    """

    def __init__(
        self, folder: Path, name: str, base: Wanted, space: Space, num: int, seeds: Sequence[int],
        metric: str | None, storage: str | None, identity: str,
    ) -> None:  # fmt: skip
        self.folder, self.name, self.base, self.space = folder, name, base, space
        self.num, self.seeds, self.wanted_metric = num, list(seeds), metric
        own = space.own(base.config)
        (folder / "locks").mkdir(parents=True, exist_ok=True)
        study = opened(folder, f"{file_name(name)}-{identity}", storage, base.iterations)
        self.trials = Trials(folder, identity, study, num, space.distributions, own)
        self.ready: list[Trial] = []
        self.active: set[int] = set()
        self.stopped: list[Trial] = []
        self.has_said_waiting = False

    def run(self, slots: Sequence[Slot]) -> None:
        """Run the trials that are missing.

        Raises:
            UserError: The recipe itself cannot be trained, no trial has ended, or a trial was stopped.
        """
        if (missing := self.num - self.trials.num_ended) > 0:
            ahead = [("", float(self.base.iterations))] * (missing * len(self.seeds))
            self.board = Board(self.name, ahead, len(slots))
            self.board.say(f"{self.name}: {self.trials.num_ended} of {self.num} trials have ended")
            run_jobs(self.jobs(), slots, self.board)
        if self.stopped:
            numbers = ", ".join(str(trial.number) for trial in self.stopped)
            raise UserError(f"trial {numbers} of {self.name}: stopped before its end. Repeat the command to continue")
        if not self.trials.counts()["complete"]:
            reasons = [trial.user_attrs["reason"] for trial in self.trials.known() if "reason" in trial.user_attrs]
            got = f"{len(reasons)} that failed ({reasons[0]})"
            raise UserError(f"{self.name}: expected a trial that ends, got {got}. Narrow the space, or mend the recipe")

    def jobs(self) -> Iterator[Job | None]:
        """Yield a job whenever a run can start or continue; None while nothing can start."""
        locked: list[Trial] = []
        while True:
            trial = self.ready.pop(0) if self.ready else self.asked()
            if trial is None:
                others = self.running_elsewhere()
                if not (self.active or locked or others):
                    return
                self.ready, locked = locked, []
                if not self.active:
                    self.say_waiting(others)
                yield None
                continue
            (state,) = found([trial.run])
            if state.state == "running":  # a process of an earlier call still saves
                locked.append(trial)
            elif state.state in ENDED:
                self.ended(trial, None, 0)
            else:
                log = self.folder / "logs" / f"{file_name(trial.run.name)}.log"
                self.active.add(trial.number)
                job = job_of(trial.run, state, log)
                job.watch = partial(self.watch, trial, folder_finder(log, state.folder))
                job.ended = partial(self.ended, trial, log)
                yield job

    def running_elsewhere(self) -> list[Any]:
        """Return the trials that other processes work on."""
        mine = self.active | {trial.number for trial in self.stopped}
        running = (trial for trial in self.trials.known() if trial.state.name == "RUNNING")
        return [trial for trial in running if trial.user_attrs.get("number") not in mine]

    def say_waiting(self, others: Sequence[Any]) -> None:
        """Say once that the search ends when other processes have ended."""
        if others and not self.has_said_waiting:
            self.has_said_waiting = True
            places = {trial.user_attrs.get("place", self.trials.place) for trial in others} - {self.trials.place}
            where = "".join(f" in {place}" for place in sorted(places))
            advice = ". If it has died, repeat the command there" if places else ""
            self.board.say(f"{self.name}: waiting for the trials of another process{where}{advice}")

    def asked(self) -> Trial | None:
        """Begin a trial, the recipe's own values first; None if there are enough."""
        begun = self.trials.begin()
        if begun is None:
            return None
        return Trial(*begun, self.runs_of(begun.number, begun.proposed.params))

    def runs_of(self, number: int, proposed: Mapping[str, Any]) -> list[Wanted]:
        """Return the runs of a trial."""
        name = f"{self.name}, trial {number}"
        words, config = self.space.applied(self.base.words, self.base.config, proposed)
        one = Wanted(name, words, config)
        names = [name] if len(self.seeds) == 1 else [f"{name}, seed {seed}" for seed in self.seeds]
        return [one.seeded(seed, own) for seed, own in zip(self.seeds, names, strict=True)]

    def watch(self, trial: Trial, where: Any, stop: Any) -> None:
        """Report new numbers of the first run of a trial, and stop it if it is worse than others were then."""
        if trial.values or trial.is_pruned or "metric" not in self.trials.study.user_attrs:
            return
        folder = where()
        if folder and self.report(trial, folder) and trial.proposed.should_prune():
            trial.is_pruned = True
            stop()

    def report(self, trial: Trial, folder: Path) -> bool:
        """Report the numbers of a run before its end; return whether there are new ones."""
        key, sign = self.trials.study.user_attrs["metric"]
        points = [(i, value) for i, value in curve(folder, key) if i < self.base.iterations and i not in trial.reported]
        for iteration, value in points:
            trial.proposed.report(sign * value, iteration)
            trial.reported.add(iteration)
        return bool(points)

    def ended(self, trial: Trial, log: Path | None, code: int) -> None:
        """Tell Optuna how a run of a trial ended, or make the trial's next run ready."""
        from optuna.trial import TrialState

        self.active.discard(trial.number)
        (state,) = found([trial.run])
        if state.state == "finished" and state.folder:
            value = self.measured(state.folder)
            if not trial.values:
                self.report(trial, state.folder)
            trial.values.append(value)
            if value != value:
                self.fail(trial, f"{self.trials.study.user_attrs['metric'][0]} is not a number")
            elif len(trial.values) < len(self.seeds):
                self.ready.append(trial)
            else:
                self.complete(trial)
        elif state.state == "failed":
            self.fail(trial, state.reason)
        elif trial.is_pruned:
            self.trials.study.tell(trial.proposed, state=TrialState.PRUNED)
            self.over(trial, f"pruned at iteration {state.iteration}")
        elif code in (*STOPPED, *KILLED):
            self.stopped.append(trial)  # with its claim
            self.board.say(f"{trial.run.name}: stopped at iteration {state.iteration}")
        elif code == 0:
            raise RuntimeError(f"{trial.run.name} has ended, and no run folder has its configuration (see {log})")
        elif trial.number == 0 and log:
            raise UserError(f"{trial.run.name}, the recipe itself: {last_lines(log)}")
        else:
            self.fail(trial, (last_lines(log) if log else "") or f"exit code {code}")

    def complete(self, trial: Trial) -> None:
        """Tell Optuna the number of a trial."""
        key, sign = self.trials.study.user_attrs["metric"]
        value = fmean(trial.values)
        self.trials.study.tell(trial.proposed, sign * value)
        self.over(trial, f"{key} {value:.4g}")

    def fail(self, trial: Trial, reason: str) -> None:
        """Tell Optuna that a trial failed."""
        from optuna.trial import TrialState

        trial.proposed.set_user_attr("reason", reason)
        self.trials.study.tell(trial.proposed, state=TrialState.FAIL)
        self.over(trial, f"failed. {reason}")

    def over(self, trial: Trial, outcome: str) -> None:
        """Say how a trial ended."""
        trial.claim.release()
        values = self.space.values(self.base.config, trial.proposed.params)
        told = ", ".join(f"{key.split('.', 1)[-1]} {value}" for key, value in values.items())
        self.board.say(f"{self.name}, trial {trial.number}: {outcome} ({told})")

    def measured(self, folder: Path) -> float:
        """Return the last number of a run, mean over sampling seeds. The first run decides which number it is."""
        run = read_run(folder, self.board.say)
        if "metric" not in self.trials.study.user_attrs:
            key = chosen_metric([run], self.wanted_metric)
            sign = -1 if higher_is_better([run], key, self.board.say) else 1
            self.trials.study.set_user_attr("metric", [key, sign])
        key, _ = self.trials.study.user_attrs["metric"]
        return fmean(ranked(run).last(key) or [float("nan")])

    def seconds(self) -> float:
        """Return the seconds of training of all runs in this folder."""
        folders = self.base.place.glob("*/metrics.csv")
        return sum(last_row(file.parent).get("cost/seconds", 0.0) for file in folders)
