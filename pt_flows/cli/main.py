"""The command line: `pt-flows fit | validate | test | sample | evaluate | compare | report | ...`.

This module needs neither torch nor Lightning. Each command imports its own modules.
"""

import logging
import os
import signal
import sys
import warnings
from collections.abc import Callable, Sequence
from pkgutil import resolve_name
from typing import Any

import pt_flows
from pt_flows.cli.errors import command_named
from pt_flows.cli.failures import fail, interrupted, told
from pt_flows.cli.output import drop_unread_output
from pt_flows.cli.pages import with_page
from pt_flows.cli.shipped import with_recipes
from pt_flows.errors import RunWarning, UserError
from pt_flows.progress import QUIET
from pt_flows.runs.signals import end_with_parent, ending_at_once, handled

USAGE = """pt-flows: generative methods as discretised flows

  pt-flows fit       --config FILE [--config FILE ...] [--KEY VALUE ...]   train; --ckpt_path last continues
  pt-flows fit       --config FILE --seeds 0..4 [--jobs N]                 several seeds side by side, and their table
  pt-flows tune      CONFIG [--trials 20] [--KEY VALUE ...]                better values for a recipe (docs/tuning.md)
  pt-flows sweep     FILE --config FILE [--count N]                        the same, led by W&B (docs/tuning.md)
  pt-flows study     FILE [--out DIR] [--jobs N] [--dry-run]               a comparison from one file, with its record
  pt-flows tune-speed CONFIG [--KEY VALUE ...]                             how fast it trains here, in which setting
  pt-flows fork      CKPT | RUN [--KEY VALUE ...]                          a new run from another's state, with changes
  pt-flows validate  --config FILE --ckpt_path FILE                        measure as during training
  pt-flows test      --config FILE --ckpt_path FILE                        measure against the test split
  pt-flows sample    CKPT [--n 64] [--out samples.png | samples.npz]       draw from a checkpoint
  pt-flows sample    CKPT --long-run 100000 [--n 10]                       energies: long chains from data
  pt-flows sample    CKPT --plus CKPT                                      energies: sample the sum of two
  pt-flows evaluate  CKPT [--n 10000] [--split train] [--seeds 3]          every number, with its passport
  pt-flows evaluate  --images DIR --ref DIR | CIFAR10                      the same for any generator's images
  pt-flows compare   RUN RUN ... [--out FILE] [--plot FILE.png]            table and verdicts over runs of several seeds
  pt-flows report    RUN RUN ... [--out report.html]                       the same with pictures, in one file to send
  pt-flows watch     RUN RUN ... [--port 8008]                             the same as a local page that follows runs
  pt-flows dashboard [ENTITY/]PROJECT [--report] [--baseline RUN]          a dashboard of a W&B project
  pt-flows neighbours CKPT [--n 1000]                                      images: are training images repeated?
  pt-flows geodesic  CKPT [--pairs 100]                                    latents: straight and shortest ways
  pt-flows prepare   imagenet --root DIR --size 64 --out DIR               decode images once, for training to read
  pt-flows density   CKPT                                                  DA-EBM: log-densities of test samples
  pt-flows ood       CKPT [--against FashionMNIST]                         energies: tell outliers from test samples
  pt-flows invert    CKPT --images DIR | --npz FILE [--out FILE.csv]       SimVAE: parameters of given observations
  pt-flows export    CKPT --out DIR                                        weights, numbers and a card, to share
  pt-flows push      DIR --to NAME/MODEL                                   upload an exported model to Hugging Face
  pt-flows check-method [CLASS] --config FILE [--KEY VALUE ...]            does a method of your own keep the contract?
  pt-flows doctor                                                          versions, devices, data, W&B, and problems
  pt-flows completion bash | zsh                                           a script that completes these commands
  pt-flows upgrade   FILE | RUN [--out NEW]                                a configuration, checkpoint or run of 0.1

  pt-flows --version               the version of this package
  pt-flows fit --help              all keys              pt-flows fit --config FILE --print_config   the whole config
  pt-flows fit --model.help W1FE   a method's arguments  pt-flows fit --data.help Toy2D              a data set's

FILE of --config is a path, or the name of a recipe of the package: toy2d/w1_fe, mnist/w1_fe, ...
CKPT is a checkpoint file, a run folder, or last / best of the newest run under runs/. --ckpt_path takes the same, and
last / best are of the newest run with the same data, model and seed.

--quiet, with any command, prints results and errors alone.
Exit codes: 0 success, 1 a run or a check failed, 2 a mistake in the command or its files, 128 + n a stop by signal n.
"""


TRAINING = ("fit", "validate", "test", "fork")
"""Commands of the Trainer."""

STUDIES = {"tune": "pt_flows.studies.tune:tune", "study": "pt_flows.studies.study:study",
           "sweep": "pt_flows.studies.sweep:sweep", "tune-speed": "pt_flows.studies.speed:tune_speed"}  # fmt: skip
"""Commands that run others. Each takes its words."""

CHECKS = {"check-method": "pt_flows.cli.check:check", "doctor": "pt_flows.cli.doctor:doctor",
          "completion": "pt_flows.cli.completion:completion"}  # fmt: skip
"""Commands that train nothing to keep. Each takes its words."""

