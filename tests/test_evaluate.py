"""Numbers with their passports."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from problems import ROOT, build, data, fit
from test_metrics import RandomFeatures

from pt_flows.cli.main import main
from pt_flows.compare.runs import find_runs
from pt_flows.data import Shapes32
from pt_flows.errors import UserError
from pt_flows.evaluation.images import ImageFiles
from pt_flows.evaluation.neighbours import nearest
from pt_flows.evaluation.passport import checked_record, own_direction, read_record, record_path, write_record
from pt_flows.metrics import GridKL, TransferAccuracy
from pt_flows.metrics.features import file_hash


def train(recipe: str, root: Path, steps: int = 4, *more: str) -> Path:
    """A short run by the command line: its folder."""
    arguments = ["fit", "--config", str(ROOT / f"configs/{recipe}.yaml"), "--trainer.max_steps", str(steps)]
    arguments += ["--run.root", str(root), "--run.wandb", "disabled", "--trainer.accelerator", "cpu"]
    before = set(root.glob("*/*"))
    assert main([*arguments, *more]) == 0
    (folder,) = set(root.glob("*/*")) - before
    return folder


# ---------------------------------------------------------------------------------------------------------- evaluate


def test_a_toys_numbers_and_their_passport(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = train("toy2d/w1_fe", tmp_path, 4, "--evaluation.num_samples", "50")
    ckpt = folder / "checkpoints/last.ckpt"
    assert main(["evaluate", str(ckpt), "--n", "100", "--seeds", "2"]) == 0
    printed = capsys.readouterr().out
    assert "w2_100" in printed
    first, second = sorted((folder / "evaluations").glob("*-100-*.json"))
    passport, numbers = read_record(first)
    assert (passport.method, passport.data, passport.iteration, passport.num_samples) == ("W1FE", "Toy2D", 4, 100)
    assert (passport.sampling_seed, read_record(second)[0].sampling_seed) == (0, 1)
    assert (passport.weights, passport.sampler) == ("ema", "Direct")
    assert passport.directions == {key: own_direction(key) for key in numbers}
    assert passport.cost["evaluations_critic"] > 0
    assert passport.cost["images_seen"] == 4 * 5 * 512
    assert passport.protocol("w2_100") == read_record(second)[0].protocol("w2_100")
    assert numbers["w2_100"] != read_record(second)[1]["w2_100"]
    once = json.loads(first.read_text())["numbers"]
    assert main(["evaluate", "--ckpt", str(ckpt), "--n", "100"]) == 0
    assert json.loads(first.read_text())["numbers"] == once


def test_training_writes_its_last_numbers_as_evaluate_would(tmp_path: Path) -> None:
    folder = train("toy2d/w1_fe", tmp_path, 4, "--evaluation.num_samples", "50")
    (record,) = (folder / "evaluations").glob("*.json")
    passport, numbers = read_record(record)
    assert main(["evaluate", str(folder / "checkpoints/last.ckpt"), "--n", "50"]) == 0
    assert list((folder / "evaluations").glob("*.json")) == [record]
    again = read_record(record)
    assert numbers.items() < again[1].items()  # evaluate measures more, and what was known stays
    assert passport.directions.items() < again[0].directions.items()
    assert again[0] == replace(passport, measured=again[0].measured, directions=again[0].directions)


def images(folder: Path, num: int, size: int = 32, mode: str = "RGB", seed: int = 0) -> Path:
    """A folder of smooth random images."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True)
    for i in range(num):
        small = Image.fromarray(rng.integers(0, 256, (4, 4, 3), dtype=np.uint8)).resize(
            (size, size), Image.Resampling.BICUBIC
        )
        small.convert(mode).save(folder / f"{i:03d}.png")
    return folder


