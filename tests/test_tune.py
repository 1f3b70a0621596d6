"""Tuning: search spaces, searches that are interrupted and shared, and the best recipe."""

import copy
import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from problems import ROOT
from torch import Tensor

from pt_flows.callbacks import Evaluate
from pt_flows.cli.complete import complete
from pt_flows.cli.main import main
from pt_flows.errors import UserError
from pt_flows.evaluation.passport import own_direction
from pt_flows.functional.attacks import FastGradient
from pt_flows.metrics import Accuracy, FrechetDistance, LikelihoodBound, Risk
from pt_flows.studies import search as searching
from pt_flows.studies.options import flags
from pt_flows.studies.pool import Job
from pt_flows.studies.recipes import Recipe
from pt_flows.studies.space import changed, parsed_space, read_space
from pt_flows.studies.tune import extremes, in_trials, search

SPACES = sorted((ROOT / "configs").glob("*/*.space.yaml"))


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ({"low": 2, "high": 1}, "expected low below high, got 2 and 1"),
        ({"low": 1, "high": 1}, "expected low below high, got 1 and 1"),
        ({"low": 0, "high": 1, "log": True}, "low: expected a number above 0 for a logarithmic range, got 0"),
        ({"low": "x", "high": 1}, "low: expected a number, got x"),
        ({"low": 0, "high": float("inf")}, "high: expected a number, got inf"),
        ({"low": 0, "high": 1, "log": "yes"}, "log: expected true or false, got yes"),
        ({"low": 0}, "expected {low: NUMBER, high: NUMBER, log: true} or a list"),
        ({"low": 0, "high": 1, "step": 1}, "expected {low: NUMBER, high: NUMBER, log: true} or a list"),
        (3, "expected {low: NUMBER, high: NUMBER, log: true} or a list, got 3"),
        ([], "expected at least one choice, got an empty list"),
        ([1, 1], "expected every choice once, got 1 twice"),
        ([{"a": 1}], "expected numbers, texts, true, false or null"),
    ],
)
def test_a_mistake_in_a_space_is_one_sentence_with_file_and_key(entry: Any, said: str) -> None:
    with pytest.raises(UserError, match=re.escape(said)) as error:
        parsed_space({"model.step_size": entry}, "a.space.yaml")
    assert str(error.value).startswith("a.space.yaml: model.step_size")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "expected keys with ranges or choices, got an empty file"),
        ("- 1", "expected keys with values, got a sequence. Write, for example, model.step_size: {low"),
        ("a: [", "expected YAML, got an error"),
        ("model.a: [1, 2]\nmodel.a: [3]", "expected model.a once, got it in line 1 and again in line 2"),
        ("model.a: [1, 2]\nmodel.a, model.b: [3]", "expected model.a once, got it 2 times"),
        ("seed_everything: [1, 2]", "expected keys of the method, the data, the rates or the trainer"),
        ("trainer.max_steps: [1, 2]", "expected keys of the method, the data, the rates or the trainer"),
        ("model.a b: [1, 2]", "expected keys of a configuration such as model.step_size"),
    ],
)
def test_a_mistake_in_a_space_file_is_one_sentence(text: str, said: str) -> None:
    Path("a.space.yaml").write_text(text)
    with pytest.raises(UserError, match=said):
        read_space(Path("a.space.yaml"))


