"""Configurations, checkpoints and run folders of 0.1 are converted, and errors say so where they are not."""

import copy
import hashlib
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from problems import ROOT, build
from write_checkpoints import samples

from pt_flows.cli.main import main
from pt_flows.errors import UserError
from pt_flows.evaluation.load import finished
from pt_flows.loop.method import Method
from pt_flows.runs.moves import old_keys, places_of, upgraded_checkpoint, upgraded_config, upgraded_state

OLD = ROOT / "tests/checkpoints/0.1"
G, D, U = ({"class_path": name, "init_args": {"width": 8}} for name in ("MLPGenerator", "MLPCritic", "MLPEnergy"))
ADAM, SGD = {"class_path": "Adam", "init_args": {"lr": 1e-3}}, {"class_path": "SGD", "init_args": {"lr": 0.1}}
COSINE = {"decay": "cosine"}

CASES: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "flow": (
        "W1FE",
        {"generator": G, "critic": D, "generator_optimizer": ADAM, "critic_optimizer": SGD, "num_critic_steps": 3,
         "lr_decay": "cosine", "ema_decay": 0.9, "step_size": 0.1, "step_size_decay": "linear", "persistence": 4,
         "persistence_decay": "constant", "penalty": "two_sided"},
        {"generator": {"network": G, "optimizer": ADAM, "lr_schedule": COSINE, "ema_decay": 0.9},
         "critic": {"network": D, "optimizer": SGD, "lr_schedule": COSINE, "steps": 3},
         "step_size": {"value": 0.1, "decay": "linear"}, "persistence": 4, "penalty": "two_sided"},
    ),
    "two critics": (
        "pt_flows.W2FE",
        {"generator": G, "critic": D, "excess": D, "persistence_decay": "cosine"},
        {"generator": {"network": G}, "critic": {"network": D}, "excess": D,
         "persistence": {"value": 5, "decay": "cosine"}},
    ),
    "no critic": (
        "MinibatchW2FE",
        {"generator": G, "generator_optimizer": ADAM, "lr_decay": "linear", "step_size_decay": "constant"},
        {"generator": {"network": G, "optimizer": ADAM, "lr_schedule": {"decay": "linear"}}, "step_size": 1.0},
    ),
    "energy": (
        "DAEBM",
        {"energy": U, "optimizer": ADAM, "lr_decay": "cosine", "warmup": 7, "clip_norm": 0.5, "ema_decay": 0.9,
         "step_size": 0.3, "num_levels": 5},
        {"energy": {"network": U, "optimizer": ADAM, "lr_schedule": {"decay": "cosine", "warmup": 7}, "clip_norm": 0.5,
                    "ema_decay": 0.9}, "step_size": 0.3, "num_levels": 5},
    ),
    "energy with the optimizer of 0.1": (
        "PCD",
        {"energy": U},
        {"energy": {"network": U, "optimizer": {"class_path": "torch.optim.Adam",
                                                "init_args": {"lr": 5e-4, "betas": [0.0, 0.9]}}}},
    ),
    "bare networks": (
        "ODEGAN",
        {"generator": G, "critic": D, "step_size": 0.1, "step_size_boundaries": [5], "step_size_factors": [1.0, 0.5],
         "ema_decay": 0.9},
        {"generator": G, "critic": D, "ema_decay": 0.9,
         "step_size": {"value": 0.1, "boundaries": [5], "factors": [1.0, 0.5]}},
    ),
    "bare networks of a run folder": (
        "ODEGAN",
        {"generator": G, "critic": D, "step_size": 0.1, "step_size_boundaries": [], "step_size_factors": [1.0]},
        {"generator": G, "critic": D, "step_size": 0.1},
    ),
    "somebody's method": (
        "mine.Method",
        {"generator": G, "critic": D, "lr_decay": "linear", "own": 1},
        {"generator": {"network": G, "lr_schedule": {"decay": "linear"}},
         "critic": {"network": D, "lr_schedule": {"decay": "linear"}}, "own": 1},
    ),
    "a layer": (
        "W1FE",
        {"lr_decay": "constant", "num_critic_steps": 3},
        {"generator": {"lr_schedule": {"decay": "constant"}}, "critic": {"lr_schedule": {"decay": "constant"},
                                                                         "steps": 3}},
    ),
}  # fmt: skip


