"""Several seeds of a recipe in one command: options, states of runs, child processes, kills."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from problems import ROOT

from pt_flows.cli.complete import complete
from pt_flows.cli.main import asks_for_seeds, main
from pt_flows.errors import UserError
from pt_flows.runs.lock import RunLock
from pt_flows.studies import recipes
from pt_flows.studies.board import Board
from pt_flows.studies.options import at_least_one, seeds_in, taken
from pt_flows.studies.pool import Job, last_lines, run_jobs, slots_of
from pt_flows.studies.recipes import Recipe, completed, devices
from pt_flows.studies.train import Work, train_all
from pt_flows.studies.wanted import Wanted, curve, found, last_row

TOY = str(ROOT / "configs" / "toy2d" / "w1_fe.yaml")
SHORT = ["--config", TOY, "--trainer.max_steps", "40", "--trainer.log_every_n_steps", "10", "--trainer.accelerator",
         "cpu", "--evaluation.every_n_iterations", "20", "--evaluation.num_samples", "64",
         "--checkpoints.every_n_iterations", "10", "--pictures.every_n_iterations", "0"]  # fmt: skip


@pytest.mark.parametrize("text", ["", "a", "3..1", "1..", "0,0", "1..3,2", "-1", "4294967296", "0..2000", "1.5"])
def test_bad_seeds_get_one_sentence(text: str) -> None:
    with pytest.raises(UserError, match=r"expected .* got .*\. "):
        seeds_in(text)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--trials"], "--trials: expected a value, got none"),
        (["--trials", "x"], "--trials: expected a whole number, got 'x'"),
        (["--trials=1", "--trials", "2"], "--trials: expected one value, got two"),
        (["--jobs", "0"], "--jobs: expected a whole number of at least 1, got '0'"),
    ],
)
def test_bad_options_get_one_sentence(words: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        taken(words, {"trials": int, "jobs": at_least_one})


def test_help_and_print_config_are_those_of_fit() -> None:
    assert asks_for_seeds(["--config", "x", "--seeds", "0..1"])
    assert asks_for_seeds(["--seeds=0..1"])
    assert not asks_for_seeds(["--config", "x"])
    assert not asks_for_seeds(["--seeds", "0..1", "--help"])
    with pytest.raises(UserError, match="--jobs: expected --seeds with it"):
        asks_for_seeds(["--config", "x", "--jobs", "2"])


@pytest.mark.parametrize(
    ("trainer", "message"),
    [
        ({"devices": [1, 2]}, r"a: trainer.devices: expected a number of devices, got \[1, 2\]"),
        ({"num_nodes": 2}, "a: trainer.num_nodes: expected 1 in runs side by side, got 2"),
    ],
)
def test_runs_side_by_side_choose_their_devices(trainer: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        devices("a", {"accelerator": "auto", "devices": 1, **trainer}, {"accelerator": "cpu", "gpus": 0})


def recipe(accelerator: str, num_devices: int, gpus: int = 0) -> Recipe:
    return Recipe((), {}, accelerator, num_devices, gpus)


def test_places_are_cores_or_groups_of_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr("pt_flows.studies.pool.cores", lambda: 5)
    assert slots_of([recipe("cpu", 1)]) == [{"OMP_NUM_THREADS": "1"}] * 5
    assert slots_of([recipe("cpu", 2)]) == [{"OMP_NUM_THREADS": "1"}] * 2
    assert slots_of([recipe("cpu", 8)]) == slots_of([recipe("cpu", 1)], 1)
    assert [slot["CUDA_VISIBLE_DEVICES"] for slot in slots_of([recipe("cuda", 2, 5)])] == ["0,1", "2,3"]
    assert [slot["CUDA_VISIBLE_DEVICES"] for slot in slots_of([recipe("cuda", 1, 2)], 3)] == ["0", "1", "0"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,6")
    assert [slot["CUDA_VISIBLE_DEVICES"] for slot in slots_of([recipe("cuda", 1, 2)])] == ["4", "6"]
    with pytest.raises(UserError, match="expected at most 2 GPUs, as in this machine, got 3"):
        slots_of([recipe("cuda", 3, 2)])
    with pytest.raises(UserError, match="one kind of device for all runs, got cpu and cuda"):
        slots_of([recipe("cpu", 1), recipe("cuda", 1, 1)])


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Complete configurations in this process, which saves the imports of another one."""

    def run(command: list[str], input: str, **_: Any) -> Any:
        answers = {name: complete(words) for name, words in json.loads(input).items()}
        Path(command[-1]).write_text(json.dumps({"machine": {"accelerator": "cpu", "gpus": 0}, "answers": answers}))

    monkeypatch.setattr(recipes.subprocess, "run", run)
    monkeypatch.setattr(sys, "argv", ["pt-flows"])


