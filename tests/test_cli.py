"""The command line as a user meets it."""

import csv
import errno
import glob
import json
import math
import os
import re
import resource
import shlex
import shutil
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from lightning.pytorch.loggers import WandbLogger
from PIL import Image
from problems import ROOT

from pt_flows.cli.departures import departures
from pt_flows.cli.keys import public
from pt_flows.cli.main import main, quiet
from pt_flows.cli.parser import Explaining
from pt_flows.data import Toy2D
from pt_flows.errors import RunWarning, UserError, warn
from pt_flows.methods import W1FE
from pt_flows.metrics.features import file_hash
from pt_flows.runs.checkpoint import find_checkpoint, read_checkpoint
from pt_flows.runs.loggers import loggers
from pt_flows.runs.options import RunOptions
from pt_flows.runs.part import upload_command

TOY = str(ROOT / "configs/toy2d/w1_fe.yaml")
QUICK = ["--trainer.accelerator", "cpu", "--data.batch_size", "32", "--evaluation.num_samples", "64"]
QUICK += [
    "--model.generator.network.width",
    "16",
    "--model.critic.network.width",
    "16",
    "--trainer.log_every_n_steps",
    "10",
]


def fit(*arguments: str, steps: int = 20) -> int:
    return main(["fit", "--config", TOY, *QUICK, "--trainer.max_steps", str(steps), *arguments])


def run_folder(root: Path | str = "runs") -> Path:
    folders = sorted(Path(root).glob("*/*"))
    assert len(folders) == 1, folders
    return folders[0]


def tensors(path: Path) -> dict[str, torch.Tensor]:
    """Everything numeric in a checkpoint that a run continues from: weights, averages, optimizers."""
    saved = read_checkpoint(path)
    found = {k: v for k, v in saved["state_dict"].items() if isinstance(v, torch.Tensor)}
    for i, optimizer in enumerate(saved["optimizer_states"]):
        for p, state in optimizer["state"].items():
            found |= {f"optimizer{i}.{p}.{k}": v for k, v in state.items() if isinstance(v, torch.Tensor)}
    return found


def assert_same(a: Path, b: Path) -> None:
    left, right = tensors(a), tensors(b)
    assert left.keys() == right.keys()
    different = [k for k in left if not torch.equal(left[k], right[k])]
    assert not different


def environment(**extra: str) -> dict[str, str]:
    inherited = {k: v for k, v in os.environ.items() if k != "WANDB_SERVICE"}  # a W&B process of its own
    return {**inherited, "OMP_NUM_THREADS": "1", **extra}


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-c", "import sys; from pt_flows.cli.main import main; sys.exit(main())", *arguments]


# ---------------------------------------------------------------------------------------------------- the whole path


def test_fit_leaves_a_complete_run_folder(capsys: pytest.CaptureFixture[str]) -> None:
    assert fit("--evaluation.every_n_iterations", "10", "--checkpoints.every_n_iterations", "10") == 0
    folder = run_folder()
    assert {p.stem for p in (folder / "checkpoints").iterdir()} == {"last", "previous", "best"}
    assert [p.name for p in (folder / "pictures").iterdir()] == ["00000020.png"]
    assert Image.open(folder / "pictures/00000020.png").size[0] > 300
    rows = list(csv.DictReader((folder / "metrics.csv").open()))
    losses = [int(r["iteration"]) for r in rows if r["train/loss_D"]]
    evaluations = [(int(r["iteration"]), float(r["eval/w2_64"])) for r in rows if r["eval/w2_64"]]
    assert losses == [10, 20]
    assert [i for i, _ in evaluations] == [10, 20]
    assert float(rows[-1]["eval/w2_64_floor"]) > 0
    config = yaml.safe_load((folder / "config.yaml").read_text())
    assert config["seed_everything"] == 0
    assert config["model"]["init_args"]["generator"]["network"]["init_args"]["width"] == 16
    recorded = json.loads((folder / "environment.json").read_text())
    assert recorded["seed"] == 0
    assert recorded["packages"]["torch"]
    out = capsys.readouterr().out
    assert "W1FE on Toy2D, to iteration 20, seed 0, 1 x cpu" in out
    assert str(folder) in out


def test_config_of_a_run_runs_again_to_the_same_weights() -> None:
    assert fit(steps=10) == 0
    first = run_folder()
    assert main(["fit", "--config", str(first / "config.yaml"), "--run.root", "again"]) == 0
    assert_same(first / "checkpoints/last.ckpt", run_folder("again") / "checkpoints/last.ckpt")


def test_null_reaches_arguments_at_any_depth(capsys: pytest.CaptureFixture[str]) -> None:
    """Inner parsers would take it for the text None."""
    deep = ["--model.critic.network.init_std", "null", "--model.generator.network.init_args.bound", "null"]
    assert main(["fit", "--config", TOY, *deep, "--model.generator.ema_decay", "null", "--print_config"]) == 0
    model = yaml.safe_load(capsys.readouterr().out)["model"]["init_args"]
    assert model["critic"]["network"]["init_args"]["init_std"] is None
    assert model["generator"]["network"]["init_args"]["bound"] is None
    assert model["generator"]["ema_decay"] is None


class Inner:
    def __init__(self, options: dict[str, Any]) -> None: ...


class Outer:
    def __init__(self, inner: Inner) -> None: ...


def test_null_inside_a_class_argument_is_null(capsys: pytest.CaptureFixture[str]) -> None:
    """As a flag for a class inside a class, and in a list and deep in a configuration file."""
    near = {"class_path": "ResidualMLPGenerator", "init_args": {"depth": 1, "bound": None}}
    metric = {"class_path": "FrechetDistance", "init_args": {"num_reference": None}}
    critic = {"network": {"class_path": "MLPCritic", "init_args": {"init_std": None}}}
    content = {"model": {"init_args": {"critic": critic}}, "evaluation": {"metrics": [metric]}}
    Path("nulls.yaml").write_text(yaml.safe_dump(content))
    words = ["fit", "--config", TOY, "--config", "nulls.yaml", "--model.generator.network", json.dumps(near)]
    assert main([*words, "--print_config"]) == 0
    config = yaml.safe_load(capsys.readouterr().out)
    model = config["model"]["init_args"]
    assert model["generator"]["network"]["init_args"]["depth"] == 1
    assert model["generator"]["network"]["init_args"]["bound"] is None
    assert model["critic"]["network"]["init_args"]["init_std"] is None
    assert config["evaluation"]["metrics"][0]["init_args"]["num_reference"] is None


def test_classes_of_a_key_have_the_order_in_which_they_were_defined() -> None:
    """So a script of completions is the same text in every process."""

    class Base:
        pass

    classes = [type(f"Class{i}", (Base,), {}) for i in range(100)]
    assert public(Base) == classes
    below = type("Below", (classes[0], classes[1]), {})
    assert public(Base) == [classes[0], below, *classes[1:]]


