"""Comparisons of runs: statistics, groups, verdicts, and the report."""

import base64
import csv
import io
import json
import math
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import lightning as L
import numpy as np
import pytest
import yaml
from PIL import Image
from problems import build, data, fit
from scipy import stats
from test_evaluate import train

from pt_flows.callbacks import Failure
from pt_flows.cli.main import main
from pt_flows.compare.command import compare
from pt_flows.compare.curves import colour_of, curves_figure, pareto_front
from pt_flows.compare.groups import Criterion, Group, comparable, floor_name, grouped
from pt_flows.compare.runs import Run, find_runs, read_run
from pt_flows.compare.sampling import sampling_figure
from pt_flows.compare.statistics import (
    brunner_munzel,
    components,
    hidden_share,
    holm,
    improvement,
    judge,
    least_p,
    mean_interval,
    seeds_needed,
    welch,
)
from pt_flows.compare.verdicts import judged, said
from pt_flows.errors import DivergenceError, UserError
from pt_flows.evaluation.passport import Passport, record_path, write_record

# ---------------------------------------------------------------------------------------------------------- statistics


def test_intervals_and_tests_are_those_of_the_textbooks() -> None:
    mean, low, high = mean_interval([1.0, 2.0, 3.0])
    half = 4.302652729911275 / math.sqrt(3)  # Student's 97.5 % point with two degrees of freedom
    assert (mean, low, high) == pytest.approx((2, 2 - half, 2 + half))
    assert math.isnan(mean_interval([1.0]).low)
    assert welch([1.0, 2.0, 3.0], [1.0, 2.0, 3.0]) == 1
    assert welch([1.0, 1.0], [2.0, 2.0]) == 0
    a, b = [1.0, 2.5, 2.0, 4.0], [3.0, 3.5, 9.0]
    assert welch(a, b) == pytest.approx(stats.ttest_ind(a, b, equal_var=False).pvalue)
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])


@pytest.mark.parametrize(("n", "m"), [(5, 5), (4, 6), (6, 3)])
def test_the_permutation_test_is_scipys(n: int, m: int) -> None:
    """P-values are exact, with scipy's own statistic, and with means where that is equal."""
    rng = np.random.default_rng(n)
    a, b = rng.normal(0, 1, n).tolist(), rng.normal(1, 2, m).tolist()
    ranks = lambda x, y: abs(float(np.clip(stats.brunnermunzel(x, y).statistic, -1e3, 1e3)))
    size = lambda x, y: round(ranks(x, y), 6) + 1e-7 * abs(np.mean(x) - np.mean(y))
    with np.errstate(all="ignore"):
        found = stats.permutation_test((a, b), size, alternative="greater", n_resamples=10**6).pvalue
    assert brunner_munzel(a, b) == pytest.approx(found)


def test_orders_of_runs() -> None:
    a, b = [1.0, 2.0, 3.0, 4.0], [5.0, 6.0, 7.0, math.inf]
    assert brunner_munzel(a, b) == brunner_munzel(b, a) == pytest.approx(2 / 70) == least_p(4, 4)
    assert brunner_munzel(a, a) == brunner_munzel([1.0] * 4, [1.0] * 4) == 1
    assert brunner_munzel(list(range(20)), list(range(30, 50))) == least_p(20, 20) < 1e-4  # not all permutations
    assert least_p(3, 3) == pytest.approx(0.1)
    assert improvement([1.0, 2.0], [2.0, math.inf]) == 0.875
    assert 0.8**14 < 0.05 < 0.8**13
    assert hidden_share(13) > 0.2 > hidden_share(14)


def test_a_verdict_needs_order_and_means_and_no_failure_ahead() -> None:
    a, b = [1.0, 1.1, 1.2, 1.3, 1.4, 1.5], [2.0, 2.1, 2.2, 2.3, 2.4, 2.5]
    assert judge(a, b) == judge(b, a) == pytest.approx(2 / math.comb(12, 6))
    assert brunner_munzel([*a, 1.6, 9.0], [*b, 2.6, 2.7]) < 0.05 < judge([*a, 1.6, 9.0], [*b, 2.6, 2.7])
    assert judge([*a, math.inf], [*b, 2.6]) == 1
    assert judge(a, [*b[:-1], math.inf]) == judge(a, b)
    assert judge(a, [math.inf] * 6) == judge(a, b)
    assert judge([1.0] * 4, [1.0] * 4) == 1


@pytest.mark.parametrize("seeds", [4, 5])
def test_verdicts_are_calibrated_with_rare_bad_seeds(seeds: int) -> None:
    """Errors are rare if neither method is better; for normal seeds the power is close to that of Welch's test."""
    rng = np.random.default_rng(seeds)
    normal = lambda: rng.normal(0, 1, (300, seeds))
    bad = np.where(rng.random((300, seeds)) < 0.2, 20, math.sqrt(2) * stats.norm.ppf(0.5 / 0.8) * -1)
    wrong = lambda other: np.mean([judge(a, b) <= 0.05 for a, b in zip(normal().tolist(), other.tolist(), strict=True)])
    assert wrong(normal() + bad) <= 0.07
    assert wrong(np.exp(normal()) - 1) <= 0.07
    pairs = list(zip(normal().tolist(), (normal() + 2).tolist(), strict=True))
    power = np.mean([[judge(a, b) <= 0.05, welch(a, b) <= 0.05] for a, b in pairs], 0)
    assert power[0] > (0.7 if seeds == 4 else 0.87) * power[1]  # 4 against 4 is tested at a level of 0.029


def test_seeds_needed_have_the_promised_power() -> None:
    """With as many runs as the note asks for, four in five simulated comparisons see the gap."""
    for gap in (1.0, 2.0):
        n = seeds_needed([0.0, 1.0, 2.0], [gap, 1 + gap, 2 + gap], 0.05)
        assert n is not None
        rng = np.random.default_rng(0)
        pairs = [(rng.normal(0, 1, n).tolist(), rng.normal(gap, 1, n).tolist()) for _ in range(500)]
        assert np.mean([judge(a, b) <= 0.05 for a, b in pairs]) == pytest.approx(0.8, abs=0.05)
    assert seeds_needed([0.0, 1.0], [0.0, 1.001], 0.05) is None
    assert seeds_needed([1.0, 1.0], [1.0, 1.0], 0.05) is None
    assert seeds_needed([1.0, 1.0], [2.0, 2.0], 0.05) == 4  # as many as can reach the level