def test_images_of_any_generator(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fake, real = images(tmp_path / "fake", 30), images(tmp_path / "real", 40, seed=1)
    assert main(["evaluate", "--images", str(fake), "--ref", str(real), "--n", "30"]) == 0
    printed = capsys.readouterr().out
    for word in ("fd_lite0_64_30_train", "kid_", "is_", "precision_", "recall_", "density_", "coverage_"):
        assert word in printed
    passport, by_folder = read_record(tmp_path / "fake.evaluation.json")
    assert passport.directions == {key: own_direction(key) for key in by_folder}
    np.savez(tmp_path / "fake.npz", samples=ImageFiles(fake).images.permute(0, 2, 3, 1).numpy())
    assert main(["evaluate", "--images", str(tmp_path / "fake.npz"), "--ref", str(real), "--n", "30"]) == 0
    assert read_record(tmp_path / "fake.npz.evaluation.json")[1] == by_folder


@pytest.mark.slow
def test_a_sampled_array_is_measured_like_its_checkpoint(tmp_path: Path) -> None:
    """The same images give the same number by either way."""
    folder = train("cifar10/wgan_gp_small", tmp_path, 2, "--config", str(ROOT / "configs/data/shapes32.yaml"),
                   "--evaluation.metrics", "[]")  # fmt: skip
    ckpt = str(folder / "checkpoints/last.ckpt")
    metric = json.dumps([{"class_path": "FrechetDistance", "init_args": {"num_reference": 100}}])
    assert main(["evaluate", ckpt, "--n", "40", "--metrics", metric, "--split", "test"]) == 0
    (record,) = (folder / "evaluations").glob("*.json")
    assert "fd_lite0_224_40_test100" in read_record(record)[1]
    assert read_record(record)[0].features["lite0_224"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["evaluate"], "evaluate takes a checkpoint, or --images with --ref"),
        (["evaluate", "--images", "fake"], "--images needs --ref"),
        (["evaluate", "--images", "fake", "--ref", "nowhere"], "there is no folder, file or data set nowhere"),
        (["evaluate", "--images", "nowhere", "--ref", "fake"], "there are no images at nowhere"),
        (["evaluate", "--images", "fake", "--ref", "fake", "--n", "999"], "999 images are asked for, fake has 8"),
        (["evaluate", "--images", "fake", "--ref", "large", "--n", "8"], "(3, 32, 32), large of shape (3, 48, 48)"),
        (["evaluate", "--images", "mixed", "--ref", "fake", "--n", "8"], "give images of one kind"),
        (["evaluate", "--images", "grey_alpha", "--ref", "fake", "--n", "8"], "has mode LA"),
        (["evaluate", "--images", "broken", "--ref", "fake", "--n", "8"], "cannot be read as an image"),
        (["evaluate", "--images", "empty", "--ref", "fake", "--n", "8"], "empty has no images"),
        (["evaluate", "--images", "wrong.npz", "--ref", "fake", "--n", "8"], "holds float64 of shape (3,)"),
        (["evaluate", "--images", "fake", "--ref", "fake", "--n", "1"], "--n must be at least 2"),
        (["evaluate", "--images", "fake", "--ref", "fake", "--n", "5"], "expected at least 7 of each kind"),
        (["evaluate", "--images", "fake", "--ref", "fake", "--n", "8", "--split", "test"], "without a test split"),
    ],
)  # fmt: skip
def test_bad_images_are_one_sentence(
    words: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    images(Path("fake"), 8)
    images(Path("large"), 8, size=48)
    images(Path("mixed"), 4)
    images(Path("mixed/sub"), 4, size=40)
    images(Path("grey_alpha"), 8, mode="LA")
    images(Path("broken"), 3)
    Path("broken/001.png").write_bytes(b"not an image")
    Path("empty").mkdir()
    np.savez("wrong.npz", samples=np.zeros(3))
    assert main(words) == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.strip().splitlines()) == 1