@pytest.mark.parametrize("path", SPACES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_a_shipped_space_holds_its_recipe(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["pt-flows"])
    assert path.read_text().startswith("# ")
    recipe = path.with_name(path.name.replace(".space", ""))
    space = read_space(path)
    words = ["--config", str(recipe), "--trainer.accelerator", "cpu"]
    config = complete(words)["config"]
    own = space.own(config)
    assert space.values(config, own) == {key: own[d.name] for d in space.dimensions for key in d.keys}


@pytest.mark.long
@pytest.mark.parametrize("path", SPACES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_the_ends_of_a_shipped_space_can_be_built(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["pt-flows"])
    recipe = path.with_name(path.name.replace(".space", ""))
    words = ["--config", str(recipe), "--trainer.accelerator", "cpu"]
    space = read_space(path)
    for name, command in extremes("", words, space).items():
        answer = complete(command)
        assert "error" not in answer, f"{name}: {answer}"


CONFIG = {
    "seed_everything": 0,
    "trainer": {"max_steps": 60, "accelerator": "cpu"},
    "data": {"class_path": "a.Toy2D"},
    "model": {"class_path": "b.W1FE", "init_args": {"step": 0.5, "a": 2.0, "b": 2.0, "steps": 3, "side": "left"}},
    "evaluation": {"metrics": [{"class_path": "c.M"}], "full_metrics": None, "split": None},
    "pictures": {"every_n_iterations": 10},
    "run": {"root": "runs", "group": None, "tuned": None, "wandb": "auto"},
}


def recipe(config: Any = None) -> Recipe:
    return Recipe(("--config", "r.yaml"), config or CONFIG, "cpu", 1, 0)


def test_values_have_the_types_of_the_recipe_and_few_digits() -> None:
    tree = {"model.a, model.b": {"low": 1, "high": 9}, "model.step": {"low": 0.12345, "high": 1.0}}
    space = parsed_space(tree, "s")
    assert space.own(CONFIG) == {"model.a, model.b": 2, "model.step": 0.5}
    found = space.values(CONFIG, {"model.a, model.b": 7, "model.step": 0.123456})
    assert found == {"model.a": 7.0, "model.b": 7.0, "model.step": 0.12345}  # rounding does not leave the range
    assert flags(found)[:2] == ["--model.a", "7.0"]
    exact = changed(CONFIG, {"model.step": 0.3333333})
    assert space.values(exact, {"model.a, model.b": 2, "model.step": 0.3333333})["model.step"] == 0.3333333


@pytest.mark.parametrize(
    ("tree", "said"),
    [
        ({"model.step": {"low": 1.0, "high": 2.0}}, "model.step: expected a number from 1 to 2, got 0.5 in the recipe"),
        ({"model.side": ["up", "down"]}, "model.side: expected one of up, down, got left in the recipe"),
        ({"model.a, model.step": {"low": 0.1, "high": 3.0}}, "expected one value for several keys"),
        ({"model.nothing": [1, 2]}, "model.nothing: expected a key with a value in the recipe, got none"),
    ],
)
def test_a_recipe_outside_the_space_is_named(tree: Any, said: str) -> None:
    with pytest.raises(UserError, match=said):
        parsed_space(tree, "s").own(CONFIG)


SPACE = parsed_space({"model.step": {"low": 0.1, "high": 1.0}}, "s.space.yaml")


def write_run(words: Sequence[str], iteration: int = 60, diverges: bool = False) -> None:
    """Write the run folder of a command; its number is the step size."""
    given = dict(zip(words[1::2], words[2::2], strict=False))
    step = float(given["--model.step"])
    values = {"model.step": step, "trainer.max_steps": 60, "evaluation.split": "other", "run.root": given["--run.root"],
              "pictures.every_n_iterations": 0, "evaluation.full_metrics": None, "run.wandb": "disabled",
              "seed_everything": int(given["--seed_everything"])}  # fmt: skip
    config = changed(CONFIG, values)
    folder = Path(config["run"]["root"]) / "toy2d-w1fe" / f"{step}-{given['--seed_everything']}"
    (folder / "checkpoints").mkdir(parents=True, exist_ok=True)
    (folder / "checkpoints" / "last.ckpt").touch()
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    (folder / "environment.json").write_text(json.dumps({"seed": config["seed_everything"]}))
    rows = [f"{i},{step + 1 / i},{i / 10}" for i in range(10, iteration + 1, 10)]
    (folder / "metrics.csv").write_text("\n".join(["iteration,eval/w2_64,cost/seconds", *rows, ""]))
    if diverges:
        (folder / "failed.txt").write_text("the loss is nan\n")
    elif iteration == 60:
        (folder / "evaluations").mkdir(exist_ok=True)
        (folder / "evaluations" / "00000060-last-ema-train-64-seed0.json").write_text("{}")


class Pool:
    """Trains without training: `run_jobs` of one place that dies after some jobs."""

    def __init__(self, dies_after: int = 100, diverging: Sequence[int] = ()) -> None:
        self.dies_after, self.diverging, self.names = dies_after, diverging, list[str]()

    def __call__(self, jobs: Iterator[Job | None], slots: Any, board: Any) -> None:
        for job in jobs:
            assert job is not None
            self.names.append(job.name)
            if len(self.names) > self.dies_after:
                write_run(job.words, 30)
                raise KeyboardInterrupt
            number = int(re.findall(r"trial (\d+)", job.name)[0])
            write_run(job.words, diverges=number in self.diverging)
            job.ended(1 if number in self.diverging else 0)


def searched(monkeypatch: pytest.MonkeyPatch, pool: Pool, trials: int = 4, **more: Any) -> Any:
    monkeypatch.setattr(searching, "run_jobs", pool)
    return search(Path("out"), "arm", recipe(), SPACE, trials, more.pop("seeds", [1000]), slots=[{}], **more)


def test_a_search_writes_the_best_recipe(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    pool = Pool(diverging=[2])
    best = searched(monkeypatch, pool)
    assert pool.names == [f"arm, trial {i}" for i in range(4)]
    assert (best.text, best.counts["fail"], best.metric) == ("4 trials of 60 iterations", 1, "w2_64")
    assert best.own == pytest.approx(0.5 + 1 / 60)
    assert best.value <= best.own
    text = best.file.read_text()
    assert text.startswith("# The best of 4 trials of 60 iterations (3 complete, 1 failed)")
    config = yaml.safe_load(text)
    assert config["run"]["tuned"] == best.text
    step = config["model"]["init_args"]["step"]
    assert best.value == pytest.approx(step + 1 / 60)
    expected = changed(CONFIG, {"model.step": step, "run.tuned": best.text})
    assert config == expected  # seed, folders, split, pictures and length are those of the recipe
    assert "trial 2: failed. the loss is nan" in capsys.readouterr().out
    again = Pool()
    assert searched(monkeypatch, again) == best
    assert again.names == []
    assert searched(monkeypatch, again, trials=6).num_trials == 6
    assert len(again.names) == 2


def test_an_interrupted_trial_continues_with_its_values(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(KeyboardInterrupt):
        searched(monkeypatch, Pool(dies_after=2))
    half = [path.parent.name for path in Path("out").glob("runs/*/*/config.yaml")]
    pool = Pool()
    best = searched(monkeypatch, pool)
    assert pool.names[0] == "arm, trial 2"
    assert len(pool.names) == 2
    assert best.num_trials == 4
    folders = {path.parent.name for path in Path("out").glob("runs/*/*/config.yaml")}
    assert len(folders) == 4
    assert folders >= set(half)


def test_every_seed_of_a_trial_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    pool = Pool()
    best = searched(monkeypatch, pool, trials=2, seeds=[7, 8])
    assert sorted(pool.names) == [f"arm, trial {i}, seed {s}" for i in (0, 1) for s in (7, 8)]
    assert best.seconds == pytest.approx(4 * 6.0)


def test_a_search_without_a_trial_that_ends_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"expected a trial that ends, got 2 that failed \(the loss is nan\)"):
        searched(monkeypatch, Pool(diverging=[0, 1]), trials=2)


def test_a_worse_trial_is_pruned(monkeypatch: pytest.MonkeyPatch) -> None:
    stopped = []

    class Pruning(Pool):
        def __call__(self, jobs: Iterator[Job | None], slots: Any, board: Any) -> None:
            for job in jobs:
                assert job is not None
                job.log.parent.mkdir(exist_ok=True)
                write_run(job.words, 40)
                step = re.search(r"--model.step (\S+)", " ".join(job.words))
                folder = Path("out/runs/toy2d-w1fe").absolute() / f"{step and step[1]}-1000"
                job.log.write_text(f"run folder: {folder}\n")
                asked: list[str] = []
                job.watch(lambda asked=asked: asked.append("stop"))
                stopped.extend(asked)
                if not asked:
                    write_run(job.words)
                job.ended(143 if asked else 0)

    best = searched(monkeypatch, Pruning(), trials=12)
    assert best.counts["pruned"] == len(stopped) > 0
    assert best.counts["complete"] >= 5
    assert best.num_trials == 12


@pytest.mark.parametrize("url", ["nonsense", "sqlite:////proc/none/x.db", "nobase://host/name"])
def test_a_database_that_is_away_is_one_sentence(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="--storage: expected a database that answers, got an error"):
        searched(monkeypatch, Pool(), storage=url)


def test_a_database_keeps_a_search(monkeypatch: pytest.MonkeyPatch) -> None:
    url = f"sqlite:///{Path.cwd()}/x.db"
    best = searched(monkeypatch, Pool(), storage=url)
    again = Pool()
    assert searched(monkeypatch, again, storage=url) == best
    assert again.names == []


def test_optuna_is_an_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(UserError, match=r"expected the package optuna, got none. Run pip install 'pt-flows\[tune\]'"):
        searched(monkeypatch, Pool())


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "tune: expected CONFIG first, got none"),
        (["r.yaml"], "--space: expected a file, got r.space.yaml"),
        (["r.yaml", "--trials", "0"], "--trials: expected a whole number of at least 1, got '0'"),
        (["r.yaml", "--seed_everything", "3"], "--seed_everything: expected no such flag in a search"),
    ],
)
def test_mistakes_of_the_command_line_are_one_sentence(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["tune", *words]) == 2
    assert f"error: {said}" in capsys.readouterr().err


