"""Studies: the file, the plan, what is run and what is reused, the record and the table of claims."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from problems import ROOT
from test_compare import recorded
from test_seeds import in_process  # noqa: F401  a fixture

from pt_flows.cli.main import main
from pt_flows.compare.runs import read_run
from pt_flows.compare.verdicts import Verdict
from pt_flows.errors import UserError
from pt_flows.studies import claims, study, submit
from pt_flows.studies.estimate import check_numbers
from pt_flows.studies.pool import environment_in
from pt_flows.studies.reading import read_study
from pt_flows.studies.record import finding
from pt_flows.studies.study_file import Budget, Measurement, Tuning, Wish
from pt_flows.studies.trial import Cost, cost_of
from pt_flows.studies.wanted import Found, Wanted, found

TWO_ARMS = """
arms:
  GAN: {config: a.yaml, changes: {model.critic.steps: 3}, tune: {space: {model.step_size: [1, 2]}}}
  "W1-FE, K = 5": {config: [a.yaml, b.yaml], sampler: {class_path: MHGAN}, changes: {run.wandb: offline}}
changes: {run.wandb: disabled}
data: c.yaml
seeds: 0..2
budget: {evaluations: 2e6}
tune: {trials: 4, budget: {iterations: 30}}
metrics: [w2_512, high_quality]
evaluate: {n: 500, split: test}
verdicts: [{better: "W1-FE, K = 5", than: GAN}, {better: GAN, than: "W1-FE, K = 5", metric: high_quality}]
claims:
  - {paper: A paper, text: It is faster., verdicts: {better: "W1-FE, K = 5", than: GAN}}