def test_variances_of_nested_seeds_come_apart() -> None:
    rng = np.random.default_rng(0)
    runs = [[float(mean + 0.5 * e) for e in rng.normal(size=5)] for mean in rng.normal(0, 2, 400)]
    found = components(runs)
    assert found.training == pytest.approx(2, rel=0.1)
    assert found.sampling == pytest.approx(0.5, rel=0.1)
    assert math.isnan(components([[1.0], [2.0]]).sampling)


# ------------------------------------------------------------------------------------------------------------- compare


def fake_run(
    folder: Path,
    seed: int,
    method: str,
    values: list[float],
    key: str = "w2_1k",
    floor: float | None = None,
    **model: Any,
) -> Path:
    """A run folder as training leaves it."""
    folder.mkdir(parents=True)
    config = {"seed_everything": seed, "model": {"class_path": f"pt_flows.{method}", "init_args": model},
              "data": {"class_path": "Toy2D"}, "run": {"root": str(folder)},
              "trainer": {"max_steps": 10 * len(values)}}  # fmt: skip
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    (folder / "environment.json").write_text(json.dumps({"seed": seed}))
    with (folder / "metrics.csv").open("w", newline="") as file:
        floors = {f"eval/{key}_floor": floor} if floor is not None else {}
        writer = csv.DictWriter(file, ["iteration", f"eval/{key}", "cost/seconds", "cost/images_seen", *floors])
        writer.writeheader()
        for i, value in enumerate(values, 1):
            writer.writerow({"iteration": 10 * i, "cost/seconds": 60 * i, "cost/images_seen": 1000 * i})
            writer.writerow({"iteration": 10 * i, f"eval/{key}": value, **floors})
    return folder


def recorded(folder: Path, numbers: dict[str, float], **fields: Any) -> Path:
    """A run folder with a record of numbers as `evaluate` writes it."""
    known: dict[str, Any] = {
        "method": "W1FE", "data": "Toy2D", "reference": "r-test", "split": "test", "num_samples": 1000, "features": {},
        "weights": "ema", "sampler": "Direct", "sampling_seed": 0, "training_seed": 0, "iteration": 10,
        "checkpoint": "c", "device": "cpu", "packages": {}, "cost": {}, "directions": dict.fromkeys(numbers, "lower"),
    }  # fmt: skip
    passport = Passport(**known | fields)
    write_record(record_path(folder, passport, Path("last.ckpt")), passport, numbers)
    return folder