def test_values_deep_inside_arguments_of_nested_classes_arrive_as_they_are() -> None:
    """Null, infinity and a text with quotes, for an annotation that checks nothing."""
    parser = Explaining()
    parser.add_subclass_arguments(Outer, "outer")
    options = {"none": None, "list": [None, {"none": None}], "top": math.inf, "text": 'it\'s\na "text"', "yes": True}
    value = yaml.safe_dump({"class_path": f"{__name__}.Inner", "init_args": {"options": options}})
    config = parser.parse_args(["--outer", f"{__name__}.Outer", "--outer.inner", value])
    assert config.outer.init_args.inner.init_args.options == options


def test_layers_of_configuration_and_print_config(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "layer.yaml").write_text(
        "model: {init_args: {persistence: 9, critic: {network: {init_args: {depth: 1}}}}}\n"
    )
    code = main(["fit", "--config", TOY, "--config", "layer.yaml", "--model.step_size", "0.25", "--print_config"])
    assert code == 0
    printed = yaml.safe_load(capsys.readouterr().out)["model"]["init_args"]
    assert (printed["persistence"], printed["step_size"], printed["critic"]["network"]["init_args"]["depth"]) == (
        9,
        0.25,
        1,
    )
    assert printed["critic"]["network"]["init_args"]["width"] == 128


def test_short_names_and_switching_the_class(capsys: pytest.CaptureFixture[str]) -> None:
    switch = ["--model", "WGANGP", "--model.penalty", "one_sided", "--data", "Toy2D"]
    assert main(["fit", "--config", TOY, *switch, "--print_config"]) == 0
    printed = yaml.safe_load(capsys.readouterr().out)
    assert printed["model"]["class_path"].endswith("WGANGP")
    assert printed["model"]["init_args"]["critic"]["steps"] == 5
    assert printed["model"]["init_args"]["penalty"] == "one_sided"


def test_resume_continues_the_same_run_bit_for_bit() -> None:
    cadence = ["--evaluation.every_n_iterations", "10", "--checkpoints.every_n_iterations", "10"]
    for player in ("generator", "critic"):
        cadence += [f"--model.{player}.lr_schedule.decay", "constant"]
    assert fit(*cadence, "--run.root", "whole", steps=40) == 0
    assert fit(*cadence, steps=20) == 0
    assert fit(*cadence, "--ckpt_path", "last", steps=40) == 0
    resumed, whole = run_folder(), run_folder("whole")
    assert_same(resumed / "checkpoints/last.ckpt", whole / "checkpoints/last.ckpt")
    table = [[(r["iteration"], r["train/loss_D"], r["eval/w2_64"]) for r in csv.DictReader((f / "metrics.csv").open())]
             for f in (resumed, whole)]  # fmt: skip
    assert table[0] == table[1]
    assert len(list(resumed.glob("config-continued-*.yaml"))) == 1  # max_steps changed, and the first file is kept


def test_an_earlier_checkpoint_starts_its_own_run() -> None:
    """Rows and checkpoints after best.ckpt are not overwritten."""
    assert fit("--evaluation.every_n_iterations", "10", steps=20) == 0
    first = run_folder()
    before = (first / "metrics.csv").read_bytes()
    assert fit("--ckpt_path", "best", steps=30) == 0
    assert (first / "metrics.csv").read_bytes() == before
    assert len(list(Path("runs").glob("*/*"))) == 2


def test_validate_and_test_need_a_checkpoint_and_print_numbers(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["validate", "--config", TOY]) == 2
    assert "--ckpt_path: expected a checkpoint, got none" in capsys.readouterr().err
    fit(steps=10)
    for verb in ("validate", "test"):
        assert main([verb, "--config", TOY, *QUICK, "--ckpt_path", "last"]) == 0
        assert "eval/w2_64" in capsys.readouterr().out


def test_sample_needs_nothing_but_the_checkpoint(capsys: pytest.CaptureFixture[str]) -> None:
    fit(steps=10)
    ckpt = str(run_folder() / "checkpoints/last.ckpt")
    for out in ("a.npz", "b.npz", "a.png"):
        assert main(["sample", ckpt, "--n", "700", "--out", out]) == 0
    a, b = np.load("a.npz"), np.load("b.npz")
    assert a["samples"].shape == (700, 2)
    assert np.array_equal(a["samples"], b["samples"])
    assert json.loads(str(a["passport"]))["iteration"] == 10
    assert main(["sample", ckpt, "--n", "5", "--out", "raw.npz", "--weights", "raw", "--seed", "3"]) == 0
    assert Image.open("a.png").size[0] > 300
    assert "700 samples of W1FE after 10 iterations (ema weights): a.png" in capsys.readouterr().out


def test_images_end_to_end_with_a_grid_of_known_size() -> None:
    config = str(ROOT / "configs/cifar10/wgan_gp_small.yaml")
    layer = str(ROOT / "configs/data/shapes32.yaml")
    arguments = ["--trainer.max_steps", "2", "--trainer.accelerator", "cpu", "--data.batch_size", "4"]
    arguments += [
        "--model.generator.network.width",
        "4",
        "--model.critic.network.width",
        "4",
        "--evaluation.metrics",
        "[]",
    ]
    assert main(["fit", "--config", config, "--config", layer, *arguments]) == 0
    folder = run_folder()
    assert folder.parent.name == "shapes32-wgangp"
    assert Image.open(next((folder / "pictures").iterdir())).size == (8 * 66 + 2, 8 * 66 + 2)
    assert main(["sample", str(folder / "checkpoints/last.ckpt"), "--n", "9", "--out", "s.npz"]) == 0
    assert np.load("s.npz")["samples"].shape == (9, 32, 32, 3)
    assert np.load("s.npz")["samples"].dtype == np.uint8


# ------------------------------------------------------------------------------------------------- mistakes of users