@pytest.mark.slow
def test_the_number_does_not_depend_on_processes(tmp_path: Path) -> None:
    """`torchrun` with two processes, 600 samples in chunks of 500 and 100: also the orders that KID and IS see."""
    folder = train("cifar10/wgan_gp_small", tmp_path, 2, "--config", str(ROOT / "configs/data/shapes32.yaml"),
                   "--evaluation.metrics", "[]")  # fmt: skip
    metric = {"class_path": "ImageQuality", "init_args": {"num_reference": 600}}
    metric["init_args"]["features"] = {"class_path": "Lite0Features", "init_args": {"size": 32}}
    words = ["evaluate", str(folder / "checkpoints/last.ckpt"), "--n", "600", "--metrics", json.dumps([metric])]
    launch = ["torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m", "--", "pt_flows"]
    found = []
    for i, start in enumerate((["pt_flows"], launch)):
        environment = os.environ | {"PT_FLOWS_CACHE": str(tmp_path / f"cache{i}"), "OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            [sys.executable, "-m", *start, *words], env=environment, capture_output=True, text=True, timeout=300
        )
        assert done.returncode == 0, done.stderr[-2000:]
        assert done.stdout.count("wrote") == 1
        (record,) = (folder / "evaluations").glob("*.json")
        found.append(read_record(record)[1])
        record.unlink()
    assert found[0].keys() == found[1].keys()
    for key, value in found[0].items():  # roots of singular covariances (600 samples, 1280 features) round at 1e-8
        assert found[1][key] == pytest.approx(value, rel=1e-9, abs=1e-6), key


def test_samples_carry_their_passport(tmp_path: Path) -> None:
    folder = train("toy2d/w1_fe", tmp_path, 2, "--evaluation.metrics", "[]")
    ckpt = folder / "checkpoints/last.ckpt"
    assert main(["sample", str(ckpt), "--n", "5", "--out", str(tmp_path / "x.npz"), "--seed", "3"]) == 0
    passport = json.loads(str(np.load(tmp_path / "x.npz")["passport"]))
    assert (passport["method"], passport["sampling_seed"], passport["iteration"]) == ("W1FE", 3, 2)
    assert passport["checkpoint"] == file_hash(ckpt)


def test_full_numbers_come_at_milestones_and_at_the_end(tmp_path: Path) -> None:
    full = json.dumps([{"class_path": "SampleDiscrepancy"}])
    folder = train(
        "toy2d/w1_fe", tmp_path, 6, "--evaluation.num_samples", "50", "--evaluation.every_n_iterations", "2",
        "--evaluation.full_metrics", full, "--evaluation.full_num_samples", "90",
        "--evaluation.full_every_n_iterations", "3", "--data.iterations_per_block", "1",
    )  # fmt: skip
    run = find_runs([str(folder)])[0]
    at = lambda key: [int(costs["iteration"]) for costs, _ in run.curve(key)]
    assert at("w2_50") == [2, 4, 6]
    assert at("sliced_w2_90") == [3, 6]
    assert sorted(passport.num_samples for passport, _ in run.records) == [50, 90]


# -------------------------------------------------------------------------------------------------------- memorisation


def test_nearest_images_are_those_of_all_distances() -> None:
    net = RandomFeatures()
    images = Shapes32().reference("train", 330)
    f = net(images)
    distance, index = nearest(f[:7], images, net, 4)
    expected = torch.cdist(f[:7].double(), f.double()).topk(4, largest=False)
    assert torch.equal(index, expected.indices)
    assert torch.allclose(distance.double(), expected.values, atol=1e-2)


def test_a_generator_that_repeats_its_training_images_is_found_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = train("cifar10/wgan_gp_small", tmp_path, 2, "--config", str(ROOT / "configs/data/shapes32.yaml"),
                   "--evaluation.metrics", "[]")  # fmt: skip
    ckpt = str(folder / "checkpoints/last.ckpt")
    words = ["neighbours", ckpt, "--n", "20", "--show", "3", "--out", str(tmp_path / "n.png"),
             "--features", "test_metrics.RandomFeatures"]  # fmt: skip
    assert main(words) == 0
    assert "below the smallest 1 % of test images: 0.0%" in capsys.readouterr().out
    width, height = Image.open(tmp_path / "n.png").size
    assert width > 2 * height  # three rows of a sample and six neighbours
    repeated = Shapes32().reference("train", 20).float() / 127.5 - 1
    monkeypatch.setattr("pt_flows.evaluation.neighbours.evaluation_samples", lambda *a: iter([repeated]))
    assert main(words) == 0
    assert "below the smallest 1 % of test images: 100.0%" in capsys.readouterr().out
    toy = train("toy2d/w1_fe", tmp_path, 2, "--evaluation.metrics", "[]")
    assert main(["neighbours", str(toy / "checkpoints/last.ckpt")]) == 2
    assert "neighbours compares images" in capsys.readouterr().err


