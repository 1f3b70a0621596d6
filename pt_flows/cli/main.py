"""The command line: `pt-flows fit | validate | test | sample | evaluate | compare | report | ...`."""

import json
import logging
import shlex
import shutil
import signal
import sys
import warnings
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from inspect import Parameter, signature
from itertools import takewhile
from pathlib import Path
from typing import Any, ClassVar, NoReturn, cast

import yaml
from jsonargparse import ArgumentParser
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ProgressBar
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.strategies import DDPStrategy
from lightning.pytorch.utilities import rank_zero_only

import pt_flows.data
import pt_flows.methods
import pt_flows.metrics
import pt_flows.nets  # noqa: F401  short names are those of imported classes
from pt_flows.callbacks import (  # noqa: F401
    AtomicCheckpointIO,
    ChainPicture,
    Checkpoints,
    Evaluate,
    Failure,
    FlowPicture,
    Performance,
    Pictures,
    Progress,
)
from pt_flows.callbacks.performance import Mode
from pt_flows.callbacks.signals import ending_at_once
from pt_flows.cli.checks import check_values, trainer_says
from pt_flows.cli.endings import can_not_write, ending, interrupted, with_notes
from pt_flows.cli.errors import FIT_KEYS, check_yaml, command_named, explain, missing_package
from pt_flows.compare.command import compare
from pt_flows.compare.report import report
from pt_flows.data.base import FlowData
from pt_flows.data.prepared import prepare
from pt_flows.errors import DivergenceError, UserError
from pt_flows.evaluation.density import density
from pt_flows.evaluation.evaluate import evaluate
from pt_flows.evaluation.neighbours import neighbours
from pt_flows.evaluation.outliers import ood
from pt_flows.evaluation.sample import sample
from pt_flows.loop.method import Method
from pt_flows.metrics.features import file_hash
from pt_flows.runs.checkpoint import find_checkpoint, open_checkpoint, settings_of
from pt_flows.runs.folder import RunOptions, loggers, new_run_folder, recorded_config, run_folder_of, say
from pt_flows.runs.lock import RunLock
from pt_flows.runs.metrics_csv import MetricsCSV
from pt_flows.runs.settings import NAMED, differences, short, within
from pt_flows.runs.start import RunStart
from pt_flows.training.distributed import roll_call

USAGE = """pt-flows: generative methods as discretised flows

  pt-flows fit       --config FILE [--config FILE ...] [--KEY VALUE ...]   train; --ckpt_path last continues
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
  pt-flows neighbours CKPT [--n 1000]                                      images: are training images repeated?
  pt-flows prepare   imagenet --root DIR --size 64 --out DIR               decode images once, for training to read
  pt-flows density   CKPT                                                  DA-EBM: log-densities of test samples
  pt-flows ood       CKPT [--against FashionMNIST]                         energies: tell outliers from test samples

  pt-flows fit --help              all keys              pt-flows fit --config FILE --print_config   the whole config
  pt-flows fit --model.help W1FE   a method's arguments  pt-flows fit --data.help Toy2D              a data set's

CKPT is a checkpoint file, a run folder, or last / best of the newest run under runs/. --ckpt_path takes the same, and
last / best are of the newest run with the same data, model and seed.
"""


COMMANDS: dict[str, Callable[..., None]] = {
    "sample": sample,
    "evaluate": evaluate,
    "compare": compare,
    "report": report,
    "density": density,
    "ood": ood,
    "neighbours": neighbours,
    "prepare": prepare,
}
"""What is done before and after training."""


class CommandLineError(SystemExit):
    """What the parser has to say, on its way out; not an exception that the parser would take for one of its own."""


