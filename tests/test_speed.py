"""Speed of recipes on this machine: the choice of --perf auto, the table of tune-speed, and cores that runs share."""

import json
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


def test_a_failed_trial_leaves_the_fast_mode(config: Any, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(command: Any, config: Any, settings: Any, problems: dict[str, str]) -> dict[str, Speed]:
        problems[FAST.name] = "out of memory"
        return {}

    monkeypatch.setattr(speed, "measured", fails)
    chosen = speed.automatic(RECIPE, config)
    assert chosen == (False, "perf auto: fast, because its trial failed: out of memory")
    assert stored(config) is None
    monkeypatch.setattr(speed, "measured", lambda *_: {FAST.name: Speed(10.0, 0.0)})  # no compiler
    assert speed.automatic(RECIPE, config) == (False, "perf auto: fast, 10 it/s, because the compiled trial failed")


def test_damaged_speeds_are_measured_again(config: Any, cache: Path) -> None:
    for text in ("{", "[1]", '{"--perf fast": {"rate": 1}}', "{}"):
        speed.file_of(config).parent.mkdir(exist_ok=True, parents=True)
        speed.file_of(config).write_text(text)
        assert stored(config) is None


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


def test_several_processes_are_not_tried(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["fit", *RECIPE, "--perf", "auto", "--trainer.accelerator", "cpu", "--trainer.devices", "1"]
    environment = {"WORLD_SIZE": "1"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(*next(iter(environment.items())))
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
    assert all(float(rate) > 1 for _, rate, _ in rows)
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
        monkeypatch.setattr(threads, "other_runs", lambda others=others: others)
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


def test_other_runs_are_seen(waiting: Callable[[str], None]) -> None:
    before = threads.other_runs()
    waiting("fit")
    waiting("sample")
    assert threads.other_runs() == before + 1


@pytest.fixture
def waiting() -> Any:
    children: list[subprocess.Popen[bytes]] = []

    def start(command: str) -> None:
        child = subprocess.Popen(
            [sys.executable, "-c", "print(flush=True); input()", "pt-flows", command],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip
        assert child.stdout is not None
        child.stdout.readline()
        children.append(child)

    yield start
    for child in children:
        child.communicate(b"\n")