@pytest.mark.slow
@pytest.mark.usefixtures("in_process")
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--config", "nowhere.yaml"], "second: .*nowhere.yaml"),
        ([*SHORT, "--model.persistense", "3"], "second: .*no key model.persistense; did you mean model.persistence?"),
        ([*SHORT, "--model.persistence", "0"], "second: model.persistence: expected .* got 0"),
        ([*SHORT, "--trainer.max_steps", "0"], "second: trainer.max_steps: expected at least 1, got 0"),
    ],
)
def test_a_recipe_that_cannot_be_built_is_named(words: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        completed({"first": SHORT, "second": words})


@pytest.mark.usefixtures("in_process")
def test_seeds_exclude_flags_that_contradict_them(capsys: pytest.CaptureFixture[str]) -> None:
    for flag in ("--seed_everything", "--ckpt_path"):
        assert main(["fit", *SHORT, "--seeds", "0..1", flag, "1"]) == 2
        assert f"error: {flag}: expected --seeds alone, got both" in capsys.readouterr().err


def wanted(seed: int = 0, **config: Any) -> Wanted:
    whole = {"seed_everything": seed, "trainer": {"max_steps": 40}, "data": {"class_path": "a.Toy2D"},
             "model": {"class_path": "b.W1FE"}, "evaluation": {"metrics": [{"class_path": "c.M"}]},
             "run": {"root": "runs"}}  # fmt: skip
    return Wanted(f"seed {seed}", ("--seed_everything", str(seed)), whole | config)


def folder_of(run: Wanted, iteration: int, name: str = "x", parent: Any = None) -> Path:
    """Write a run folder with a log up to an iteration."""
    folder = run.place / name
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(dict(run.config)))
    (folder / "environment.json").write_text(json.dumps({"seed": run.seed} | ({"parent": parent} if parent else {})))
    rows = [f"{i},{i / 100}" for i in range(10, iteration + 1, 10)]
    (folder / "metrics.csv").write_text("\n".join(["iteration,eval/w2_64", *rows, ""]))
    if iteration:
        (folder / "checkpoints" / "last.ckpt").touch()
    return folder


def test_the_state_of_a_run_is_read_from_its_folder() -> None:
    run = wanted()
    state = lambda: found([run])[0].state
    assert state() == "missing"
    folder = folder_of(run, 0)
    assert state() == "missing"  # a folder without a checkpoint has nothing to continue from
    (folder / "checkpoints" / "previous.ckpt").touch()
    assert state() == "begun"
    folder = folder_of(run, 40, "y")
    assert found([run])[0] == found([wanted(0)])[0]
    assert (state(), found([run])[0].iteration) == ("begun", 40)  # the last numbers are not recorded yet
    (folder / "evaluations").mkdir()
    (folder / "evaluations" / "00000020-last-ema-train-64-seed0.json").touch()
    assert state() == "begun"
    (folder / "evaluations" / "00000040-last-ema-train-64-seed0.json").touch()
    assert (state(), found([run])[0].folder) == ("finished", folder)
    lock = RunLock()
    lock.acquire(folder)
    assert state() == "running"
    lock.release()
    failed = folder_of(run, 20, "z")
    (failed / "failed.txt").write_text("the loss is nan\n")
    assert found([run])[0].reason == "the loss is nan"  # no seed is tried until it works
    states = [found_run.state for found_run in found([run, wanted(1), wanted(0, perf="fast")])]
    assert states == ["failed", "missing", "missing"]


def test_a_fork_is_not_the_run_of_its_configuration() -> None:
    run = wanted()
    folder_of(run, 40, parent={"checkpoint": "x"})
    assert found([run])[0].state == "missing"


def test_a_run_without_metrics_is_finished_at_its_last_iteration() -> None:
    run = wanted(evaluation={"metrics": None})
    folder_of(run, 30)
    assert found([run])[0].state == "begun"
    folder_of(run, 40, "y")
    assert found([run])[0].state == "finished"


def test_the_last_row_survives_damage_and_length() -> None:
    folder = folder_of(wanted(), 0)
    lines = [f"{i},{i / 7}" for i in range(5000)]
    (folder / "metrics.csv").write_text("\n".join(["iteration,eval/w2_64", *lines, "5000"]))
    assert last_row(folder) == {"iteration": 4999.0, "eval/w2_64": 4999 / 7}
    assert curve(folder, "w2_64")[:2] == [(0, 0.0), (1, 1 / 7)]
    assert last_row(folder / "none") == {}
    assert curve(folder / "none", "w2_64") == []


class Piece:
    def __init__(self, kind: str, work: float, done: float) -> None:
        self.name, self.kind, self.work, self._done = "", kind, work, done

    def done(self) -> float:
        return self._done

    def text(self) -> str:
        return ""


def test_the_remaining_time_follows_the_pace_of_each_kind() -> None:
    board = Board("", [("slow", 100), ("slow", 100), ("fast", 100)], 2)
    now = time.monotonic()
    assert board.seconds_left([]) is None
    slow, fast = Piece("slow", 100, 50), Piece("fast", 100, 50)
    left = board.seconds_left([(slow, now - 100), (fast, now - 10)])
    assert left == pytest.approx((150 * 2 + 50 * 0.2) / 2, rel=1e-3)
    board.ended(Piece("fast", 100, 100), 20.0)
    board.ended(Piece("slow", 100, 0), 5.0)  # it failed at once, and its work is not left
    left = board.seconds_left([(slow, now - 100)])
    assert left == pytest.approx(50 * 105 / 50 / 2, rel=1e-3)


