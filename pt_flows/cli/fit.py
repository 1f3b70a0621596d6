"""The commands `fit`, `validate`, `test` and `fork`: Lightning's command line with run folders."""

import os
import shlex
import shutil
import signal
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, ClassVar, Literal, get_args

import torch
import yaml
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ProgressBar
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.strategies import DDPStrategy
from lightning.pytorch.utilities import rank_zero_only

import pt_flows.data
import pt_flows.evaluation.outliers
import pt_flows.evaluation.trained
import pt_flows.methods
import pt_flows.metrics
import pt_flows.nets
import pt_flows.samplers
import pt_flows.training.controlled
import pt_flows.training.fluctuation
import pt_flows.training.optim  # noqa: F401  only imported classes have short names
from pt_flows.callbacks import (  # noqa: F401
    AtomicCheckpointIO,
    ChainPicture,
    Checkpoints,
    Evaluate,
    Failure,
    FlowPicture,
    Performance,
    PersistentRounds,
    Pictures,
    PowerAverages,
    Progress,
    Rates,
)
from pt_flows.callbacks.performance import Mode
from pt_flows.cli.checks import check_training, check_values
from pt_flows.cli.continuing import place_to_measure, place_to_train
from pt_flows.cli.departures import changed_key, departures
from pt_flows.cli.endings import ending
from pt_flows.cli.keys import Keys
from pt_flows.cli.parser import Explaining
from pt_flows.data.base import FlowData
from pt_flows.errors import UserError
from pt_flows.evaluation.engine import listed
from pt_flows.loop.describing import hyperparameters
from pt_flows.loop.method import Method
from pt_flows.runs.checkpoint import find_checkpoint
from pt_flows.runs.described import MEASURED
from pt_flows.runs.elastic import stale_addresses
from pt_flows.runs.folder import experiment_of, read_config, recorded_config, run_folder_of, say
from pt_flows.runs.lock import RunLock
from pt_flows.runs.loggers import loggers
from pt_flows.runs.metrics_csv import MetricsCSV
from pt_flows.runs.options import RunOptions
from pt_flows.runs.part import upload_command
from pt_flows.runs.start import RunStart
from pt_flows.runs.threads import share_cores
from pt_flows.training.distributed import roll_call
from pt_flows.training.rates import RateControl


class Parser(Explaining, LightningArgumentParser):
    """Lightning's parser with one sentence per error."""