@pytest.mark.parametrize(
    "metric",
    [Accuracy(num_real=40), Risk(num_real=40, attack=FastGradient(0.1)), LikelihoodBound(5, 40), FrechetDistance()],
    ids=lambda metric: type(metric).__name__,
)
def test_trials_have_other_samples_under_another_name(metric: Any) -> None:
    """Knowledge of the training split is judged by other samples of the test split."""
    other = copy.deepcopy(metric)
    metric.num_samples = other.num_samples = 50
    Evaluate(other, 50, split="other")
    assert in_trials(metric.key) == other.key
    assert own_direction(other.key) == own_direction(metric.key) == ("higher" if metric.higher_is_better else "lower")
    if not isinstance(metric, FrechetDistance):
        digits = LabelledNoise()
        for one in (metric, other):
            one.prepare(digits, 50)
        x, y = (one.x if hasattr(one, "x") else one.real for one in (metric, other))
        assert len(x) == len(y) == 40
        assert not (x.flatten(1)[:, None] == y.flatten(1)).all(2).any()


def test_all_test_samples_leave_none_for_trials() -> None:
    with pytest.raises(UserError, match=r"Accuracy\.num_real: expected a number of samples, got null"):
        Evaluate(Accuracy(), 50, split="other")


class LabelledNoise:
    """Images of two classes."""

    num_classes, real_targets, event_shape = 2, False, (1, 8, 8)

    def held_out(self, num: int) -> tuple[Tensor, Tensor]:
        x = torch.rand(100, 1, 8, 8, generator=torch.Generator().manual_seed(0))
        return x[:num], torch.arange(num) % 2

    def labelled(self, split: str) -> tuple[Tensor, Tensor]:
        return self.held_out(100)

    def reference(self, split: str, num: int | None = None) -> Tensor:
        return self.held_out(num or 100)[0]


def test_numbers_have_the_name_of_the_other_split() -> None:
    assert in_trials("kid_lite0_64_10k_test") == "kid_lite0_64_10k_train"


@pytest.mark.slow
def test_a_search_survives_a_kill() -> None:
    toy = ROOT / "configs" / "toy2d" / "w1_fe.yaml"
    command = [sys.executable, "-m", "pt_flows", "tune", str(toy), "--trials", "3", "--iterations", "100",
               "--out", "out", "--jobs", "2", "--trainer.accelerator", "cpu", "--evaluation.num_samples", "64",
               "--checkpoints.every_n_iterations", "10", "--evaluation.every_n_iterations", "20"]  # fmt: skip
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not list(Path("out").glob("runs/*/*/checkpoints/last.ckpt")) and time.monotonic() < deadline:
        time.sleep(0.1)
    process.send_signal(signal.SIGKILL)
    process.wait()
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    assert "3 trials of 100 iterations" in ended.stdout
    assert len(list(Path("out").glob("runs/*/*/config.yaml"))) == 3
    assert main(["fit", "--config", "out/best.yaml", "--print_config"]) == 0