class Explaining(ArgumentParser):
    """A parser whose errors are one sentence that names the key and the likely fix."""

    words: Sequence[str] = ()
    keys: Sequence[str] = FIT_KEYS

    def parse_args(self, args: Any = None, *others: Any, **kwargs: Any) -> Any:
        """Parse, and keep the words for explanations."""
        self.words = sys.argv[1:] if args is None else list(args)
        return super().parse_args(args, *others, **kwargs)

    def parse_path(self, path: Any, *args: Any, **kwargs: Any) -> Any:
        """Parse a configuration file that is one."""
        if wrong := check_yaml(Path(path)):
            raise CommandLineError(wrong)
        return super().parse_path(path, *args, **kwargs)

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Explain a message of the outermost parser; those inside it pass theirs on."""
        if not self.exit_on_error:
            super().error(message, ex)
        raise CommandLineError(explain(message, self.words, self.keys)) from ex


class Parser(Explaining, LightningArgumentParser):
    """Lightning's parser with these errors."""


NOT_FOR_METHODS: dict[str, tuple[Any, str]] = {
    "accumulate_grad_batches": (1, "a step of a method takes its whole minibatch; for less memory lower "
                                "data.batch_size, take more devices or, with residual networks, "
                                "activation_checkpointing"),
    "gradient_clip_val": (None, "a method's step is its paper's; energies have model.clip_norm"),
}  # fmt: skip
"""Settings of the Trainer that are for loops of one optimizer: what they must be, and what to do instead."""