MISTAKES: list[tuple[list[str], str]] = [
    (["fit", "--config", TOY, "--model.step_sise", "1"], r"no key model.step_sise; did you mean model.step_size\?"),
    (
        ["fit", "--config", TOY, "--trainer.acelerator", "cpu"],
        r"no key trainer.acelerator; did you mean trainer.accelerator\?",
    ),
    (["fit", "--config", TOY, "--modl", "W1FE"], r"no key modl; did you mean model\?"),
    (
        ["fit", "--config", TOY, "--model.generator.network.widht", "3"],
        r"no key model.generator.network.widht; did you mean model.generator.network.width\?",
    ),
    (
        ["fit", "--config", TOY, "--model.width", "3"],
        r"no key model.width; .* model.generator.network.width or model.critic.network.width",
    ),
    (["fit", "--config", TOY, "--data.step_size", "3"], r"no key data.step_size; did you mean model.step_size\?"),
    (["fit", "--config", TOY, "--model", "WGANGP", "--model.step_size", "3"], r"no key model.step_size; see --help"),
    (["fit", "--config", TOY, "--model.generator.optimizer.lrr", "1"], r"did you mean model.generator.optimizer.lr\?"),
    (
        ["fit", "--config", TOY, "--model.critic.network.width", "1.5"],
        r"model.critic.network.width: expected an int, got '1.5'",
    ),
    (
        ["fit", "--config", TOY, "--model.generator.optimizer.lr", "a"],
        r"generator.optimizer.lr: expected a float, got 'a'",
    ),
    (["fit", "--config", TOY, "--seed_everything", "a"], r"seed_everything: expected true or false or an int, got 'a'"),
    (
        ["fit", "--config", TOY, "--seed_everything", "-1"],
        r"seed_everything: expected an int from 0 to 4294967295, got -1",
    ),
    (["fit", "--config", TOY, "--trainer.accelerator", "gpux"], r"trainer.accelerator: expected one of auto, .*'gpux'"),
    (
        ["fit", "--config", TOY, "--trainer.accelerator", "tpu"],
        r"trainer.accelerator: expected one of auto, .*cpu.* on this machine, got 'tpu'",
    ),
    (["fit", "--config", TOY, "--trainer.strategy", "fast"], r"trainer.strategy: expected auto, ddp or .*, got 'fast'"),
    (["fit", "--config", TOY, "--trainer.precision", "12"], r"trainer.precision: expected one of 64, 32, .*, got '12'"),
    (["fit", "--config", TOY, "--trainer.max_time", "a"], r"trainer.max_time: expected days:hours:minutes:seconds"),
    (
        ["fit", "--config", TOY, "--trainer.accelerator", "cpu", "--trainer.devices", "0"],
        r"trainer.devices: expected .*, got '0'",
    ),
    (
        ["fit", "--config", TOY, "--model.critic.optimizer", "LBFGS"],
        r"model.critic.optimizer: expected .*, got LBFGS. Use",
    ),
    (["fit", "--config", TOY, "--model.critic.optimizer", "SparseAdam"], r"model.critic.optimizer: .*, got SparseAdam"),
    (
        ["fit", "--config", TOY, "--model.critic.optimizer", "Muon"],
        r"model.critic.optimizer: expected settings that Muon accepts",
    ),
    (
        ["fit", "--config", TOY, "--model.critic.optimizer.lr", "-1"],
        r"model.critic.optimizer: .* Adam .*learning rate: -1",
    ),
    (
        ["fit", "--config", TOY, "--model.critic.optimizer", "Adm"],
        r"did you mean Adam\? There are (?!.*(_Mock|Lightning))",
    ),
    (["fit", "--config", TOY, "--trainer.logger", "CSV"], r"There are CSVLogger, CometLogger(?!.*(Dummy|MetricsCSV))"),
    (
        ["fit", "--config", TOY, "--model", "my_own.GAN"],
        r"model: the module my_own was not found; it was looked for in .*",
    ),
    (
        ["fit", "--config", TOY, "--model.generator.network", "my_own.G"],
        r"model.generator.network: the module my_own was not found",
    ),
    (["fit", "--config", TOY, "--model.critic.optimizer", "my_own.O"], r"critic.optimizer: the module my_own was not"),
    (
        ["fit", "--config", TOY, "--evaluation.metrics", "my_own.M"],
        r"evaluation.metrics: the module my_own was not found",
    ),
    (
        ["fit", "--config", TOY, "--trainer.callbacks", "[my_own.C]"],
        r"trainer.callbacks: the module my_own was not found",
    ),
    (
        ["fit", "--config", TOY, "--model", "pt_flows.methods.W9"],
        r"model: expected a class of the module pt_flows.methods, got 'W9'",
    ),
    (
        ["fit", "--config", TOY, "--model", "pt_flows.data.Toy2D"],
        r"model: expected a Method, got pt_flows.data",
    ),
    (
        ["fit", "--config", TOY, "--model.generator.network.width", "0"],
        r"model.generator.network.width: expected at least 1, got 0",
    ),
    (
        ["fit", "--config", TOY, "--model.critic.network.depth", "0"],
        r"model.critic.network.depth: expected at least 1, got 0",
    ),
    (["fit", "--config", "."], r"--config: expected a file, got the folder"),
    (["fit", "--config", TOY, "--model.persistence", "null"], r"model.persistence: expected at least 1 or a Schedule"),
    (["fit", "--config", TOY, "--data.batch_size", "null"], r"data.batch_size: expected at least 1, got None"),
    (["fit", "--config", TOY, "--evaluation", "null"], r"evaluation: expected keys with values, got null"),
    (["fit", "--config", TOY, "--model.step_size", "abc"], r"model.step_size: expected a float, got 'abc'"),
    (
        ["fit", "--config", TOY, "--model.critic.network", "null"],
        r"network: expected a CriticNet, got null",
    ),
    (["fit", "--config", TOY, "--model.critic.optimizer", "null"], r"optimizer: expected a class, got null"),
    (["fit", "--config", TOY, "--model.critic.lr_schedule", "3"], r"lr_schedule: expected keys with values, got 3"),
    (["fit", "--config", TOY, "--model.penalty", "three"], r"model.penalty: expected one of 'one_sided', 'two_sided'"),
    (["fit", "--config", TOY, "--data.target", "ring9"], r"data.target: expected one of 'ring8'"),
    (["fit", "--config", TOY, "--model", "StyleGAN"], r"model: there is no class 'StyleGAN'; .*W1FE, .*WGANGP"),
    (
        ["fit", "--config", TOY, "--model.critic.network", "MLPCritik"],
        r"no class 'MLPCritik'; did you mean MLPCritic\?",
    ),
    (["fit", "--config", TOY, "--data", "CIFAR11"], r"data: there is no class 'CIFAR11'; did you mean CIFAR10\?"),
    (["fit", "--config", TOY, "--evaluation.metrics", "[Fid]"], r"there is no class 'Fid'; .*FrechetDistance"),
    (["fit", "--config", "nowhere.yaml"], r"--config: expected a file, got .*nowhere.yaml.*, which does not"),
    (["fit", "--config", TOY, "--trainer.max_steps", "-1"], r"trainer.max_steps: expected at least 1, got -1"),
    (["fit", "--config", TOY, "--model.persistence", "0"], r"model.persistence: expected at least 1, got 0"),
    (["fit", "--config", TOY, "--evaluation.num_samples", "0"], r"evaluation.num_samples: expected at least 1, got 0"),
    (
        ["fit", "--config", TOY, "--data", "Shapes32"],
        r"model.generator.network: expected samples of shape \(3, 32, 32\), as Shapes32 has, got \(2,\)",
    ),
    (
        [
            "fit",
            "--config",
            TOY,
            "--model.generator.network",
            "DCGANGenerator",
            "--model.generator.network.image_size",
            "30",
        ],
        r"got 30",
    ),
    (["fit", "--config", TOY, "--ckpt_path", "last"], r"runs/toy2d-w1fe: expected a run with checkpoints/last"),
    (["fit", "--config", TOY, "--ckpt_path", "no.ckpt"], r"no.ckpt: expected a checkpoint, got no"),
    (
        ["train"],
        r"there is no command 'train'; did you mean fit\? There are fit, validate, test, fork, tune, study,",
    ),
    (["fitt"], r"there is no command 'fitt'; did you mean fit\?"),
    (["evaluate", "no.ckpt", "--metrics", "my_own.M"], r"metrics: the module my_own was not found"),
    (
        ["evaluate", "no.ckpt", "--metrics", "[ModeCoverage, Modes]"],
        r"metrics: there is no class 'Modes'; .* ModeCoverage",
    ),
    (["evaluate", "no.ckpt", "--metrics", "ModeCoverage", "--metrics.num_sd", "3"], r"did you mean metrics.num_std\?"),
    (
        ["evaluate", "no.ckpt", "--metrics", "ModeCoverage", "--metrics.num_std", "3"],
        r"no.ckpt: expected a checkpoint, got no",
    ),
    (["compare", "runs", "--goal", "abc"], r"goal: expected a float or null, got 'abc'"),
    (["sample", "no.ckpt"], r"no.ckpt: expected a checkpoint, got no"),
    (["sample", "no.ckpt", "--n", "0"], r"--n: expected at least 1, got 0"),
    (["sample", "no.ckpt", "--out", "a.jpg"], r"--out: expected a file .png or .npz, got a.jpg"),
    (["sample", "no.ckpt", "--out", "no/where/a.png"], r"--out: expected an existing folder"),
    (["sample", "no.ckpt", "--m", "3"], r"no key m"),
]