class FlowCLI(LightningCLI):
    """LightningCLI with run folders, evaluation, pictures and checkpoints as sections of the configuration."""

    branches: ClassVar[bool] = False
    """Whether every checkpoint starts a new run."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        with ExitStack() as until_the_end:
            self.lock, self.keys, self.untuned = RunLock(), Keys(), ""
            self.command, *self.words = kwargs["args"]
            until_the_end.callback(self.lock.release)
            super().__init__(*args, **kwargs)

    def init_parser(self, **kwargs: Any) -> LightningArgumentParser:
        """Make a parser; those of all subcommands collect one set of keys."""
        return super().init_parser(keys=self.keys, **kwargs)

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add sections after trainer, model and data. Callbacks act in this order."""
        parser.add_lightning_class_args(Evaluate, "evaluation")
        parser.add_lightning_class_args(Pictures, "pictures")
        parser.add_lightning_class_args(Checkpoints, "checkpoints")
        parser.add_subclass_arguments(RateControl, "rates", required=False, help="control of learning rates")
        parser.add_class_arguments(RunOptions, "run")
        help_of_perf = "fast, reference (every shortcut off), compile, or auto, which tries (docs/scale.md)"
        parser.add_argument("--perf", type=Literal["auto", *get_args(Mode)], default="fast", help=help_of_perf)

    def subcommands(self) -> dict[str, set[str]]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Return the command of the Trainer that was given, because each parser takes a third of a second."""
        return {self.command: LightningCLI.subcommands()[self.command]}

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse, then check the values that Lightning or torch would reject later."""
        for key in vars(self._parser(self.command).get_defaults()):
            self.keys.hints.setdefault(key, None)
        super().parse_arguments(parser, args)
        config = self.config[self.config["subcommand"]]
        check_values(config)
        if config.run.tuned and (key := changed_key(self.words)):
            tuning, config.run.tuned = config.run.tuned, None
            self.untuned = f"note: the recipe was tuned ({tuning}) without {key}, so the run does not count as tuned"

    def _parse_ckpt_path(self) -> None:
        """Keep the configuration. Lightning would replace it by the hyperparameters of the checkpoint."""

    def before_instantiate_classes(self) -> None:
        """Find the checkpoint and the run folder before building anything expensive."""
        config = self.settled()
        if config.perf == "auto":
            config.perf = self.perf_chosen(config)
            config = self.settled()
        if self.subcommand == "fit":
            check_training(config.trainer)
            self.place = place_to_train(config, self.experiment, self.settings, self.lock, self.branches)
            if is_one_process(config.trainer) and not torch.cuda.is_available():
                share_cores(self.place.folder)
        elif config.ckpt_path:
            self.place = place_to_measure(config, self.experiment, self.settings)
        else:
            raise UserError("--ckpt_path: expected a checkpoint, got none. Give a file, a run folder, last or best")
        config["ckpt_path"] = str(self.place.checkpoint) if self.place.checkpoint else None

    def perf_chosen(self, config: Any) -> Mode:
        """Return the mode that `auto` means here: that of the run that continues, or the one that trains faster."""
        if self.subcommand != "fit" or config.trainer.fast_dev_run:
            return "fast"
        if config.ckpt_path:
            wanted = find_checkpoint(str(config.ckpt_path), Path(config.run.root), self.experiment, self.settings)
            if (folder := run_folder_of(wanted)) and (mode := recorded_perf(folder)):
                return mode
        if not is_one_process(config.trainer):
            say("perf auto: fast, because trials have one process alone")
            return "fast"
        from pt_flows.studies.speed import automatic

        compiling, reason = automatic(self.words, self.settings)
        say(reason)
        return "compile" if compiling else "fast"

    def settled(self) -> Any:
        """Return the configuration of the command, after naming its experiment and writing it as text."""
        config = self.config[str(self.subcommand)]
        self.experiment = experiment_of(config.data.class_path, config.model.class_path)
        if config.perf == "reference" and str(config.trainer.precision) in ("bf16-mixed", "bf16"):
            say(f"note: --perf reference computes in float32 instead of {config.trainer.precision}")
            config.trainer.precision = "32-true"
        self.dumped = self._parser(self.subcommand).dump(config, skip_none=False, skip_validation=True)
        self.settings: dict[str, Any] = yaml.safe_load(self.dumped)
        self.config_dump = self.settings  # or Lightning would write it once more
        return config

    def instantiate_classes(self) -> None:
        """Build everything. Checkpoints describe the method by its complete section of the configuration."""
        super().instantiate_classes()
        section = self.settings["model"]
        self.model.save_hyperparameters(hyperparameters(section["class_path"], section.get("init_args", {})))

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Add the parts of every run: loggers, atomic checkpoints and a progress bar in iterations."""
        config = self.config_init[str(self.subcommand)]
        own: dict[str, Any] = {"default_root_dir": str(self.place.folder)}
        config.trainer.callbacks = listed(config.trainer.callbacks)
        if self.subcommand == "fit":
            own["limit_val_batches"] = 0
            later: list[Any] = []
            if config.trainer.logger is not False:
                own["logger"], *later = self.run_loggers(config)
            place, seed = self.place, config.seed_everything
            sampler = str(config.evaluation.sampler or "")
            start = RunStart(place.folder, self.lock, self.dumped, seed, place.parent, sampler, place.damaged, later)
            config.trainer.callbacks.insert(0, start)
            own["plugins"] = [*listed(config.trainer.plugins), AtomicCheckpointIO()]
            config.trainer.callbacks += [Performance(config.perf), Failure()]
            config.trainer.callbacks += [Rates(config.rates)] if config.rates is not None else []
        else:
            own["logger"] = False
        bars = any(isinstance(callback, ProgressBar) for callback in config.trainer.callbacks)
        if config.trainer.enable_progress_bar is not False and not bars:
            config.trainer.callbacks.append(Progress())
        return super().instantiate_trainer(**own, **kwargs)

    def run_loggers(self, config: Any) -> list[Any]:
        """Return the CSV logger of the run, then the loggers of the configuration or, by default, W&B."""
        given = config.trainer.logger
        if given in (None, True):
            place, seed = self.place, config.seed_everything
            return loggers(place.folder, config.run, self.experiment, place.iteration, seed)
        return [MetricsCSV(self.place.folder, self.place.iteration), *listed(given)]

    def before_fit(self) -> None:
        """Print one line about the run, and one about departures from its recipe, if there are any."""
        if self.is_trial and self.place.iteration:
            raise UserError("trainer.fast_dev_run: expected a run from the start, got a checkpoint. Omit --ckpt_path")
        strategy = self.trainer.strategy
        if isinstance(strategy, DDPStrategy) and isinstance(where := strategy.cluster_environment, SLURMEnvironment):
            place = where.main_address, where.main_port
            self.store = roll_call(*place, where.global_rank(), where.world_size(), strategy._timeout)
        model, trainer, trained = self.model, self.trainer, self.place.iteration
        sizes = [f"{name} {sum(p.numel() for p in net.parameters()):,}" for name, net in model.networks.items()]
        begin = f"from iteration {trained} " if trained else ""
        say(
            f"{type(model).__name__} on {type(self.datamodule).__name__}, {begin}to iteration {trainer.max_steps}, "
            f"seed {self.config.fit.seed_everything}, {trainer.num_devices} x {strategy.root_device.type}; "
            f"parameters: {', '.join(sizes)}"
        )
        files = self.config.fit.config
        if files and (note := departures(Path(str(files[0])), trainer, self.datamodule)):
            say(note)
        if self.untuned:
            say(self.untuned)
        if note := stale_addresses():
            say(note)
        if trained >= trainer.max_steps:
            say(f"nothing to do: the checkpoint is at iteration {trained}. To continue, raise trainer.max_steps")

    def after_fit(self) -> None:
        """Print the last numbers and the run folder. If a signal stopped the run, exit with its code."""
        checkpoints = next(c for c in self.trainer.callbacks if isinstance(c, Checkpoints))  # pyright: ignore[reportAttributeAccessIssue]
        module: Method = self.model
        folder = self.place.folder
        if checkpoints.stopped_by is not None:
            name = signal.Signals(checkpoints.stopped_by).name
            say(
                f"stopped by {name} after {module.iteration} of {self.trainer.max_steps} iterations and saved. "
                f"To continue, run the same command with --ckpt_path {folder}"
            )
            raise SystemExit(128 + checkpoints.stopped_by)
        if self.is_trial:
            self.remove_trial()
            return
        for key, value in self.trainer.callback_metrics.items():
            if key.startswith(MEASURED):
                say(f"  {key:<40} {float(value):.5g}")
        say(ending(self.trainer, module.iteration, folder))
        in_wandb = any(isinstance(logger, WandbLogger) for logger in self.trainer.loggers)
        if in_wandb and (sync := upload_command(folder)):
            latest = max(map(str, folder.glob("wandb/offline-run-*")))
            say(f"W&B recorded offline. To upload it: {sync}")
            say(f"To look at it here: {shlex.join(['wandb', 'leet', latest])}")

    @property
    def is_trial(self) -> bool:
        """Whether this is a `fast_dev_run`."""
        return bool(getattr(self.trainer, "fast_dev_run", False))

    @rank_zero_only
    def remove_trial(self) -> None:
        """Remove the folder of a `fast_dev_run`, which `last` or `compare` could mistake for a run."""
        shutil.rmtree(self.place.folder)
        say(f"fast_dev_run: {self.model.iteration} iterations, an evaluation and a picture work. Nothing is kept")


class ForkCLI(FlowCLI):
    """The command `fit` with the configuration of a checkpoint's run, in a new run folder."""

    branches = True