def config(method: str, arguments: dict[str, Any]) -> dict[str, Any]:
    return {"seed_everything": 0, "model": {"class_path": method, "init_args": arguments}, "data": {"class_path": "A"}}


@pytest.mark.parametrize("case", CASES)
def test_keys_of_a_configuration(case: str) -> None:
    method, old, new = CASES[case]
    given = config(method, copy.deepcopy(old))
    assert upgraded_config(given) == config(method, new)
    assert given == config(method, old)
    assert old_keys(given)
    assert not old_keys(config(method, new))
    assert upgraded_config(config(method, new)) == config(method, new)


@pytest.mark.parametrize(
    ("method", "arguments", "told"),
    [("", {"lr_decay": "cosine"}, "model.class_path: expected the class"),
     ("W1FE", {"step_size_decay": "linear"}, "model.step_size_decay: expected model.step_size beside it")],
)  # fmt: skip
def test_layers_that_do_not_tell_enough(method: str, arguments: dict[str, Any], told: str) -> None:
    with pytest.raises(UserError, match=told):
        upgraded_config(config(method, arguments))


def test_places_are_those_of_the_players_that_a_method_has() -> None:
    assert places_of("model.num_critic_steps", ["model.generator", "model.critic"]) == ["model.critic.steps"]
    assert places_of("model.ema_decay", ["model.energy"]) == ["model.energy.ema_decay"]
    assert places_of("data.lr_decay", ["model.energy"]) == places_of("model.own", ["model.energy"]) == []


def test_names_of_an_energy_over_a_gaussian() -> None:
    new = build("DAEBM", base="gaussian").state_dict()
    old = {key.replace("energy.network.", "energy.").replace("energy.ema.", "ema."): v for key, v in new.items()}
    assert "energy.network.last.weight" in old
    assert "energy.centre" in old
    old["_extra_state"] = {"iteration": 3, "seconds": 2.0, "evaluations": {"energy": 5}, "rollbacks": 1}
    state = upgraded_state(old, images_seen=7)
    assert state.pop("_extra_state") == {
        "iteration": 3, "rollbacks": 1, "cost": {"seconds": 2.0, "images_seen": 7, "evaluations": {"energy": 5}}
    }  # fmt: skip
    assert state.keys() == new.keys() - {"_extra_state"}
    assert all(state[key] is new[key] for key in state)


def test_the_optimizer_of_two_players_becomes_two() -> None:
    content = torch.load(OLD / "ode_gan.ckpt", weights_only=True)
    (old,) = content["optimizer_states"]
    old["state"] = {place: {"momentum_buffer": torch.tensor(place)} for group in old["param_groups"]
                    for place in group["params"]}  # fmt: skip
    first = len(old["param_groups"][0]["params"])
    generator, critic = upgraded_checkpoint(content)["optimizer_states"]
    assert [int(kept["momentum_buffer"]) for kept in critic["state"].values()] == list(range(first))
    assert int(generator["state"][0]["momentum_buffer"]) == first
    assert [group["params"] for group in critic["param_groups"]] == [list(range(first))]
    assert "name" not in generator["param_groups"][0]


def test_what_python_did_not_describe_stays_undescribed() -> None:
    content = torch.load(OLD / "built_in_python.ckpt", weights_only=True)
    hyper, record = content["hyper_parameters"], content["pt_flows"]
    del hyper["generator"], hyper["critic_optimizer"]
    record["left_out"] = ["generator", "critic_optimizer"]
    upgraded = upgraded_checkpoint(content)
    assert upgraded["pt_flows"]["left_out"] == ["generator", "critic.optimizer"]
    assert "generator" not in upgraded["hyper_parameters"]
    assert upgraded["hyper_parameters"]["critic"].keys() == {"network"}
    assert upgraded["hyper_parameters"]["persistence"] == 3