FUNCTIONS = {
    "sample": "pt_flows.evaluation.sample:sample",
    "evaluate": "pt_flows.evaluation.evaluate:evaluate",
    "compare": "pt_flows.compare.command:compare",
    "report": "pt_flows.compare.report:report",
    "watch": "pt_flows.compare.watch:watch",
    "dashboard": "pt_flows.compare.dashboard:dashboard",
    "density": "pt_flows.evaluation.density:density",
    "ood": "pt_flows.evaluation.outliers:ood",
    "invert": "pt_flows.evaluation.invert:invert",
    "neighbours": "pt_flows.evaluation.neighbours:neighbours",
    "geodesic": "pt_flows.evaluation.geodesic:geodesic",
    "export": "pt_flows.evaluation.sharing:export",
    "push": "pt_flows.evaluation.sharing:push",
    "prepare": "pt_flows.data.prepared:prepare",
    "upgrade": "pt_flows.runs.upgrade:upgrade",
}
"""The functions of the other commands."""


def run(argv: Sequence[str]) -> None:
    """Run a command line."""
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(USAGE, end="")
        return
    if "--quiet" in argv:
        os.environ[QUIET] = "1"
        argv = [word for word in argv if word != "--quiet"]
    command, *words = argv
    words = with_recipes(words)
    if command == "--version":
        print(f"pt-flows {pt_flows.__version__}")
    elif command == "fit" and asks_for_seeds(words):
        imported("pt_flows.studies.seeds:fit_seeds")(words)
    elif command in STUDIES:
        imported(STUDIES[command])(words)
    elif command in TRAINING:
        imported("pt_flows.cli.fit:train")(command, words)
    elif command in CHECKS:
        imported(CHECKS[command])(words)
    elif command in FUNCTIONS:
        function = imported(FUNCTIONS[command])
        imported("pt_flows.cli.functions:run_function")(command, function, words)
    else:
        raise UserError(command_named(command, [*TRAINING, *STUDIES, *CHECKS, *FUNCTIONS]))


def asks_for_seeds(words: Sequence[str]) -> bool:
    """Whether `fit` is to train several seeds.

    Raises:
        UserError: There is --jobs without --seeds.
    """
    flags = {word.partition("=")[0] for word in words}
    if "--jobs" in flags and "--seeds" not in flags:
        raise UserError("--jobs: expected --seeds with it, got --jobs alone. Add --seeds 0..4, or remove --jobs")
    return "--seeds" in flags and not flags & {"-h", "--help", "--print_config"}


def imported(name: str) -> Callable[..., Any]:
    """Import the function of a command, which takes seconds.

    A signal ends the process at once: an exception would not get through the imports of libraries, and there is nothing
    to save yet.
    """
    with handled(leave, (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)):
        found = resolve_name(name)
    quiet()
    return found


def leave(number: int, frame: Any) -> None:
    """End the process from a signal handler."""
    os._exit(fail(f"stopped by {signal.Signals(number).name}. Nothing was done", 128 + number))


def quiet() -> None:
    """Silence messages of libraries. Lightning sets its log levels and its form of warnings when it is imported."""
    warnings.formatwarning = formatted
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    logging.getLogger("lightning.fabric").setLevel(logging.WARNING)
    for pattern in (
        "does not have many workers",
        "in eval mode at the start",
        "LeafSpec",
        "is an instance of `nn.Module`",
        "LightningCLI's args parameter",
        "`torch.jit.script` is deprecated",
    ):
        warnings.filterwarnings("ignore", f".*{pattern}.*")


def formatted(message: Warning | str, category: type[Warning], file: str, line: int, source: str | None = None) -> str:
    """Return the line of a warning: those of this package are sentences, others need their place."""
    if issubclass(category, RunWarning):
        return f"warning: {message}\n"
    return f"{file}:{line}: {category.__name__}: {message}\n"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program.

    Args:
        argv: Arguments after the program's name; default those of the process.

    Returns:
        The exit code: 0 success, 1 a failed run, 2 a user's mistake, 128 + n a stop by signal n.
    """
    if argv is not None:
        sys.argv = ["pt-flows", *argv]
    code = 1
    end_with_parent()
    drop_unread_output()
    try:
        with ending_at_once():
            run(sys.argv[1:])
        code = 0
    except (Exception, KeyboardInterrupt, SystemExit) as error:
        if (answer := told(error, sys.argv[1:])) is not None:
            text, code = answer
            fail(with_page(text, sys.argv[1:]) if code == 2 else text, code)
        elif isinstance(error, SystemExit):
            code = error.code if isinstance(error.code, int) else int(error.code is not None)
        else:
            raise
    finally:
        code = finish_wandb(code)
    return code


def finish_wandb(code: int) -> int:
    """Let W&B finish its upload, and return the exit code, which changes if the upload is interrupted."""
    wandb = sys.modules.get("wandb")
    if wandb is None or wandb.run is None:
        return code
    folder = wandb.run.settings.sync_dir
    try:
        with ending_at_once():
            wandb.finish(exit_code=code)
    except KeyboardInterrupt as stop:
        stop.add_note(f"the run folder is complete; to upload the rest to W&B: wandb sync {folder}")
        return fail(*interrupted(stop))
    return code