def is_one_process(trainer: Any) -> bool:
    """Whether a section `trainer` asks for one process, and no launcher has started several."""
    one = trainer.devices in (1, "1") or (trainer.devices == "auto" and torch.cuda.device_count() < 2)
    return one and trainer.num_nodes == 1 and "WORLD_SIZE" not in os.environ


def recorded_perf(folder: Path) -> Mode | None:
    """Return the mode that a run was last trained in; None if its configuration cannot be read."""
    try:
        mode = read_config(folder).get("perf")
    except UserError:
        return None
    return mode if mode in get_args(Mode) else None


def train(command: str, words: Sequence[str]) -> None:
    """Run a command of the Trainer.

    Args:
        command: fit, validate, test or fork.
        words: The command line after it.
    """
    if command == "fork":
        start(ForkCLI, ["fit", *fork(words)])
    else:
        start(FlowCLI, [command, *words])


FORK_HELP = """usage: pt-flows fork CKPT | RUN [--KEY VALUE ...]

Start a new run from the weights and the optimizers of another one. Its configuration is the other run's, and these
are the changes that fit takes:
"""


def fork(words: Sequence[str]) -> list[str]:
    """Return the arguments of `fit` that start a new run from a checkpoint.

    Args:
        words: A checkpoint or a run folder, then arguments of `fit`.

    Raises:
        UserError: There is no checkpoint, or it does not lie in a run folder.
    """
    if {"-h", "--help"} & set(words[:1]):
        print(FORK_HELP)
        return ["--help"]
    if not words or words[0].startswith("-"):
        raise UserError("fork: expected CKPT first, got none. Give a .ckpt file, a run folder, last or best")
    checkpoint = find_checkpoint(words[0])
    folder = run_folder_of(checkpoint)
    config = recorded_config(folder) if folder else None
    if config is None:
        command = f"pt-flows fit --config FILE --ckpt_path {checkpoint}"
        raise UserError(f"{checkpoint}: expected a checkpoint in a run folder, got one elsewhere. Use {command}")
    return ["--config", str(config), "--ckpt_path", str(checkpoint), *words[1:]]


def start(cli: type[FlowCLI], argv: Sequence[str]) -> None:
    """Run Lightning's command line."""
    cli(
        Method, FlowData,
        subclass_mode_model=True, subclass_mode_data=True,
        auto_configure_optimizers=False, parser_class=Parser, save_config_callback=None,
        seed_everything_default=0,
        trainer_defaults={"max_epochs": -1, "num_sanity_val_steps": 0, "enable_checkpointing": False,
                          "enable_model_summary": False},
        args=list(argv),
    )  # fmt: skip