def run_folder(name: str) -> Path:
    """A run of 0.1, as its folder was left."""
    folder = Path("runs/toy2d-w1fe") / name
    (folder / "checkpoints").mkdir(parents=True)
    shutil.copy(OLD / "w1_fe.yaml", folder / "config.yaml")
    for kept in ("last", "best"):
        shutil.copy(OLD / "w1_fe.ckpt", folder / f"checkpoints/{kept}.ckpt")
    (folder / "environment.json").write_text("{}")
    (folder / "metrics.csv").write_text("iteration,train/loss_D\n2,1.0\n4,0.5\n")
    (folder / ".lock").write_text("")
    return folder


def fingerprints(folder: Path) -> dict[str, str]:
    files = [file for file in sorted(folder.rglob("*")) if file.is_file()]
    return {str(file): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def test_a_run_folder_is_copied_and_continues(capsys: pytest.CaptureFixture[str]) -> None:
    old = run_folder("20260101-000000-0123abcd")
    before = fingerprints(old)
    assert main(["upgrade", str(old)]) == 0
    new = old.absolute().with_name("20260101-000000-0.2-0123abcd")
    assert "run of 0.2 with 2 checkpoints" in capsys.readouterr().out
    assert fingerprints(old) == before
    assert not (new / ".lock").exists()
    module = finished(new / "checkpoints/best.ckpt").method
    assert (module.iteration, module.cost.images_seen, module.cost.evaluations["critic"]) == (4, 4 * 5 * 16, 1024)
    more = ["--ckpt_path", str(new), "--trainer.max_steps", "6"]
    assert main(["fit", "--config", str(new / "config.yaml"), *more]) == 0
    module = finished(new / "checkpoints/last.ckpt").method
    assert module.cost.images_seen == 6 * 5 * 16
    wanted = yaml.safe_load((OLD / "values.json").read_text())["w1_fe"]["continued"]
    torch.testing.assert_close(torch.tensor(samples(module)), torch.tensor(wanted), rtol=1e-3, atol=1e-4)
    assert (new / "metrics.csv").read_text().startswith("iteration")


def test_files_are_written_beside_and_never_over_others(capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("w1_fe.yaml", "w1_fe.ckpt"):
        shutil.copy(OLD / name, name)
        assert main(["upgrade", name]) == 0
        assert main(["upgrade", name]) == 2
        assert "--out: expected a new name, got w1_fe-0.2" in capsys.readouterr().err
    assert main(["fit", "--config", "w1_fe-0.2.yaml", "--print_config"]) == 0
    shown = capsys.readouterr().out
    assert "lr_schedule" in shown
    assert finished(Path("w1_fe-0.2.ckpt")).method.iteration == 4
    Path("empty").mkdir()
    for given, told in (
        ("w1_fe-0.2.yaml", "got no keys of it. Use the file as it is"),
        ("w1_fe-0.2.ckpt", "got one of 0.2. Use the file as it is"),
        ("missing.ckpt", "got no file"),
        ("empty", "expected a run folder with config.yaml and checkpoints, got neither"),
    ):
        assert main(["upgrade", given, "--out", "new"]) == 2
        assert told in capsys.readouterr().err
        assert not Path("new").exists()


def test_without_conversion_one_sentence_says_what_to_do(capsys: pytest.CaptureFixture[str]) -> None:
    old, yaml_file, new = str(OLD / "w1_fe.ckpt"), str(OLD / "w1_fe.yaml"), str(ROOT / "configs/toy2d/w1_fe.yaml")
    upgrade, ode_gan = f"got one of 0.1. Convert it: pt-flows upgrade {old}", str(ROOT / "configs/toy2d/ode_gan.yaml")
    for words, told in (
        (["sample", old], upgrade),
        (["evaluate", old], upgrade),
        (["fit", "--config", new, "--ckpt_path", old], upgrade),
        (["fit", "--config", yaml_file], f"which is of 0.1. Convert it: pt-flows upgrade {yaml_file}"),
        (["fit", "--config", new, "--model.num_critic_steps", "3"], "got one of 0.1. Use model.critic.steps"),
        (["fit", "--config", ode_gan, "--model.critic.attack", "PGD"], "there is no key model.critic.attack"),
    ):  # fmt: skip
        assert main(words) == 2, words
        error = capsys.readouterr().err
        assert told in error
        assert error.count("\n") == 1
    with pytest.raises(UserError, match="expected a checkpoint of pt_flows"):
        Method.load_from_checkpoint(old)