"""


def written(text: str, folder: Path | None = None) -> Path:
    folder = folder or Path()
    for name in "abc":
        (folder / f"{name}.yaml").write_text("seed_everything: 0\n")
    (folder / "study.yaml").write_text(text)
    return folder / "study.yaml"


def test_a_study_file_is_read_with_paths_beside_it(tmp_path: Path) -> None:
    found = read_study(written(TWO_ARMS, tmp_path))
    gan, flow = found.arms.values()
    assert gan.words == [
        "--config", str(tmp_path / "a.yaml"), "--config", str(tmp_path / "c.yaml"),
        "--run.wandb", "disabled", "--model.critic.steps", "3",
    ]  # fmt: skip
    assert flow.words[-2:] == ["--run.wandb", "offline"]  # the changes of an arm replace those of all
    assert (gan.space, flow.space, flow.sampler) == ({"model.step_size": [1, 2]}, None, {"class_path": "MHGAN"})
    assert found.seeds == (0, 1, 2)
    assert found.budget == Budget("evaluations", 2e6)
    assert found.tuning == Tuning(4, 30, (1000,), None)
    assert found.measurement == Measurement(500, "test", 1)
    assert found.wishes[0] == Wish("W1-FE, K = 5", "GAN", "w2_512")
    assert found.wishes[1].metric == "high_quality"
    assert len(found.wishes) == 2  # a verdict that is wanted twice is judged once
    assert (found.title, found.claims[0].paper) == ("study", "A paper")
    assert found.claims[0].wishes == found.wishes[:1]


def without(key: str) -> str:
    tree = yaml.safe_load(TWO_ARMS)
    del tree[key]
    return yaml.safe_dump(tree, sort_keys=False)


def changed(**values: Any) -> str:
    return yaml.safe_dump(yaml.safe_load(TWO_ARMS) | values, sort_keys=False)


MISTAKES = {
    "": "expected arms and seeds, got an empty file",
    "[1]": "expected keys with values, got a sequence. Write, for example, seeds: 0..4",
    TWO_ARMS.replace("  GAN:", '  "W1-FE, K = 5":'): "arms.W1-FE, K = 5 once, got it in line",
    without("arms"): "arms: expected a value, got none",
    without("seeds"): "seeds: expected a value, got none",
    without("evaluate"): "evaluate: expected a number of samples, because the arm W1-FE, K = 5 has a sampler, got none",
    without("tune"): "tune: expected trials, because the arm GAN is tuned, got none",
    changed(metrics=["w2_512", "mode_width"]): "metrics: expected numbers that are better low or high, got mode_width",
    without("metrics"): "metrics: expected the numbers that verdicts are about, got none",
    changed(claims={"paper": "A", "text": "B"}): "claims.verdicts: expected a value, got none",
    changed(arm=1): "arm: expected one of the keys title, arms",
    changed(arms={"A": {"config": "a.yaml"}}): "arms: expected at least two arms, got 1",
    changed(arms={"A": {"config": "no.yaml"}}): "arms.A.config: expected a file, got no.yaml, which does not exist",
    changed(arms={"A": {"confg": "a.yaml"}}): "arms.A.confg: expected one of the keys config, changes, sampler, tune",
    changed(arms={"A": 3}): "arms.A: expected keys with values, got 3",
    changed(seeds="0..x"): "seeds: expected seeds such as 0..4",
    changed(seeds=[1, 1]): "seeds: expected seeds such as 0..4",
    changed(budget={"iterations": 2.5}): "budget.iterations: expected a whole number, got 2.5",
    changed(budget={"hours": 2}): "budget.hours: expected one of the keys iterations, evaluations, seconds",
    changed(budget={"seconds": 2, "iterations": 3}): "budget: expected one of iterations, evaluations, seconds",
    changed(budget={"seconds": -2}): "budget.seconds: expected a number above 0, got -2",
    changed(tune={"trials": 3, "budget": {"seconds": 3}}): "tune.budget: expected iterations, got seconds",
    changed(tune={"trials": 3}): "tune.budget: expected iterations, as arms have different ones in the same budget",
    changed(tune={"trials": True}): "tune.trials: expected a number above 0, got true",
    changed(evaluate={"n": 5, "split": "val"}): "evaluate.split: expected train or test, got val",
    changed(verdicts=[{"better": "GAN", "than": "Gan"}]): "verdicts.than: expected one of the arms GAN; W1-FE, K = 5",
    changed(verdicts=[{"better": "GAN", "than": "GAN"}]): "verdicts.than: expected another arm, got GAN",
    changed(verdicts=[{"better": "GAN", "than": "W1-FE, K = 5", "metric": "w1"}]): "verdicts.metric: expected one of",
    changed(changes={"seed_everything": 3}): "changes.seed_everything: expected other keys, got this one for GAN",
    changed(changes={"trainer.max_steps": 3}): "Use budget: {iterations: N}",
    changed(changes={"evaluation.sampler": "Direct"}): "Use sampler: ... of the arm",
    changed(changes={"model.base": "a.ckpt"}): "Use after: NAME of the arm",
    changed(arms={"GAN": {"config": "a.yaml"}, "W1-FE, K = 5": {"config": "b.yaml", "after": "Gan"}}): (
        "arms.W1-FE, K = 5.after: expected one of the arms GAN, got Gan. Name an arm without a base"
    ),
    changed(
        arms={
            "GAN": {"config": "a.yaml"},
            "W1-FE, K = 5": {"config": "b.yaml", "after": "GAN", "tune": {"space": {"model.step_size": [1, 2]}}},
        }
    ): "after: expected no tune beside it, got GAN",
}


@pytest.mark.parametrize(("text", "said"), MISTAKES.items(), ids=MISTAKES.values())
def test_mistakes_in_a_study_file_are_one_sentence_with_the_key(text: str, said: str) -> None:
    with pytest.raises(UserError) as error:
        read_study(written(text))
    assert str(error.value).startswith("study.yaml: ")
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_a_study_may_begin_with_another_one_of_its_folder() -> None:
    """Changes and arms are added to those of the base, and other keys replace them; null removes one."""
    base = read_study(written(TWO_ARMS).rename("first.yaml"))
    own = {"base": "first.yaml", "title": "Other data", "seeds": [5], "evaluate": {"n": 60}}
    own |= {"claims": None, "verdicts": None}
    arms = {"W1-FE, K = 5": None, "third": {"config": "a.yaml", "changes": {"model.base": "none"}}}
    Path("second.yaml").write_text(yaml.safe_dump({**own, "changes": {"data.target": "moons"}, "arms": arms}))
    found = read_study(Path("second.yaml"))
    assert list(found.arms) == ["GAN", "third"]
    assert found.changes == {"run.wandb": "disabled", "data.target": "moons"}
    assert found.arms["GAN"].changes == {**base.arms["GAN"].changes, "data.target": "moons"}
    assert found.arms["third"].configs == (Path("a.yaml"), Path("c.yaml"))
    assert (found.title, found.seeds, found.measurement) == ("Other data", (5,), Measurement(60))
    assert (found.budget, found.tuning, found.metrics) == (base.budget, base.tuning, base.metrics)
    assert found.claims == ()


@pytest.mark.parametrize(
    ("base", "said"),
    [
        ("no.yaml", "base: expected a file, got no.yaml, which does not exist beside study.yaml"),
        ("apart/first.yaml", "base: expected a study file in the same folder, got apart/first.yaml"),
        ("study.yaml", "base: expected a study file without a base, got study.yaml"),
    ],
)
def test_the_base_of_a_study_is_checked(base: str, said: str) -> None:
    Path("apart").mkdir()
    written(TWO_ARMS, Path("apart")).rename("apart/first.yaml")
    with pytest.raises(UserError, match=re.escape(f"study.yaml: {said}")):
        read_study(written(f"base: {base}\nseeds: 0..1\n"))


@pytest.mark.parametrize("file", sorted((ROOT / "benchmarks").glob("*.yaml")), ids=lambda path: path.stem)
def test_shipped_studies_are_read(file: Path) -> None:
    assert read_study(file).metrics


# ------------------------------------------------------------------------------------------------------- a whole study

SMALL = {
    "trainer.accelerator": "cpu", "evaluation.every_n_iterations": 20, "evaluation.num_samples": 64,
    "pictures.every_n_iterations": 40, "model.generator.network.width": 8, "model.critic.network.width": 8,
    "data.batch_size": 32, "run.wandb": "disabled", "checkpoints.every_n_iterations": 10,
}  # fmt: skip
WISH = {"better": "flow", "than": "GAN", "metric": "w2_64"}


def toy_study(**values: Any) -> Path:
    """A study of two toy recipes."""
    configs = ROOT / "configs" / "toy2d"
    tree = {
        "title": "Two arms", "arms": {"GAN": {"config": str(configs / "wgan_gp.yaml")},
                                      "flow": {"config": str(configs / "w1_fe.yaml")}},
        "changes": SMALL, "seeds": "0..4", "budget": {"iterations": 40}, "metrics": ["w2_64"],
        "claims": [{"paper": "Somebody 2020", "text": "Flows are better.", "verdicts": [WISH]}],
    }  # fmt: skip
    Path("toy.yaml").write_text(yaml.safe_dump(tree | values, sort_keys=False))
    return Path("toy.yaml")


def pretend(wanted: Sequence[Wanted], *_: Any) -> list[Found]:
    """Write the run folders that are missing, as training leaves them; seed 4 of the GAN diverges."""
    for run, state in zip(wanted, found(wanted), strict=True):
        if state.state in ("finished", "failed"):
            continue
        is_flow = "W1FE" in run.config["model"]["class_path"]
        folder = run.place / f"20260101-000000-{abs(hash((run.identity, run.seed))) % 16**8:08x}"
        folder.mkdir(parents=True)
        (folder / "config.yaml").write_text(yaml.safe_dump(dict(run.config)))
        about = {"seed": run.seed, "packages": {"torch": "9.9"}, "device": "abacus", "git_commit": "abc", "python": "3"}
        (folder / "environment.json").write_text(json.dumps(about))
        value = 0.1 + run.seed / 1000 + 0.5 * (not is_flow)
        rows = [f"{i},{value + 1 / i},{i / 10},{i * 100}" for i in (20, 40)]
        text = "\n".join(["iteration,eval/w2_64,cost/seconds,cost/evaluations_critic", *rows, ""])
        (folder / "metrics.csv").write_text(text)
        if not is_flow and run.seed == 4:
            (folder / "failed.txt").write_text("loss_G is nan\n")
        else:
            of = {"reference": run.config["data"]["init_args"]["target"], "training_seed": run.seed}
            recorded(folder, {"w2_64": value + 1 / 40}, iteration=40, num_samples=64, **of)
    return found(wanted)


@pytest.fixture
def pretended(in_process: None, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    monkeypatch.setattr(study, "train_all", pretend)


@pytest.mark.usefixtures("pretended")
def test_a_study_ends_with_a_record_that_programs_read(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["study", str(toy_study()), "--out", "here"]) == 0
    printed, text = capsys.readouterr().out, Path("here/record.md").read_text()
    for part in ("# Two arms", "    pt-flows study toy.yaml --out here", "**Claim: holds.** Somebody 2020",
                 "torch 9.9", "Device: abacus", "commit abc", "- GAN, seed 4: loss_G is nan",
                 "flow is better than GAN"):  # fmt: skip
        assert part in text, part
    assert "| GAN  | 40         | missing" in printed
    assert "flow is better than GAN" in printed
    (picture,) = re.findall(r"!\[.*\]\((.*)\)", text)  # no run has drawn samples
    assert (Path("here") / picture).read_bytes().startswith(b"\x89PNG")
    assert "<html" in Path("here/report.html").read_text()
    record = claims.read_marked(Path("here/record.md"))
    assert record is not None
    assert (record["runs"], record["failed"], record["trials"]) == (10, 1, 0)
    assert record["seconds"] == pytest.approx(40.0)
    (claim,) = record["claims"]
    assert (claim["finding"], claim["verdicts"][0]["improvement"]) == ("holds", 1)
    page = claims.page(Path("here"), Path("docs/claims.md"))
    assert "| Somebody 2020 | Flows are better. | [Two arms](../here/record.md): 2 arms, 5 seeds, Toy2D ring8" in page
    assert "10 runs, 1 failed, 40 seconds | **holds**" in page


@pytest.fixture
def checked(pretended: None, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Runs finish one after the other, all arms of a seed before the next seed. The folders that were checked."""
    folders: list[Path] = []

    def one_by_one(wanted: Sequence[Wanted], out: Path, slots: Any, title: str, kinds: Any, check: Any) -> list[Found]:
        for run in sorted(wanted, key=lambda run: run.seed):
            (state,) = pretend([run])
            assert state.folder is not None
            folders.append(state.folder)
            check(state.folder)
        return found(wanted)

    monkeypatch.setattr(study, "train_all", one_by_one)
    return folders