def test_passports_of_newer_versions_and_damaged_ones_are_refused(tmp_path: Path) -> None:
    folder = train("toy2d/w1_fe", tmp_path, 2, "--evaluation.num_samples", "20")
    assert main(["evaluate", str(folder / "checkpoints/last.ckpt"), "--n", "20"]) == 0
    (record,) = (folder / "evaluations").glob("*.json")
    content = json.loads(record.read_text())
    for change, message in (
        ({"format": 99}, "format 99, this version reads up to 2"),
        ({"weights": None}, None),
    ):
        changed = {**content, "passport": content["passport"] | change}
        if message:
            record.write_text(json.dumps(changed))
            with pytest.raises(UserError, match=message):
                read_record(record)
    record.write_text(record.read_text()[:40])
    with pytest.raises(UserError, match="no evaluation of pt_flows or is damaged"):
        read_record(record)
    del content["passport"]["split"]
    record.write_text(json.dumps(content))
    with pytest.raises(UserError, match="a passport without 'split'"):
        read_record(record)


def test_passports_of_the_first_format_are_read() -> None:
    """They name neither the sampler nor directions, which the names of this package's methods and numbers tell."""
    fields = {"method": "PCD", "data": "Toy2D", "reference": "r", "split": "train", "num_samples": 20, "features": {},
              "weights": "ema", "sampling_seed": 0, "training_seed": 0, "iteration": 2, "checkpoint": "c",
              "device": "cpu", "packages": {}, "cost": {}, "precision": "p", "measured": "", "format": 1}  # fmt: skip
    numbers = {"w2_20": 1.0, "w2_20_floor": 0.5, "modes": 8.0, "modes_of": 8.0, "accuracy": 0.5}
    passport, _ = checked_record({"passport": fields, "numbers": numbers}, "a record")
    assert passport.subject == ("ema", "Chains")
    assert passport.directions == {"w2_20": "lower", "w2_20_floor": "", "modes": "higher", "modes_of": ""}
    for method, sampler in (("W1FE", "Direct"), ("images", "")):
        record = {"passport": {**fields, "method": method}, "numbers": numbers}
        assert checked_record(record, "a record")[0].sampler == sampler


def test_samples_of_another_sampler_have_a_file_of_their_own(tmp_path: Path) -> None:
    path = lambda passport: record_path(tmp_path, passport, Path("last.ckpt"))
    own = {"sampler": "Direct", "directions": {"w2_20": "lower"}}
    fields = {"method": "W1FE", "data": "Toy2D", "reference": "r", "split": "train", "num_samples": 20, "features": {},
              "weights": "ema", "sampling_seed": 0, "training_seed": 0, "iteration": 2, "checkpoint": "c",
              "device": "cpu", "packages": {}, "cost": {}, "precision": "p", "measured": "", "format": 2}  # fmt: skip
    direct, _ = checked_record({"passport": fields | own, "numbers": {}}, "a record")
    chains = replace(direct, sampler="REPGAN(chain_length=100)", directions={"w2_20": "lower"})
    assert path(direct).name == "00000002-last-ema-train-20-seed0.json"
    assert path(chains).name == "00000002-last-ema-REPGAN_chain_length=100-train-20-seed0.json"
    write_record(path(direct), direct, {"w2_20": 1.0})
    write_record(path(direct), replace(direct, directions={"accuracy": "higher"}), {"accuracy": 0.5})
    passport, numbers = read_record(path(direct))
    assert numbers == {"w2_20": 1.0, "accuracy": 0.5}
    assert passport.directions == {"w2_20": "lower", "accuracy": "higher"}


