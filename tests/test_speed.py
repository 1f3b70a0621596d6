"""Speed of recipes on this machine: the choice of --perf auto, the table of tune-speed, and cores that runs share."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from pt_flows.cli.main import main
from pt_flows.errors import UserError
from pt_flows.files import cache_folder
from pt_flows.runs import threads
from pt_flows.studies import speed
from pt_flows.studies.recipes import completed
from pt_flows.studies.speed import COMPILE, FAST, Speed, pays, store, stored

ROOT = Path(__file__).resolve().parent.parent
RECIPE = [
    *("--config", str(ROOT / "configs/toy2d/wgan_gp.yaml"), "--trainer.max_steps", "20", "--data.batch_size", "16"),
    *("--run.wandb", "disabled", "--pictures.every_n_iterations", "0", "--evaluation.metrics", "[]"),
]


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PT_FLOWS_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return cache_folder()


@pytest.fixture(scope="module")
def config() -> dict[str, Any]:
    return completed({"": RECIPE})[""].config


def test_a_compiler_pays_in_long_runs_that_it_makes_faster() -> None:
    fast, compiled = Speed(10.0, 0.0), Speed(20.0, 30.0)
    assert not pays(500, fast, compiled)  # 50 s against 30 + 25
    assert pays(700, fast, compiled)  # 70 s against 30 + 35
    assert not pays(10**6, fast, Speed(10.4, 1.0))  # too little to gain
    assert not pays(10**6, fast, None)


@pytest.mark.parametrize(("rate", "mode"), [(1e4, "compile"), (10.0, "fast")])
def test_auto_takes_what_was_measured_and_records_it(
    rate: float,
    mode: str,
    config: Any,
    cache: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store(config, {FAST.name: Speed(10.0, 0.0), COMPILE.name: Speed(rate, 0.5)})
    monkeypatch.setattr(speed, "measured", forbidden)
    monkeypatch.setattr("pt_flows.callbacks.performance.compile_parts", lambda module: print("compiling"))
    assert main(["fit", *RECIPE, "--perf", "auto"]) == 0
    printed = capsys.readouterr().out
    assert f"perf auto: {mode} for 20 iterations (compile {rate:.4g} it/s after 0 s, fast 10 it/s" in printed
    assert ("compiling" in printed) == (mode == "compile")
    (folder,) = Path("runs").glob("*/*")
    assert yaml.safe_load((folder / "config.yaml").read_text())["perf"] == mode
    assert json.loads((folder / "environment.json").read_text())["threads"] == torch.get_num_threads()
    speed.file_of(config).unlink()  # a continued run keeps its mode, however long it is to be
    assert main(["fit", *RECIPE, "--perf", "auto", "--ckpt_path", "last", "--trainer.max_steps", "30"]) == 0
    printed = capsys.readouterr().out
    assert "from iteration 20 to iteration 30" in printed
    assert "note: perf" not in printed
    assert ("compiling" in printed) == (mode == "compile")


def forbidden(*_: Any) -> Any:
    raise AssertionError("measured again")


@pytest.mark.parametrize("fast", [None, Speed(1e-3, 0.0)])
def test_a_failed_trial_leaves_the_fast_mode(
    fast: Speed | None, config: Any, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A recipe that fails has no second trial; one that cannot be compiled trains without the compiler."""
    asked: list[str] = []

    def trials(command: Any, config: Any, settings: Any, problems: dict[str, str]) -> dict[str, Speed]:
        (setting,) = settings
        asked.append(setting.name)
        if setting is FAST and fast is not None:
            return {FAST.name: fast}
        problems[setting.name] = "out of memory"
        return {}

    monkeypatch.setattr(speed, "measured", trials)
    reason = "its trial" if fast is None else "the compiled trial"
    compiling, text = speed.automatic(RECIPE, config)
    assert not compiling
    assert text.endswith(f"because {reason} failed: out of memory")
    assert asked == [FAST.name] + [COMPILE.name] * (fast is not None)
    assert stored(config) == ({} if fast is None else {FAST.name: fast})


def test_no_compiler_is_tried_for_a_short_run(config: Any, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speed, "measured", lambda command, config, settings, problems: {FAST.name: Speed(10.0, 0.0)})
    text = "perf auto: fast, 10 it/s, as a compiler does not pay for 2 s"
    assert speed.automatic(RECIPE, config) == (False, text)


def test_a_part_that_is_not_compiled_is_no_compiled_speed(tmp_path: Path) -> None:
    found, problems = dict[str, Speed](), dict[str, str]()
    config = {"trainer": {"max_steps": 30}, "data": {"init_args": {"iterations_per_block": 10}}}
    job = speed.trial([], config, COMPILE, tmp_path, found, problems)
    assert int(job.words[job.words.index("--trainer.max_steps") + 1]) % 30 == 0  # it may have rounds
    job.log.write_text("field: expected to be compiled, got: no compiler g++. It runs as it is\ndone\n")
    job.ended(143)
    assert (found, problems) == ({}, {COMPILE.name: "expected to be compiled, got: no compiler g++"})


