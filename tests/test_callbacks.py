"""Evaluation over several processes, schedules in blocks."""

import json
import signal
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch import callbacks as lightning_callbacks
from problems import build, data, fit, weights
from torch.backends import cuda, cudnn

from pt_flows.callbacks import ChainPicture, Checkpoints, Evaluate, FlowPicture, Pictures
from pt_flows.callbacks.schedule import EveryIterations
from pt_flows.errors import UserError
from pt_flows.evaluation.engine import measured, name_lacking, prepare_metrics
from pt_flows.metrics import ExactWasserstein, ModeCoverage
from pt_flows.runs.checkpoint import read_checkpoint
from pt_flows.runs.loggers import loggers
from pt_flows.runs.options import RunOptions
from pt_flows.runs.signals import ENDING
from pt_flows.samplers import REPGAN
from pt_flows.training.schedules import Schedule


class Keep(L.Callback):
    """Write the first process's numbers to a file, which outlives a forked process."""

    def __init__(self, evaluate: Evaluate, path: Path) -> None:
        self.evaluate, self.path = evaluate, path

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.is_global_zero:
            self.path.write_text(json.dumps(self.evaluate.latest))


@pytest.mark.parametrize("num_samples", [300, 700])
def test_two_processes_measure_the_same_number(num_samples: int, tmp_path: Path) -> None:
    """300 samples are one chunk, so the second process has none."""
    found = []
    for name, ranks in (("one", {}), ("two", {"strategy": "ddp_fork", "devices": 2})):
        evaluate = Evaluate([ExactWasserstein(), ModeCoverage()], num_samples, every_n_iterations=0)
        path = tmp_path / f"{name}{num_samples}.json"
        fit(
            build("W1FE"), data(), max_steps=2, callbacks=[evaluate, Keep(evaluate, path)], precision="64-true", **ranks
        )
        found.append(json.loads(path.read_text()))
    assert found[0].keys() == found[1].keys()
    for key, value in found[0].items():
        assert found[1][key] == pytest.approx(value, rel=1e-6), key


def test_samples_are_measured_in_full_precision() -> None:
    """The generator and the metrics see neither TensorFloat-32 nor autocast, however a run trains."""
    module, seen = build("W1FE"), []
    settings = lambda: (cudnn.allow_tf32, cuda.matmul.allow_tf32, torch.is_autocast_enabled("cpu"))

    def batches() -> Iterator[torch.Tensor]:
        seen.append(settings())
        yield torch.randn(16, 2)

    metric = ModeCoverage()
    metric.prepare(data(), 16)
    cuda.matmul.allow_tf32 = True
    try:
        with torch.autocast("cpu", torch.bfloat16):
            measured([metric], batches(), module, "ema")
            assert settings() == (True, True, True)
    finally:
        cuda.matmul.allow_tf32 = False
    assert seen == [(False, False, False)]


def test_a_metric_without_numbers_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    metrics = [ExactWasserstein(), ModeCoverage()]
    for law, named in (("swissroll", True), ("ring8", False)):
        prepare_metrics(metrics, data(target=law), 16, torch.device("cpu"))
        name_lacking([*metrics, *metrics])
        assert capsys.readouterr().out.count("ModeCoverage has no numbers, as the data have no modes") == named


def test_schedules_act_once_where_a_block_passes_a_multiple() -> None:
    class Acts(EveryIterations):
        at: list[int] = []  # noqa: RUF012

        def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, *args: Any) -> None:
            if self.due(trainer, pl_module):
                self.at.append(pl_module.iteration)

    acts = Acts(7)
    fit(build("WGANGP"), data(iterations_per_block=5), max_steps=23, callbacks=[acts])
    assert acts.at == [10, 15, 23]  # 7, 14 and 21 lie in these blocks; 23 is the end
    with pytest.raises(UserError, match="every_n_iterations: expected at least 0, got -1"):
        EveryIterations(-1)


