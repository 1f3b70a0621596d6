"""The command `tune-speed`, and `--perf auto`: short trials tell how fast a recipe trains here in which setting."""

import json
import math
import os
import platform
import re
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from itertools import takewhile
from pathlib import Path
from typing import Any

from pt_flows.cli.shipped import recipe_file
from pt_flows.compare.runs import read_rows, run_folders
from pt_flows.compare.table import markdown
from pt_flows.errors import UserError
from pt_flows.files import cache_folder, replacing
from pt_flows.runs.folder import experiment_of
from pt_flows.runs.settings import digest
from pt_flows.runs.threads import threads_are_given
from pt_flows.studies.board import Board
from pt_flows.studies.options import flags
from pt_flows.studies.pool import Job, Slot, cores, last_lines, run_jobs
from pt_flows.studies.recipes import completed
from pt_flows.studies.trial import block_of, without_length

HELP = """pt-flows tune-speed CONFIG [CONFIG ...] [flags of fit]: how fast does a recipe train on this machine?

It trains the recipe for some seconds in every setting, and prints a table. From then on --perf auto takes the faster of
fast and compile. Other work on the machine distorts the speeds; the same command measures again. See docs/scale.md.
"""
SECONDS = 10.0
"""Seconds of training after the first row of the log, for a measurement."""
LONGEST_TRIAL = 10**6
"""Least length of a trial in iterations, if nothing stops it."""
LEAST_SECONDS = 60.0
"""Length of a run from which a compiler is tried."""
LEAST_GAIN = 1.05
"""Ratio of speeds from which a compiler is worth its risks."""
UNCOMPILED = re.compile(r"expected to be compiled, got: .*(?=\. It runs as it is)")
"""A line of a run about a part that cannot be compiled."""
COLUMNS = ("setting", "iterations a second", "relative to fast", "seconds lost at the start")
OFF: dict[str, Any] = {
    "evaluation.every_n_iterations": 0, "evaluation.metrics": [], "evaluation.full_metrics": None,
    "pictures.every_n_iterations": 0, "run.wandb": "disabled",
}  # fmt: skip
"""Settings of a trial: it measures and draws nothing."""


@dataclass(frozen=True)
class Speed:
    """The speed of a recipe in one setting.

    Attributes:
        rate: Iterations a second, once it runs at full speed.
        start: Seconds of training that were lost before, to compilation above all.
    """

    rate: float
    start: float

    def seconds(self, iterations: int) -> float:
        """Return the seconds of training for a number of iterations."""
        return self.start + iterations / self.rate


@dataclass(frozen=True)
class Setting:
    """A way to train the same recipe.

    Attributes:
        name: Its name, as flags where it has some.
        flags: Arguments of `fit`.
        slot: Environment variables.
    """

    name: str
    flags: tuple[str, ...]
    slot: Slot


MODES = ("fast", "reference", "compile")
FAST, REFERENCE, COMPILE = (Setting(f"--perf {mode}", ("--perf", mode), {}) for mode in MODES)


def tune_speed(words: Sequence[str]) -> None:
    """Measure the speed of a recipe in every setting, and print a table.

    Args:
        words: Configuration files, and flags of `fit`.

    Raises:
        UserError: The recipe cannot be built, or `--perf fast` fails.
    """
    if {"-h", "--help"} & set(words):
        print(HELP, end="")
        return
    named = list(takewhile(lambda word: not word.startswith("-"), words))
    if not named:
        raise UserError("tune-speed: expected CONFIG first, got none. See pt-flows tune-speed --help")
    rest = without(words[len(named) :], "--ckpt_path", "--perf")
    command = [word for file in named for word in ("--config", recipe_file(file))] + [*rest, *FAST.flags]
    recipe = completed({"": command})[""]
    settings = [FAST, REFERENCE, COMPILE]
    if recipe.accelerator == "cpu" and cores() > 1 and not threads_are_given():
        settings.append(Setting("--perf fast, OMP_NUM_THREADS=1", FAST.flags, {"OMP_NUM_THREADS": "1"}))
    for setting in (FAST, COMPILE):
        name = f"{setting.name} --trainer.precision bf16-mixed"
        settings.append(Setting(name, (*setting.flags, "--trainer.precision", "bf16-mixed"), {}))
    problems: dict[str, str] = {}
    found = measured(command, recipe.config, settings, problems)
    if FAST.name not in found:
        raise UserError(f"{FAST.name}: {problems[FAST.name]}")
    rows = [row(setting.name, found.get(setting.name), found[FAST.name]) for setting in settings]
    print(f"\n{markdown(rows)}\n")
    for name, problem in problems.items():
        print(f"{name} failed: {problem}")
    store(recipe.config, {setting.name: found[setting.name] for setting in (FAST, COMPILE) if setting.name in found})
    if COMPILE.name in found:
        print(explained(recipe.config["trainer"]["max_steps"], found[FAST.name], found[COMPILE.name]))


