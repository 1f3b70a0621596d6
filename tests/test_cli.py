"""The command line as a user meets it."""

import csv
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from problems import ROOT

from pt_flows.cli import main
from pt_flows.metrics.features import file_hash
from pt_flows.runs import read_checkpoint

TOY = str(ROOT / "configs/toy2d/w1_fe.yaml")
QUICK = ["--trainer.accelerator", "cpu", "--data.batch_size", "32", "--evaluation.num_samples", "64"]
QUICK += ["--model.generator.width", "16", "--model.critic.width", "16", "--trainer.log_every_n_steps", "10"]


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
    return [sys.executable, "-c", "import sys; from pt_flows.cli import main; sys.exit(main())", *arguments]


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
    assert config["model"]["init_args"]["generator"]["init_args"]["width"] == 16
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


def test_layers_of_configuration_and_print_config(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "layer.yaml").write_text("model: {init_args: {persistence: 9, critic: {init_args: {depth: 1}}}}\n")
    code = main(["fit", "--config", TOY, "--config", "layer.yaml", "--model.step_size", "0.25", "--print_config"])
    assert code == 0
    printed = yaml.safe_load(capsys.readouterr().out)["model"]["init_args"]
    assert (printed["persistence"], printed["step_size"], printed["critic"]["init_args"]["depth"]) == (9, 0.25, 1)
    assert printed["critic"]["init_args"]["width"] == 128


def test_short_names_and_switching_the_class(capsys: pytest.CaptureFixture[str]) -> None:
    switch = ["--model", "WGANGP", "--model.penalty", "one_sided", "--data", "Toy2D"]
    assert main(["fit", "--config", TOY, *switch, "--print_config"]) == 0
    printed = yaml.safe_load(capsys.readouterr().out)
    assert printed["model"]["class_path"].endswith("WGANGP")
    assert printed["model"]["init_args"]["num_critic_steps"] == 5
    assert printed["model"]["init_args"]["penalty"] == "one_sided"


def test_resume_continues_the_same_run_bit_for_bit() -> None:
    cadence = ["--evaluation.every_n_iterations", "10", "--checkpoints.every_n_iterations", "10"]
    assert fit(*cadence, "--run.root", "whole", "--model.lr_decay", "constant", steps=40) == 0
    assert fit(*cadence, "--model.lr_decay", "constant", steps=20) == 0
    assert fit(*cadence, "--model.lr_decay", "constant", "--ckpt_path", "last", steps=40) == 0
    resumed, whole = run_folder(), run_folder("whole")
    assert_same(resumed / "checkpoints/last.ckpt", whole / "checkpoints/last.ckpt")
    table = [[(r["iteration"], r["train/loss_D"], r["eval/w2_64"]) for r in csv.DictReader((f / "metrics.csv").open())]
             for f in (resumed, whole)]  # fmt: skip
    assert table[0] == table[1]
    assert len(list(resumed.glob("config-continued-*.yaml"))) == 1  # max_steps changed, and the first one is kept


def test_an_earlier_checkpoint_starts_a_run_of_its_own() -> None:
    """What came after best.ckpt is not overwritten."""
    assert fit("--evaluation.every_n_iterations", "10", steps=20) == 0
    first = run_folder()
    before = (first / "metrics.csv").read_bytes()
    assert fit("--ckpt_path", "best", steps=30) == 0
    assert (first / "metrics.csv").read_bytes() == before
    assert len(list(Path("runs").glob("*/*"))) == 2


def test_validate_and_test_need_a_checkpoint_and_print_numbers(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["validate", "--config", TOY]) == 2
    assert "validate needs --ckpt_path" in capsys.readouterr().err
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
    arguments += ["--model.generator.width", "4", "--model.critic.width", "4", "--evaluation.metrics", "[]"]
    assert main(["fit", "--config", config, "--config", layer, *arguments]) == 0
    folder = run_folder()
    assert folder.parent.name == "shapes32-wgangp"
    assert Image.open(next((folder / "pictures").iterdir())).size == (8 * 66 + 2, 8 * 66 + 2)
    assert main(["sample", str(folder / "checkpoints/last.ckpt"), "--n", "9", "--out", "s.npz"]) == 0
    assert np.load("s.npz")["samples"].shape == (9, 32, 32, 3)
    assert np.load("s.npz")["samples"].dtype == np.uint8


