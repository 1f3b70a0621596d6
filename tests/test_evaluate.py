"""Numbers and their passports."""

import json
import os
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from problems import METHODS, ONE_OF_EACH_KIND, ROOT, build, data, data_of, fit, slow_but_for
from test_metrics import RandomFeatures
from torch import nn

from pt_flows.cli.main import main
from pt_flows.compare.runs import find_runs
from pt_flows.contracts import Batch, Terms
from pt_flows.data import Shapes32
from pt_flows.errors import UserError
from pt_flows.evaluation.images import ImageFiles
from pt_flows.evaluation.neighbours import nearest
from pt_flows.evaluation.passport import checked_record, own_direction, read_record, record_path, write_record
from pt_flows.methods import DAEBM
from pt_flows.metrics import GridKL, TransferAccuracy
from pt_flows.metrics.features import file_hash
from pt_flows.nets import TimeMLPEnergy
from pt_flows.training.players import Energy


def train(recipe: str, root: Path, steps: int = 4, *more: str) -> Path:
    """Train a short run by the command line; return its folder."""
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
    assert numbers.items() < again[1].items()  # evaluate measures more and keeps the known numbers
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


@pytest.mark.slow
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
    """The same images have the same number either way."""
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
        (["evaluate"], "evaluate: expected a checkpoint, or --images with --ref, got neither"),
        (["evaluate", "--images", "fake"], "--ref: expected a folder of images, an .npz file"),
        (["evaluate", "--images", "fake", "--ref", "nowhere"], "TwoDomains, got nowhere"),
        (["evaluate", "--images", "nowhere", "--ref", "fake"], "nowhere: expected a folder of images"),
        (["evaluate", "--images", "fake", "--ref", "fake", "--n", "999"], "--n: expected at most 8"),
        (["evaluate", "--images", "fake", "--ref", "large", "--n", "8"], "(3, 48, 48), as large has, got (3, 32, 32)"),
        (["evaluate", "--images", "mixed", "--ref", "fake", "--n", "8"], "Convert the images to one kind"),
        (["evaluate", "--images", "grey_alpha", "--ref", "fake", "--n", "8"], "got LA"),
        (["evaluate", "--images", "broken", "--ref", "fake", "--n", "8"], "cannot be read as an image"),
        (["evaluate", "--images", "empty", "--ref", "fake", "--n", "8"], "empty: expected images"),
        (["evaluate", "--images", "wrong.npz", "--ref", "fake", "--n", "8"], "got float64 of shape (3,)"),
        (["evaluate", "--images", "fake", "--ref", "fake", "--n", "1"], "--n: expected at least 2, got 1"),
        (["evaluate", "--images", "fake", "--ref", "fake", "--n", "5"], "expected at least 7 of each kind"),
        (["evaluate", "--images", "fake", "--ref", "fake", "--n", "8", "--split", "test"], "--split: expected train"),
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
    """`torchrun` with two processes, 600 samples in chunks of 500 and 100: KID and IS see the same order, too."""
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


@pytest.mark.slow
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
    monkeypatch.setattr("pt_flows.evaluation.neighbours.Subject.chunks", lambda *a: iter([repeated]))
    assert main(words) == 0
    assert "below the smallest 1 % of test images: 100.0%" in capsys.readouterr().out
    toy = train("toy2d/w1_fe", tmp_path, 2, "--evaluation.metrics", "[]")
    assert main(["neighbours", str(toy / "checkpoints/last.ckpt")]) == 2
    assert "expected a model of images" in capsys.readouterr().err