def row(name: str, speed: Speed | None, fast: Speed) -> dict[str, str]:
    """Return the row of a setting."""
    if speed is None:
        return dict(zip(COLUMNS, [name, "failed", "", ""], strict=True))
    numbers = f"{speed.rate:.4g}", f"{speed.rate / fast.rate:.2f}", f"{speed.start:.0f}"
    return dict(zip(COLUMNS, [name, *numbers], strict=True))


def automatic(words: Sequence[str], config: Mapping[str, Any]) -> tuple[bool, str]:
    """Choose between `--perf fast` and `--perf compile` by short trials, which are kept for later runs.

    Args:
        words: Arguments of `fit`.
        config: Its complete configuration.

    Returns:
        Whether to compile, and a sentence that says why.
    """
    iterations, known = config["trainer"]["max_steps"], stored(config)
    command, problems = without(words, "--ckpt_path", "--perf"), dict[str, str]()
    if FAST.name not in known:
        known |= measured(command, config, [FAST], problems)
        if FAST.name not in known:
            return False, f"perf auto: fast, because its trial failed: {problems[FAST.name]}"
    fast = known[FAST.name]
    if COMPILE.name not in known and iterations / fast.rate > LEAST_SECONDS:
        known |= measured(command, config, [COMPILE], problems)
    store(config, known)
    if COMPILE.name in problems:
        reason = f"because the compiled trial failed: {problems[COMPILE.name]}"
        return False, f"perf auto: fast, {fast.rate:.4g} it/s, {reason}"
    compiled = known.get(COMPILE.name)
    return pays(iterations, fast, compiled), explained(iterations, fast, compiled)


def pays(iterations: int, fast: Speed, compiled: Speed | None) -> bool:
    """Whether a run of some iterations should be compiled."""
    if compiled is None or compiled.rate < LEAST_GAIN * fast.rate:
        return False
    return compiled.seconds(iterations) < fast.seconds(iterations)


def explained(iterations: int, fast: Speed, compiled: Speed | None) -> str:
    """Return the sentence about the choice between both."""
    if compiled is None:
        return f"perf auto: fast, {fast.rate:.4g} it/s, as a compiler does not pay for {iterations / fast.rate:.0f} s"
    chosen = "compile" if pays(iterations, fast, compiled) else "fast"
    speeds = f"compile {compiled.rate:.4g} it/s after {compiled.start:.0f} s, fast {fast.rate:.4g} it/s"
    return f"perf auto: {chosen} for {iterations} iterations ({speeds}; kept in {cache_folder() / 'speed'})"


def measured(
    command: Sequence[str], config: Mapping[str, Any], settings: Sequence[Setting], problems: dict[str, str]
) -> dict[str, Speed]:
    """Train a recipe for some seconds in each setting, one after the other.

    Args:
        command: Arguments of `fit`.
        config: The complete configuration.
        settings: The settings.
        problems: Gets a sentence about each setting that fails.
    """
    name = experiment_of(*(config[key]["class_path"] for key in ("data", "model")))
    board = Board(f"speed of {name}", [("", 1.0)] * len(settings), 1)
    found: dict[str, Speed] = {}
    folder = Path(tempfile.mkdtemp(prefix="pt-flows-speed-"))
    try:
        for i, setting in enumerate(settings):
            board.say(f"measuring {setting.name}")
            job = trial(command, config, setting, folder / str(i), found, problems)
            run_jobs(iter([job]), [setting.slot], board)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return found