@pytest.mark.parametrize("metric", [GridKL(20), TransferAccuracy()])
def test_metrics_of_energies_and_maps_tell_directions(metric: Any) -> None:
    if isinstance(metric, GridKL):
        metric.prepare(data(), 20)
        metric.update_energy(lambda x: x.square().sum(1))
        metric.update(torch.zeros(1, 2))
    else:
        metric.right, metric.total, metric.unmoved = torch.tensor(1.0), torch.tensor(2.0), 0.5
    numbers = metric.compute()
    assert metric.directions() == {key: own_direction(key) for key in numbers}
    assert len(set(metric.directions().values())) == 2


def test_evaluations_count_as_cost() -> None:
    """Samples that networks evaluate, with what the formula says; nothing outside training."""
    module = build("WGANGP")
    fit(module, data(), max_steps=3)
    # a critic step: 16 real, 16 generated, 16 between them; a generator step: twice the batch through both
    assert module.evaluations == {"generator": 3 * (2 * 16 + 32), "critic": 3 * (2 * 48 + 32)}
    module.sample(10, weights="raw")
    assert module.evaluations["generator"] == 3 * (2 * 16 + 32)
    rk4 = build("ODEGAN")
    fit(rk4, data(), max_steps=2)
    assert rk4.evaluations["generator"] == 2 * 4 * 16


# ---------------------------------------------------------------------------------------------------------- statistics


def test_intervals_and_tests_are_those_of_the_textbooks() -> None:
    mean, low, high = mean_interval([1.0, 2.0, 3.0])
    half = 4.302652729911275 / math.sqrt(3)  # Student's 97.5 % point with two degrees of freedom
    assert (mean, low, high) == pytest.approx((2, 2 - half, 2 + half))
    assert math.isnan(mean_interval([1.0]).low)
    assert welch([1.0, 2.0, 3.0], [1.0, 2.0, 3.0]) == 1
    assert welch([1.0, 1.0], [2.0, 2.0]) == 0
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])


@pytest.mark.parametrize(("n", "m"), [(5, 5), (4, 6), (6, 3)])
def test_the_permutation_test_is_scipys(n: int, m: int) -> None:
    """Its exact one, with scipy's own statistic, and means where that is equal."""
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
    """Where either method is as likely the better one, and with most of the power of Welch's test for normal seeds."""
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
    """With as many runs as it says, four in five simulated comparisons see the gap."""
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