class FlowCLI(LightningCLI):
    """LightningCLI with run folders, evaluation, pictures and checkpoints as sections of the configuration."""

    branches: ClassVar[bool] = False
    """Whether a run from a checkpoint is always a new one."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        with ExitStack() as until_the_end:
            self.lock = RunLock()
            until_the_end.callback(self.lock.release)
            super().__init__(*args, **kwargs)

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """The sections beside trainer, model and data; callbacks act in this order."""
        parser.add_lightning_class_args(Evaluate, "evaluation")
        parser.add_lightning_class_args(Pictures, "pictures")
        parser.add_lightning_class_args(Checkpoints, "checkpoints")
        parser.add_class_arguments(RunOptions, "run")
        parser.add_argument(
            "--perf", type=Mode, default="fast", help="fast, reference (every shortcut off) or compile (docs/scale.md)"
        )

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """What the Trainer does; `sample` is a function of its own."""
        return {name: keys for name, keys in LightningCLI.subcommands().items() if name != "predict"}

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse, then check what Lightning and torch would find out later, and say in their own words."""
        super().parse_arguments(parser, args)
        check_values(self.config[self.config["subcommand"]])

    def _parse_ckpt_path(self) -> None:
        """The configuration wins over the checkpoint's hyperparameters (Lightning's default is the reverse)."""

    def before_instantiate_classes(self) -> None:
        """Find the checkpoint and the run folder before anything expensive is built."""
        config = self.config[str(self.subcommand)]
        names = [config[key].class_path.rsplit(".", 1)[-1] for key in ("data", "model")]
        self.experiment = "-".join(names).lower()
        root, self.resumed_at = Path(config.run.root), 0
        if config.perf == "reference" and str(config.trainer.precision) in ("bf16-mixed", "bf16"):
            say(f"note: --perf reference computes in float32 instead of {config.trainer.precision}")
            config.trainer.precision = "32-true"
        self.dumped = self._parser(self.subcommand).dump(config, skip_none=False)
        checkpoint = continued = None
        self.parent: dict[str, Any] | None = None
        self.damaged: Path | None = None
        if config.ckpt_path:
            wanted = find_checkpoint(config.ckpt_path, root, self.experiment, yaml.safe_load(self.dumped))
            # only the last checkpoint goes on in its folder: from an earlier one, what came after would be overwritten
            if self.subcommand == "fit" and wanted.name == "last.ckpt" and not self.branches:
                continued = run_folder_of(wanted)
            if continued is not None and cast(Any, rank_zero_only).rank == 0:
                self.lock.acquire(continued)  # before reading, or another process could write a later one
            checkpoint, saved = open_checkpoint(wanted)
            self.damaged = wanted if continued and checkpoint != wanted else None
            self.resumed_at = int(saved["pt_flows"]["iteration"])
            say(f"checkpoint: {checkpoint}, iteration {self.resumed_at}")
            self.compare(saved.get("hyper_parameters", {}), settings_of(checkpoint, saved))
            config["ckpt_path"] = str(checkpoint)
        if self.subcommand != "fit":
            if checkpoint is None:
                raise UserError(f"{self.subcommand} needs --ckpt_path: a checkpoint file, a run folder, last or best")
            self.folder = run_folder_of(checkpoint) or Path.cwd()
            return
        for key, (default, instead) in NOT_FOR_METHODS.items():
            if config.trainer[key] != default:
                raise UserError(f"trainer.{key}: {config.trainer[key]} is not supported: {instead}")
        if config.trainer.max_steps < 1:
            raise UserError(
                f"trainer.max_steps must be the number of iterations to train, got {config.trainer.max_steps}"
            )
        if checkpoint is not None and continued is None:
            if self.resumed_at >= config.trainer.max_steps:
                raise UserError(
                    f"trainer.max_steps: expected more than {self.resumed_at}, the iteration of {checkpoint}, got "
                    f"{config.trainer.max_steps}. Raise it"
                )
            self.parent = {"checkpoint": str(checkpoint), "sha256": file_hash(checkpoint), "iteration": self.resumed_at}
        self.folder = continued or new_run_folder(root, self.experiment)

    @rank_zero_only
    def compare(self, saved: dict[str, Any], recorded: dict[str, Any]) -> None:
        """Say where the configuration differs from the one that the checkpoint was written with.

        Args:
            saved: The method's arguments in the checkpoint.
            recorded: The configuration of its run.
        """
        now = yaml.safe_load(self.dumped)
        class_path = now["model"]["class_path"]
        if saved.get("_class_path", class_path) != class_path:
            raise UserError(
                f"the checkpoint holds {saved['_class_path']}, the configuration {class_path}: they can not mix"
            )
        found = within(differences(recorded, now), NAMED)
        found.pop("seed_everything", None)  # the method says what another seed means
        for key, (there, here) in found.items():
            say(f"note: {key} is {short(there)} in the checkpoint's run and {short(here)} here; the latter is used")

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Add what every run has: loggers, atomic checkpoints, a progress bar in iterations."""
        config = self.config_init[str(self.subcommand)]
        own: dict[str, Any] = {"default_root_dir": str(self.folder)}
        config.trainer.callbacks = listed(config.trainer.callbacks)
        if self.subcommand == "fit":
            own["limit_val_batches"] = 0
            later: list[Any] = []
            if config.trainer.logger is not False:
                own["logger"], *later = self.run_loggers(config)
            start = RunStart(
                self.folder, self.lock, self.dumped, config.seed_everything, self.parent, self.damaged, later
            )
            config.trainer.callbacks.insert(0, start)
            own["plugins"] = [*listed(config.trainer.plugins), AtomicCheckpointIO()]
            config.trainer.callbacks += [Performance(config.perf), Failure()]
        else:
            own["logger"] = False
        bars = any(isinstance(callback, ProgressBar) for callback in config.trainer.callbacks)
        if config.trainer.enable_progress_bar is not False and not bars:
            config.trainer.callbacks.append(Progress())
        return super().instantiate_trainer(**own, **kwargs)

    def run_loggers(self, config: Any) -> list[Any]:
        """The CSV file of the run, with the loggers of the configuration or else W&B."""
        given = config.trainer.logger
        if given in (None, True):
            return loggers(self.folder, config.run, self.experiment, self.resumed_at)
        return [MetricsCSV(self.folder, self.resumed_at), *listed(given)]

    def before_fit(self) -> None:
        """Write down what is about to run, and say it in one line."""
        if self.is_trial and self.resumed_at:
            raise UserError("trainer.fast_dev_run: it tries the first iterations of a run; leave out --ckpt_path")
        strategy = self.trainer.strategy
        if isinstance(strategy, DDPStrategy) and isinstance(where := strategy.cluster_environment, SLURMEnvironment):
            place = where.main_address, where.main_port
            self.store = roll_call(*place, where.global_rank(), where.world_size(), strategy._timeout)
        seed = self.config.fit.seed_everything
        model, trainer = self.model, self.trainer
        sizes = [f"{name} {sum(p.numel() for p in net.parameters()):,}" for name, net in model.networks.items()]
        device = f"{trainer.num_devices} x {trainer.strategy.root_device.type}"
        begin = f"from iteration {self.resumed_at} " if self.resumed_at else ""
        say(
            f"{type(model).__name__} on {type(self.datamodule).__name__}, {begin}to iteration {trainer.max_steps}, "
            f"seed {seed}, {device}; parameters: {', '.join(sizes)}"
        )
        if self.resumed_at >= trainer.max_steps:
            say(f"nothing to do: the checkpoint is at iteration {self.resumed_at}; raise trainer.max_steps to go on")

    def after_fit(self) -> None:
        """Say where everything is; leave with the signal's code where one stopped the run."""
        checkpoints = next(c for c in self.trainer.callbacks if isinstance(c, Checkpoints))  # pyright: ignore[reportAttributeAccessIssue]
        module: Method = self.model
        if checkpoints.stopped_by is not None:
            name = signal.Signals(checkpoints.stopped_by).name
            say(
                f"stopped by {name} after {module.iteration} of {self.trainer.max_steps} iterations; saved "
                f"{self.folder}/checkpoints/last.ckpt. Continue with the same command and --ckpt_path {self.folder}"
            )
            raise SystemExit(128 + checkpoints.stopped_by)
        if self.is_trial:
            self.remove_trial()
            return
        shown = {k: float(v) for k, v in self.trainer.callback_metrics.items() if k.startswith("eval/")}
        for key, value in shown.items():
            say(f"  {key:<40} {value:.5g}")
        say(ending(self.trainer, module.iteration, self.folder))
        if any(isinstance(logger, WandbLogger) for logger in self.trainer.loggers):
            parts = [str(p) for p in sorted(self.folder.glob("wandb/offline-run-*")) if not list(p.glob("*.synced"))]
            if parts:
                sync, leet = shlex.join(["wandb", "sync", *parts]), shlex.join(["wandb", "leet", parts[-1]])
                say(f"W&B recorded offline. To upload it: {sync}\nTo look at it here: {leet}")

    @property
    def is_trial(self) -> bool:
        """Whether this is a `fast_dev_run`."""
        return bool(getattr(self.trainer, "fast_dev_run", False))

    @rank_zero_only
    def remove_trial(self) -> None:
        """Leave nothing of a fast_dev_run, which `last` or `compare` could take for a run."""
        shutil.rmtree(self.folder)
        say(f"fast_dev_run: {self.model.iteration} iterations, an evaluation and a picture work; nothing is kept")


