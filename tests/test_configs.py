"""Every shipped configuration parses, and trains for two iterations on small data."""

from pathlib import Path

import pytest
import yaml
from problems import ROOT, write_class_folders, write_digits

from pt_flows.cli.main import main

SPACES = sorted((ROOT / "configs").glob("*/*.space.yaml"))
RECIPES = sorted(p for p in (ROOT / "configs").glob("*/*.yaml") if p.parent.name not in ("data", "metrics"))
RECIPES = [p for p in RECIPES if p not in SPACES]


def small(recipe: Path) -> list[str]:
    """Flags that make networks and minibatches of a recipe small."""
    config = yaml.safe_load(recipe.read_text())
    given = {
        key: config["model"]["init_args"].get(key) for key in ("generator", "critic", "excess", "energy", "encoder")
    }
    nets = [f"{key}.network" if "network" in value else key for key, value in given.items() if value]
    one_layer = config["data"]["class_path"] == "OneLayer"  # its networks have no width
    flags = [flag for key in nets if not one_layer for flag in (f"--model.{key}.width", "8")]
    few = {"num_langevin_steps": 2, "num_sampling_rounds": 1, "num_sampling_steps": 2, "num_visits": 1, "num_levels": 3}
    flags += [
        flag for key, num in few.items() if key in config["model"]["init_args"] for flag in (f"--model.{key}", str(num))
    ]
    batch = "data.target.init_args.batch_size" if config["data"]["class_path"] == "TwoDomains" else "data.batch_size"
    return [*flags, f"--{batch}", "4"]


LARGE = ("cifar10/da_ebm", "imagenet/improved_cd", "imagenet/w2_fe", "mnist/da_ebm_full")


def name(path: Path) -> str:
    return f"{path.parent.name}/{path.stem}"


def trained_base(recipe: Path) -> str:
    """A trained GAN for a recipe that distils one: a saved one of toys, or one of digits of the same latents."""
    if recipe.stem == "trained_toy":
        return str(ROOT / "tests/checkpoints/0.2/wgan_gp.ckpt")
    base = ROOT / "configs/mnist/wgan_gp.yaml"
    few = ["--trainer.max_steps", "1", "--run.root", "base", "--evaluation.metrics", "[]"]
    assert main(["fit", "--config", str(base), *small(base), *few, "--trainer.accelerator", "cpu"]) == 0
    return str(next(Path("base").glob("*/*")))


@pytest.mark.parametrize("recipe", RECIPES, ids=name)
def test_recipe_parses_and_says_what_it_is(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert recipe.read_text().startswith("# ")
    assert main(["fit", "--config", str(recipe), "--print_config"]) == 0
    assert "class_path" in capsys.readouterr().out


@pytest.mark.parametrize(
    "recipe", [pytest.param(r, marks=pytest.mark.slow) if name(r) in LARGE else r for r in RECIPES], ids=name
)
def test_recipe_trains(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images, layers, arguments = recipe.parent.name != "toy2d", [], small(recipe)
    if recipe.parent.name == "cifar10":
        layers = ["--config", str(ROOT / "configs/data/shapes32.yaml")]
        monkeypatch.setattr(
            "pt_flows.methods.energies.da_ebm.moments", lambda *args: None
        )  # moments of 3,072 values take many seconds
    elif recipe.parent.name == "imagenet":
        write_class_folders(Path("images"), num_classes=3, size=64)
        layers = ["--data.root", "images"]
        if "num_classes" in recipe.read_text():
            layers += ["--model.generator.num_classes", "3", "--model.critic.num_classes", "3"]
    elif recipe.parent.name in ("digits", "mnist"):
        write_digits(Path("digits"))
        monkeypatch.setenv("PT_FLOWS_DATA", "digits")
    elif recipe.stem.startswith("trained_"):
        write_digits(Path("digits"))
        monkeypatch.setenv("PT_FLOWS_DATA", "digits")
        layers = ["--data.simulator.checkpoint", trained_base(recipe), "--data.num_pairs", "9"]
    arguments += ["--trainer.max_steps", "2", "--trainer.accelerator", "cpu"]
    arguments += ["--evaluation.metrics", "[]"] if images else ["--evaluation.num_samples", "20"]
    assert main(["fit", "--config", str(recipe), *layers, *arguments]) == 0
    assert len(list(Path("runs").glob("*/*/checkpoints/last.ckpt"))) == 1


def test_the_example_of_the_docs_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command line names the method of docs/methods.md as a user's own module."""
    code = (ROOT / "docs/methods.md").read_text().split("```python\n")[1].split("```")[0]
    (tmp_path / "my_methods.py").write_text(code)
    monkeypatch.syspath_prepend(str(tmp_path))
    recipe = str(ROOT / "configs/toy2d/wgan_gp.yaml")
    arguments = ["--trainer.max_steps", "2", "--trainer.accelerator", "cpu", *small(Path(recipe))]
    arguments += ["--evaluation.num_samples", "20", "--model", "my_methods.HingeGAN"]
    assert main(["fit", "--config", recipe, *arguments]) == 0
    (folder,) = Path("runs").glob("toy2d-hingegan/*")
    assert main(["sample", str(folder / "checkpoints/last.ckpt"), "--n", "3", "--out", "x.npz"]) == 0


def test_metric_layer_parses(capsys: pytest.CaptureFixture[str]) -> None:
    layer = str(ROOT / "configs/metrics/inception.yaml")
    assert main(["fit", "--config", str(ROOT / "configs/cifar10/w1_fe.yaml"), "--config", layer, "--print_config"]) == 0
    assert "InceptionFeatures" in capsys.readouterr().out
