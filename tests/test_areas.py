"""Areas under curves at equal cost, wanted verdicts, names from outside, and the tuning of a recipe in comparisons."""

import csv
import json
import math
from pathlib import Path
from typing import Any

import pytest
import yaml
from problems import data
from test_compare import fake_run, recorded

from pt_flows.callbacks import Evaluate
from pt_flows.cli.main import main
from pt_flows.compare.areas import Area, areas, counted, with_areas
from pt_flows.compare.groups import comparable
from pt_flows.compare.runs import Run, read_run
from pt_flows.compare.subjects import trained_subjects
from pt_flows.compare.verdicts import judged
from pt_flows.errors import UserError
from pt_flows.evaluation.passport import read_record
from pt_flows.metrics import ExactWasserstein

AREA = Area("w2_1k", "evaluations")


def run_of(points: list[tuple[float, float]], cost: str = "cost/evaluations_critic", **more: Any) -> Run:
    rows = [{"iteration": 10.0 * i, cost: c, "eval/w2_1k": v} for i, (c, v) in enumerate(points)]
    config = {"model": {"class_path": "W1FE"}, "seed_everything": 0}
    return Run(Path(str(id(rows))), config, 0, rows, **more)


def test_areas_are_means_over_the_costs_that_all_runs_have() -> None:
    """The common range is [3, 7]. There the first curve is 5 - (c - 1)/2, the second is constant."""
    falling, flat = run_of([(1, 5), (5, 3), (9, 1)]), run_of([(3, 7), (7, 7)])
    assert areas([falling, flat], "w2_1k") == pytest.approx([3.0, 7.0])
    assert areas([falling], "w2_1k") == pytest.approx([3.0])


def test_a_failed_run_does_not_shorten_the_range() -> None:
    falling, flat = run_of([(1, 5), (5, 3), (9, 1)]), run_of([(3, 7), (7, 7)])
    failed = run_of([(1, 5), (4, 4)], failure="nan")
    found = areas([falling, flat, failed], "w2_1k")
    assert found[:2] == pytest.approx([3.0, 7.0])
    assert math.isnan(found[2])
    notes: list[str] = []
    views = with_areas([falling, flat, failed, run_of([(1, 5)])], AREA, notes.append)
    assert len(notes) == 1
    assert "has no curve of w2_1k in the common range of evaluations: omitted" in notes[0]
    assert [view.failed("area of w2_1k over evaluations") for view in views] == [False, False, True]


def test_areas_need_a_common_range_of_costs() -> None:
    assert all(map(math.isnan, areas([run_of([(1, 1), (2, 1)]), run_of([(3, 1), (4, 1)])], "w2_1k")))
    assert math.isnan(areas([run_of([(1, 1)])], "w2_1k")[0])
    with pytest.raises(UserError, match="expected curves of w2_1k that overlap in evaluations, got none"):
        with_areas([run_of([(1, 1), (2, 1)]), run_of([(3, 1), (4, 1)])], AREA)


def test_iterations_stand_for_evaluations_that_nobody_counted() -> None:
    one, other = run_of([(1, 5), (5, 3)]), run_of([(1, 1), (2, 3)], cost="cost/seconds")
    assert (counted([one], "w2_1k"), counted([one, other], "w2_1k")) == ("evaluations", "iterations")
    assert areas([one, other], "w2_1k", counted([one, other], "w2_1k")) == pytest.approx([4.0, 2.0])
    with pytest.raises(UserError, match="overlap in evaluations, got none"):
        with_areas([one, other], AREA)
    assert areas([other], "w2_1k", "seconds") == pytest.approx([2.0])


def curves(root: Path, seeds: int = 5) -> Path:
    """Two methods that end alike; the second one gets there later. A third is between them."""
    for seed in range(seeds):
        for name, middle in (("W1FE", 0.3), ("WGANGP", 0.8), ("W2FE", 0.5)):
            fake_run(root / f"{name}-{seed}", seed, name, [1.0, middle + 0.01 * seed, 0.2 + 0.001 * (seed * 7 % 5)])
    return root