def listed(given: Any) -> list[Any]:
    """What the Trainer takes one of, several or none."""
    return list(given) if isinstance(given, list) else [] if given is None else [given]


class ForkCLI(FlowCLI):
    """`fit` with the configuration of the run that a checkpoint is from, in a run folder of its own."""

    branches = True


def fork(words: Sequence[str]) -> None:
    """Start a run from the state of another, with changes.

    Args:
        words: A checkpoint or a run folder, then what `fit` takes.
    """
    if not words or words[0].startswith("-"):
        raise UserError("pt-flows fork needs CKPT first: a checkpoint in its run folder, the run folder, last or best")
    checkpoint = find_checkpoint(words[0])
    folder = run_folder_of(checkpoint)
    config = recorded_config(folder) if folder else None
    if config is None:
        raise UserError(
            f"{checkpoint} does not lie in a run folder, so its configuration is not known; use pt-flows fit --config "
            f"FILE --ckpt_path {checkpoint} --KEY VALUE"
        )
    start(ForkCLI, ["fit", "--config", str(config), "--ckpt_path", str(checkpoint), *words[1:]])


def start(cli: type[FlowCLI], argv: Sequence[str]) -> None:
    """Let Lightning's command line do its work."""
    cli(
        Method, FlowData,
        subclass_mode_model=True, subclass_mode_data=True,
        auto_configure_optimizers=False, parser_class=Parser, save_config_callback=None,
        seed_everything_default=0,
        trainer_defaults={"max_epochs": -1, "num_sanity_val_steps": 0, "enable_checkpointing": False,
                          "enable_model_summary": False},
        args=list(argv),
    )  # fmt: skip


