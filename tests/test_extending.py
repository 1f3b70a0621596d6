"""The files and commands of docs/extending.md, run as a user would."""

import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from problems import ROOT
from test_configs import small

from pt_flows.cli.main import main

PAGE = (ROOT / "docs/extending.md").read_text()
COMMANDS = re.findall(r"^    pt-flows (fit .+)$", PAGE, re.MULTILINE)


def own_files(place: Path) -> None:
    """The page's modules, and data as they describe them."""
    for name, code in re.findall(r'^```python\n"""(\w+\.py)"""\n(.*?)^```$', PAGE, re.MULTILINE | re.DOTALL):
        (place / name).write_text(code)
    rng = np.random.default_rng(0)
    for split, num in (("train", 100), ("test", 30)):
        for folder in ("photographs", "table"):
            (place / folder).mkdir(exist_ok=True)
        np.save(
            place / f"photographs/photographs_{split}.npy", rng.integers(256, size=(num, 32, 32, 3), dtype=np.uint8)
        )
        np.save(place / f"table/measurements_{split}.npy", rng.normal(size=(num, 2)))


@pytest.mark.parametrize("command", COMMANDS)
def test_the_commands_of_the_page_run(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    own_files(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    words = [str(ROOT / word) if word.startswith("configs/") else word for word in shlex.split(command)]
    recipe = Path(words[words.index("--config") + 1])
    words += [
        *small(recipe),
        "--trainer.max_steps",
        "3",
        "--trainer.accelerator",
        "cpu",
        "--evaluation.num_samples",
        "20",
    ]
    if recipe.parent.name == "cifar10":
        words += ["--evaluation.metrics", "[]"]
    assert main(words) == 0, capsys.readouterr().err
    (folder,) = Path("runs").glob("*/*")
    assert (folder / "checkpoints/last.ckpt").is_file()
    if "Moments" in command:
        assert "eval/mean_gap_20_train" in (folder / "metrics.csv").read_text()
        (record,) = (json.loads(path.read_text()) for path in (folder / "evaluations").glob("*.json"))
        directions = record["passport"]["directions"]
        assert (directions["mean_gap_20_train"], directions["variance_fraction_20_train"]) == ("lower", "")
    if "SaveSamples" in command:
        assert np.load(folder / "samples/00000003.npy").shape == (64, 2)


def test_the_page_has_a_command_for_every_file() -> None:
    modules = re.findall(r'^"""(\w+)\.py"""$', PAGE, re.MULTILINE)
    assert len(modules) == len(COMMANDS) == PAGE.count("```python")
    assert all(f"{module}." in command for module, command in zip(modules, COMMANDS, strict=True))


def test_broken_values_in_own_data_are_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    own_files(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    rows = np.zeros((100, 2))
    rows[17, 1] = np.nan
    np.save("table/measurements_train.npy", rows)
    words = ["fit", "--config", str(ROOT / "configs/toy2d/wgan_gp.yaml"), "--data", "my_table.Measurements"]
    assert main([*words, "--data.root", "table", "--trainer.accelerator", "cpu"]) == 2
    error = capsys.readouterr().err
    assert "Measurements: expected finite values, got others in sample 17 of the train split" in error
    assert len(error.strip().splitlines()) == 1