def test_jobs_run_side_by_side_and_report_their_exit_codes(tmp_path: Path) -> None:
    codes: dict[str, int] = {}
    words = {"version": ["--version"], "mistake": ["fitt"], "help": ["--help"]}
    jobs = [Job(name, word, tmp_path / name, ended=lambda code, n=name: codes.__setitem__(n, code))
            for name, word in words.items()]  # fmt: skip
    waits = iter([jobs[0], None, *jobs[1:]])  # None: nothing can start for the moment
    run_jobs(waits, [{"OMP_NUM_THREADS": "1"}] * 2, Board("", [("", 1)] * 3, 2))
    assert codes == {"version": 0, "mistake": 2, "help": 0}
    assert (tmp_path / "version").read_text().startswith("pt-flows 0")
    assert last_lines(tmp_path / "mistake").startswith("there is no command 'fitt'")
    assert last_lines(tmp_path / "nothing") == ""


def test_a_claimed_run_is_left_to_its_process(tmp_path: Path) -> None:
    board, runs = Board("", [], 1, quiet=True), [wanted(0), wanted(1)]
    first, second = (Work(tmp_path, board, {"seed 0": "", "seed 1": ""}) for _ in range(2))
    mine, theirs = first.jobs(list(runs)), second.jobs(list(runs))
    jobs = [next(mine), next(theirs)]
    assert [job.name for job in jobs if job] == ["seed 0", "seed 1"]
    assert next(mine) is None
    folder = folder_of(runs[1], 40)
    (folder / "failed.txt").write_text("nan")
    assert jobs[1] is not None
    jobs[1].ended(1)
    assert next(mine, "nothing left") == "nothing left"
    assert second.problems == []


@pytest.mark.slow
def test_a_run_that_cannot_start_is_reported_with_its_reason(tmp_path: Path) -> None:
    run = Wanted("seed 0", ("--config", "nowhere.yaml"), wanted().config)
    with pytest.raises(UserError, match=r"seed 0: .*nowhere.yaml.*Correct it, and repeat the command"):
        train_all([run], tmp_path / "work", [{}], "1 seed")
    assert found([run])[0].state == "missing"


def arguments(*more: str) -> list[str]:
    return [sys.executable, "-m", "pt_flows", "fit", *SHORT, *more]


def children() -> list[str]:
    listed = subprocess.run(["ps", "-eww", "-o", "args"], capture_output=True, text=True, check=True).stdout
    lines = listed.splitlines()
    return [line for line in lines if "pt_flows fit" in line and str(Path.cwd()) in line and "--seeds" not in line]


@pytest.mark.slow
def test_seeds_survive_a_kill_and_equal_single_runs() -> None:
    root = str(Path.cwd() / "several")
    longer = ["--run.root", root, "--trainer.max_steps", "200"]
    command = arguments("--seeds", "0..2", "--jobs", "2", *longer)
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    deadline = time.monotonic() + 120
    while not list(Path(root).glob("*/*/checkpoints/last.ckpt")) and time.monotonic() < deadline:
        time.sleep(0.1)
    process.kill()
    process.wait()
    while children() and time.monotonic() < deadline:
        time.sleep(0.2)
    assert children() == []  # they saved and stopped
    logs = Path(root).glob("*/seeds-*/logs/*.log")
    assert any("stopped by SIGTERM" in log.read_text() for log in logs)

    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    assert "begun" in ended.stdout
    assert "| W1FE   | 3 " in ended.stdout
    again = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "done, iteration" not in again.stdout
    assert again.stdout.count("| W1FE   | 3 ") == 1

    alone = [*arguments("--seed_everything", "1"), *longer[2:], "--run.root", "one"]
    subprocess.run(alone, check=True, capture_output=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    numbers = lambda folder: [v for k, v in last_row(folder).items() if k.startswith("eval/w2")]
    (one,) = Path("one").glob("*/2*")
    seed = lambda folder: json.loads((folder / "environment.json").read_text())["seed"]
    (same,) = [folder.parent for folder in Path(root).glob("*/2*/evaluations") if seed(folder.parent) == 1]
    assert numbers(one) == numbers(same)


@pytest.mark.slow
def test_an_interruption_saves_all_seeds_and_says_how_to_continue() -> None:
    command = arguments("--seeds", "0..1", "--jobs", "2", "--run.root", "runs", "--trainer.max_steps", "5000")
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while len(list(Path("runs").glob("*/*/checkpoints/last.ckpt"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    said, error = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "stopping: 2 runs are saving" in said
    assert "stopped by SIGINT. To continue, run the same command again" in error
    runs = [Path(folder).parent for folder in Path("runs").glob("*/*/checkpoints")]
    assert len(runs) == 2
