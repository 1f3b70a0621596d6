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


class NotApplicable(Exception):
    """A check that makes no sense for what is checked, and why."""


class Result(NamedTuple):
    """The result of one check.

    Attributes:
        name: The check.
        outcome: "skipped" where the check does not apply.
        why: What failed and why, or why the check was skipped.
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


def run_checks(kind: str, checks: Mapping[str, Callable[[Any], None]], it: Any) -> Report:
    """Run checks in their order and print a line for each. Where the first one fails, the others are skipped.

    Args:
        kind: What is checked.
        checks: They raise an error with the reason, or `NotApplicable`.
        it: What the checks take.
    """
    report = Report()
    for name, check in checks.items():
        first = report.results[0] if report.results else None
        if first is not None and first.outcome == "FAILED":
            result = Result(name, "skipped", f"needs a {kind} for which the first check is ok")
        else:
            result = result_of(name, check, it)
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
    logger = getLogger("lightning")
    levels = {log: log.level for log in (logger, logger.getChild("pytorch"), logger.getChild("fabric"))}
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