def test_damaged_speeds_are_measured_again(config: Any, cache: Path) -> None:
    wrong = ('{"rate": 1}', '{"rate": "x", "start": 0}', '{"rate": 0, "start": 0}', '{"rate": NaN, "start": 0}')
    for text in ("{", "[1]", "{}", "3", *(f'{{"--perf fast": {speeds}}}' for speeds in wrong)):
        speed.file_of(config).parent.mkdir(exist_ok=True, parents=True)
        speed.file_of(config).write_text(text)
        assert stored(config) == {}


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        pytest.param(
            ["fit", *RECIPE, "--perf", "auto", "--seeds", "0..1"], "expected fast, reference or compile in runs side",
            marks=pytest.mark.slow,
        ),
        (["fit", *RECIPE, "--perf", "quick"], "perf"),
        (["tune-speed"], "tune-speed: expected CONFIG first, got none"),
        (["tune-speed", "toy2d/w1_fee"], "toy2d/w1_fe"),
    ],
)  # fmt: skip
def test_mistakes_get_a_sentence(
    words: list[str], sentence: str, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == 2
    assert sentence in capsys.readouterr().err


def test_several_processes_are_not_tried(
    cache: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "1")
    words = ["fit", *RECIPE, "--perf", "auto", "--trainer.accelerator", "cpu", "--trainer.devices", "1"]
    assert main(words) == 0
    assert "perf auto: fast, because trials have one process alone" in capsys.readouterr().out


@pytest.mark.slow
def test_the_table_has_every_setting(
    cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(speed, "SECONDS", 0.5)
    monkeypatch.setattr(speed, "COMPILE", speed.Setting(COMPILE.name, FAST.flags, {}))  # a minute of a compiler
    words = [word if word != "20" else "20000" for word in RECIPE]
    assert main(["tune-speed", words[1], *words[2:]]) == 0
    printed = capsys.readouterr().out
    rows = re.findall(r"^\| (--\S+ \S+)[^|]*\| ([\d.]+) *\| ([\d.]+) *\|", printed, flags=re.M)
    assert [name for name, _, _ in rows][:3] == ["--perf fast", "--perf reference", "--perf compile"]
    assert rows[0][2] == "1.00"
    assert all(float(rate) > 0 for _, rate, _ in rows)
    assert list((cache / "speed").glob("*.json"))
    assert re.search(r"perf auto: (fast|compile) for 20000 iterations", printed)
    assert not list(Path("runs").glob("*"))


# ------------------------------------------------------------------------------------------------------ shared cores


@pytest.fixture
def four_threads(monkeypatch: pytest.MonkeyPatch) -> Any:
    before = torch.get_num_threads()
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    torch.set_num_threads(4)
    yield
    torch.set_num_threads(before)


def test_a_run_takes_its_share_of_the_cores(
    four_threads: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for others, expected in ((0, 4), (1, 2), (2, 1), (9, 1)):
        torch.set_num_threads(4)
        monkeypatch.setattr(threads, "other_runs", lambda others=others: set(range(others)))
        threads.share_cores(tmp_path)
        assert torch.get_num_threads() == expected
    assert "2 other runs train on this machine, so this one takes 1 of 4 threads" in capsys.readouterr().out
    torch.set_num_threads(4)
    (tmp_path / "environment.json").write_text('{"threads": 3}')
    threads.share_cores(tmp_path)
    assert torch.get_num_threads() == 3  # a continued run keeps its number
    monkeypatch.setenv("OMP_NUM_THREADS", "4")
    torch.set_num_threads(4)
    threads.share_cores(tmp_path)
    assert torch.get_num_threads() == 4


@pytest.mark.parametrize("value", ["abc", "0", "-2", "1.5", "2,0"])
def test_a_number_of_threads_that_is_none(value: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", value)
    with pytest.raises(UserError, match=f"OMP_NUM_THREADS: expected a whole number of at least 1, got '{value}'"):
        threads.share_cores(tmp_path)
    monkeypatch.setenv("OMP_NUM_THREADS", "")
    assert not threads.threads_are_given()
    monkeypatch.setenv("OMP_NUM_THREADS", "4,2")
    assert threads.threads_are_given()


def test_other_runs_are_seen(waiting: Callable[[str], int]) -> None:
    training, drawing = waiting("fit"), waiting("sample")
    assert training in threads.other_runs()
    assert not {drawing, os.getpid()} & threads.other_runs()


@pytest.fixture
def waiting() -> Any:
    children: list[subprocess.Popen[bytes]] = []

    def start(command: str) -> int:
        child = subprocess.Popen(
            [sys.executable, "-c", "print(flush=True); input()", "pt-flows", command],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip
        assert child.stdout is not None
        child.stdout.readline()
        children.append(child)
        return child.pid

    yield start
    for child in children:
        child.communicate(b"\n")