# ------------------------------------------------------------------------------------------------- mistakes of users


MISTAKES: list[tuple[list[str], str]] = [
    (["fit", "--config", TOY, "--model.step_sise", "1"], r"no key model.step_sise; did you mean step_size\?"),
    (["fit", "--config", TOY, "--trainer.acelerator", "cpu"], r"no key trainer.acelerator; did you mean accelerator\?"),
    (["fit", "--config", TOY, "--modl", "W1FE"], r"no key modl; did you mean model\?"),
    (["fit", "--config", TOY, "--model.generator.widht", "3"], r"no key model.generator.widht; did you mean width\?"),
    (["fit", "--config", TOY, "--model.step_size", "abc"], r"model.step_size: expected a float, got 'abc'"),
    (["fit", "--config", TOY, "--model.penalty", "three"], r"model.penalty: expected one of 'one_sided', 'two_sided'"),
    (["fit", "--config", TOY, "--data.target", "ring9"], r"data.target: expected one of 'ring8'"),
    (["fit", "--config", TOY, "--model", "StyleGAN"], r"model: there is no class 'StyleGAN'; .*W1FE, .*WGANGP"),
    (["fit", "--config", TOY, "--model.critic", "MLPCritik"], r"no class 'MLPCritik'; did you mean MLPCritic\?"),
    (["fit", "--config", TOY, "--data", "CIFAR11"], r"data: there is no class 'CIFAR11'; did you mean CIFAR10\?"),
    (["fit", "--config", TOY, "--evaluation.metrics", "[Fid]"], r"there is no class 'Fid'; .*FrechetDistance"),
    (["fit", "--config", "nowhere.yaml"], r"there is no configuration file .*nowhere.yaml"),
    (["fit", "--config", TOY, "--trainer.max_steps", "-1"], r"trainer.max_steps must be the number of iterations"),
    (["fit", "--config", TOY, "--model.persistence", "0"], r"model.persistence must be at least 1, got 0"),
    (["fit", "--config", TOY, "--evaluation.num_samples", "0"], r"evaluation.num_samples must be at least 1, got 0"),
    (
        ["fit", "--config", TOY, "--data", "Shapes32"],
        r"model and data do not fit: .*\(2,\).*Shapes32 serves \(3, 32, 32\)",
    ),
    (["fit", "--config", TOY, "--model.generator", "DCGANGenerator", "--model.generator.image_size", "48"], r"got 48"),
    (["fit", "--config", TOY, "--ckpt_path", "last"], r"no run under runs/toy2d-w1fe has checkpoints/last.ckpt"),
    (["fit", "--config", TOY, "--ckpt_path", "no.ckpt"], r"there is no checkpoint no.ckpt"),
    (["train"], r"there is no command 'train'; there are fit, validate, test, fork, sample, evaluate, compare, report"),
    (["sample", "no.ckpt"], r"there is no checkpoint no.ckpt"),
    (["sample", "no.ckpt", "--n", "0"], r"--n must be at least 1, got 0"),
    (["sample", "no.ckpt", "--out", "a.jpg"], r"--out must end in .png or .npz"),
    (["sample", "no.ckpt", "--out", "no/where/a.png"], r"there is no folder"),
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
    ("model: {init_args: {step_sise: 1}}", r"no key model.step_sise; did you mean step_size\?"),
    ("trainer: {max_stepz: 1}", r"no key trainer.max_stepz; did you mean max_steps\?"),
    ("model: {class_path: W3}", r"model: there is no class 'W3'"),
    ("modle: {class_path: W1FE}", r"no key modle; did you mean model\?"),
    ("a: [1\n b: }", r"not valid YAML"),
    ("evaluation: {num_samples: many}", r"evaluation.num_samples: expected an? int, got 'many'"),
]