def simulated(root: Path, gap: float, seeds: int = 4) -> Path:
    rng = np.random.default_rng(0)
    for seed in range(seeds):
        noise = float(0.1 * rng.normal())
        fake_run(root / f"a{seed}", seed, "W1FE", [2.0, 1.2, 1.0 + noise], step_size=1.0)
        fake_run(root / f"b{seed}", seed, "WGANGP", [2.5, 1.0, 1.0 + gap + noise])
    return root


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ["--out", "table.pdf"],
            "--out: expected a name without a suffix, as .md, .csv, .tex are written, got table.pdf",
        ),
        (["--out", "no/table"], "--out: expected an existing folder, got"),
        (["--out", ".."], "--out: expected a name of files, got ... Add one"),
        (["--wandb", ""], "--wandb: expected a project, got none"),
    ],
)
def test_targets_of_a_table(words: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = simulated(tmp_path, 1.0)
    assert main(["compare", str(root), *words]) == 2
    assert said in capsys.readouterr().err
    assert main(["compare", str(root), "--out", "v0.2"]) == 0
    assert {path.name for path in Path().glob("v0*")} == {"v0.2.md", "v0.2.csv", "v0.2.tex"}


def test_names_of_groups_tell_them_apart_and_stay_short(tmp_path: Path) -> None:
    """Arguments of a class are no difference to a run without this class."""
    attack = {"class_path": "pt_flows.functional.attacks.PGD", "init_args": {"epsilon": 0.2, "num_steps": 5}}
    settings = [{"attack": None}, {"attack": attack}] + [
        {"attack": attack, "a": 1, "b": 1, "c": 1, "d": d} for d in (1, 2)
    ]
    for i, arguments in enumerate(settings):
        fake_run(tmp_path / str(i), 0, "Robust", [1.0, 0.5], **arguments)
    groups, _ = comparable([str(tmp_path / str(i)) for i in (0, 1)], "w2_1k")
    assert sorted(group.name for group in groups) == ["Robust", "Robust (attack=PGD)"]
    groups, _ = comparable([str(tmp_path)], "w2_1k")
    assert len({group.name for group in groups}) == 4
    for i, network in enumerate(("mine.a.Net", "mine.b.Net")):
        fake_run(tmp_path / f"net{i}", 0, "Plain", [1.0, 0.5], network={"class_path": network, "init_args": None})
    groups, _ = comparable([str(tmp_path / f"net{i}") for i in (0, 1)], "w2_1k")
    assert sorted(group.name for group in groups) == ["Plain (network=mine.a.Net)", "Plain (network=mine.b.Net)"]


def test_a_clear_gap_is_a_verdict(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = simulated(tmp_path, 1.0)
    out, plot = str(tmp_path / "table"), str(tmp_path / "plot.png")
    assert main(["compare", str(root), "--out", out, "--plot", plot, "--goal", "1.3"]) == 0
    printed = capsys.readouterr().out
    assert "- W1FE is better than WGANGP in most seeds (probability of improvement 1, adjusted p = 0.029)" in printed
    assert "verdicts are about most seeds, not about averages: 4 good seeds do not exclude that up to 53%" in printed
    assert "| W1FE" in printed.splitlines()[4]  # the best comes first
    assert re.search(r"\| 1\.\d+ \(seed \d\) ", printed)  # the worst seed
    assert "| 2 (4 of 4) " in printed
    rows = list(csv.DictReader(Path(out + ".csv").read_text().splitlines()))
    assert [row["runs"] for row in rows] == ["4", "4"]
    numbers = [{key: float(value) for key, value in row.items() if value and key != "method"} for row in rows]
    assert (numbers[0]["minutes to 1.3"], numbers[0]["runs at 1.3"], numbers[1]["best"]) == (2, 4, 1)
    assert numbers[0]["95 % low"] < numbers[0]["w2_1k, last"] < numbers[0]["95 % high"]
    assert rows[0]["sd of sampling"] == ""  # one sampling seed
    assert r"\toprule" in Path(out + ".tex").read_text()
    assert Path(plot).stat().st_size > 10_000


def test_a_small_gap_is_inconclusive_and_says_how_many_more(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", str(simulated(tmp_path, 0.05))]) == 0
    printed = capsys.readouterr().out
    assert "inconclusive" in printed
    assert "runs of each would settle it" in printed


def test_higher_is_better_where_it_is(tmp_path: Path) -> None:
    for seed in range(4):
        fake_run(tmp_path / f"a{seed}", seed, "W1FE", [0.9 + 0.01 * seed], "high_quality")
        fake_run(tmp_path / f"b{seed}", seed, "WGANGP", [0.5 + 0.01 * seed], "high_quality")
    groups = grouped(find_runs([str(tmp_path)]))
    criterion = Criterion("high_quality", higher=True)
    assert said(groups, criterion, judged(groups, criterion, 0.05))[0].startswith("W1FE is better than WGANGP")


def test_a_number_that_is_neither_better_high_nor_low_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for seed in range(2):
        numbers, directions = {"w2_1k": 1.0, "mode_width": 1.2}, {"w2_1k": "lower", "mode_width": ""}
        recorded(fake_run(tmp_path / str(seed), seed, "W1FE", [2.0]), numbers, directions=directions)
    assert main(["compare", str(tmp_path), "--metric", "mode_width"]) == 2
    assert "runs have (w2_1k), got mode_width, which is neither better high nor low" in capsys.readouterr().err
    assert main(["compare", str(tmp_path), "--metric", "w2_1m"]) == 2
    assert "runs have (w2_1k), got w2_1m." in capsys.readouterr().err


def test_costs_of_runs_without_a_log_are_those_of_their_records(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = recorded(
        fake_run(tmp_path / "0", 0, "W1FE", [2.0]), {"w2_1k": 1.0}, cost={"seconds": 90, "images_seen": 7}
    )
    (folder / "metrics.csv").unlink()
    assert main(["compare", str(tmp_path)]) == 0
    assert re.search(r"\| 1\.5 +\| 7 +\|", capsys.readouterr().out)


def test_the_floor_stands_below_the_verdicts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for method, value in (("W1FE", 2.0), ("WGANGP", 3.0)):
        for seed in range(2):
            fake_run(tmp_path / f"{method}{seed}", seed, method, [value], floor=0.5)
    assert main(["compare", str(tmp_path)]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"- {floor_name('w2_1k')}: 0.5"


def test_a_direction_comes_from_the_passport(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A number that only the log has follows this package's own names; any other number is called unknown."""
    for seed in range(4):
        good = fake_run(tmp_path / f"a{seed}", seed, "W1FE", [0.9 + 0.01 * seed], "accuracy")
        fake_run(tmp_path / f"b{seed}", seed, "WGANGP", [0.5 + 0.01 * seed], "accuracy")
    assert main(["compare", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert printed.count("no passport tells whether higher or lower accuracy is better: lower is taken as better") == 1
    assert "WGANGP is better than W1FE" in printed
    recorded(good, {"accuracy": 0.93}, directions={"accuracy": "higher"})
    assert main(["compare", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert "accuracy (higher is better)" in printed
    assert "no passport" not in printed
    assert "W1FE is better than WGANGP" in printed
    recorded(good, {"accuracy": 0.93}, directions={"accuracy": "lower"}, sampling_seed=1)
    assert main(["compare", str(tmp_path)]) == 2
    assert "accuracy: expected one direction, got passports that disagree" in capsys.readouterr().err


def test_numbers_without_a_direction_are_not_compared(tmp_path: Path) -> None:
    folder = fake_run(tmp_path / "a", 0, "W1FE", [1.0])
    recorded(folder, {"w2_1k": 1.0, "temperature": 3.0}, directions={"w2_1k": "lower", "temperature": ""})
    assert find_runs([str(folder)])[0].keys == {"w2_1k"}


def test_weights_and_samplers_are_compared_apart(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for seed in range(5):
        folder = fake_run(tmp_path / f"a{seed}", seed, "W1FE", [1.0 + 0.01 * seed])
        fake_run(tmp_path / f"b{seed}", seed, "WGANGP", [3.0 + 0.01 * seed])
        if seed < 4:
            recorded(folder, {"w2_1k": 1.0 + 0.01 * seed})
            recorded(folder, {"w2_1k": 2.0 + 0.01 * seed}, weights="raw")
            recorded(folder, {"w2_1k": 0.5 + 0.01 * seed}, sampler="REPGAN(chain_length=100)")
    (folder / "failed.txt").write_text("diverged\n")
    assert len(list((tmp_path / "a0/evaluations").iterdir())) == 3
    groups, _ = comparable([str(tmp_path)], None)
    found = {group.name: (len(group.runs), sorted(group.values("w2_1k"))) for group in groups}
    assert found == {  # the failed seed has failed with any weights and sampler
        "W1FE (ema weights, Direct)": (5, [1.0, 1.01, 1.02, 1.03]),
        "W1FE (raw weights, Direct)": (5, [2.0, 2.01, 2.02, 2.03]),
        "W1FE (ema weights, REPGAN(chain_length=100))": (5, [0.5, 0.51, 0.52, 0.53]),
        "WGANGP (ema weights)": (5, [3.0, 3.01, 3.02, 3.03, 3.04]),
    }
    assert [bool(group.runs[0].curve("w2_1k")) for group in groups] == [True, False, False, True]
    assert main(["compare", str(tmp_path), "--goal", "1.5", "--plot", str(tmp_path / "curves.png")]) == 0
    printed = capsys.readouterr().out
    assert re.search(
        r"W1FE \(ema weights, Direct\) against W1FE \(raw.*; not independent: 5 of their runs are the same", printed
    )
    assert not re.search(r"WGANGP.*not independent", printed)
    assert main(["report", str(tmp_path), "--out", str(tmp_path / "report.html")]) == 0
    assert (tmp_path / "report.html").read_text().count("<h2>") == 10  # one for each run


def test_a_subject_without_the_number_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = recorded(fake_run(tmp_path / "a", 0, "W1FE", [1.0]), {"w2_5k": 1.0}, weights="raw")
    comparable([str(folder)], "w2_1k")
    said = f"{folder} has no w2_1k of its raw weights through Direct, only w2_5k: omitted"
    assert said in capsys.readouterr().out


def test_which_weights_training_measured_does_not_split_a_group(tmp_path: Path) -> None:
    for seed, weights in enumerate(["ema", "raw"]):
        folder = fake_run(tmp_path / weights, seed, "PCD", [1.0])
        config = yaml.safe_load((folder / "config.yaml").read_text()) | {"evaluation": {"weights": weights}}
        (folder / "config.yaml").write_text(yaml.safe_dump(config))
        recorded(folder, {"w2_1k": 1.0}, method="PCD", sampler="Chains", weights=weights)
    recorded(folder, {"w2_1k": 2.0}, method="PCD", sampler="Chains")
    groups, _ = comparable([str(tmp_path)], None)
    assert [(group.name, group.values("w2_1k")) for group in groups] == [
        ("PCD (ema weights)", [1.0, 2.0]), ("PCD (raw weights)", [1.0]),
    ]  # fmt: skip


def test_the_protocol_that_all_runs_share_is_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a, b = (fake_run(tmp_path / name, i, "W1FE", [9.0]) for i, name in enumerate("ab"))
    for folder in (a, b):
        recorded(folder, {"w2_1k": 1.0})
    recorded(a, {"w2_1k": 5.0}, split="train", reference="r-train")
    recorded(b, {"w2_1k": 7.0}, split="train", reference="r-train", weights="raw")
    (group,), _ = comparable([str(tmp_path)], None)
    assert group.values("w2_1k") == [1.0, 1.0]
    printed = capsys.readouterr().out
    assert "w2_1k was measured by two protocols (split: test and train)" in printed
    assert f"{b} has w2_1k of its raw weights through Direct by another protocol only: omitted" in printed
    fake_run(tmp_path / "c", 2, "W1FE", [9.0])
    recorded(fake_run(tmp_path / "d", 3, "W1FE", [9.0]), {"w2_1k": 5.0}, split="train", reference="r-train")
    (group,), _ = comparable([str(tmp_path / name) for name in "acd"], None)
    assert group.values("w2_1k") == [5.0, 5.0]
    assert f"{tmp_path / 'c'} has w2_1k in its log only, by another protocol or" in capsys.readouterr().out
    recorded(fake_run(tmp_path / "e", 4, "W1FE", [9.0]), {"w2_1k": 5.0}, num_samples=2000)
    with pytest.raises(UserError, match=r"expected one protocol .* \(num_samples: 1000 and 2000\)"):
        comparable([str(tmp_path / name) for name in "abe"], None)


def test_a_log_without_a_record_counts_if_another_run_tells_its_protocol(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A run that was killed beside finished ones, whose records have what their logs have; not beside other records."""
    for seed in range(3):
        fake_run(tmp_path / f"a{seed}", seed, "W1FE", [9.0])
    recorded(tmp_path / "a0", {"w2_1k": 9.0})
    (group,), _ = comparable([str(tmp_path)], None)
    assert group.values("w2_1k") == [9.0, 9.0, 9.0]
    assert "log only" not in capsys.readouterr().out
    for seed in range(2):
        recorded(tmp_path / f"a{seed}", {"w2_1k": 8.0}, num_samples=2000)
    (group,), _ = comparable([str(tmp_path)], None)
    assert group.values("w2_1k") == [8.0, 8.0]
    assert f"{tmp_path / 'a2'} has w2_1k in its log only" in capsys.readouterr().out


def test_records_of_one_iteration_count_once_for_each_sampling_seed(tmp_path: Path) -> None:
    folder = recorded(fake_run(tmp_path / "a", 0, "W1FE", [1.0]), {"w2_1k": 1.0})
    for seed, value in ((0, 1.0), (1, 4.0)):
        passport = replace(read_run(folder).records[0][0], sampling_seed=seed)
        write_record(record_path(folder, passport, Path("best.ckpt")), passport, {"w2_1k": value})
    assert read_run(folder).last("w2_1k") == [1.0, 4.0]


def test_a_continued_run_is_grouped_by_its_last_configuration(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for seed in range(2):
        folder = fake_run(tmp_path / str(seed), seed, "W1FE", [1.0, 2.0])
    config = yaml.safe_load((folder / "config.yaml").read_text())
    config["trainer"]["max_steps"] = 10  # it was started for ten iterations, and continued to twenty
    (folder / "config.yaml").rename(folder / "config-continued-20260101-000000-000000.yaml")
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    (group,), _ = comparable([str(tmp_path)], None)
    assert len(group.runs) == 2
    recorded(folder, {"w2_1k": 0.5})
    (group,), _ = comparable([str(tmp_path)], None)
    assert group.values("w2_1k") == [0.5]
    assert f"note: {folder}: w2_1k of its ema weights is from iteration 10 of 20" in capsys.readouterr().out


def test_forks_of_one_state_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = simulated(tmp_path, 1.0)
    for seed in (1, 2):
        parent = {"checkpoint": str(root / "a0/checkpoints/last.ckpt"), "sha256": "ab", "iteration": 3}
        (root / f"a{seed}/environment.json").write_text(json.dumps({"seed": seed, "parent": parent}))
    assert main(["compare", str(root)]) == 0
    printed = capsys.readouterr().out
    together = ", ".join(str(root / f"a{seed}") for seed in range(3))
    assert f"note: {together} share a part of their training, as forks do: they are not independent" in printed
    assert re.search(r"W1FE is better than.*; not independent: 3 of their runs share a part of their training", printed)


def test_one_group_is_described(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fake_run(tmp_path / "a", 0, "W1FE", [1.0])
    assert main(["compare", str(tmp_path)]) == 0
    assert "- W1FE: w2_1k is 1 in one run, which has no spread. A verdict needs a second" in capsys.readouterr().out
    fake_run(tmp_path / "b", 1, "W1FE", [2.0])
    (fake_run(tmp_path / "c", 2, "W1FE", [2.0]) / "failed.txt").write_text("diverged\n")
    assert main(["compare", str(tmp_path)]) == 0
    assert "w2_1k is 1.5 on average, with standard deviation 0.71 over 2 runs, 1 failed" in capsys.readouterr().out


def test_a_comparison_needs_neither_torch_nor_lightning(tmp_path: Path) -> None:
    recorded(fake_run(tmp_path / "a", 0, "W1FE", [1.0]), {"w2_1k": 1.0})
    fake_run(tmp_path / "b", 0, "WGANGP", [2.0])
    program = (
        "import sys; from pt_flows.compare.command import compare; from pt_flows.compare.report import report; "
        f"compare([{str(tmp_path)!r}], goal=1.0); report([{str(tmp_path)!r}], out={str(tmp_path / 'r.html')!r}); "
        "print('loaded:', *sorted({'torch', 'torchvision', 'torchmetrics', 'lightning', 'wandb'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "loaded:"


def test_runs_of_one_configuration_are_one_group(tmp_path: Path) -> None:
    for i, (seed, step) in enumerate([(0, 1.0), (1, 1.0), (0, 2.0)]):
        fake_run(tmp_path / str(i), seed, "W1FE", [1.0], step_size=step)
    groups = grouped(find_runs([str(tmp_path)]))
    assert [(group.name, len(group.runs)) for group in groups] == [
        ("W1FE (step_size=1.0)", 2), ("W1FE (step_size=2.0)", 1)
    ]  # fmt: skip


def test_a_single_run_gets_no_verdict(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fake_run(tmp_path / "a", 0, "W1FE", [1.0])
    fake_run(tmp_path / "b", 0, "WGANGP", [1.0])
    assert main(["compare", str(tmp_path / "a"), str(tmp_path / "b")]) == 0
    assert "no verdict on W1FE, WGANGP: one run has no spread" in capsys.readouterr().out


def test_two_protocols_are_never_one_column(tmp_path: Path) -> None:
    """Protocols stay apart if names differ, and if names agree but passports do not."""
    fake_run(tmp_path / "a", 0, "W1FE", [1.0], "fd_lite0_64_1k_train")
    fake_run(tmp_path / "b", 0, "WGANGP", [1.0], "fd_lite0_64_10k_train")
    assert main(["compare", str(tmp_path)]) == 2
    folders = [train("toy2d/w1_fe", tmp_path / "real", 2, "--evaluation.num_samples", "20", "--data.target", name)
               for name in ("ring8", "grid25")]  # fmt: skip
    for folder in folders:
        assert main(["evaluate", str(folder / "checkpoints/last.ckpt"), "--n", "20"]) == 0
    with pytest.raises(UserError, match=r"expected one protocol .* \(reference: \w+ and \w+\)"):
        compare(list(map(str, folders)), "w2_20")


def test_thirty_runs_are_compared_quickly(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """All of them appear, with all pairs of methods."""
    for i in range(30):
        fake_run(tmp_path / str(i), i, ("W1FE", "WGANGP", "W2FE")[i % 3], [2.0, 1.0 + 0.1 * (i % 3) + 0.01 * i] * 50)
    assert main(["compare", str(tmp_path)]) == 0
    assert capsys.readouterr().out.count("W2FE") >= 3


def test_too_few_seeds_are_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Three against three cannot reach the level; for three pairs four cannot."""
    assert main(["compare", str(simulated(tmp_path / "two", 9.0, seeds=3))]) == 0
    assert "W1FE against WGANGP: too few seeds, 3 against 3 cannot go below p = 0.1; train at least 4 of each" in (
        capsys.readouterr().out
    )
    root = simulated(tmp_path / "three", 9.0)
    for seed in range(4):
        fake_run(root / f"c{seed}", seed, "W2FE", [1.0 + seed])
    assert main(["compare", str(root)]) == 0
    printed = capsys.readouterr().out
    reason = "4 against 4 cannot go below p = 0.086 for 3 pairs; train at least 5 of each"
    assert f"- all 3 pairs: too few seeds, {reason}" in printed
    assert printed.count("too few seeds") == 1
    assert "is better than" not in printed


def test_equal_numbers_are_no_gap(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for seed in range(4):
        fake_run(tmp_path / f"a{seed}", seed, "W1FE", [8.0], "modes")
        fake_run(tmp_path / f"b{seed}", seed, "WGANGP", [8.0], "modes")
    assert main(["compare", str(tmp_path)]) == 0
    assert "inconclusive (probability of improvement 0.5, adjusted p = 1); neither is ahead" in capsys.readouterr().out


def test_failed_seeds_are_rows_of_the_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Failed seeds diverged before an evaluation or have a number that is not finite; the others are averaged."""
    root = tmp_path / "runs"
    for seed in range(5):
        fake_run(root / f"a{seed}", seed, "W1FE", [2.0, 1.0 + 0.01 * seed])
        fake_run(root / f"b{seed}", seed, "WGANGP", [3.0, 2.0 + 0.01 * seed])
    (root / "b3/metrics.csv").unlink()
    (root / "b3/failed.txt").write_text("loss_D is nan at iteration 3\n")
    with (root / "b4/metrics.csv").open("a") as file:
        file.write("30,nan,,\n")
    assert main(["compare", str(root), "--plot", str(tmp_path / "curves.png"), "--goal", "2.5"]) == 0
    printed = capsys.readouterr().out
    better, worse = (line for line in printed.splitlines() if line.startswith(("| W1FE", "| WGANGP")))
    assert [cell.strip() for cell in better.split("|")[2:5]] == ["5", "0", "1.02"]
    assert [cell.strip() for cell in worse.split("|")[2:5]] == ["5", "2 (seed 3, 4)", "2.01"]
    assert "2.02 (seed 2)" in worse
    assert "W1FE is better than WGANGP in most seeds (probability of improvement 1, adjusted p = 0.0079)" in printed
    (root / "a0/failed.txt").write_text("loss_D is nan at iteration 3\n")
    for seed in (3, 4):
        (root / f"b{seed}/failed.txt").unlink(missing_ok=True)
        (root / f"b{seed}/metrics.csv").write_text("iteration,eval/w2_1k\n20,2.05\n")
    assert main(["compare", str(root)]) == 0
    assert "; W1FE is ahead, but 1 of its 5 seeds failed" in capsys.readouterr().out
    for seed in range(5):
        (root / f"b{seed}/failed.txt").write_text("loss_D is nan at iteration 3\n")
    (root / "a0/failed.txt").unlink()
    assert main(["report", str(root), "--out", str(tmp_path / "report.html")]) == 0
    assert "Failed: loss_D is nan at iteration 3" in (tmp_path / "report.html").read_text()
    groups, criterion = comparable([str(root)], None)
    assert (groups[1].values("w2_1k"), judged(groups, criterion, 0.05)[0].verdict) == ([], "better")


def test_divergence_is_written_down(tmp_path: Path) -> None:
    """The record is removed if the run is continued."""

    class Diverging(L.Callback):
        def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, *args: Any) -> None:
            raise DivergenceError("loss_D is nan at iteration 1")

    settings: dict[str, Any] = {"max_steps": 2, "default_root_dir": str(tmp_path)}
    with pytest.raises(DivergenceError):
        fit(build("W1FE"), data(), callbacks=[Failure(), Diverging()], **settings)
    assert (tmp_path / "failed.txt").read_text() == "loss_D is nan at iteration 1\n"
    fit(build("W1FE"), data(), callbacks=[Failure()], **settings)
    assert not (tmp_path / "failed.txt").exists()


@pytest.mark.parametrize(
    ("spoil", "note"),
    [
        (lambda folder: (folder / "metrics.csv").unlink(), "has measured nothing yet: skipped"),
        (lambda folder: (folder / "metrics.csv").write_text("iteration,train/loss_D\n1,2\n"), "has measured nothing"),
        (lambda folder: (folder / "environment.json").unlink(), "expected environment.json, got no such file: skipped"),
        (lambda folder: (folder / "environment.json").write_text("{"), "cannot be read as a run"),
        (lambda folder: (folder / "config.yaml").write_text("wandb_version: 1\n"), "cannot be read as a run"),
        (lambda folder: (folder / "config.yaml").write_text("a: [\n"), "cannot be read as a run"),
        (lambda folder: (folder / "metrics.csv").write_text("1,2\n3,4\n"), "has 2 damaged rows: skipped"),
        (lambda folder: (folder / "metrics.csv").open("a").write("40,0."), "has 1 damaged row: skipped"),
        (lambda folder: (folder / "metrics.csv").open("a").write("40\n50,x,,\n"), "has 2 damaged rows: skipped"),
        (lambda folder: (folder / "metrics.csv").write_bytes(b"iteration\n\xff\0\n"), "has 1 damaged row: skipped"),
        (lambda folder: (folder / "evaluations/a.json").write_text("{"), "got a damaged file"),
    ],
)
def test_a_broken_run_does_not_stop_the_others(
    spoil: Any, note: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A broken run is skipped with a note; if it is the only run, that is an error."""
    root = simulated(tmp_path / "runs", 1.0)
    broken = fake_run(root / "broken", 9, "W1FE", [2.0, 1.2, 1.0], step_size=1.0)
    (broken / "evaluations").mkdir()
    spoil(broken)
    assert main(["compare", str(root)]) == 0
    printed = capsys.readouterr().out
    assert re.search(rf"note: .*broken.*{note}", printed)
    assert "W1FE is better than WGANGP" in printed
    if main(["compare", str(broken)]):
        error = capsys.readouterr().err
        assert "runs: expected runs to compare, got none" in error
        assert len(error.strip().splitlines()) == 1


def test_folders_globs_and_parents_are_searched_for_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Files of W&B and pictures are not taken for runs."""
    monkeypatch.chdir(tmp_path)
    root = simulated(Path("runs"), 1.0)
    (root / "overview.png").write_bytes(b"")
    (root / "refused").mkdir()
    for files in (root / "a0/wandb/run-1/files", root / "wandb/run-2/files"):
        files.mkdir(parents=True)
        (files / "config.yaml").write_text("wandb_version: 1\n")
    names = sorted(f"{method}{seed}" for method in "ab" for seed in range(4))
    for given in (
        ["runs"],
        ["."],
        ["runs/*"],
        ["runs/a*", "runs/b?"],
        [f"runs/{name}" for name in names],
        ["runs"] * 2,
    ):
        assert sorted(run.folder.name for run in find_runs(given)) == names
    assert main(["compare", *map(str, sorted(root.iterdir()))]) == 0
    printed = capsys.readouterr().out
    assert "note: runs/overview.png is no run folder: skipped\nnote: runs/refused holds no run: skipped" in printed
    assert main(["report", "runs/*"]) == 0
    assert "runs/overview.png is no run folder" in Path("report.html").read_text()
    assert main(["compare", "runs/x*"]) == 2
    assert "runs/x*: expected a run folder" in capsys.readouterr().err
    assert main(["compare", "runs/refused"]) == 2
    assert "runs: expected runs to compare, got none (runs/refused holds no run" in capsys.readouterr().err


def test_copies_and_repeated_seeds_are_no_independent_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = fake_run(tmp_path / "20260101-000000-0123abcd", 0, "W1FE", [2.0, 1.0])
    shutil.copytree(first, tmp_path / "copy")
    fake_run(tmp_path / "again", 0, "W1FE", [2.0, 1.1])
    short = fake_run(tmp_path / "short", 1, "W1FE", [2.0, 1.2])
    (short / "metrics.csv").write_text("iteration,eval/w2_1k\n10,2.0\n")
    fake_run(tmp_path / "whole", 1, "W1FE", [2.0, 1.3])
    for name in ("unseeded", "another"):
        fake_run(tmp_path / name, 0, "W1FE", [2.0, 1.4 if name == "another" else 1.5])
        (tmp_path / name / "environment.json").write_text('{"seed": false}')
    shutil.copytree(tmp_path / "another", tmp_path / "copied")
    (group,), criterion = comparable([str(tmp_path)], None)
    assert group.values(criterion.key) == [1.0, 1.4, 1.5, 1.3]
    printed = capsys.readouterr().out
    assert f"note: {tmp_path}/copy is the same run as {first}, or repeats its seed 0: omitted" in printed
    assert printed.count("omitted") == 4
    (tmp_path / "again/failed.txt").write_text("diverged\n")  # a seed is not tried until it works
    (group,), _ = comparable([str(tmp_path)], None)
    assert [run.folder.name for run in group.runs] == ["again", "another", "unseeded", "whole"]


def test_an_unfinished_run_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = fake_run(tmp_path / "a", 0, "W1FE", [2.0, 1.0])
    (folder / "metrics.csv").write_text("iteration,eval/w2_1k\n10,2.0\n")
    fake_run(tmp_path / "b", 1, "W1FE", [2.0, 1.0], "w2_99")
    assert main(["compare", str(tmp_path), "--metric", "w2_1k"]) == 0
    printed = capsys.readouterr().out
    assert f"note: {folder} has 10 of 20 iterations: its last number is from there" in printed
    assert f"note: {tmp_path}/b has no w2_1k: skipped" in printed


def test_a_finished_run_without_a_log_is_no_unfinished_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As a Trainer with `logger=False` leaves it: the evaluation tells the iteration."""
    for name, iteration in (("whole", 20), ("half", 15)):
        folder = recorded(fake_run(tmp_path / name, iteration, "W1FE", [2.0, 1.0]), {"w2_1k": 1.0}, iteration=iteration)
        (folder / "metrics.csv").unlink()
    assert main(["compare", str(tmp_path), "--metric", "w2_1k"]) == 0
    printed = capsys.readouterr().out
    assert "whole has" not in printed
    assert "half has 15 of 20 iterations" in printed


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nowhere"], "nowhere: expected a run folder, got no folder"),
        ([".", "--metric", "fd_x"], "--metric: expected a number that runs have (w2_1k), got fd_x"),
        ([".", "--level", "0.9"], "--level: expected a number in (0, 0.5), got 0.9"),
        ([".", "--plot", "x.jpg"], "--plot: expected a .png, got x.jpg"),
        ([".", "--out", "no/such/table"], "--out: expected an existing folder"),
    ],
)
def test_mistakes_in_a_comparison_are_one_sentence(
    words: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fake_run(tmp_path / "a", 0, "W1FE", [1.0])
    monkeypatch.chdir(tmp_path)
    assert main(["compare", *words]) == 2
    assert message in capsys.readouterr().err


def test_a_run_is_what_its_folder_says(tmp_path: Path) -> None:
    run = find_runs([str(fake_run(tmp_path / "a", 3, "W1FE", [2.0, 1.5]))])[0]
    assert isinstance(run, Run)
    assert (run.seed, run.keys, run.last("w2_1k")) == (3, {"w2_1k"}, [1.5])
    assert [costs["cost/seconds"] for costs, _ in run.curve("w2_1k")] == [60, 120]


# -------------------------------------------------------------------------------------------------------------- report


def test_a_run_comes_from_wandb_as_from_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The comparison reads the values that the logger sends; a stand-in plays the service."""
    folder = train("toy2d/w1_fe", tmp_path, 4, "--evaluation.num_samples", "50", "--evaluation.sampler", "Direct")
    local = find_runs([str(folder)])[0]
    assert local.sampler == local.records[0][0].sampler == "Direct"
    records = [json.loads(file.read_text()) for file in (folder / "evaluations").glob("*.json")]

    class Online:
        config: ClassVar = local.config | {"environment": {"seed": 7, "sampler": "Direct"}}
        summary: ClassVar = {"evaluations": json.dumps(records)}

        def scan_history(self) -> list[dict[str, Any]]:
            return [{**row, "_step": 1, "samples": {"_type": "image"}} for row in local.rows]

    class Api:
        def run(self, path: str) -> Online:
            assert path == "me/project/abc"
            return Online()

    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    with pytest.raises(UserError, match="me/project/abc: expected a run folder, got no folder"):
        find_runs(["me/project/abc"])
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    monkeypatch.setattr("wandb.Api", Api)
    (run,) = find_runs(["me/project/abc"])
    assert (run.config, run.seed, run.records, run.sampler) == (local.config, 7, local.records, "Direct")
    assert run.curve("w2_50") == local.curve("w2_50")
    assert len(grouped([local, run])) == 1
    Online.config = {"model": {}}
    with pytest.raises(UserError, match="expected a W&B run of pt_flows"):
        find_runs(["me/project/abc"])


def test_a_table_for_wandb_is_written_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import wandb

    wandb.teardown()  # another test may have made it read the environment
    root = simulated(tmp_path / "runs", gap=3)
    for name in ("WANDB_API_KEY", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
    for name in ("HOME", "WANDB_DIR", "WANDB_DATA_DIR"):
        monkeypatch.setenv(name, str(tmp_path))
    assert main(["compare", str(root), "--wandb", "project"]) == 0
    tables = list(tmp_path.glob("wandb/offline-run-*-compare-????????/files/media/table/*.table.json"))
    assert sorted(file.name.split("_")[0] for file in tables) == ["compare", "verdicts"]
    compared = json.loads(next(file for file in tables if file.name.startswith("compare")).read_text())
    rows = [dict(zip(compared["columns"], row, strict=True)) for row in compared["data"]]
    assert [row["method"] for row in rows] == ["W1FE", "WGANGP"]
    for row in rows:
        texts = {key for key, value in row.items() if isinstance(value, str)}
        assert texts == {"method", "tuned", "failed seeds", "worst seed"}
        assert row["sd of training"] > 0
        assert row["sd of sampling"] is None
    judged = json.loads(next(file for file in tables if file.name.startswith("verdicts")).read_text())
    (verdict,) = (dict(zip(judged["columns"], row, strict=True)) for row in judged["data"])
    assert (verdict["first"], verdict["verdict"], verdict["improvement"]) == ("W1FE", "better", 1.0)


def test_the_front_has_the_runs_that_nothing_cheaper_equals() -> None:
    points = [(1.0, 0.2), (2.0, 0.5), (3.0, 0.4), (2.0, 0.6), (math.nan, 9.0)]
    assert pareto_front(points, higher=True) == [(1.0, 0.2), (2.0, 0.6)]
    assert pareto_front(points, higher=False) == [(1.0, 0.2)]
    assert pareto_front([], higher=False) == []


def test_curves_of_failed_runs_end_with_a_cross(tmp_path: Path) -> None:
    """A failed run is not the best so far, and groups without a curve are not in the legend; floors are drawn."""
    for seed in range(2):
        fake_run(tmp_path / f"good{seed}", seed, "W1FE", [3.0, 2.0], floor=0.5)
        fake_run(tmp_path / f"bad{seed}", seed, "WGANGP", [3.0, 1.0])
    (tmp_path / "bad0/failed.txt").write_text("diverged\n")
    groups, criterion = comparable([str(tmp_path)], None)
    groups.append(Group("empty", []))
    figure = curves_figure(groups, criterion)
    axis = figure.axes[0]
    assert [list(line.get_ydata()) for line in axis.lines if line.get_marker() == "x"] == [[1.0]]
    assert axis.get_yscale() == "linear"
    (legend,) = figure.legends
    assert {text.get_text() for text in legend.get_texts()} == {"W1FE", "WGANGP", "best so far", floor_name("w2_1k")}
    assert [0.5, 0.5] in [list(line.get_ydata()) for line in axis.lines]
    assert len({colour_of(i, 12) for i in range(12)}) == 12
    alone = [Group("bad", [run for group in groups for run in group.runs if run.failure is not None])]
    (front,) = [line for line in curves_figure(alone, criterion).axes[0].lines if line.get_label() == "best so far"]
    assert len(front.get_xdata()) == 0


def written_report(tmp_path: Path) -> Path:
    """A report over two methods with pictures, one evaluation, and a damaged picture."""
    root = simulated(tmp_path / "runs", 1.0)
    for i in range(12):
        (root / "a0/pictures").mkdir(exist_ok=True)
        Image.new("RGB", (40, 40), (20 * i, 0, 0)).save(root / f"a0/pictures/{i:08d}.png")
    (root / "b0/pictures").mkdir()
    (root / "b0/pictures/00000001.png").write_bytes(b"cut short")
    target = tmp_path / "report.html"
    assert main(["report", str(root), "--out", str(target)]) == 0
    return target


def test_a_report_is_one_file_with_everything_inside(tmp_path: Path) -> None:
    text = written_report(tmp_path).read_text()
    sources = re.findall(r'src="([^"]*)"', text)
    assert len(sources) == 1 + 8  # the curves, and eight of twelve pictures
    for source in sources:
        kind, _, content = source.partition(",")
        assert kind == "data:image/png;base64"
        with Image.open(io.BytesIO(base64.b64decode(content))) as image:
            image.load()
    assert not re.search(r"https?://|@import|url\(|<script|<link", text)
    assert "W1FE is better than WGANGP" in text
    assert "00000001.png: cannot be read" in text
    assert "step_size: 1.0" in text


@pytest.mark.skipif(shutil.which("chromium") is None, reason="chromium is not installed")
def test_a_browser_decodes_every_picture_and_fetches_nothing(tmp_path: Path) -> None:
    """At the width of a phone nothing but tables scrolls sideways."""
    report = written_report(tmp_path)
    check = """<script>window.onload = () => {
        const bad = [...document.images].filter(i => !i.naturalWidth).length;
        const fetched = performance.getEntriesByType('resource').filter(e => !e.name.startsWith('data:')).length;
        const wide = document.documentElement.scrollWidth > window.innerWidth;
        document.title = `bad ${bad} of ${document.images.length} fetched ${fetched} wide ${wide}`; }</script>"""
    page = tmp_path / "checked.html"
    page.write_text(report.read_text().replace("</body>", check + "</body>"))
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--window-size=500,900", "--virtual-time-budget=5000"]
    found = subprocess.run(
        ["chromium", *flags, f"--user-data-dir={tmp_path}/profile", "--dump-dom", page.as_uri()],
        capture_output=True, text=True, timeout=60, check=True,
    ).stdout  # fmt: skip
    assert "<title>bad 0 of 9 fetched 0 wide false</title>" in found


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--out", "x.pdf"], "--out: expected a file .html"),
        (["--out", "no/such/x.html"], "expected an existing folder"),
    ],
)
def test_mistakes_in_a_report_are_one_sentence(
    words: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fake_run(tmp_path / "a", 0, "W1FE", [1.0])
    assert main(["report", str(tmp_path), *words]) == 2
    assert message in capsys.readouterr().err


# ---------------------------------------------------------------------------------------------------- cost of sampling


def sampled(root: Path, samplers: dict[str, tuple[float, dict[str, float]]], seeds: int = 4) -> Path:
    """Runs of one method that were measured through samplers, each with its number and its evaluations per sample."""
    for seed in range(seeds):
        folder = fake_run(root / str(seed), seed, "W1FE", [1.0])
        for name, (value, evaluations) in samplers.items():
            cost = {"seconds": 1.0} | {f"sampling_{network}": num for network, num in evaluations.items()}
            recorded(folder, {"w2_1k": value * (1 + 0.05 * seed), "w2_1k_floor": 0.1},
                     sampler=name, cost=cost, directions={"w2_1k": "lower", "w2_1k_floor": ""})  # fmt: skip
    return root


SAMPLERS = {"Direct": (1.0, {"generator": 1.0}), "Flow(steps=25)": (0.6, {"generator": 26.0, "critic": 25.0}),
            "Chain(steps=25)": (0.5, {"generator": 26.0, "critic": 26.0}), "Mystery": (0.7, {})}  # fmt: skip


@pytest.mark.slow
def test_quality_against_evaluations_per_sample(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Table, plot and report show the cost of sampling, summed over networks; without a record it is unknown."""
    root = sampled(tmp_path / "runs", SAMPLERS)
    (fake_run(root / "4", 4, "W1FE", [1.0]) / "failed.txt").write_text("diverged\n")
    groups, criterion = comparable([str(root)], None)
    costs = {group.name: group.evaluations_per_sample("w2_1k") for group in groups}
    assert costs == pytest.approx({"W1FE (Direct)": 1, "W1FE (Flow(steps=25))": 51, "W1FE (Chain(steps=25))": 52,
                                   "W1FE (Mystery)": math.nan}, nan_ok=True)  # fmt: skip
    figure = sampling_figure(groups, criterion)
    (axis,) = figure.axes
    assert (axis.get_xscale(), axis.get_yscale()) == ("log", "linear")
    points = [(line.get_xdata()[0], *line.get_ydata()) for line in axis.lines if line.get_alpha() == 0.5]
    assert [len(point) for point in points] == [5, 5, 5]
    assert sorted(x for x, *_ in points) == pytest.approx([1, 48.5, 54.6], abs=0.1)  # almost equal costs side by side
    assert axis.get_ylim()[0] < 0.1 < 1.15 < axis.get_ylim()[1]
    assert [text.get_text() for text in axis.get_legend().get_texts()][:2] == [
        "W1FE (Mystery) (cost unknown, 1 of 5 failed)", floor_name("w2_1k")]  # fmt: skip
    out, plot = tmp_path / "table", tmp_path / "plot.png"
    assert main(["compare", str(root), "--out", str(out), "--plot", str(plot)]) == 0
    assert f"wrote {tmp_path / 'plot_sampling.png'}" in capsys.readouterr().out
    rows = list(csv.DictReader(out.with_suffix(".csv").read_text().splitlines()))
    assert [row["evaluations per sample"] for row in rows] == ["52.0", "51.0", "", "1.0"]
    assert main(["report", str(root), "--out", str(tmp_path / "r.html")]) == 0
    assert (tmp_path / "r.html").read_text().count("w2_1k against evaluations per sample") == 2  # caption, alt


def test_equal_costs_of_sampling_are_not_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    equal = {name: (value, {"generator": 1.0}) for name, (value, _) in SAMPLERS.items()}
    root = sampled(tmp_path / "runs", equal | {"Unknown": (1.0, {})}, seeds=2)
    assert main(["compare", str(root), "--plot", str(tmp_path / "plot.png")]) == 0
    assert "evaluations per sample" not in capsys.readouterr().out
    assert not (tmp_path / "plot_sampling.png").exists()


def test_intervals_of_sampling_stand_beside_those_of_seeds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The interval of a group is the mean of its runs' own ones; a group with an unknown one has a dash."""
    for method, with_interval in (("W1FE", True), ("WGANGP", False)):
        for seed in range(3):
            folder = fake_run(tmp_path / "runs" / f"{method}{seed}", seed, method, [1.0])
            ends = {"fd_x_1k_train_low": 8.0 + seed, "fd_x_1k_train_high": 12.0 + seed} if with_interval else {}
            recorded(folder, {"fd_x_1k_train": 10.0 + seed, **ends}, directions={
                "fd_x_1k_train": "lower", "fd_x_1k_train_low": "", "fd_x_1k_train_high": ""})  # fmt: skip
    out = tmp_path / "table"
    assert main(["compare", str(tmp_path / "runs"), "--metric", "fd_x_1k_train", "--out", str(out)]) == 0
    assert "| 9 to 13 " in capsys.readouterr().out
    rows = list(csv.DictReader(out.with_suffix(".csv").read_text().splitlines()))
    assert {(row["method"], row["sampling low"], row["sampling high"]) for row in rows} == {
        ("W1FE", "9.0", "13.0"), ("WGANGP", "", "")}  # fmt: skip
    assert main(["compare", str(tmp_path / "runs"), "--metric", "w2_1k"]) == 0
    assert "95 % of sampling" not in capsys.readouterr().out