def test_every_picture_reaches_wandb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The picture of a flow that stops early arrives, too."""
    import wandb

    class Stop(L.Callback):
        def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, *args: Any) -> None:
            trainer.should_stop = pl_module.iteration >= 3

    for name in ("WANDB_DIR", "WANDB_DATA_DIR"):
        monkeypatch.setenv(name, str(tmp_path))
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("WANDB_MODE", "offline")
    wandb.teardown()  # another test may have made it read the environment
    options = RunOptions(wandb="offline")
    for name, steps, callbacks in (
        ("W1FE", 9, [FlowPicture(0, 8, animate=True), Stop()]), ("PCD", 2, [ChainPicture(1), Pictures(0)])
    ):  # fmt: skip
        folder = tmp_path / name
        folder.mkdir()
        settings = {"default_root_dir": str(folder), "logger": loggers(folder, options, name, 0)}
        fit(build(name), data(iterations_per_block=1), max_steps=steps, callbacks=callbacks, min_steps=1, **settings)
        wandb.finish()
    wandb.teardown()  # the next test shall read it again
    found = sorted(file.name.rsplit("_", 2)[0] for file in tmp_path.glob("*/wandb/offline-run-*/files/media/*/*"))
    assert found == ["chains", "chains", "flow", "flow_animation", "samples"]


def test_pictures_by_a_sampler_that_does_not_fit_fail_before_the_run_begins() -> None:
    method = build("PCD")
    with pytest.raises(UserError, match=r"expected a method with a generator and a critic for REPGAN, got PCD"):
        fit(method, data(), max_steps=2, callbacks=[Pictures(0, sampler=REPGAN())])
    assert method.iteration == 0


@pytest.mark.parametrize("picture", [ChainPicture, FlowPicture])
def test_a_picture_of_another_kind_of_method_fails_before_the_run_begins(picture: type[L.Callback]) -> None:
    class Begins(L.Callback):
        def on_train_start(self, trainer: L.Trainer, pl_module: Any) -> None:
            pytest.fail("the run began")

    with pytest.raises(UserError, match=rf"^{picture.__name__}: expected .*, got WGANGP\. Remove the callback$"):
        fit(build("WGANGP", images=True), data(images=True), 2, callbacks=[Begins(), picture()])


class StopsAt(L.Callback):
    """Ask for the end after some iterations, as EarlyStopping and max_time do."""

    def __init__(self, iteration: int) -> None:
        self.iteration = iteration

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, *args: Any) -> None:
        trainer.should_stop = pl_module.iteration >= self.iteration


def test_a_run_that_ends_early_is_measured_and_saved_and_continues_bit_for_bit(tmp_path: Path) -> None:
    """The last callback asks for the end, so the order of callbacks does not matter; both tiers are measured once."""

    def run(steps: int, folder: Path, ckpt: Path | None, *more: L.Callback) -> tuple[Any, Evaluate]:
        module = build("W1FE", lr_schedule=Schedule())
        evaluate = Evaluate([ExactWasserstein()], 64, 20, full_metrics=[ModeCoverage()], full_num_samples=64)
        callbacks = [evaluate, Checkpoints(20), *more]
        fit(module, data(iterations_per_block=5), steps, ckpt, callbacks=callbacks, default_root_dir=folder)
        return module, evaluate

    early, last = tmp_path / "early", tmp_path / "early/checkpoints/last.ckpt"
    for end in (20, 35):  # once when the curve is due, and once when nothing is
        _, evaluate = run(1000, early, last if last.is_file() else None, StopsAt(end))
        assert evaluate.latest_iteration == end
        assert {"eval/w2_64", "eval/modes"} <= evaluate.latest.keys()
        assert read_checkpoint(last)["pt_flows"]["iteration"] == end
    resumed, _ = run(50, early, last)
    whole, _ = run(50, tmp_path / "whole", None)
    assert torch.equal(weights(resumed), weights(whole))


def test_early_stopping_and_model_checkpoint_act_once_per_evaluation(tmp_path: Path) -> None:
    stopping = lightning_callbacks.EarlyStopping("eval/modes", mode="max", patience=2, min_delta=100)
    saving = lightning_callbacks.ModelCheckpoint(tmp_path, "{step}", monitor="eval/w2_64", save_top_k=-1)
    evaluate = Evaluate([ExactWasserstein(), ModeCoverage()], 64, every_n_iterations=10)
    module = build("W1FE", lr_schedule=Schedule())
    fit(module, data(), 1000, callbacks=[stopping, saving, evaluate], enable_checkpointing=True)
    assert module.iteration == 30  # the first value is the best, then two that are no better
    assert stopping.wait_count == 2
    assert {path.stem for path in tmp_path.glob("*.ckpt")} == {"step=10", "step=20", "step=30"}
    wrong = lightning_callbacks.EarlyStopping("eval/fid")
    with pytest.raises(UserError, match=r"EarlyStopping.monitor: expected one of .*eval/w2_64.*, got 'eval/fid'"):
        fit(build("W1FE"), data(), 10, callbacks=[wrong, evaluate])


NEVER: list[tuple[dict[str, Any], str]] = [
    ({"max_epochs": 1}, "trainer.max_epochs: expected -1, as data are endless, got 1"),
    ({"min_epochs": 1}, "trainer.min_epochs: expected none, as data are endless, got 1"),
    ({"overfit_batches": 1}, "trainer.overfit_batches: expected 0, got 1"),
    ({"limit_train_batches": 0}, "It trains nothing"),
    ({"callbacks": [lightning_callbacks.EarlyStopping("eval/w2")]}, "EarlyStopping: expected evaluations"),
    ({"callbacks": [lightning_callbacks.StochasticWeightAveraging(0.1)]}, "Set ema_decay of the players"),
    ({"callbacks": [lightning_callbacks.Timer("00:00:01:00", interval="epoch")]}, "Timer.interval: expected step"),
    (
        {"callbacks": [lightning_callbacks.ModelCheckpoint(every_n_epochs=2)], "enable_checkpointing": True},
        "Set every_n_train_steps",
    ),
]


@pytest.mark.parametrize(("settings", "message"), NEVER, ids=[message for _, message in NEVER])
def test_settings_that_count_epochs_of_endless_data_are_refused(settings: dict[str, Any], message: str) -> None:
    drawn = data()
    drawn.draw = lambda *args: pytest.fail("drew data first")  # type: ignore[method-assign]
    with pytest.raises(UserError, match=message):
        fit(build("WGANGP", lr_schedule=Schedule()), drawn, **{"max_steps": -1, **settings})


@pytest.mark.parametrize(
    ("settings", "iterations"),
    [
        ({"max_epochs": 2, "limit_train_batches": 3}, 12),
        ({"max_epochs": -1, "callbacks": [StopsAt(9)]}, 10),
        ({"max_epochs": -1, "callbacks": [StopsAt(1)], "min_steps": 7}, 8),
        ({"fast_dev_run": True}, 1),
    ],
)
def test_runs_without_a_number_of_iterations_end(settings: dict[str, Any], iterations: int) -> None:
    """Lightning receives blocks of two iterations one by one, however far away the end is."""
    module = build("WGANGP", lr_schedule=Schedule())
    fit(module, data(iterations_per_block=2), **{"max_steps": -1, **settings})
    assert module.iteration == iterations


def test_a_schedule_that_waits_for_a_metric_is_refused() -> None:
    module = build("WGANGP", lr_schedule=Schedule())
    configure = module.configure_optimizers

    def with_schedule() -> Any:
        optimizers = configure()
        plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizers[0])
        return optimizers, [{"scheduler": plateau, "monitor": "eval/w2"}]

    module.configure_optimizers = with_schedule
    with pytest.raises(UserError, match=r"got a ReduceLROnPlateau\. Use lr_schedule"):
        fit(module, data(), 2)


class Signalled(L.Callback):
    """Send signals in the middle of a block."""

    def __init__(self, *numbers: signal.Signals) -> None:
        self.numbers = numbers

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: Any, *args: Any) -> None:
        for number in self.numbers:
            signal.raise_signal(number)


def test_one_signal_saves_a_second_says_so_a_third_stops_at_once(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    before = {number: signal.getsignal(number) for number in ENDING}
    for numbers, saved in (([signal.SIGHUP], True), ([signal.SIGINT] * 2, True), ([signal.SIGINT] * 3, False)):
        module, folder = build("W1FE", lr_schedule=Schedule()), tmp_path / str(len(numbers))
        callbacks = [Checkpoints(), Signalled(*numbers)]
        run = partial(fit, module, data(iterations_per_block=5), 100, callbacks=callbacks, default_root_dir=folder)
        if saved:
            run(min_steps=50)  # a signal does not wait for it
        else:
            with pytest.raises(SystemExit) as error:
                run()
            assert error.value.__context__ is not None
            assert error.value.__context__.__notes__ == ["no finished iteration is lost; no checkpoint was written"]
        assert module.iteration == (5 if saved else 0)
        assert (folder / "checkpoints/last.ckpt").is_file() == saved
        assert ("again: still finishing and saving" in capfd.readouterr().err) == (len(numbers) > 1)
        assert {number: signal.getsignal(number) for number in ENDING} == before


def test_a_signal_that_a_process_ignores_stays_ignored(tmp_path: Path) -> None:
    """nohup starts processes like this."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        callbacks = [Checkpoints(), Signalled(signal.SIGHUP)]
        module = build("W1FE", lr_schedule=Schedule())
        fit(module, data(), 3, callbacks=callbacks, default_root_dir=tmp_path)
    finally:
        signal.signal(signal.SIGHUP, before)
    assert module.iteration == 3