@pytest.mark.parametrize(("text", "message"), FILES)
def test_mistakes_in_files(text: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "layer.yaml").write_text(text)
    assert main(["fit", "--config", TOY, "--config", "layer.yaml"]) == 2
    error = capsys.readouterr().err
    assert re.search(r"^error: .*" + message, error, re.MULTILINE), error
    assert "Traceback" not in error


def test_a_model_that_is_missing_something(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "bare.yaml").write_text(
        "trainer: {max_steps: 3}\ndata: {class_path: Toy2D}\nmodel: {class_path: W1FE}\n"
    )
    assert main(["fit", "--config", "bare.yaml"]) == 2
    assert re.search(r"error: .*generator.*missing", capsys.readouterr().err)
    (tmp_path / "none.yaml").write_text("trainer: {max_steps: 3}\ndata: {class_path: Toy2D}\n")
    assert main(["fit", "--config", "none.yaml"]) == 2
    assert re.search(r"error: .*model.*missing", capsys.readouterr().err)


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
        expected = "is not a checkpoint of pt_flows" if damage == "lightning" else "can not be read as a checkpoint"
        assert expected in capsys.readouterr().err


def test_a_damaged_last_checkpoint_falls_back_to_the_one_before(capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--checkpoints.every_n_iterations", "10"]
    assert fit(*flags, steps=40) == 0
    last, whole = run_folder() / "checkpoints/last.ckpt", Path("whole.ckpt")
    shutil.copy(last, whole)
    last.write_bytes(last.read_bytes()[:5_000])
    assert fit(*flags, "--ckpt_path", "last", steps=40) == 0
    out = capsys.readouterr().out
    assert re.search(r"note: \S+last.ckpt can not be read .* Going on from \S+previous.ckpt, iteration 30", out)
    assert_same(last, whole)
    for name in ("last", "previous"):
        (last.parent / f"{name}.ckpt").write_bytes(b"broken")
    assert fit("--ckpt_path", "last", steps=50) == 2
    assert "previous.ckpt can not be read as a checkpoint" in capsys.readouterr().err


def test_a_branch_knows_where_it_comes_from() -> None:
    assert fit(steps=10) == 0
    origin = run_folder() / "checkpoints/best.ckpt"
    assert fit("--run.root", "branches", "--ckpt_path", str(origin), "--model.persistence", "2", steps=20) == 0
    parent = json.loads((run_folder("branches") / "environment.json").read_text())["parent"]
    assert (parent["checkpoint"], parent["iteration"]) == (str(origin), 10)
    assert parent["sha256"] == file_hash(origin)
    assert "parent" not in json.loads((run_folder() / "environment.json").read_text())


def test_fork_needs_no_configuration(capsys: pytest.CaptureFixture[str]) -> None:
    """A run folder of its own, the parent's settings but for what is said, and a record of where it comes from."""
    assert fit(steps=10) == 0
    parent = run_folder()
    changes = ["--model.persistence", "2", "--trainer.max_steps", "20", "--run.root", "branches"]
    assert main(["fork", str(parent), *changes]) == 0
    branch = run_folder("branches")
    configs = [yaml.safe_load((folder / "config.yaml").read_text()) for folder in (parent, branch)]
    assert [c["model"]["init_args"]["persistence"] for c in configs] == [5, 2]
    assert configs[1]["model"]["init_args"]["generator"]["init_args"]["width"] == 16
    origin = json.loads((branch / "environment.json").read_text())["parent"]
    assert (origin["checkpoint"], origin["iteration"]) == (str(parent / "checkpoints/last.ckpt"), 10)
    assert read_checkpoint(parent / "checkpoints/last.ckpt")["pt_flows"]["iteration"] == 10
    assert read_checkpoint(branch / "checkpoints/last.ckpt")["pt_flows"]["iteration"] == 20
    shutil.copy(parent / "checkpoints/last.ckpt", "alone.ckpt")
    capsys.readouterr()
    for words, message in (
        (["alone.ckpt"], "alone.ckpt does not lie in a run folder"),
        (["--model.persistence", "2"], "fork needs CKPT first"),
        (["nowhere"], "there is no checkpoint nowhere"),
    ):
        assert main(["fork", *words]) == 2
        assert message in capsys.readouterr().err


def test_one_callback_needs_no_list() -> None:
    assert fit("--trainer.callbacks", "FlowPicture", steps=10) == 0


def test_another_seed_is_said_and_trains(capsys: pytest.CaptureFixture[str]) -> None:
    fit(steps=10)
    assert fit("--ckpt_path", "last", "--seed_everything", "4") == 0
    assert "note: the checkpoint was trained with seed 0, this run has 4" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("setting", "instead"),
    [(["accumulate_grad_batches", "2"], "lower data.batch_size"), (["gradient_clip_val", "1"], "model.clip_norm")],
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
    assert "the checkpoint holds" in capsys.readouterr().err
    assert fit("--ckpt_path", ckpt, "--model.critic.width", "17") == 2
    captured = capsys.readouterr()
    assert "critic" in captured.err
    assert "note: model.critic" in captured.out
    assert "Traceback" not in captured.err


@pytest.mark.slow
def test_no_space_left_keeps_the_last_checkpoint(tmp_path: Path) -> None:
    """A limit on file sizes stands for the full disk: the write fails, the file of before is whole."""
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
    assert re.search(r"error: can not write .*last.ckpt.*--ckpt_path last", error), error
    assert "Traceback" not in error
    assert read_checkpoint(last)["pt_flows"]["iteration"] % 10 == 0
    assert not list(last.parent.glob("*.partial"))


# ------------------------------------------------------------------------------------- stopped, killed, and resumed


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


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_stopping_saves_and_says_how_to_go_on(number: signal.Signals, code: int) -> None:
    process = start(*LONG, "--trainer.max_steps", "100000")
    wait_for("runs/*/*/checkpoints/last.ckpt", process)
    process.send_signal(number)
    out = finish(process, code)
    folder = run_folder()
    saved = read_checkpoint(folder / "checkpoints/last.ckpt")["pt_flows"]["iteration"]
    assert f"stopped by {number.name} after iteration {saved}" in out
    assert "--ckpt_path" in out


@pytest.mark.slow
def test_wandb_offline_records_everything_and_resumes_its_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """No key, no prompt: the offline file holds config, metrics against the iteration, and the picture."""
    monkeypatch.delenv("WANDB_MODE")
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    home = {"HOME": str(Path.cwd()), "WANDB_DATA_DIR": str(Path.cwd() / "w")}
    arguments = ["fit", "--config", TOY, *QUICK, "--evaluation.every_n_iterations", "10"]
    finish(start(*arguments, "--trainer.max_steps", "20", **home))
    finish(start(*arguments, "--trainer.max_steps", "30", "--ckpt_path", "last", **home))
    folder = run_folder()
    identity = folder.name.rsplit("-", 1)[-1]
    files = sorted(folder.glob("wandb/offline-run-*/run-*.wandb"))
    assert [f.stem for f in files] == [f"run-{identity}"] * 2
    assert list(folder.glob("wandb/offline-run-*/files/media/images/samples*.png"))
    shown = subprocess.run(
        [Path(sys.executable).parent / "wandb", "leet", "inspect", "--json", str(files[0])],
        capture_output=True, text=True, timeout=60, check=True, env=environment(**home),
    ).stdout  # fmt: skip
    for expected in ("eval/w2_64", "train/loss_D", "num_critic_steps", "git_commit", "sampling_seed", '"min":true'):
        assert expected in shown, expected
    left = subprocess.run(["pgrep", "-f", f"{folder.name}|wandb-core.*{os.getpid()}"], capture_output=True, text=True)
    assert not left.stdout.strip()