def test_arms_with_other_data_are_found_after_their_first_runs(
    checked: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    """One seed of each arm is enough to tell that no verdict is possible."""
    file = toy_study()
    tree = yaml.safe_load(file.read_text())
    tree["arms"]["flow"]["changes"] = {"data.target": "moons"}
    file.write_text(yaml.safe_dump(tree, sort_keys=False))
    assert main(["study", str(file)]) == 2
    assert "w2_64: expected one protocol for all runs" in (error := capsys.readouterr().err)
    assert "(reference: moons and ring8)" in error
    assert len(checked) == 2


def test_an_unknown_number_is_found_after_the_first_run(
    checked: list[Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A run that finishes is checked before the others; with `evaluate` it is measured for that, once."""
    assert main(["study", str(toy_study(metrics=["w2_64", "w2_99"]))]) == 2
    assert "toy.yaml: metrics: expected numbers that GAN measures (w2_64), got w2_99" in capsys.readouterr().err
    assert len(checked) == 1
    assert main(["study", str(toy_study(metrics=["w2_64", "w2_99"]))]) == 2  # and at once, if the run is there
    assert len(checked) == 1
    measured: list[str] = []

    def measure_all(how: Any, out: Path, slots: Any) -> dict[str, Any]:
        for one in how:
            measured.append(one.name)
            one.note(out).parent.mkdir(exist_ok=True)
            one.note(out).write_text("{}")
        return {}

    monkeypatch.setattr(study.measure, "measure_all", measure_all)
    values: dict[str, Any] = {"evaluate": {"n": 99}, "seeds": "0..1", "metrics": ["w2_99"], "claims": []}
    assert main(["study", str(toy_study(**values))]) == 2
    assert "expected numbers that GAN measures (w2_64), got w2_99" in capsys.readouterr().err
    assert measured == ["GAN, seed 0"]


@pytest.mark.slow
@pytest.mark.usefixtures("pretended")
def test_an_arm_begins_where_another_one_has_ended(capsys: pytest.CaptureFixture[str]) -> None:
    """Seed by seed; without the base that diverged. Its configuration is the same for all seeds."""
    configs = ROOT / "configs" / "toy2d"
    changes = {"model.base_iterations": 0, "data.target": "ring8"}  # its recipe has 25 Gaussians
    layers = {"config": str(configs / "gradient_layers.yaml"), "after": "GAN", "changes": changes}
    arms = {"GAN": {"config": str(configs / "wgan_gp.yaml")}, "layers": layers}
    file = toy_study(arms=arms, claims=[])
    assert main(["study", str(file)]) == 0
    assert "note: layers, seed 4: omitted, because the base was not trained to its end" in capsys.readouterr().out
    recipes = sorted(Path("runs/toy/runs").glob("toy2d-gradientlayers/*/config.yaml"))
    models = [yaml.safe_load(path.read_text())["model"]["init_args"] for path in recipes]
    assert len(models) == 4
    (base,) = {model["base"] for model in models}
    assert re.fullmatch(r"runs/toy/bases/GAN/\w{8}/\{seed\}\.ckpt", base)
    for folder in Path("runs/toy/runs").glob("toy2d-wgangp/*"):
        seed = yaml.safe_load((folder / "config.yaml").read_text())["seed_everything"]
        link = Path(base.format(seed=seed))
        assert link.is_symlink() == (seed != 4)
        assert seed == 4 or link.resolve() == (folder / "checkpoints/last.ckpt").resolve()
    assert "| layers " in Path("runs/toy/record.md").read_text()
    before = {path.parent for path in recipes}
    arms["GAN"]["changes"] = {"model.penalty_weight": 5.0}  # another base: its layers are other runs
    assert main(["study", str(toy_study(arms=arms, claims=[]))]) == 0
    assert "note: layers has changed (model.base" in capsys.readouterr().out
    after = set(Path("runs/toy/runs").glob("toy2d-gradientlayers/*")) - before
    assert len(after) == 4
    assert {yaml.safe_load((path / "config.yaml").read_text())["model"]["init_args"]["base"] for path in after} != {
        base
    }


@pytest.mark.slow
@pytest.mark.usefixtures("pretended")
def test_a_changed_study_reuses_what_is_the_same_and_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["study", str(toy_study())]) == 0
    folders = set(Path("runs/toy/runs").glob("*/*"))
    assert main(["study", str(toy_study())]) == 0
    assert "note:" not in capsys.readouterr().out.partition("| arm")[0]
    assert set(Path("runs/toy/runs").glob("*/*")) == folders
    changed_arm = {"config": str(ROOT / "configs/toy2d/w1_fe.yaml"), "changes": {"model.persistence": 2}}
    arms = {"GAN": {"config": str(ROOT / "configs/toy2d/wgan_gp.yaml")}, "flow": changed_arm}
    assert main(["study", str(toy_study(arms=arms))]) == 0
    said = capsys.readouterr().out.partition("w2_64 (")[0]
    assert "note: flow has changed (model.persistence (5 there, 2 here)): its runs are repeated" in said
    assert "note: runs of GAN are reused" in said
    assert "and 4 more belong to no arm or seed of the file now: kept, and not compared" in said
    assert "| GAN  | 40         | finished | finished | finished | finished | failed at 40 |" in said
    assert len(set(Path("runs/toy/runs").glob("*/*"))) == 15
    runs = [read_run(folder) for folder in folders]
    assert sum(run.method == "W1FE" for run in runs) == 5
    record = claims.read_marked(Path("runs/toy/record.md"))
    assert record is not None
    assert record["runs"] == 10


@pytest.mark.slow
@pytest.mark.usefixtures("pretended")
@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"changes": {"model.persistense": 2}}, "GAN: there is no key model.persistense"),
        ({"arms": {"A": {"config": "x.yaml"}, "B": {"config": "x.yaml"}}}, "got one configuration for A and B"),
        ({"arms": {"A": {"config": "x.yaml"}, "B": {"config": "x.yaml", "sampler": "Shrink"}}, "evaluate": {"n": 10}},
         "B with its sampler: evaluation.sampler: there is no class 'Shrink'"),
        ({"arms": {"A": {"config": "x.yaml"}, "B": {"config": "x.yaml", "tune": {"space": {"model.stp": [1, 2]}}}},
          "tune": {"trials": 2}}, "there is no key model.stp"),
        ({"metrics": ["w2_999"]}, "toy.yaml: metrics: expected a number that runs have"),
    ],
)  # fmt: skip
def test_mistakes_of_arms_are_named(values: dict[str, Any], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("x.yaml").write_text((ROOT / "configs/toy2d/w1_fe.yaml").read_text())
    values = {"claims": [], "changes": SMALL} | values
    assert main(["study", str(toy_study(**values))]) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "expected one study file, got none. See pt-flows study --help"),
        (["a.yaml", "b.yaml"], "expected one study file, got a.yaml b.yaml"),
        (["none.yaml"], "none.yaml: expected a study file, got no such file"),
        (["toy.yaml", "--jobs", "0"], "--jobs: expected a whole number of at least 1"),
        (["toy.yaml", "--record", "x.txt"], "expected a file .md, got x.txt"),
        (["toy.yaml", "--submit", "[1]"], "--submit: expected a mapping such as"),
        (["toy.yaml", "--submit", "{workers: 0}"], "--submit: expected workers, a whole number of at least 1, got 0"),
    ],
)
def test_mistakes_on_the_command_line(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    toy_study()
    assert main(["study", *words]) == 2
    captured = capsys.readouterr()
    assert said in captured.out + captured.err


# --------------------------------------------------------------------------------------------- findings, claims, costs


def test_a_wish_holds_or_not_or_is_open() -> None:
    wish = Wish("A", "B", "w2")
    of = lambda first, second, word: [Verdict(first, second, word, 0.9, 0.01, "")]
    assert finding(of("A", "B", "better"), wish) == "holds"
    assert finding(of("B", "A", "better"), wish) == "does not hold"
    assert finding(of("A", "B", "inconclusive"), wish) == "inconclusive"
    assert finding(of("A", "C", "better"), wish) == "inconclusive"


def test_the_page_of_claims_is_up_to_date() -> None:
    target = ROOT / "docs" / "claims.md"
    assert target.read_text(encoding="utf-8") == claims.page(ROOT / "benchmarks", target), "run make claims"


def test_a_damaged_record_is_named(tmp_path: Path) -> None:
    (tmp_path / "prose.md").write_text("# No record\n")
    (tmp_path / "a.md").write_text('# A\n\n<!-- record: {"claims": [{}]} -->\n')
    with pytest.raises(UserError, match=r"a\.md: expected a record of a study, got a damaged one"):
        claims.page(tmp_path, tmp_path / "claims.md")


def test_a_comment_ends_where_the_record_ends(tmp_path: Path) -> None:
    content = {"title": "a --> b", "claims": []}
    (tmp_path / "a.md").write_text(claims.marked(content) + "\n")
    assert claims.read_marked(tmp_path / "a.md") == content
    assert claims.marked(content).count("-->") == 1


def test_budgets_are_whole_blocks_of_iterations() -> None:
    cost = Cost(seconds=0.1, evaluations=300.0, frame=5.0, evaluation=2.0, numbers=("w2_64",))
    assert cost.iterations(Budget("iterations", 25), 10) == 25
    assert cost.iterations(Budget("seconds", 5.55), 10) == 50
    assert cost.iterations(Budget("evaluations", 7000), 10) == 20
    assert cost.iterations(Budget("seconds", 0.55), 10) == 5  # less than a block
    assert cost.of_run(100, 30) == pytest.approx(5 + 10 + 4 * 2)
    with pytest.raises(UserError, match=r"metrics: expected numbers that GAN measures \(w2_64\), got w2_512"):
        check_numbers(read_study(toy_study(metrics=["area of w2_512"], claims=[])), {"GAN": cost})


def test_the_first_iterations_do_not_count_in_a_trial(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    recorded(folder, {"w2_64": 1.0})
    (folder / "environment.json").write_text("{}")
    os.utime(folder / "environment.json", (105, 105))
    (evaluation,) = (folder / "evaluations").glob("*.json")
    os.utime(evaluation, (112, 112))
    (folder / "metrics.csv").write_text(
        "iteration,cost/seconds,cost/evaluations_critic,eval/w2_64\n5,2.0,500,\n20,3.5,2000,\n20,,,1.0\n"
    )
    cost = cost_of(folder, 5, 50, 100, 113)
    assert (cost.seconds, cost.evaluations, cost.numbers) == (pytest.approx(0.1), 100, ("w2_64",))
    assert (cost.evaluation, cost.frame) == (pytest.approx(3.5), pytest.approx(6.0))


def test_diagnostics_count_as_often_as_a_run_logs_them(tmp_path: Path) -> None:
    """A trial with one log point in 20 iterations stands for runs with one in 50."""
    recorded(folder := tmp_path / "run", {"w2_64": 1.0})
    (folder / "environment.json").write_text("{}")
    rows = "iteration,cost/seconds,cost/evaluations_critic\n10,1.8,1000\n11,2.0,1600\n20,3.5,2500\n"
    (folder / "metrics.csv").write_text(rows)
    assert cost_of(folder, 11, 50, 100, 113).evaluations == 100 + 500 / 50


def test_workers_of_a_cluster_run_the_same_command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    how = submit.Submission.read("{cluster: local, workers: 2, timeout_min: 5}")
    assert how == submit.Submission("local", 2, {"timeout_min": 5})
    assert submit.Worker([], "").checkpoint is not None
    with pytest.raises(UserError, match="--submit: expected parameters of submitit, got others"):
        submit.submit(submit.Submission("nowhere", 1), ["a.yaml"], tmp_path)
    with pytest.raises(UserError, match="--submit: expected parameters of submitit, got others"):
        submit.submit(submit.Submission("local", 1, {"hours": 3}), ["a.yaml"], tmp_path)


def test_runs_of_a_worker_are_no_tasks_of_its_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SLURM_NTASKS", "SLURM_PROCID", "RANK"):
        monkeypatch.setenv(name, "3")
    found_there = environment_in({"OMP_NUM_THREADS": "1"})
    assert not {"SLURM_NTASKS", "SLURM_PROCID", "RANK"} & set(found_there)
    assert (found_there["OMP_NUM_THREADS"], found_there["PATH"]) == ("1", os.environ["PATH"])


# ----------------------------------------------------------------------------------------------------------- real runs


def command(*words: str) -> list[str]:
    return [sys.executable, "-m", "pt_flows", "study", "toy.yaml", *words]


@pytest.mark.slow
def test_a_killed_study_continues_where_it_was() -> None:
    """SIGKILL in the middle: children save and stop, and the same command ends the study without repeating a run."""
    toy_study(seeds="0..1", budget={"iterations": 400})
    process = subprocess.Popen(command(), stdout=subprocess.PIPE, text=True)
    deadline = time.time() + 120
    while not list(Path("runs").glob("toy/runs/*/*/checkpoints/last.ckpt")):
        assert time.time() < deadline
        assert process.poll() is None
        time.sleep(0.2)
    process.send_signal(signal.SIGKILL)
    process.wait()
    time.sleep(5)  # the runs save
    before = sorted(Path("runs").glob("toy/runs/*/*/checkpoints/last.ckpt"))
    answer = subprocess.run(command(), capture_output=True, text=True, check=True)
    assert re.search("begun at|finished", answer.stdout)
    folders = sorted(Path("runs").glob("toy/runs/*/*"))
    assert len(folders) == 4
    assert {path.parents[1] for path in before} <= set(folders)
    assert Path("runs/toy/record.md").is_file()


@pytest.mark.slow
def test_a_study_tunes_measures_and_ends_in_time() -> None:
    """Tuning, a budget in evaluations, and two workers through submitit on this machine."""
    configs = ROOT / "configs" / "toy2d"
    space = {"model.penalty_weight": {"low": 0.1, "high": 30.0, "log": True}}
    arms = {"GAN": {"config": str(configs / "wgan_gp.yaml"), "tune": {"space": space}},
            "flow": {"config": str(configs / "w1_fe.yaml")},
            "direct": {"config": str(configs / "w1_fe.yaml"), "sampler": "Direct"}}  # fmt: skip
    toy_study(arms=arms, seeds="0..1", budget={"evaluations": 30000}, tune={"trials": 2, "budget": {"iterations": 20}},
              evaluate={"n": 64, "split": "test"}, claims=[])  # fmt: skip
    subprocess.run(command("--submit", "{cluster: local, workers: 2, timeout_min: 9}", "--jobs", "1"), check=True)
    deadline = time.time() + 400
    while not Path("runs/toy/record.md").is_file():
        assert time.time() < deadline, [path.read_text()[-2000:] for path in Path("runs/toy/workers").glob("*_log.*")]
        time.sleep(1)
    record = claims.read_marked(Path("runs/toy/record.md"))
    assert record is not None
    assert (record["runs"], record["trials"]) == (4, 2)
    text = Path("runs/toy/record.md").read_text()
    used = re.search(r"budgets of 30,000 evaluations, of which arms used ([\d,]+) to ([\d,]+)", text)
    assert used is not None
    least, most = (int(text.replace(",", "")) for text in used.groups())
    assert 0.75 * 30_000 <= least <= most <= 30_000  # whole blocks of iterations