@pytest.mark.parametrize(("arguments", "message"), MISTAKES, ids=[" ".join(a[-2:])[-40:] for a, _ in MISTAKES])
def test_mistakes_get_one_sentence(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    error = capsys.readouterr().err
    lines = [line for line in error.splitlines() if line.startswith("error:")]
    assert len(lines) == 1, error
    assert re.search(message, lines[0]), lines[0]
    assert "Traceback" not in error


FILES: list[tuple[str, str]] = [
    ("model: {init_args: {step_sise: 1}}", r"no key model.step_sise; did you mean model.step_size\?"),
    ("trainer: {max_stepz: 1}", r"no key trainer.max_stepz; did you mean trainer.max_steps\?"),
    ("model: {class_path: W3}", r"model: there is no class 'W3'"),
    ("modle: {class_path: W1FE}", r"no key modle; did you mean model\?"),
    ("a: [1\n b: }", r"layer.yaml: expected YAML, .* in line 2, column 3"),
    ("", r"layer.yaml: expected keys such as trainer, model or data, got an empty file"),
    ("- a", r"layer.yaml: expected keys with values"),
    (
        "data:\n  init_args:\n    target: ring8\n    target: moons",
        r"layer.yaml: expected data.init_args.target once, .* 3 and again in line 4",
    ),
    (
        "model: {init_args: {critic: {network: {class_path: my_own.C}}}}",
        r"model.critic.network: the module my_own was not found",
    ),
    (
        "evaluation: {metrics: [{class_path: ModeCoverage, init_args: {num_sd: 3}}]}",
        r"mean evaluation.metrics.num_std\?",
    ),
    (
        "model: {init_args: {critic: {network: {class_path: MLPCritic, init_args: {depth: a}}}}}",
        r"model.critic.network.depth: expected an int",
    ),
    ("\0\1\2", r"layer.yaml: expected a YAML text, got a binary file"),
    ("evaluation: {num_samples: many}", r"evaluation.num_samples: expected an? int, got 'many'"),
]


@pytest.mark.parametrize(("text", "message"), FILES)
def test_mistakes_in_files(text: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "layer.yaml").write_text(text)
    assert main(["fit", "--config", TOY, "--config", "layer.yaml"]) == 2
    error = capsys.readouterr().err
    assert re.search(r"^error: .*" + message, error, re.MULTILINE), error
    assert "Traceback" not in error


@pytest.mark.parametrize("key", ["trainer.callbacks", "trainer.logger"])
def test_a_package_that_is_not_installed(
    key: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    where = "lightning.pytorch.callbacks.progress.rich_progress._RICH_AVAILABLE"
    monkeypatch.setattr(where, False)
    for module in ("tensorboard", "tensorboardX"):
        monkeypatch.setattr(f"lightning.fabric.loggers.tensorboard._{module.upper()}_AVAILABLE", False)
    words, fix = {
        "trainer.callbacks": (["RichProgressBar"], "expected .* RichProgressBar, got none. Run pip install rich"),
        "trainer.logger": (
            ["TensorBoardLogger", "--trainer.logger.save_dir", "logs"],
            r"expected .* TensorBoardLogger, got none. Run pip install 'pt-flows\[tensorboard\]'",
        ),
    }[key]
    assert fit(f"--{key}", *words) == 2
    assert re.search(f"^error: {key}: {fix}$", capsys.readouterr().err, re.MULTILINE)


def test_a_module_of_the_user_that_lacks_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine.py").write_text("import no_such_package\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert fit("--model", "mine.GAN") == 2
    assert "model: mine.GAN imports no_such_package, which is not installed" in capsys.readouterr().err
    assert fit("--model", "my_own.GAN") == 2
    assert f"was looked for in {tmp_path}, " in capsys.readouterr().err


def test_a_suggestion_is_a_key_that_exists_and_not_the_one_given(capsys: pytest.CaptureFixture[str]) -> None:
    """Only keys of the class that is chosen last are suggested, not those of the class in the file."""
    for given in ("model.persistence", "model.penalt", "persistence", "data.batchsize", "evaluation.metric"):
        words = ["fit", "--config", TOY, "--model", "WGANGP", f"--{given}", "1"]
        assert main(words) == 2
        said = capsys.readouterr().err.strip()
        assert said.startswith(f"error: there is no key {given}; ")
        for suggested in re.findall(r"(?:mean|or) ([\w.]+)(?=\?| or)", said):
            assert suggested != given
            flag = {"evaluation.metrics": "[]", "data.batch_size": "3", "model.penalty": "one_sided"}.get(
                suggested, "1"
            )
            assert main(["fit", "--config", TOY, "--model", "WGANGP", f"--{suggested}", flag, "--print_config"]) == 0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ["--config", TOY, "--trainer.max_steps", "--trainer.accelerator", "cpu"],
            "trainer.max_steps: expected a value",
        ),
        (["--config", TOY, "--model.persistence"], "model.persistence: expected a value, got none"),
        (["--config"], "config: expected a value, got none"),
        (["--config", ""], "--config: expected a file or the name of a recipe, got none"),
        ([], "data, model: expected a value, got none"),
        (["--print_config", "--config", TOY, "--trainer.max_steps"], "trainer.max_steps: expected a value, got none"),
        (
            ["--config", TOY, "--model.step_size", "-1e-3", "--print_config"],
            "model.step_size: expected a value, got -1e-3, which looks like a flag. Write --model.step_size=-1e-3",
        ),
        (["--config", TOY, "--run.name", "my", "run"], "expected a flag before run, got none. Omit the word"),
        (["--config", TOY, "[1,2]"], "expected a flag before [1,2], got none. Omit the word"),
        (["--config", TOY, "--", "toy2d"], "expected a flag before toy2d, got none"),
        (["--config", TOY, "more"], "expected a flag before more, got none. Omit the word"),
        ([TOY], f"expected a flag before {TOY}, got none. Write --config {TOY}"),
        (["toy2d/w1_fe"], "expected a flag before toy2d/w1_fe, got none. Write --config toy2d/w1_fe"),
        (["--model.help"], "model.help: expected the name of a class, got none. There are ADMMRNN, "),
        (["--config", TOY, "--data.help"], "data.help: expected the name of a class, got none. There are CIFAR10, "),
    ],
)
def test_a_word_or_a_value_that_is_missing(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit", *words]) == 2
    assert capsys.readouterr().err.startswith(f"error: {said}")


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("WANDB_MODE", "of", "WANDB_MODE: expected online, offline or disabled, got 'of'"),
        ("WANDB_SILENT", "", "WANDB_SILENT: expected true or false, got ''"),
    ],
)
def test_a_wrong_variable_of_wandb(
    name: str, value: str, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv(name, value)
    assert fit("--run.wandb", "auto") == 2
    assert f"error: {said}" in capsys.readouterr().err


def test_a_progress_bar_of_the_user_replaces_the_default_one(capfd: pytest.CaptureFixture[str]) -> None:
    assert fit("--trainer.callbacks", "TQDMProgressBar") == 0
    assert "Epoch 0" in "".join(capfd.readouterr())


def test_one_metric_needs_no_list() -> None:
    assert fit("--evaluation.metrics", "ModeCoverage", "--evaluation.metrics.num_std", "4") == 0
    last = str(run_folder() / "checkpoints/last.ckpt")
    assert main(["evaluate", last, "--n", "20", "--metrics", "ModeCoverage"]) == 0
    record = json.loads(next((run_folder() / "evaluations").glob("*.json")).read_text())
    assert "modes" in json.dumps(record)


def test_where_wandb_writes(monkeypatch: pytest.MonkeyPatch) -> None:
    """An explicit mode wins over the environment, which wins over a guess."""
    monkeypatch.setenv("WANDB_API_KEY", "x" * 40)
    for variable, wanted, mode in (
        ("offline", "disabled", "disabled"), ("offline", "online", "online"), ("disabled", "offline", "offline"),
        ("offline", "auto", "offline"), ("disabled", "auto", "disabled"), ("", "auto", "online"),
    ):  # fmt: skip
        monkeypatch.setenv("WANDB_MODE", variable)
        options = RunOptions(wandb=wanted)  # pyright: ignore[reportArgumentType]
        chosen = [logger for logger in loggers(Path("a-1"), options, "e", 0) if isinstance(logger, WandbLogger)]
        assert [logger._wandb_init["mode"] for logger in chosen] == ([] if mode == "disabled" else [mode])


def test_no_word_about_uploading_where_wandb_was_off(capsys: pytest.CaptureFixture[str]) -> None:
    assert fit(steps=10) == 0
    (run_folder() / "wandb/offline-run-1").mkdir(parents=True)
    assert fit("--ckpt_path", "last", steps=20) == 0
    assert "wandb" not in capsys.readouterr().out


def test_a_model_that_is_missing_something(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "bare.yaml").write_text(
        "trainer: {max_steps: 3}\ndata: {class_path: Toy2D}\nmodel: {class_path: W1FE}\n"
    )
    assert main(["fit", "--config", "bare.yaml"]) == 2
    assert re.search(r"error: .*generator.*expected a value, got none", capsys.readouterr().err)
    (tmp_path / "none.yaml").write_text("trainer: {max_steps: 3}\ndata: {class_path: Toy2D}\n")
    assert main(["fit", "--config", "none.yaml"]) == 2
    assert re.search(r"error: .*model: expected a value, got none", capsys.readouterr().err)


@pytest.mark.parametrize("damage", ["cut", "foreign", "lightning"])
def test_bad_checkpoints(damage: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "x.ckpt"
    if damage == "lightning":
        torch.save({"state_dict": {}, "pytorch-lightning_version": "2.5.0"}, path)
    else:
        torch.save({"pt_flows": {}, "state_dict": {"w": torch.zeros(10_000)}}, path)
        path.write_bytes(path.read_bytes()[:9_000] if damage == "cut" else b"\x80\x02 something else entirely")
    for arguments in (["sample", str(path)], ["fit", "--config", TOY, "--ckpt_path", str(path)]):
        assert main(arguments) == 2
        expected = "got another file" if damage == "lightning" else "got a file that cannot be read"
        assert expected in capsys.readouterr().err


def test_pickled_objects_are_refused_in_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "pickled.ckpt"
    torch.save(torch.nn.Linear(2, 2), path)
    assert main(["sample", str(path)]) == 2
    wanted = "got a file that cannot be read (it holds pickled objects, and only tensors and plain values are loaded)"
    assert wanted in capsys.readouterr().err
    with pytest.raises(UserError, match="it holds pickled objects"):
        W1FE.load_from_checkpoint(path)


@pytest.mark.parametrize("command", ["fork", "doctor"])
def test_help_of_commands_with_words(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command, "--help"]) == 0
    assert capsys.readouterr().out.startswith(f"usage: pt-flows {command}")


def test_weights_with_other_bytes_are_seen(capsys: pytest.CaptureFixture[str]) -> None:
    """The file is whole, so torch would load it."""
    assert fit(steps=10) == 0
    last = run_folder() / "checkpoints/last.ckpt"
    content, state = bytearray(last.read_bytes()), read_checkpoint(last)["state_dict"]
    weights = next(value for value in state.values() if isinstance(value, torch.Tensor) and value.numel() > 100)
    where = content.find(weights.numpy().tobytes())
    assert where > 0
    content[where] ^= 255
    Path("flipped.ckpt").write_bytes(content)
    assert main(["sample", "flipped.ckpt"]) == 2
    assert re.search(r"flipped.ckpt: expected a checkpoint, got a file .* has other bytes", capsys.readouterr().err)


def test_a_changed_recipe_is_no_tuned_one(capsys: pytest.CaptureFixture[str]) -> None:
    own = ["--trainer.max_steps", "10", "--evaluation.metrics", "[]", "--run.wandb", "disabled"]
    for flags, tuned in (([], True), (["--model.step_size", "0.2"], False)):
        assert main(["fit", "--config", TOY, *own, *flags]) == 0
        assert ("without model.step_size, so the run does not count as tuned" in capsys.readouterr().out) != tuned
        newest = max(Path("runs").glob("*/*/config.yaml"), key=lambda path: path.stat().st_mtime_ns)
        assert bool(yaml.safe_load(newest.read_text())["run"]["tuned"]) == tuned


def test_a_damaged_last_checkpoint_falls_back_to_the_one_before(capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--checkpoints.every_n_iterations", "10"]
    assert fit(*flags, steps=40) == 0
    last, whole = run_folder() / "checkpoints/last.ckpt", Path("whole.ckpt")
    shutil.copy(last, whole)
    last.write_bytes(last.read_bytes()[:5_000])
    assert fit(*flags, "--ckpt_path", "last", steps=40) == 0
    out = capsys.readouterr().out
    assert re.search(r"note: \S+last.ckpt: .* cannot be read .* Using \S+previous.ckpt, iteration 30", out)
    assert_same(last, whole)
    for name in ("last", "previous"):
        (last.parent / f"{name}.ckpt").write_bytes(b"broken")
    assert fit("--ckpt_path", "last", steps=50) == 2
    assert "previous.ckpt: expected a checkpoint, got a file that cannot be read" in capsys.readouterr().err


def test_a_branch_knows_where_it_comes_from() -> None:
    assert fit(steps=10) == 0
    origin = run_folder() / "checkpoints/best.ckpt"
    assert fit("--run.root", "branches", "--ckpt_path", str(origin), "--model.persistence", "2", steps=20) == 0
    parent = json.loads((run_folder("branches") / "environment.json").read_text())["parent"]
    assert (parent["checkpoint"], parent["iteration"]) == (str(origin), 10)
    assert parent["sha256"] == file_hash(origin)
    assert "parent" not in json.loads((run_folder() / "environment.json").read_text())


def test_fork_needs_no_configuration(capsys: pytest.CaptureFixture[str]) -> None:
    """A fork has its own run folder, the parent's settings except those that are given, and a record of its parent."""
    assert fit(steps=10) == 0
    parent = run_folder()
    changes = ["--model.persistence", "2", "--trainer.max_steps", "20", "--run.root", "branches"]
    assert main(["fork", str(parent), *changes]) == 0
    branch = run_folder("branches")
    configs = [yaml.safe_load((folder / "config.yaml").read_text()) for folder in (parent, branch)]
    assert [c["model"]["init_args"]["persistence"] for c in configs] == [5, 2]
    assert configs[1]["model"]["init_args"]["generator"]["network"]["init_args"]["width"] == 16
    origin = json.loads((branch / "environment.json").read_text())["parent"]
    assert (origin["checkpoint"], origin["iteration"]) == (str(parent / "checkpoints/last.ckpt"), 10)
    assert read_checkpoint(parent / "checkpoints/last.ckpt")["pt_flows"]["iteration"] == 10
    assert read_checkpoint(branch / "checkpoints/last.ckpt")["pt_flows"]["iteration"] == 20
    shutil.copy(parent / "checkpoints/last.ckpt", "alone.ckpt")
    capsys.readouterr()
    for words, message in (
        (["alone.ckpt"], "alone.ckpt: expected a checkpoint in a run folder"),
        (["--model.persistence", "2"], "fork: expected CKPT first"),
        (["nowhere"], "nowhere: expected a checkpoint, got no file"),
    ):
        assert main(["fork", *words]) == 2
        assert message in capsys.readouterr().err


def test_one_callback_needs_no_list() -> None:
    assert fit("--trainer.callbacks", "FlowPicture", steps=10) == 0


def test_another_seed_is_said_and_trains(capsys: pytest.CaptureFixture[str]) -> None:
    fit(steps=10)
    assert fit("--ckpt_path", str(run_folder()), "--seed_everything", "4") == 0
    assert "note: the checkpoint was trained with seed 0, and this run has seed 4" in capsys.readouterr().out


def test_departures_from_the_recipe_are_one_note(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Batch size, devices and precision are compared with the first file; there is no note without a difference."""
    quick = [word for word in QUICK if word not in ("--data.batch_size", "32")]
    assert main(["fit", "--config", TOY, *quick, "--trainer.max_steps", "10", "--trainer.precision", "32"]) == 0
    assert "in the recipe" not in capsys.readouterr().out
    later = tmp_path / "later.yaml"
    later.write_text("data: {class_path: Toy2D, init_args: {batch_size: 64}}\n")
    assert fit("--config", str(later), "--trainer.precision", "bf16-mixed", steps=10) == 0
    sizes = "batch size is 512 in the recipe and 64 here, precision is 32-true in the recipe and bf16-mixed here"
    assert f"note: {sizes} ({TOY})" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("{}", ""),
        ("trainer: {devices: auto, precision: 32}", ""),
        ("trainer: {devices: 2}", ""),
        ("trainer: {devices: 2, num_nodes: 4}", "number of devices is 8 in the recipe and 2 here"),
        ("data: Toy2D", ""),
        ("data: {class_path: Toy2D, init_args: {batch_size: 64}}", "batch size is 64 in the recipe and 256 here"),
    ],
)
def test_what_a_recipe_leaves_open_is_no_departure(tmp_path: Path, written: str, expected: str) -> None:
    (tmp_path / "recipe.yaml").write_text(written)
    trainer = SimpleNamespace(world_size=2, precision="32-true")
    note = departures(tmp_path / "recipe.yaml", trainer, Toy2D())
    assert note == (f"note: {expected} ({tmp_path / 'recipe.yaml'})" if expected else "")


@pytest.mark.parametrize(
    ("setting", "instead"),
    [
        (["accumulate_grad_batches", "2"], "lower data.batch_size"),
        (["gradient_clip_val", "1"], "model.energy.clip_norm"),
    ],
)
def test_settings_of_other_loops_are_refused(
    setting: list[str], instead: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert fit(f"--trainer.{setting[0]}", setting[1]) == 2
    error = capsys.readouterr().err
    assert f"trainer.{setting[0]}: " in error
    assert instead in error


def test_a_checkpoint_of_another_method_or_size(capsys: pytest.CaptureFixture[str]) -> None:
    fit(steps=10)
    ckpt = str(run_folder() / "checkpoints/last.ckpt")
    assert fit("--model", "WGANGP", "--ckpt_path", ckpt) == 2
    assert "model: expected pt_flows.W1FE, as in" in capsys.readouterr().err
    assert fit("--ckpt_path", ckpt, "--model.critic.network.width", "17") == 2
    captured = capsys.readouterr()
    assert "critic" in captured.err
    assert "note: model.critic" in captured.out
    assert "Traceback" not in captured.err


@pytest.mark.slow
def test_a_full_disk_keeps_the_last_checkpoint(tmp_path: Path) -> None:
    """A limit on file sizes stands for the full disk: the write fails, and the earlier file stays whole."""
    arguments = ["fit", "--config", TOY, *QUICK, "--trainer.max_steps", "400", "--checkpoints.every_n_iterations", "10"]
    arguments += ["--evaluation.metrics", "[]", "--pictures.every_n_iterations", "0"]
    process = subprocess.Popen(
        command(*arguments), env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    last = wait_for("runs/*/*/checkpoints/last.ckpt", process)
    before = last.stat().st_size
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (before // 2, before // 2))
    _, error = process.communicate(timeout=120)
    assert process.returncode == 1
    assert re.search(r"error: cannot write .*last.ckpt.*make room .*--ckpt_path \S+ continues from", error), error
    assert "Traceback" not in error
    assert read_checkpoint(last)["pt_flows"]["iteration"] % 10 == 0
    assert not list(last.parent.glob("*.partial"))


@pytest.mark.parametrize(
    ("number", "advice"),
    [(errno.ENOSPC, "make room and run the same command again"), (errno.EROFS, "another place with --run.root")],
)
def test_a_first_checkpoint_that_cannot_be_written(
    number: int, advice: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(file: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("pt_flows.callbacks.checkpoints.os.fsync", refuse)
    assert fit("--evaluation.metrics", "[]", steps=10) == 1
    error = capsys.readouterr().err
    assert re.search(rf"error: .*last.ckpt \({os.strerror(number)}\).*{advice}", error), error
    assert "Iterations 1 to 10 are lost; no checkpoint was written" in error
    assert "--ckpt_path" not in error
    assert not list(run_folder().rglob("*.partial"))


def test_a_divergence_says_what_is_kept(capsys: pytest.CaptureFixture[str]) -> None:
    broken = ["--model.generator.optimizer.lr", "1e30", "--evaluation.metrics", "[]"]
    assert fit(*broken) == 1
    error = capsys.readouterr().err
    assert "nan at iteration" in error
    assert "Iterations 1 to 10 are lost; no checkpoint was written" in error
    assert fit("--run.root", "good", steps=10) == 0
    good = str(run_folder("good"))
    assert fit("--ckpt_path", good, *broken, steps=40) == 1
    assert re.search(
        r"Iterations 11 to 20 are lost; --ckpt_path \S+ continues from iteration 10", capsys.readouterr().err
    )


def test_last_names_a_run_that_stopped_before_its_first_checkpoint(tmp_path: Path) -> None:
    """Not the checkpoint of another seed."""
    for seed in (0, 1):
        folder = tmp_path / "toy2d-w1fe" / str(seed)
        (folder / "checkpoints").mkdir(parents=True)
        (folder / "config.yaml").write_text(f"{{seed_everything: {seed}, model: {{}}, data: {{}}}}\n")
    (tmp_path / "toy2d-w1fe/0/checkpoints/last.ckpt").touch()
    with pytest.raises(UserError, match=r"toy2d-w1fe/1 without one\. It stopped before its first checkpoint"):
        find_checkpoint("last", tmp_path, "toy2d-w1fe", {"seed_everything": 1, "model": {}, "data": {}})
    with pytest.raises(UserError, match=r"got \S*toy2d-w1fe/0 with another seed_everything"):
        find_checkpoint("last", tmp_path, "toy2d-w1fe", {"seed_everything": 2, "model": {}, "data": {}})


def test_last_is_no_run_of_a_study_but_names_one(tmp_path: Path) -> None:
    checkpoints = tmp_path / "demo/runs/toy2d-w1fe/0/checkpoints"
    checkpoints.mkdir(parents=True)
    (checkpoints / "last.ckpt").touch()
    with pytest.raises(UserError, match=r"got only runs of studies, such as \S+/demo/runs/toy2d-w1fe/0\. Name a file"):
        find_checkpoint("last", tmp_path)
    with pytest.raises(UserError, match=r"expected a run with checkpoints/best\.ckpt, got none"):
        find_checkpoint("best", tmp_path)


def test_a_command_continues_without_a_reader() -> None:
    """The rest of the output is dropped without an error, at exit, too."""
    begin = "import sys\nfrom pt_flows.cli.output import drop_unread_output\ndrop_unread_output()\n"
    for body in ("print('x')", "print('x', flush=True); print('again')", "sys.stdout.writelines(['x'] * 99999)"):
        program = f"{begin}{body}\nprint('resumed', end='', file=sys.stderr)"
        process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        assert process.stdout is not None
        process.stdout.close()
        assert process.stderr is not None
        assert process.stderr.read() == b"resumed"
        assert process.wait(60) == 0


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-"])
def test_a_command_starts_with_closed_streams(closed: str) -> None:
    command = shlex.join([sys.executable, "-m", "pt_flows", "--version"])
    assert subprocess.run(f"{command} {closed}", shell=True, capture_output=True, timeout=60).returncode == 0
    command = shlex.join([sys.executable, "-m", "pt_flows", "nope"])
    assert subprocess.run(f"{command} {closed}", shell=True, capture_output=True, timeout=60).returncode == 2


def test_warnings_of_the_package_are_sentences() -> None:
    quiet()
    with pytest.warns(RunWarning, match="the way is long") as caught:
        warn("the way is long")
    told = [warnings.formatwarning(w.message, w.category, w.filename, w.lineno) for w in caught]
    assert told == ["warning: the way is long\n"]
    assert caught[0].filename == __file__
    assert warnings.formatwarning("old", FutureWarning, "a.py", 7) == "a.py:7: FutureWarning: old\n"


def test_the_command_that_uploads_a_run(tmp_path: Path) -> None:
    """A pattern stands for all parts, if none of them is uploaded."""
    assert upload_command(tmp_path) == ""
    for i in range(2):
        (tmp_path / f"wandb/offline-run-{i}").mkdir(parents=True)
    assert upload_command(tmp_path) == f"wandb sync {tmp_path}/wandb/offline-run-*"
    (tmp_path / "wandb/offline-run-0/a.wandb.synced").touch()
    assert upload_command(tmp_path) == f"wandb sync {tmp_path}/wandb/offline-run-1"


def test_make_refuses_variables_that_a_target_does_not_take() -> None:
    words = ["make", "-n", "-C", str(ROOT), "train-mnist", "METRIC=inception"]
    process = subprocess.run(words, capture_output=True, text=True, timeout=60)
    assert process.returncode == 2
    assert "METRIC: expected none with train-mnist, got inception. Omit or unset it" in process.stderr


@pytest.mark.slow
def test_a_fast_dev_run_leaves_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert fit("--trainer.fast_dev_run", "true") == 0
    assert "fast_dev_run: 1 iterations" in capsys.readouterr().out
    assert not list(Path("runs").glob("*/*"))
    assert fit("--ckpt_path", "last") == 2
    assert fit(steps=10) == 0
    assert fit("--trainer.fast_dev_run", "true", "--ckpt_path", "last") == 2
    assert "--ckpt_path" in capsys.readouterr().err


# ------------------------------------------------------------------------------------- stopped, killed, and resumed


@pytest.mark.slow
def test_a_run_that_ends_early_says_why_and_how_to_continue(capsys: pytest.CaptureFixture[str]) -> None:
    """A time limit ends the run, then ends it at once when it is resumed; then a metric ends it."""
    assert fit("--trainer.max_time", "00:00:00:01", steps=10**6) == 0
    folder, out = run_folder(), capsys.readouterr().out
    saved = read_checkpoint(folder / "checkpoints/last.ckpt")["pt_flows"]["iteration"]
    assert f"stopped after {saved} of 1000000 iterations: max_time is over" in out
    assert f"--ckpt_path {folder} and a longer --trainer.max_time" in out
    assert "eval/w2_64" in out
    assert (folder / f"pictures/{saved:08d}.png").is_file()
    assert fit("--trainer.max_time", "00:00:00:01", "--ckpt_path", "last", steps=10**6) == 0
    assert f"stopped after {saved} of 1000000 iterations: max_time is over" in capsys.readouterr().out
    stopping = ["--trainer.callbacks", "EarlyStopping", "--trainer.callbacks.monitor", "eval/modes_of"]
    cadence = ["--evaluation.every_n_iterations", "10", "--trainer.callbacks.patience", "1"]
    assert fit(*stopping, *cadence, "--run.root", "other", steps=1000) == 0
    assert "stopped after 20 of 1000 iterations: EarlyStopping: Monitored metric" in capsys.readouterr().out


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_before_the_first_iteration(
    number: signal.Signals, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("pt_flows.callbacks.Evaluate.prepare", lambda self, trainer: signal.raise_signal(number))
    before = signal.getsignal(number)
    assert fit() == code
    assert signal.getsignal(number) is before
    assert f"error: stopped by {number.name}. Nothing was trained" in capsys.readouterr().err


def wait_for(pattern: str, process: subprocess.Popen[Any], seconds: float = 60) -> Path:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := list(Path.cwd().glob(pattern)):
            return found[0]
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    raise TimeoutError(pattern)


def start(*arguments: str, **extra: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        command(*arguments), env=environment(**extra), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


LONG = ["fit", "--config", TOY, *QUICK, "--evaluation.metrics", "[]", "--pictures.every_n_iterations", "0"]
LONG += ["--checkpoints.every_n_iterations", "20", "--trainer.max_steps", "300"]


def finish(process: "subprocess.Popen[str]", code: int = 0) -> str:
    out, error = process.communicate(timeout=240)
    assert process.returncode == code, error
    return out


@pytest.mark.slow
def test_killed_run_resumes_to_the_same_weights() -> None:
    finish(start(*LONG, "--run.root", "whole"))
    process = start(*LONG)
    wait_for("runs/*/*/checkpoints/last.ckpt", process)
    time.sleep(0.3)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    killed_at = read_checkpoint(run_folder() / "checkpoints/last.ckpt")["pt_flows"]["iteration"]
    assert 0 < killed_at < 300
    out = finish(start(*LONG, "--ckpt_path", "last"))
    assert f"from iteration {killed_at} to iteration 300" in out
    assert_same(run_folder() / "checkpoints/last.ckpt", run_folder("whole") / "checkpoints/last.ckpt")


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_stopping_saves_and_says_how_to_continue(number: signal.Signals, code: int) -> None:
    process = start(*LONG, "--trainer.max_steps", "100000")
    wait_for("runs/*/*/checkpoints/last.ckpt", process)
    process.send_signal(number)
    out = finish(process, code)
    folder = run_folder()
    saved = read_checkpoint(folder / "checkpoints/last.ckpt")["pt_flows"]["iteration"]
    assert f"stopped by {number.name} after {saved} of 100000 iterations" in out
    assert "--ckpt_path" in out


@pytest.mark.slow
def test_wandb_offline_records_everything_and_resumes_its_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """The run needs no key and no prompt; the offline file holds config, metrics by iteration, and the picture."""
    monkeypatch.delenv("WANDB_MODE")
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    home = {"HOME": str(Path.cwd()), "WANDB_DATA_DIR": str(Path.cwd() / "w")}
    arguments = ["fit", "--config", TOY, *QUICK, "--evaluation.every_n_iterations", "10"]
    arguments += ["--run.root", "my runs"]
    finish(start(*arguments, "--trainer.max_steps", "20", **home))
    explicit = ["--run.wandb", "offline", "--trainer.max_steps", "30", "--ckpt_path", "last"]
    process = start(*arguments, *explicit, **home, WANDB_MODE="disabled")
    out, error = process.communicate(timeout=240)
    assert process.returncode == 0, error
    assert "anonymous" not in error
    folder = run_folder("my runs")
    parts = [str(part) for part in sorted(folder.absolute().glob("wandb/offline-run-*"))]
    (line,) = [line for line in out.splitlines() if "wandb sync" in line]
    *command, pattern = shlex.split(line.partition(": ")[2])
    assert command == ["wandb", "sync"]
    assert sorted(glob.glob(pattern)) == parts
    identity = folder.name.rsplit("-", 1)[-1]
    files = sorted(folder.glob("wandb/offline-run-*/run-*.wandb"))
    assert [f.stem for f in files] == [f"run-{identity}"] * 2
    assert list(folder.glob("wandb/offline-run-*/files/media/images/samples*.png"))
    shown = subprocess.run(
        [Path(sys.executable).parent / "wandb", "leet", "inspect", "--json", str(files[0])],
        capture_output=True, text=True, timeout=60, check=True, env=environment(**home),
    ).stdout  # fmt: skip
    for expected in ("eval/w2_64", "train/loss_D", "lr_schedule", "git_commit", "sampling_seed", '"min":true'):
        assert expected in shown, expected
    left = subprocess.run(["pgrep", "-f", f"{folder.name}|wandb-core.*{os.getpid()}"], capture_output=True, text=True)
    assert not left.stdout.strip()


@pytest.mark.slow
def test_quiet_prints_results_and_errors_alone(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pt_flows"]
    fit = ["fit", "--quiet", "--config", "toy2d/w1_fe", "--trainer.max_steps", "2", "--run.wandb", "disabled"]
    small = ["--evaluation.num_samples", "50", "--trainer.accelerator", "cpu"]
    done = subprocess.run([*command, *fit, *small], cwd=tmp_path, text=True, capture_output=True)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    wrong = subprocess.run([*command, "sample", "nowhere", "--quiet"], cwd=tmp_path, text=True, capture_output=True)
    assert wrong.returncode == 2
    assert wrong.stderr.startswith("error: nowhere: expected a checkpoint")