def trial(
    command: Sequence[str],
    config: Mapping[str, Any],
    setting: Setting,
    folder: Path,
    found: dict[str, Speed],
    problems: dict[str, str],
) -> Job:
    """Return the job that trains until its speed is known.

    Args:
        command: Arguments of `fit`.
        config: The complete configuration.
        setting: The setting.
        folder: Folder for the run and its output.
        found: Gets the speed.
        problems: Gets a sentence about a failure.
    """
    whole = max(1, config["trainer"]["max_steps"])  # of which a part, such as one of several rounds, may be a unit
    own = {"run.root": str(folder), "trainer.log_every_n_steps": block_of(config)}
    own |= {"trainer.max_steps": whole * -(-LONGEST_TRIAL // whole)}
    words = ["fit", *command, *flags({**OFF, **own}), *setting.flags]
    log = folder / "output.log"

    def watch(stop: Callable[[], None]) -> None:
        times = times_of(folder)
        if times and times[-1][1] - times[0][1] > SECONDS:
            stop()

    def ended(code: int) -> None:
        failure = UNCOMPILED.search(log.read_text(errors="replace"))
        if failure:
            problems[setting.name] = failure[0]
        elif speed := speed_of(times_of(folder)):
            found[setting.name] = speed
        else:
            problems[setting.name] = last_lines(log).partition(". ")[0] or f"its process ended with exit code {code}"

    return Job(setting.name, words, log, watch=watch, ended=ended)


def times_of(root: Path) -> list[tuple[float, float]]:
    """Return iterations and seconds of training of the rows of a run's log."""
    folder = next(run_folders(root), None) if root.is_dir() else None
    if folder is None or not (folder / "metrics.csv").is_file():
        return []
    rows, _ = read_rows((folder / "metrics.csv").read_text())
    return [(row["iteration"], row["cost/seconds"]) for row in rows if "cost/seconds" in row]


def speed_of(times: Sequence[tuple[float, float]]) -> Speed | None:
    """Return the speed in the second half of a run, and the seconds that were lost before; None without two rows.

    Example:
        >>> speed_of([(10, 31.0), (20, 32.0), (30, 33.0), (40, 34.0)])
        Speed(rate=10.0, start=30.0)
    """
    if len(times) < 2:
        return None
    (first, begin), (last, end) = times[(len(times) - 1) // 2], times[-1]
    if end <= begin or last <= first:
        return None
    rate = (last - first) / (end - begin)
    return Speed(rate, max(begin - first / rate, 0.0))


def without(words: Sequence[str], *names: str) -> list[str]:
    """Return the words without some flags and their values.

    Example:
        >>> without(["--perf", "auto", "--ckpt_path=last", "--model.k", "2"], "--perf", "--ckpt_path")
        ['--model.k', '2']
    """
    kept: list[str] = []
    remaining = iter(words)
    for word in remaining:
        name, assigned, _ = word.partition("=")
        if name not in names:
            kept.append(word)
        elif not assigned:
            next(remaining, None)
    return kept


def file_of(config: Mapping[str, Any]) -> Path:
    """Return the file for the speeds of a configuration on this machine."""
    compiler = shutil.which(os.environ.get("CXX", "g++"))
    variables = [os.environ.get(name) for name in ("OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES")]
    machine = [platform.node(), cores(), compiler, *variables]
    settings = {
        key: value for key, value in without_length(config).items() if key not in ("perf", "evaluation", "pictures")
    }
    packages = [version(name) for name in ("torch", "pt-flows")]
    return cache_folder() / "speed" / f"{digest([settings, machine, packages])}.json"


def store(config: Mapping[str, Any], speeds: Mapping[str, Speed]) -> None:
    """Keep speeds for later runs of the same recipe on this machine."""
    with replacing(file_of(config)) as partial_file:
        partial_file.write_text(json.dumps({name: asdict(speed) for name, speed in speeds.items()}) + "\n")


def stored(config: Mapping[str, Any]) -> dict[str, Speed]:
    """Return the kept speeds of the settings, those that can be read."""
    try:
        saved = json.loads(file_of(config).read_text())
        found = {name: Speed(float(speed["rate"]), float(speed["start"])) for name, speed in saved.items()}
    except (OSError, ValueError, TypeError, AttributeError, KeyError):
        return {}
    return {name: speed for name, speed in found.items() if 0 < speed.rate < math.inf and 0 <= speed.start < math.inf}