def run(argv: Sequence[str]) -> None:
    """Dispatch a command line."""
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(USAGE, end="")
        return
    command = argv[0]
    if command in COMMANDS:
        run_function(command, [with_underscores(word) for word in argv[1:]])
        return
    if command == "fork":
        fork(argv[1:])
        return
    if command not in FlowCLI.subcommands():
        raise UserError(command_named(command, [*FlowCLI.subcommands(), "fork", *COMMANDS]))
    start(FlowCLI, argv)


def run_function(command: str, words: Sequence[str]) -> None:
    """Call the function of a command; what stands before its first option is the function's first argument."""
    function = COMMANDS[command]
    first = next(iter(signature(function).parameters.values()))
    places = list(takewhile(lambda word: not word.startswith("-"), words))
    options = list(words[len(places) :])
    given = places or {f"--{first.name}", "-h", "--help"} & {option.partition("=")[0] for option in options}
    if first.default is Parameter.empty and not given:
        raise UserError(f"pt-flows {command} needs {first.name.upper()} first; pt-flows {command} --help tells more")
    if places:
        value = [json.dumps(places)] if first.name == "runs" else places
        options = [f"--{first.name}", *value, *options]
    parser = Explaining(prog=f"pt-flows {command}", description=(function.__doc__ or "").partition("\n")[0])
    parser.keys = tuple(signature(function).parameters)
    parser.add_function_arguments(function)
    function(**vars(parser.instantiate_classes(parser.parse_args(options))))


def with_underscores(word: str) -> str:
    """An option's name as functions have it: --long-run is --long_run."""
    name, is_assigned, value = word.partition("=")
    return name.replace("-", "_").replace("__", "--", 1) + is_assigned + value if word.startswith("--") else word


def quiet() -> None:
    """Leave out what other libraries say about themselves."""
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    logging.getLogger("lightning.fabric").setLevel(logging.WARNING)
    for pattern in (
        "does not have many workers",
        "in eval mode at the start",
        "LeafSpec",
        "is an instance of `nn.Module`",
        "LightningCLI's args parameter",
    ):
        warnings.filterwarnings("ignore", f".*{pattern}.*")


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point: 0 done, 1 the run failed, 2 the user's mistake, 128 + n stopped by signal n.

    Args:
        argv: Arguments after the program's name; default those of the process.
    """
    if argv is not None:
        sys.argv = ["pt-flows", *argv]
    quiet()
    code = 1
    try:
        with ending_at_once():
            run(sys.argv[1:])
        code = 0
    except CommandLineError as error:
        code = fail(str(error.code), 2)
    except MisconfigurationException as error:
        code = fail(trainer_says(str(error)), 2)
    except DivergenceError as error:
        code = fail(with_notes(str(error), error), 1)
    except OSError as error:
        text = can_not_write(error, sys.argv[1])
        if text is None:
            raise
        code = fail(text, 1)
    except Exception as error:
        text = users_mistake(error)
        if text is None:
            raise
        code = fail(text, 2)
    except KeyboardInterrupt as error:
        code = fail(*interrupted(error))
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
        if isinstance(stop.__context__, KeyboardInterrupt):  # Lightning leaves without a word
            code = fail(*interrupted(stop.__context__))
    finally:
        if "wandb" in sys.modules and sys.modules["wandb"].run is not None:
            sys.modules["wandb"].finish(exit_code=code)
    return code


def users_mistake(error: BaseException | None) -> str | None:
    """The sentence for a user, if one is the cause of an exception; None if the fault is this program's."""
    while error is not None:
        if isinstance(error, UserError):
            return str(error)
        if "Error(s) in loading state_dict" in str(error):
            first = str(error).splitlines()[1].strip()
            return (
                f"the checkpoint does not fit the networks of this configuration ({first}); use the config.yaml of its "
                "run folder, or networks of the same size"
            )
        if text := missing_package(str(error), sys.argv[1:]):
            return text
        if type(error).__module__.startswith("wandb."):
            return f"W&B: {error} Or run with --run.wandb offline"
        error = error.__cause__ or error.__context__
    return None


def fail(text: str, code: int) -> int:
    """Print an error and give its exit code."""
    print(f"error: {text}", file=sys.stderr, flush=True)
    return code
