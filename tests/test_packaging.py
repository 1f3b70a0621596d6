"""The wheel, the source archive and the recipes inside the package."""

import os
import re
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest
import yaml
from problems import ROOT

import pt_flows
from pt_flows.cli.main import main
from pt_flows.cli.shipped import recipe_file, recipe_folder, recipe_names, with_recipes
from pt_flows.errors import UserError


def test_recipes_are_found_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = tmp_path / "toy2d"
    own.mkdir()
    monkeypatch.chdir(tmp_path)
    shipped = recipe_folder() / "toy2d/w1_fe.yaml"
    assert "toy2d/w1_fe" in recipe_names()
    assert "toy2d/w1_fe.space" not in recipe_names()
    assert recipe_file("toy2d/w1_fe") == recipe_file("configs/toy2d/w1_fe") == str(shipped)
    assert recipe_file("mine.yaml") == "mine.yaml"
    words = ["--config", "toy2d/w1_fe", "--config=toy2d/wgan_gp", "-c", "mine.yaml", "--data.target", "toy2d/w1_fe"]
    assert with_recipes(words) == [
        "--config", str(shipped), f"--config={shipped.with_name('wgan_gp.yaml')}", "-c", "mine.yaml", *words[5:]
    ]  # fmt: skip
    (own / "w1_fe").write_text("your own file comes first")
    assert recipe_file("toy2d/w1_fe") == "toy2d/w1_fe"


@pytest.mark.parametrize("command", [["fit", "--config"], ["check-method", "--config"], ["tune"]])
def test_unknown_recipe_is_one_sentence(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*command, "toy2d/w1fe"]) == 2
    assert re.fullmatch(r"error: --config: expected .* got toy2d/w1fe, .* toy2d/w1_fe or .*\n", capsys.readouterr().err)


def test_study_names_recipes(tmp_path: Path) -> None:
    from pt_flows.studies.reading import read_study

    file = tmp_path / "study.yaml"
    text = "arms: {a: {config: toy2d/w1_fe}, b: {config: NAME}}\nseeds: 0..1\nmetrics: [w2_512]\n"
    file.write_text(text.replace("NAME", "toy2d/wgan_gp"))
    assert read_study(file).arms["b"].configs == (recipe_folder() / "toy2d/wgan_gp.yaml",)
    file.write_text(text.replace("NAME", "toy2d/wgangp"))
    with pytest.raises(UserError, match=r"study.yaml: arms.b.config: expected .* Use toy2d/wgan_gp or"):
        read_study(file)


def test_citation_names_this_version() -> None:
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == pt_flows.__version__


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel and the source archive."""
    folder = tmp_path_factory.mktemp("dist")
    code = "import sys, hatchling.build as b; b.build_sdist(sys.argv[1]); b.build_wheel(sys.argv[1])"
    subprocess.run([sys.executable, "-c", code, str(folder)], cwd=ROOT, check=True, capture_output=True)
    return folder


def test_archives_hold_recipes_and_sources(built: Path) -> None:
    with zipfile.ZipFile(next(built.glob("*.whl"))) as wheel:
        names = wheel.namelist()
    assert {f"pt_flows/recipes/{name}.yaml" for name in recipe_names()} <= set(names)
    assert "pt_flows/py.typed" in names
    assert not [name for name in names if name.startswith(("tests/", "benchmarks/"))]
    with tarfile.open(next(built.glob("*.tar.gz"))) as archive:
        files = {name.partition("/")[2] for name in archive.getnames()}
    assert {
        "README.md",
        "LICENSE",
        "CITATION.cff",
        "pyproject.toml",
        "tests/problems.py",
        "configs/toy2d/w1_fe.yaml",
    } <= files


@pytest.mark.slow
def test_wheel_trains_in_a_fresh_environment(built: Path, tmp_path: Path) -> None:
    """The wheel is installed alone. The environment sees the packages of this one, but not this checkout."""
    venv.create(tmp_path / "env", with_pip=False)
    python = tmp_path / "env/bin/python"
    install = [sys.executable, "-m", "pip", "--python", str(python), "install", "--no-deps", "--no-index", "--quiet"]
    subprocess.run([*install, str(next(built.glob("*.whl")))], check=True)
    (site,) = (tmp_path / "env").glob("lib/python*/site-packages")
    (site / "others.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    where = [str(python), "-c", "import pt_flows; print(pt_flows.__file__)"]
    assert subprocess.run(where, env=environment, cwd=elsewhere, text=True, capture_output=True).stdout.startswith(
        str(site)
    )
    command = [str(tmp_path / "env/bin/pt-flows"), "fit", "--config", "toy2d/w1_fe", "--trainer.max_steps", "10"]
    done = subprocess.run(
        [*command, "--trainer.accelerator", "cpu", "--run.wandb", "disabled"],
        env=environment, cwd=elsewhere, text=True, capture_output=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (run,) = elsewhere.glob("runs/toy2d-w1fe/*")
    assert (run / "checkpoints/last.ckpt").is_file()
    assert (run / "pictures").is_dir()