def test_passports_of_newer_versions_and_damaged_ones_are_refused(tmp_path: Path) -> None:
    folder = train("toy2d/w1_fe", tmp_path, 2, "--evaluation.num_samples", "20")
    assert main(["evaluate", str(folder / "checkpoints/last.ckpt"), "--n", "20"]) == 0
    (record,) = (folder / "evaluations").glob("*.json")
    content = json.loads(record.read_text())
    for change, message in (
        ({"format": 99}, "expected a passport of format 2 or older, got 99"),
        ({"weights": None}, None),
    ):
        changed = {**content, "passport": content["passport"] | change}
        if message:
            record.write_text(json.dumps(changed))
            with pytest.raises(UserError, match=message):
                read_record(record)
    record.write_text(record.read_text()[:40])
    with pytest.raises(UserError, match="expected an evaluation, got a damaged file"):
        read_record(record)
    del content["passport"]["split"]
    record.write_text(json.dumps(content))
    with pytest.raises(UserError, match="got one without 'split'"):
        read_record(record)


def test_passports_of_the_first_format_are_read() -> None:
    """They record neither the sampler nor directions; names of this package's methods and numbers tell both."""
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
    """Networks count the samples that they evaluate, as the formula says, and only in training."""
    module = build("WGANGP")
    fit(module, data(), max_steps=3)
    # a critic step: 16 real, 16 generated, 16 between them; a generator step: twice the batch through both
    assert module.cost.evaluations == {"generator": 3 * (2 * 16 + 32), "critic": 3 * (2 * 48 + 32)}
    module.generator.sample(10, weights="raw")
    assert module.cost.evaluations["generator"] == 3 * (2 * 16 + 32)
    rk4 = build("ODEGAN")
    fit(rk4, data(), max_steps=2)
    assert rk4.cost.evaluations["generator"] == 2 * 4 * 16


@pytest.mark.parametrize("name", slow_but_for(METHODS, lambda name: name in ONE_OF_EACH_KIND))
@pytest.mark.parametrize("images", [False, True])
def test_costs_are_the_rows_that_layers_see(name: str, images: bool) -> None:
    """The evaluations of a network are the most samples that pass one of its layers, however it is called."""
    module, rows = build(name, images), Counter()
    iterate = module.iterate

    def see(place: tuple[str, str], layer: nn.Module, _: Any, output: torch.Tensor) -> None:
        of_rows = output[..., 0] if isinstance(layer, nn.Linear) else output[:, 0, 0, 0]
        rows[place] += of_rows.numel()

    def watched(minibatches: list[Batch]) -> Terms:
        hooks = [
            layer.register_forward_hook(partial(see, (network, path)))
            for network, part in module.networks.items()
            for path, layer in part.named_modules()
            if isinstance(layer, nn.Linear | nn.Conv2d | nn.ConvTranspose2d)
        ]
        terms = iterate(minibatches)
        for hook in hooks:
            hook.remove()
        return terms

    module.iterate = watched
    fit(module, data_of(name, images), max_steps=3)
    seen = {network: max(num for (of, _), num in rows.items() if of == network) for network in module.cost.evaluations}
    assert seen == module.cost.evaluations
    assert seen.keys() == {network for network, _ in rows}


@pytest.mark.parametrize("base", [None, "gaussian"])
def test_langevin_steps_count_as_cost(base: Any) -> None:
    """A labelled energy computes its gates once: K + 1 slopes, every label, data and samples."""
    energy = Energy(TimeMLPEnergy(width=8), torch.optim.Adam)
    module = DAEBM(energy, num_levels=3, num_langevin_steps=3, buffer_size=40, base=base)
    fit(module, data(), max_steps=5)
    assert module.cost.evaluations == {"energy": 5 * 16 * (4 + 4 + 2)}


def test_a_failed_run_leaves_no_count_behind() -> None:
    module = build("WGANGP")
    vars(module)["critic_loss"] = stop
    with pytest.raises(RuntimeError, match="stop"):
        fit(module, data(), max_steps=3)
    del module.critic_loss
    before = dict(module.cost.evaluations)
    module.generator.sample(10, weights="raw")
    assert module.cost.evaluations == before
    fit(module, data(), max_steps=2)
    assert module.cost.evaluations["generator"] - before["generator"] == 2 * (2 * 16 + 32)


def stop(*args: Any) -> Any:
    raise RuntimeError("stop")