def test_an_area_is_judged_like_any_number(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = str(curves(tmp_path / "runs"))
    assert main(["compare", root, "--metric", "area of w2_1k over iterations", "--out", "table"]) == 0
    said = capsys.readouterr().out
    assert "W1FE is better than WGANGP in most seeds" in said
    with Path("table.csv").open() as file:
        rows = {row["method"]: float(row["area of w2_1k over iterations"]) for row in csv.DictReader(file)}
    assert rows["W1FE"] == pytest.approx(((1 + 0.32) / 2 + (0.32 + 0.202) / 2) / 2, rel=1e-3)
    assert main(["compare", root, "--metric", "area of w2_1k over dollars"]) == 2
    assert "expected an area over evaluations, seconds, iterations, got dollars" in capsys.readouterr().err
    assert main(["compare", root, "--metric", "area of w3"]) == 2
    assert "--metric: expected a number that runs have (w2_1k), got w3" in capsys.readouterr().err
    assert main(["compare", root, "--metric", "w2_1k"]) == 0
    assert "mean at equal cost" in capsys.readouterr().out


def test_wanted_verdicts_alone_are_corrected_for(tmp_path: Path) -> None:
    groups, criterion = comparable([str(curves(tmp_path / "runs"))], "area of w2_1k over iterations", lambda text: None)
    every = {frozenset((v.first, v.second)): v.p for v in judged(groups, criterion, 0.05)}
    pair = frozenset(("W1FE", "WGANGP"))
    (alone,) = judged(groups, criterion, 0.05, [pair])
    assert frozenset((alone.first, alone.second)) == pair
    assert every[pair] == pytest.approx(3 * alone.p)  # Holm's correction for three pairs


def test_groups_take_names_from_outside(tmp_path: Path) -> None:
    root, seen = curves(tmp_path / "runs", 2), lambda text: None
    groups, _ = comparable([str(root)], None, seen, names=lambda run: f"the arm {run.method}")
    assert sorted(group.name for group in groups) == ["the arm W1FE", "the arm W2FE", "the arm WGANGP"]


def test_the_table_says_how_recipes_were_tuned(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = curves(tmp_path / "runs", 2)
    assert main(["compare", str(root)]) == 0
    assert "tuned" not in capsys.readouterr().out
    for file in root.glob("W1FE-*/config.yaml"):
        config = yaml.safe_load(file.read_text())
        config["run"]["tuned"] = "20 trials of 600 iterations"
        file.write_text(yaml.safe_dump(config))
    assert main(["compare", str(root)]) == 0
    said = capsys.readouterr().out
    assert "20 trials of 600 iterations" in said
    assert said.count("not recorded") == 2


def test_a_configured_sampler_is_the_subject_of_the_curve(tmp_path: Path) -> None:
    folder = fake_run(tmp_path / "one", 0, "W1FE", [1.0, 0.5])
    config = yaml.safe_load((folder / "config.yaml").read_text())
    config["evaluation"] = {"sampler": {"class_path": "my.Repeated", "init_args": {"times": 3}}}
    assert [subject.sampler for subject in trained_subjects(Run(folder, config, 0, []), {})] == ["Repeated(times=3)"]
    recorded(folder, {"w2_1k": 0.7}, sampler="Repeated(times=9, scale=1.0)")  # another one of its class
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    told = {"seed": 0, "sampler": "Repeated(times=3, scale=1.0)"}  # a default that the configuration does not name
    (folder / "environment.json").write_text(json.dumps(told))
    recorded(folder, {"w2_1k": 0.5}, sampler=told["sampler"], iteration=20)  # what the log has
    groups, _ = comparable([str(folder)], "w2_1k")
    found = {group.runs[0].subject.sampler: bool(group.runs[0].curve("w2_1k")) for group in groups}
    assert found == {"Repeated(times=3, scale=1.0)": True, "Repeated(times=9, scale=1.0)": False}
    (folder / "environment-continued-1.json").write_text(json.dumps({"seed": 0, "sampler": ""}))
    assert [subject.sampler for subject in trained_subjects(read_run(folder), {})] == ["Direct"]


def test_a_method_that_draws_nothing_has_one_subject(tmp_path: Path) -> None:
    """Its passports name no sampler, and its log is about the same subject."""
    folder, notes = fake_run(tmp_path / "one", 0, "Classifier", [1.0, 0.5]), list[str]()
    recorded(folder, {"w2_1k": 0.5}, method="Classifier", sampler="", iteration=20)
    groups, _ = comparable([str(folder)], "w2_1k", note=notes.append)
    (run,) = groups[0].runs
    assert (len(groups), run.subject.sampler, run.section, notes) == (1, "", "eval", [])


def test_selection_can_measure_against_the_other_split(tmp_path: Path) -> None:
    """By default the number is that of the test samples, as ever; "other" has disjoint real samples and noise."""
    toy = data()
    x = toy.reference("train", 64)
    plain, other = ExactWasserstein(), ExactWasserstein()
    Evaluate(plain, 64)
    Evaluate(other, 64, split="other")
    assert (plain.split, other.split) == ("test", "train")
    found = {}
    for metric in (plain, other):
        metric.prepare(toy, 64)
        metric.reset()
        metric.update(x)
        found[metric.split] = metric.compute()["w2_64"]
    assert found["train"] == pytest.approx(0, abs=1e-6)  # the samples are the reference
    assert found["test"] > 0.1


def test_an_old_passport_has_no_tuning(tmp_path: Path) -> None:
    folder = fake_run(tmp_path / "one", 0, "W1FE", [1.0])
    (file,) = (recorded(folder, {"w2_1k": 0.5}) / "evaluations").iterdir()
    content = json.loads(file.read_text())
    assert content["passport"].pop("tuned") == ""
    file.write_text(json.dumps(content))
    assert read_record(file)[0].tuned == ""
