"""Runs that are killed at the worst moments without notice, and continue as if nothing had happened."""

import csv
import io
import os
import random
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest
import torch
from problems import ROOT
from test_cli import assert_same, environment, run_folder

from pt_flows.callbacks import checkpoints
from pt_flows.cli.main import main
from pt_flows.evaluation import engine
from pt_flows.loop.journal import Journal
from pt_flows.loop.method import Method
from pt_flows.runs.checkpoint import read_checkpoint
from pt_flows.runs.elastic import interrupted_run, stale_addresses

SMALL: dict[str, list[str]] = {
    "w2_fe": ["--model.generator.network.width", "16", "--model.critic.network.width", "16",
              "--model.excess.width", "16"],
    "ode_gan": ["--model.generator.width", "16", "--model.critic.width", "16"],
    "da_ebm": ["--model.energy.network.width", "16", "--model.buffer_size", "200", "--model.num_langevin_steps", "4",
               "--model.num_visits", "2"],
}  # fmt: skip
"""One recipe of each family: optimizers that take turns, its own integrator, and chains with a buffer."""

STEPS = 70


def words(recipe: str, ranks: int, root: str, *more: str) -> list[str]:
    arguments = ["fit", "--config", str(ROOT / f"configs/toy2d/{recipe}.yaml"), *SMALL[recipe], "--run.root", root]
    arguments += ["--trainer.max_steps", str(STEPS), "--trainer.accelerator", "cpu", "--data.batch_size", "32"]
    arguments += ["--data.iterations_per_block", "5", "--trainer.log_every_n_steps", "5"]
    arguments += ["--evaluation.num_samples", "64", "--evaluation.every_n_iterations", "20"]
    arguments += ["--checkpoints.every_n_iterations", "10", "--pictures.every_n_iterations", "0"]
    arguments += ["--trainer.enable_progress_bar", "false", "--trainer.devices", str(ranks)]
    return [*arguments, *(["--trainer.strategy", "ddp_fork"] if ranks > 1 else []), *more]


def child(arguments: list[str], arm: Callable[[], None] | None, folder: str) -> None:
    """Body of the process that `in_a_process` starts."""
    os.chdir(folder)
    log = os.open(f"log-{os.getpid()}.txt", os.O_WRONLY | os.O_CREAT)
    os.dup2(log, 1), os.dup2(log, 2)
    sys.stdout = sys.stderr = os.fdopen(log, "w", buffering=1)
    torch.set_num_threads(1)
    code = 1
    try:
        if arm is not None:
            arm()
        code = main(arguments)
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def in_a_process(arguments: list[str], arm: Callable[[], None] | None = None) -> int:
    """Run the command line in its own process, set to kill itself or not; return its exit code, or minus the signal.

    It is forked from a server that has imported everything and done nothing, and may fork in its turn.
    """
    server = get_context("forkserver")
    server.set_forkserver_preload(["pt_flows.cli.fit"])
    process = server.Process(target=child, args=(arguments, arm, os.getcwd()))
    process.start()
    process.join(120)
    hangs = process.is_alive()
    process.kill()
    assert not hangs, "the run hangs"
    assert process.exitcode is not None
    return process.exitcode


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def on_rank(method: Method, rank: int, iteration: int, when: int) -> bool:
    return method.trainer.global_rank == rank and iteration >= when


def inside_a_block(when: int, rank: int) -> None:
    """Die between two iterations of one Lightning step, where nothing is saved."""
    add = Journal.add

    def deadly(self: Journal, method: Any, terms: Any) -> None:
        add(self, method, terms)
        if on_rank(method, rank, method.iteration, when):
            die()

    Journal.add = deadly