def fake_run(folder: Path, seed: int, method: str, values: list[float], key: str = "w2_1k", **model: Any) -> Path:
    """A run folder as training leaves it."""
    folder.mkdir(parents=True)
    config = {"seed_everything": seed, "model": {"class_path": f"pt_flows.{method}", "init_args": model},
              "data": {"class_path": "Toy2D"}, "run": {"root": str(folder)},
              "trainer": {"max_steps": 10 * len(values)}}  # fmt: skip
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    (folder / "environment.json").write_text(json.dumps({"seed": seed}))
    with (folder / "metrics.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, ["iteration", f"eval/{key}", "cost/seconds", "cost/images_seen"])
        writer.writeheader()
        for i, value in enumerate(values, 1):
            writer.writerow({"iteration": 10 * i, "cost/seconds": 60 * i, "cost/images_seen": 1000 * i})
            writer.writerow({"iteration": 10 * i, f"eval/{key}": value})
    return folder


def simulated(root: Path, gap: float, seeds: int = 4) -> Path:
    rng = np.random.default_rng(0)
    for seed in range(seeds):
        noise = float(0.1 * rng.normal())
        fake_run(root / f"a{seed}", seed, "W1FE", [2.0, 1.2, 1.0 + noise], step_size=1.0)
        fake_run(root / f"b{seed}", seed, "WGANGP", [2.5, 1.0, 1.0 + gap + noise])
    return root


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
    assert verdicts(groups, "high_quality", 0.05)[0].startswith("W1FE is better than WGANGP")


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
    """Neither by name nor where names agree and passports do not."""
    fake_run(tmp_path / "a", 0, "W1FE", [1.0], "fd_lite0_64_1k_train")
    fake_run(tmp_path / "b", 0, "WGANGP", [1.0], "fd_lite0_64_10k_train")
    assert main(["compare", str(tmp_path)]) == 2
    folders = [train("toy2d/w1_fe", tmp_path / "real", 2, "--evaluation.num_samples", "20", "--data.target", name)
               for name in ("ring8", "grid25")]  # fmt: skip
    for folder in folders:
        assert main(["evaluate", str(folder / "checkpoints/last.ckpt"), "--n", "20"]) == 0
    with pytest.raises(UserError, match=r"do not compare, their protocols differ \(reference: \w+ and \w+\)"):
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
    assert printed.count("4 against 4 cannot go below p = 0.086 for 3 pairs; train at least 5 of each") == 3
    assert "is better than" not in printed


def test_equal_numbers_are_no_gap(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for seed in range(4):
        fake_run(tmp_path / f"a{seed}", seed, "W1FE", [8.0], "modes")
        fake_run(tmp_path / f"b{seed}", seed, "WGANGP", [8.0], "modes")
    assert main(["compare", str(tmp_path)]) == 0
    assert "inconclusive (probability of improvement 0.5, adjusted p = 1); neither is ahead" in capsys.readouterr().out


def test_failed_seeds_are_rows_of_the_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Diverged before the first evaluation, or with a number that is not finite; the finished ones are averaged."""
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
    groups, key = comparable([str(root)], None)
    assert (groups[1].values(key), judged(groups, key, 0.05)[0].verdict) == ([], "better")


def test_divergence_is_written_down(tmp_path: Path) -> None:
    """And forgotten if the run is continued."""

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
        (lambda folder: (folder / "environment.json").unlink(), "has no environment.json: skipped"),
        (lambda folder: (folder / "environment.json").write_text("{"), "cannot be read as a run"),
        (lambda folder: (folder / "config.yaml").write_text("wandb_version: 1\n"), "cannot be read as a run"),
        (lambda folder: (folder / "config.yaml").write_text("a: [\n"), "cannot be read as a run"),
        (lambda folder: (folder / "metrics.csv").write_text("1,2\n3,4\n"), "has 2 damaged rows: skipped"),
        (lambda folder: (folder / "metrics.csv").open("a").write("40,0."), "has 1 damaged row: skipped"),
        (lambda folder: (folder / "metrics.csv").open("a").write("40\n50,x,,\n"), "has 2 damaged rows: skipped"),
        (lambda folder: (folder / "metrics.csv").write_bytes(b"iteration\n\xff\0\n"), "has 1 damaged row: skipped"),
        (lambda folder: (folder / "evaluations/a.json").write_text("{"), "is damaged"),
    ],
)
def test_a_broken_run_does_not_stop_the_others(
    spoil: Any, note: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is skipped with a note; alone it is an error."""
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
        assert "there is no run to compare" in error
        assert len(error.strip().splitlines()) == 1


def test_folders_globs_and_parents_are_searched_for_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """W&B's files and pictures are no runs."""
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
    assert "there is no run folder runs/x*" in capsys.readouterr().err
    assert main(["compare", "runs/refused"]) == 2
    assert "there is no run to compare; runs/refused holds no run" in capsys.readouterr().err


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
    (group,), key = comparable([str(tmp_path)], None)
    assert group.values(key) == [1.0, 1.4, 1.5, 1.3]
    printed = capsys.readouterr().out
    assert f"note: {tmp_path}/copy is the same run as {first}, or repeats its seed 0: left out" in printed
    assert printed.count("left out") == 4
    (tmp_path / "again/failed.txt").write_text("diverged\n")  # a seed is not tried until it works
    (group,), key = comparable([str(tmp_path)], None)
    assert [run.folder.name for run in group.runs] == ["again", "another", "unseeded", "whole"]


def test_an_unfinished_run_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = fake_run(tmp_path / "a", 0, "W1FE", [2.0, 1.0])
    (folder / "metrics.csv").write_text("iteration,eval/w2_1k\n10,2.0\n")
    fake_run(tmp_path / "b", 1, "W1FE", [2.0, 1.0], "w2_99")
    assert main(["compare", str(tmp_path), "--metric", "w2_1k"]) == 0
    printed = capsys.readouterr().out
    assert f"note: {folder} has logged 10 of 20 iterations: its last number is from there" in printed
    assert f"note: {tmp_path}/b has no w2_1k: skipped" in printed


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nowhere"], "there is no run folder nowhere"),
        ([".", "--metric", "fd_x"], "has no fd_x; all runs have w2_1k"),
        ([".", "--level", "0.9"], "--level must lie between 0 and 0.5"),
        ([".", "--plot", "x.jpg"], "--plot must end in .png"),
        ([".", "--out", "no/such/table"], "there is no folder"),
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
    """What the logger sends is what the comparison reads; the service itself is played by a stand-in."""
    folder = train("toy2d/w1_fe", tmp_path, 4, "--evaluation.num_samples", "50")
    local = find_runs([str(folder)])[0]
    records = [json.loads(file.read_text()) for file in (folder / "evaluations").glob("*.json")]

    class Online:
        config: ClassVar = local.config | {"environment": {"seed": 7}}
        summary: ClassVar = {"evaluations": json.dumps(records)}

        def scan_history(self) -> list[dict[str, Any]]:
            return [{**row, "_step": 1, "samples": {"_type": "image"}} for row in local.rows]

    class Api:
        def run(self, path: str) -> Online:
            assert path == "me/project/abc"
            return Online()

    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    with pytest.raises(UserError, match="there is no run folder me/project/abc, and to read it from W&B you must log"):
        find_runs(["me/project/abc"])
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    monkeypatch.setattr("wandb.Api", Api)
    (run,) = find_runs(["me/project/abc"])
    assert (run.config, run.seed, run.records) == (local.config, 7, local.records)
    assert run.curve("w2_50") == local.curve("w2_50")
    assert len(grouped([local, run])) == 1
    Online.config = {"model": {}}
    with pytest.raises(UserError, match="was not made by pt_flows"):
        find_runs(["me/project/abc"])


def test_a_table_for_wandb_is_written_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = simulated(tmp_path / "runs", gap=3)
    for name in ("WANDB_API_KEY", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
    for name in ("HOME", "WANDB_DIR", "WANDB_DATA_DIR"):
        monkeypatch.setenv(name, str(tmp_path))
    assert main(["compare", str(root), "--wandb", "project"]) == 0
    tables = list(tmp_path.glob("wandb/offline-run-*/files/media/table/*.table.json"))
    assert sorted(file.name.split("_")[0] for file in tables) == ["compare", "verdicts"]
    compared = json.loads(next(file for file in tables if file.name.startswith("compare")).read_text())
    rows = [dict(zip(compared["columns"], row, strict=True)) for row in compared["data"]]
    assert [row["method"] for row in rows] == ["W1FE", "WGANGP"]
    for row in rows:
        texts = {key for key, value in row.items() if isinstance(value, str)}
        assert texts == {"method", "failed seeds", "worst seed"}
        assert row["sd of training"] > 0
        assert row["sd of sampling"] is None
    judged = json.loads(next(file for file in tables if file.name.startswith("verdicts")).read_text())
    (verdict,) = (dict(zip(judged["columns"], row, strict=True)) for row in judged["data"])
    assert (verdict["first"], verdict["verdict"], verdict["improvement"]) == ("W1FE", "better", 1.0)


def test_the_front_is_what_nothing_cheaper_equals() -> None:
    points = [(1.0, 0.2), (2.0, 0.5), (3.0, 0.4), (2.0, 0.6), (math.nan, 9.0)]
    assert pareto_front(points, higher=True) == [(1.0, 0.2), (2.0, 0.6)]
    assert pareto_front(points, higher=False) == [(1.0, 0.2)]
    assert pareto_front([], higher=False) == []


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
    [(["--out", "x.pdf"], "--out must end in .html"), (["--out", "no/such/x.html"], "there is no folder")],
)
def test_mistakes_in_a_report_are_one_sentence(
    words: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fake_run(tmp_path / "a", 0, "W1FE", [1.0])
    assert main(["report", str(tmp_path), *words]) == 2
    assert message in capsys.readouterr().err
