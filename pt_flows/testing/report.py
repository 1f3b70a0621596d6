"""Results of checks: one line each."""

import os
import re
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from logging import ERROR, getLogger
from typing import Any, Literal, NamedTuple

import torch
from torch.multiprocessing.spawn import ProcessExitedException, ProcessRaisedException

from pt_flows.errors import DivergenceError, UserError

NEEDS: dict[str, tuple[str, ...]] = {
    "resume": ("same seed", "checkpoint"),
    "two processes": ("same seed", "checkpoint"),
    "samples by rng": ("samples",),
    "samples by number": ("samples by rng",),
    "samples by weights": ("average", "samples"),
    "samples leave no trace": ("samples",),
    "state dict": ("evaluation mode",),
}
"""Checks that are skipped where others are not ok; the first one of a kind is needed by all."""


class NotApplicable(Exception):
    """Says why a check does not apply."""


class Result(NamedTuple):
    """The result of one check.

    Attributes:
        name: The check.
        outcome: "skipped" where the check does not apply.
        why: The reason of a failure, or of skipping the check.
    """

    name: str
    outcome: Literal["ok", "FAILED", "skipped"]
    why: str = ""

    def __str__(self) -> str:
        """One line."""
        return f"{self.outcome:<8}{self.name}" + (f": {self.why}" if self.why else "")


@dataclass
class Report:
    """The results of all checks of one thing."""

    results: list[Result] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        """Whether no check failed."""
        return all(result.outcome != "FAILED" for result in self.results)

    def __str__(self) -> str:
        """One line for every check."""
        return "\n".join(map(str, self.results))


def run_checks(checks: Mapping[str, Callable[[Any], None]], it: Any) -> Report:
    """Run checks in their order and print a line for each. One that needs another that is not ok is skipped.

    Args:
        checks: They raise an error with the reason, or `NotApplicable`.
        it: The argument of the checks.
    """
    report = Report()
    for name, check in checks.items():
        needed = (next(iter(checks)), *NEEDS.get(name, ()))
        missing = [done.name for done in report.results if done.name in needed and done.outcome != "ok"]
        result = Result(name, "skipped", f"needs {missing[0]}") if missing else result_of(name, check, it)
        report.results.append(result)
        print(result, flush=True)
    return report


def result_of(name: str, check: Callable[[Any], None], it: Any) -> Result:
    """Run one check."""
    try:
        with undisturbed():
            check(it)
    except NotApplicable as reason:
        return Result(name, "skipped", str(reason))
    except Exception as error:  # whatever someone else's code may raise is the result
        return Result(name, "FAILED", sentence(error))
    return Result(name, "ok")


def sentence(error: Exception) -> str:
    """The reason of a failure: the message of an error of this package, else the place in the code as well."""
    if isinstance(error, ProcessRaisedException | ProcessExitedException):  # ends with the traceback of the process
        return re.sub(r"^(\w+\.)*(Assertion|User|Divergence)Error: ", "", str(error).strip().splitlines()[-1])
    if isinstance(error, AssertionError | UserError | DivergenceError):
        return str(error)
    place = traceback.extract_tb(error.__traceback__)[-1]
    text = next(iter(str(error).splitlines()), "")
    return f"{type(error).__name__}: {text} ({os.path.basename(place.filename)}, line {place.lineno})"


@contextmanager
def undisturbed() -> Iterator[None]:
    """Leave seed, random numbers, types and threads of the caller as they were, and keep other libraries quiet."""
    seed, dtype, threads = os.environ.get("PL_GLOBAL_SEED"), torch.get_default_dtype(), torch.get_num_threads()
    loggers = map(getLogger, ("lightning", "lightning.pytorch", "lightning.fabric", "torch.multiprocessing"))
    levels = {log: log.level for log in loggers}
    for log in levels:
        log.setLevel(ERROR)
    try:
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for log, level in levels.items():
            log.setLevel(level)
        torch.set_default_dtype(dtype)
        torch.set_num_threads(threads)
        os.environ.pop("PL_GLOBAL_SEED", None)
        if seed is not None:
            os.environ["PL_GLOBAL_SEED"] = seed