def within_a_checkpoint(when: int, rank: int) -> None:
    """Die when half of a file is on disk."""
    save = checkpoints.AtomicCheckpointIO.save_checkpoint

    class Half(io.BytesIO):
        def getbuffer(self) -> memoryview:
            return super().getbuffer()[: len(super().getbuffer()) // 2]

    def deadly(self: Any, checkpoint: Any, path: Any, storage_options: Any = None) -> None:
        if checkpoint["pt_flows"]["iteration"] >= when:
            checkpoints.io.BytesIO = Half  # type: ignore[misc]
            checkpoints.os.fsync = lambda file: die()
        save(self, checkpoint, path, storage_options)

    checkpoints.AtomicCheckpointIO.save_checkpoint = deadly


def within_an_evaluation(when: int, rank: int) -> None:
    """Die when samples are drawn and numbers are due."""
    measured = engine.measured

    def deadly(metrics: Any, batches: Any, method: Any, weights: Any) -> Any:
        if on_rank(method, rank, method.iteration, when):
            next(iter(batches), None)  # a rank may have none of so few samples
            die()
        return measured(metrics, batches, method, weights)

    engine.measured = deadly


def rows(folder: Path) -> list[dict[str, str]]:
    """Rows of the log without the columns of the clock."""
    with (folder / "metrics.csv").open() as file:
        return [{k: v for k, v in row.items() if "second" not in k} for row in csv.DictReader(file)]


@pytest.mark.parametrize(
    ("recipe", "ranks"),
    [
        pytest.param(recipe, ranks, marks=pytest.mark.slow if recipe == "w2_fe" else pytest.mark.long)
        for recipe in SMALL
        for ranks in (1, 2)
    ],
)
def test_killed_three_times_a_run_ends_with_the_same_weights(recipe: str, ranks: int) -> None:
    """Weights, optimizers and log, bit for bit: killed in a block, in the write of a checkpoint, in an evaluation."""
    chance = random.Random(f"{recipe} {ranks}")
    assert in_a_process(words(recipe, ranks, "whole")) == 0
    last, folder = [], []
    places = [(inside_a_block, 11, 19), (within_a_checkpoint, 21, 39), (within_an_evaluation, 41, 59)]
    for place, first, latest in places:
        when, rank = chance.randint(first, latest), chance.randrange(ranks)
        code = in_a_process(words(recipe, ranks, "killed", *last), partial(place, when, rank))
        assert code != 0, f"{place.__name__} did not happen"
        folder = run_folder("killed")
        at = read_checkpoint(folder / "checkpoints/last.ckpt")["pt_flows"]["iteration"]
        assert 0 < at <= when + 5, (place.__name__, when)
        last = ["--ckpt_path", "last"]
    assert in_a_process(words(recipe, ranks, "killed", *last)) == 0
    whole, folder = run_folder("whole"), run_folder("killed")
    assert_same(folder / "checkpoints/last.ckpt", whole / "checkpoints/last.ckpt")
    assert_same(folder / "checkpoints/best.ckpt", whole / "checkpoints/best.ckpt")
    assert rows(folder) == rows(whole)
    assert not list(folder.rglob("*.partial"))


RESTARTED = """
import os, sys
from test_kills import inside_a_block
from pt_flows.cli.main import main
if os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
    inside_a_block(33, 1)
sys.exit(main())
"""
"""The command line, whose second process kills itself in the middle when torchrun starts it for the first time."""


@pytest.mark.long
def test_torchrun_restarts_a_killed_group_from_its_last_checkpoint() -> None:
    """In the same run folder, to the weights, optimizers and log of an uninterrupted run."""
    Path("restarted.py").write_text(RESTARTED)
    paths = os.pathsep.join([str(ROOT / "tests"), str(ROOT)])
    variables = environment(PYTHONPATH=paths, TORCH_DISABLE_SHARE_RDZV_TCP_STORE="1")
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]

    def torchrun(root: str, *program: str) -> str:
        command = [*launch, *program, *words("w2_fe", 2, root), "--trainer.strategy", "ddp"]
        with subprocess.Popen(
            command, env=variables, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        ) as process:
            try:
                said, _ = process.communicate(timeout=600)
            except subprocess.TimeoutExpired:
                process.terminate()  # torchrun ends its workers
                raise
        assert process.returncode == 0, said
        return said

    torchrun("whole", "-m", "--", "pt_flows")
    assert "iteration 30" in torchrun("killed", "--max-restarts", "1", "restarted.py")
    whole, folder = run_folder("whole"), run_folder("killed")
    assert_same(folder / "checkpoints/last.ckpt", whole / "checkpoints/last.ckpt")
    assert rows(folder) == rows(whole)


def test_a_restart_continues_the_newest_run_of_its_own_job(monkeypatch: pytest.MonkeyPatch) -> None:
    experiment = Path("runs/toy2d-w1fe")
    for name, job in (("20261126-1-a", "mine"), ("20261126-2-b", "mine"), ("20261126-3-c", "other")):
        (experiment / name / "checkpoints").mkdir(parents=True)
        (experiment / name / "checkpoints/last.ckpt").touch()
        (experiment / name / "environment.json").write_text(f'{{"launch": "{job}"}}')
    (experiment / "20261126-4-d").mkdir()
    (experiment / "20261126-4-d" / "environment.json").write_text("damaged")
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "mine")
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "0")
    assert interrupted_run(experiment) is None
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    assert interrupted_run(experiment) == experiment / "20261126-2-b"
    (experiment / "20261126-2-b/checkpoints/last.ckpt").unlink()
    assert interrupted_run(experiment) is None
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    assert interrupted_run(experiment) is None


def test_torchrun_with_restarts_is_asked_for_a_store_of_each_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise the new processes can read addresses of the killed ones (seen with torch 2.15)."""
    monkeypatch.setenv("TORCHELASTIC_USE_AGENT_STORE", "True")
    monkeypatch.setenv("TORCHELASTIC_MAX_RESTARTS", "0")
    assert stale_addresses() is None
    monkeypatch.setenv("TORCHELASTIC_MAX_RESTARTS", "1")
    assert "TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1" in (stale_addresses() or "")
    monkeypatch.setenv("TORCHELASTIC_USE_AGENT_STORE", "False")
    assert stale_addresses() is None
