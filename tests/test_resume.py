"""Runs that are continued: the choice of the run, changed settings, damaged files, and other processes."""

import csv
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from problems import slow_but_for
from test_cli import TOY, fit, run_folder
from torch import nn

from pt_flows.cli.main import main
from pt_flows.errors import UserError
from pt_flows.runs.checkpoint import read_checkpoint
from pt_flows.runs.lock import RunLock
from pt_flows.runs.metrics_csv import MetricsCSV, readable_rows
from pt_flows.runs.settings import differences
from pt_flows.training.optimizers import fits
from pt_flows.training.replay import ReplayBuffer

OFF = ["--evaluation.metrics", "[]", "--pictures.every_n_iterations", "0"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run of 20 iterations and a checkpoint at 10."""
    place, before = tmp_path_factory.mktemp("trained"), Path.cwd()
    os.chdir(place)
    try:
        assert fit("--checkpoints.every_n_iterations", "10", steps=20) == 0
    finally:
        os.chdir(before)
    return place


@pytest.fixture
def run(trained: Path) -> Path:
    """A copy of that run here."""
    shutil.copytree(trained / "runs", "runs")
    return run_folder()


def files(folder: Path) -> dict[Path, int]:
    """The time at which each file was written, except those of the lock."""
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file() and path.name[0] != "."}


def iteration(checkpoint: Path) -> int:
    return read_checkpoint(checkpoint)["pt_flows"]["iteration"]


# ------------------------------------------------------------------------------------------------- which run is meant


@pytest.mark.slow
def test_last_means_a_run_of_the_same_experiment(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`last` never continues a run of other data, methods or seeds; one that is named is continued with a note."""
    for change, difference in (
        (["--data.target", "grid25"], "data.target ('ring8' there, 'grid25' here)"),
        (["--model.step_size", "0.7"], "model.step_size (0.1 there, 0.7 here)"),
        (["--model.critic.optimizer", "RMSprop"], "model.critic.optimizer ('torch.optim.Adam' there, 'torch.optim.RM"),
        (["--seed_everything", "3"], "seed_everything (0 there, 3 here)"),
    ):
        assert fit("--ckpt_path", "last", *change, steps=30) == 2
        error = capsys.readouterr().err
        assert difference in error
        assert "Name a run folder" in error
    other = Path("runs/toy2d-w1fe/20990101-000000-ffffffff")
    shutil.copytree(run, other)
    config = yaml.safe_load((other / "config.yaml").read_text())
    config["data"]["init_args"]["target"] = "grid25"
    (other / "config.yaml").write_text(yaml.safe_dump(config))
    os.utime(other / "checkpoints/last.ckpt", (4e9, 4e9))
    assert fit("--ckpt_path", "last", *OFF, steps=21) == 0
    assert f"run folder: {run.absolute()}" in capsys.readouterr().out
    assert fit("--ckpt_path", str(other), "--data.batch_size", "16", *OFF, steps=21) == 0
    out = capsys.readouterr().out
    for key, there, here in (
        ("data.target", "'grid25'", "'ring8'"),
        ("data.batch_size", 32, 16),
        ("trainer.max_steps", 20, 21),
    ):
        assert f"note: {key} is {there} in the checkpoint's run and {here} here" in out
    assert fit("--ckpt_path", str(other), "--data.batch_size", "16", *OFF, steps=22) == 0
    assert "note: data." not in capsys.readouterr().out  # compared with its last settings


def test_validate_says_which_checkpoint(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    quick = [
        "--data.batch_size",
        "32",
        "--model.generator.network.width",
        "16",
        "--model.critic.network.width",
        "16",
        *OFF,
    ]
    assert main(["validate", "--config", TOY, *quick, "--ckpt_path", "last"]) == 0
    assert f"checkpoint: {run}/checkpoints/last.ckpt, iteration 20" in capsys.readouterr().out
    assert main(["validate", "--config", TOY, *quick, "--ckpt_path", "last", "--data.target", "grid25"]) == 2
    assert "data.target" in capsys.readouterr().err


@pytest.mark.slow
def test_every_command_takes_a_file_a_folder_last_and_best(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for word, name in ((str(run), "last"), ("last", "last"), ("best", "best")):
        assert main(["sample", word, "--n", "5", "--out", "s.npz"]) == 0
        assert f"checkpoint: {run}/checkpoints/{name}.ckpt, iteration 20" in capsys.readouterr().out
    assert main(["evaluate", str(run), "--n", "64", "--metrics", "[{class_path: ModeCoverage}]"]) == 0
    (run / "checkpoints/last.ckpt").write_bytes(b"")
    capsys.readouterr()
    assert main(["evaluate", "last", "--n", "64", "--metrics", "[{class_path: ModeCoverage}]"]) == 0
    out = capsys.readouterr().out
    assert "last.ckpt: expected a checkpoint, got a file that cannot be read (it is empty)" in out
    assert "previous.ckpt, iteration 10" in out
    for command in ("density", "ood", "neighbours"):  # these commands reach the method, which they do not support
        assert main([command, "last"]) == 2
        assert "got W1FE" in (error := capsys.readouterr().err) or "expected a model of images" in error
    (run / "checkpoints/previous.ckpt").unlink()
    for words in (
        ["sample", str(run)],
        ["fork", "last"],
        ["evaluate", "last"],
        ["fit", "--config", TOY, "--ckpt_path", str(run)],
    ):
        assert main(words) == 2
        assert "got a file that cannot be read (it is empty)" in capsys.readouterr().err


@pytest.mark.parametrize("loss", slow_but_for(["empty", "gone"], "empty".__eq__))
def test_the_previous_checkpoint_serves_and_stays(loss: str, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A damaged last checkpoint never takes the place of the good one before it."""
    last = run / "checkpoints/last.ckpt"
    last.write_bytes(b"") if loss == "empty" else last.unlink()
    assert fit("--ckpt_path", "last", "--checkpoints.every_n_iterations", "50", steps=30) == 0
    out = capsys.readouterr().out
    assert "previous.ckpt, iteration 10" in out
    assert "from iteration 10 to iteration 30" in out
    assert iteration(last) == 30
    assert iteration(last.with_name("previous.ckpt")) == 10
    assert run_folder() == run


def test_differences_of_configurations() -> None:
    toy = lambda **arguments: {"class_path": "Toy", "init_args": arguments}
    assert differences({"data": toy(n=1, old=3)}, {"data": toy(n=1, new=4)}) == {}
    assert differences({"data": toy(source=None)}, {"data": toy(source=toy(n=1))}) == {"data.source": (None, toy(n=1))}
    assert differences({"m": [toy(n=1), 2]}, {"m": [toy(n=2), 2]}) == {"m[0].n": (1, 2)}
    assert differences({"data": toy() | {"dict_kwargs": {"a": 1}}}, {"data": toy()}) == {
        "data.dict_kwargs": ({"a": 1}, {})
    }


# ------------------------------------------------------------------------------------------------ what may have changed


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "dropped"),
    [
        (["--model.critic.optimizer", "RMSprop"], "RMSprop"),
        (["--model.critic.optimizer.amsgrad", "true"], "Adam"),
        (["--model.critic.optimizer.lr", "0.1"], ""),
    ],
)
def test_another_optimizer_starts_afresh(
    changes: list[str], dropped: str, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Only the optimizer that changed loses its state."""
    assert main(["fork", str(run), *changes, *OFF, "--trainer.max_steps", "21", "--run.root", "forks"]) == 0
    out = capsys.readouterr().out
    note = f"note: the state of optimizer 2 of 2 in the checkpoint does not fit {dropped} with these options"
    assert (note in out) == bool(dropped)
    assert "optimizer 1 of 2" not in out
    saved = read_checkpoint(run_folder("forks") / "checkpoints/last.ckpt")["optimizer_states"]
    steps = [float(next(iter(state["state"].values()))["step"]) for state in saved]
    before = read_checkpoint(run / "checkpoints/last.ckpt")["optimizer_states"]
    had = [float(next(iter(state["state"].values()))["step"]) for state in before]
    assert steps[0] > had[0]
    assert (steps[1] > had[1]) == (not dropped)


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        (("Adam", {}), ("AdamW", {}), True),
        (("Adam", {}), ("Adam", {"betas": (0.0, 0.9), "lr": 3.0}), True),
        (("Adam", {"amsgrad": True}), ("Adam", {}), False),
        (("Adam", {}), ("SGD", {}), False),
        (("SGD", {}), ("Adam", {}), True),
        (("SGD", {}), ("SGD", {"momentum": 0.9}), True),
        (("RMSprop", {}), ("RMSprop", {"momentum": 0.9}), False),
        (("RMSprop", {}), ("RMSprop", {"centered": True}), False),
    ],
)
def test_which_state_an_optimizer_can_continue_from(
    before: tuple[str, dict[str, Any]], after: tuple[str, dict[str, Any]], expected: bool
) -> None:
    net = nn.Linear(2, 1)
    make = lambda name, options: getattr(torch.optim, name)(net.parameters(), **{"lr": 0.01, **options})
    old, new = make(*before), make(*after)
    net(torch.ones(1, 2)).sum().backward()
    old.step()
    state, weights = old.state_dict(), net.weight.clone()
    assert fits(state, new) is expected
    assert torch.equal(net.weight, weights)
    assert not new.state
    if expected:
        options = [{key: value for key, value in group.items() if key != "params"} for group in new.param_groups]
        new.load_state_dict(state)
        for group, own in zip(new.param_groups, options, strict=True):
            group.update(own)
        new.step()


def test_another_buffer_size_is_refused_by_its_name() -> None:
    saved = ReplayBuffer("fifo", 100, (2,)).state_dict()
    with pytest.raises(UserError, match=r"model.buffer_size: expected 100, the number of chains .*, got 90"):
        ReplayBuffer("fifo", 90, (2,)).load_state_dict(saved)
    ReplayBuffer("fifo", 100, (2,)).load_state_dict(saved)


# ---------------------------------------------------------------------------------------------- a refused start


REFUSED: list[tuple[list[str], str]] = [
    (["--data", "Shapes32"], "model.generator.network: expected samples of shape (3, 32, 32), as Shapes32 has"),
    (["--trainer.precision", "bf16-true"], "trainer.precision"),
    (["--data.batch_size", "0"], "data.batch_size: expected at least 1, got 0"),
    (["--evaluation.num_samples", "0"], "evaluation.num_samples: expected at least 1, got 0"),
    (["--run.root", "{run}/config.yaml"], "run.root: expected a writable place"),
    (["--ckpt_path", "{run}", "--run.root", "new", "--model.critic.network.width", "17"], "critic"),
]


@pytest.mark.parametrize(
    ("words", "message"), [REFUSED[0], *(pytest.param(*case, marks=pytest.mark.slow) for case in REFUSED[1:])]
)
def test_a_refused_start_leaves_nothing(
    words: list[str], message: str, run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is neither a folder nor a W&B run, and a run to continue stays as it was."""
    monkeypatch.setenv("WANDB_MODE", "offline")
    before = files(run)
    assert fit(*(word.format(run=run) for word in words), steps=30) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert "run folder" not in captured.out
    assert run_folder() == run
    assert {
        path: path.stat().st_mtime_ns for path in run.rglob("*") if path.is_file() and path.name[0] != "."
    } == before
    assert not Path("new").exists()
    assert not Path("wandb").exists()


@pytest.mark.slow
def test_a_refused_fork_leaves_nothing(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for change, message in (
        (["--model.generator.network.width", "17", "--trainer.max_steps", "30"], "generator"),
        (["--trainer.max_steps", "20"], "trainer.max_steps: expected more than 20"),
    ):
        assert main(["fork", str(run), *change, "--run.root", "forks"]) == 2
        assert message in capsys.readouterr().err
        assert not Path("forks").exists()


# -------------------------------------------------------------------------------------------------- damaged side files


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "cut": lambda text: text[:-9],
    "short row": lambda text: text.replace(b"\r\n10,", b"\r\n5,1\r\n10,", 1),
    "no header": lambda text: text.split(b"\r\n", 1)[1],
    "zeros": lambda text: text + bytes(300_000),
    "binary": lambda text: b"\xff\xfe\x00" * 10,
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_log_never_stops_a_run(damage: str, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = run / "metrics.csv"
    damaged = DAMAGE[damage](log.read_bytes())
    log.write_bytes(damaged)
    logger = MetricsCSV(run, resumed_at=20)
    logger.log_metrics({"train/loss_D": 0.5}, step=30)
    logger.log_metrics({"train/loss_D": 0.25, "new": 1.0}, step=40)
    rows = list(csv.DictReader(log.open()))
    assert [(row["iteration"], row["train/loss_D"]) for row in rows[-2:]] == [("30", "0.5"), ("40", "0.25")]
    kept = {row["iteration"] for row in rows[:-2]}
    assert kept == (set() if damage in ("no header", "binary") else {"10", "20"})
    aside = list(run.glob("metrics-damaged-*.csv"))
    assert [file.read_bytes() for file in aside] == [damaged]
    assert f"The file is kept as {aside[0].name}" in capsys.readouterr().out


def test_a_log_that_is_whole_is_left_alone(run: Path) -> None:
    rows, num_damaged = readable_rows((run / "metrics.csv").read_bytes().decode())
    assert num_damaged == 0
    assert {row["iteration"] for row in rows} == {"10", "20"}
    MetricsCSV(run, resumed_at=10).log_metrics({"a": 1.0}, step=15)
    assert {row["iteration"] for row in csv.DictReader((run / "metrics.csv").open())} == {"10", "15"}
    assert not list(run.glob("metrics-damaged-*"))


@pytest.mark.slow
def test_a_run_continues_whatever_its_side_files_are(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("config.yaml", "environment.json", "metrics.csv"):
        (run / name).write_bytes(b"\xff\x00 : [")
    assert fit("--ckpt_path", str(run), "--model.persistence", "3", *OFF, steps=30) == 0
    out = capsys.readouterr().out
    assert "note: model.persistence is 5 in the checkpoint's run and 3 here" in out
    assert run_folder() == run
    assert iteration(run / "checkpoints/last.ckpt") == 30
    assert yaml.safe_load(next(run.glob("config-continued-*.yaml")).read_text())["trainer"]["max_steps"] == 30


# ----------------------------------------------------------------------------------------------- one process at a time


HOLD = """
import sys, time
from pathlib import Path
from pt_flows.runs.lock import RunLock
lock = RunLock()
lock.acquire(Path(sys.argv[1]))
print("held", flush=True)
time.sleep(60)
"""


@pytest.mark.slow
def test_a_second_process_is_refused_until_the_first_ends(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """This holds after SIGKILL, too: the files that are left need no cleaning."""
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(run)], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        before = (run / "metrics.csv").read_bytes()
        assert fit("--ckpt_path", "last", *OFF, steps=30) == 2
        error = capsys.readouterr().err
        assert f"expected no other process in it, got process {holder.pid} on {socket.gethostname()}" in error
        assert (run / "metrics.csv").read_bytes() == before
        assert main(["sample", str(run), "--n", "5", "--out", "s.npz"]) == 0  # to read is free
    finally:
        holder.send_signal(signal.SIGKILL)
        holder.wait()
    assert json.loads((run / ".holder.json").read_text())["pid"] == holder.pid
    assert fit("--ckpt_path", "last", *OFF, steps=30) == 0
    assert not (run / ".holder.json").exists()
    assert fit("--ckpt_path", str(run), *OFF, "--model.critic.network.width", "17", steps=32) == 2
    RunLock().acquire(run)  # released at the end of a command, and after an error


def test_a_holder_that_is_not_seen_is_waited_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pt_flows.runs.lock.SECONDS_FOR_THE_DEAD", 0.3)
    first = RunLock()
    first.acquire(tmp_path)
    (tmp_path / ".holder.json").write_text(json.dumps({"pid": 1, "host": "node7", "since": "yesterday"}))
    start = time.monotonic()
    with pytest.raises(UserError, match="got process 1 on node7, which started at yesterday"):
        RunLock().acquire(tmp_path)
    assert time.monotonic() - start >= 0.3
    assert "is held by process 1 on node7" in capsys.readouterr().out
    (tmp_path / ".holder.json").write_text("{")
    with pytest.raises(UserError, match="got an unknown process"):
        RunLock().acquire(tmp_path)
    first.release()
    RunLock().acquire(tmp_path)


def test_a_file_system_without_locks_is_no_obstacle(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def flock(file: int, operation: int) -> None:
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr("fcntl.flock", flock)
    RunLock().acquire(tmp_path)
    assert "has no locks (Function not implemented)" in capsys.readouterr().out
