"""Exported models: what is in them, what loads them, and what is refused."""

import json
import re
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
import yaml
from problems import ROOT, slow_but_for
from safetensors.torch import load_file
from torch import nn

import pt_flows
from pt_flows.cli.main import main
from pt_flows.contracts import MapsLatents, RunsChains, Samples
from pt_flows.errors import UserError
from pt_flows.evaluation.load import finished
from pt_flows.evaluation.sharing import export, load, push
from pt_flows.loop.method import Method
from pt_flows.runs.exported import DESCRIPTION, WEIGHTS
from pt_flows.runs.trust import Guard
from pt_flows.training.noise import generator_at

SAVED = sorted((ROOT / "tests/checkpoints/0.2").glob("*.ckpt"))


def drawn(method: Method) -> torch.Tensor:
    return pt_flows.sample(method, 5, rng=generator_at("cpu", "sharing"))


@pytest.mark.parametrize(
    "file",
    slow_but_for(
        [file for file in SAVED if file.stem != "built_in_python"], lambda file: file.stem in ("w1_fe", "pcd")
    ),
    ids=lambda file: file.stem,
)
def test_exported_model_draws_like_its_checkpoint(file: Path, tmp_path: Path) -> None:
    method = finished(file).method
    weights = "ema" if any(player.keeps("ema") for player in method.players.values()) else "raw"
    export(str(file), str(tmp_path / "model"), weights)
    names = load_file(tmp_path / "model" / WEIGHTS)
    assert not [name for name in names if name.startswith(("buffer.", "points")) or ".ema." in name]
    loaded = load(tmp_path / "model")
    assert type(loaded) is type(method)
    assert loaded.iteration == method.iteration
    if isinstance(method, MapsLatents | RunsChains | Samples) and weights == "ema":
        assert torch.equal(drawn(loaded), drawn(method))
    for name, player in loaded.players.items():
        before = method.players[name]
        kept = "ema" if before.keeps("ema") and weights == "ema" else "raw"
        for a, b in zip(player.network.parameters(), before.weighted(kept).parameters(), strict=True):
            assert torch.equal(a, b)
    assert "arXiv" in (tmp_path / "model/README.md").read_text()


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An exported W1-FE."""
    folder = tmp_path_factory.mktemp("models") / "ring"
    export(str(ROOT / "tests/checkpoints/0.2/w1_fe.ckpt"), str(folder), program=True)
    return folder


@pytest.fixture
def copy(model: Path, tmp_path: Path) -> Path:
    """Another one, to be damaged."""
    return shutil.copytree(model, tmp_path / "copy")


def test_program_is_the_generator(model: Path) -> None:
    z = torch.randn(7, 2)
    program: Any = torch.export.load(model / "generator.pt2").module()
    expected = load(model).players["generator"].weighted("ema")(z)
    torch.testing.assert_close(program(z), expected)


def test_commands_take_an_exported_model(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["sample", str(model), "--n", "10", "--out", "samples.npz"]) == 0
    assert main(["sample", str(model / WEIGHTS), "--n", "10", "--out", "samples.npz"]) == 0


def test_run_is_exported_with_its_numbers_and_without_its_paths(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    fit = ["fit", "--config", "toy2d/w1_fe", "--trainer.max_steps", "2", "--trainer.accelerator", "cpu"]
    flags = ["--run.wandb", "disabled", "--model.generator.network.width", "8", "--evaluation.num_samples", "100"]
    assert main([*fit, *flags]) == 0
    assert main(["export", "last", "--out", "model"]) == 0
    text = Path("model/README.md").read_text()
    assert re.search(r"# W1FE on Toy2D.*\| w2_100 \| [\d.]+ \| 100 \| test \| Direct \| 0 \|", text, re.DOTALL)
    assert "](samples.png)" in text
    assert "partial" not in text
    config = yaml.safe_load(Path("model/config.yaml").read_text())
    assert "run" not in config
    assert str(tmp_path) not in Path("model/config.yaml").read_text()
    assert main(["evaluate", "model", "--n", "100"]) == 0
    assert len(list(Path("model/evaluations").glob("*.json"))) == 2
    assert main(["fit", "--config", "model/config.yaml", "--print_config"]) == 0


@pytest.mark.parametrize(
    ("command", "sentence"),
    [
        (
            ["fit", "--config", "toy2d/w1_fe", "--ckpt_path", "MODEL"],
            r"--ckpt_path: expected .*, got an exported",
        ),
        (["fork", "MODEL"], r"expected a checkpoint in a run folder"),
        (["export", "MODEL", "--out", "new"], r"expected a checkpoint, got an exported model"),
        (["export", "CKPT", "--out", "MODEL"], r"--out: expected a new folder, got .*, which exists"),
        (["push", "CKPT", "--to", "me/it"], r"expected an exported model, got no folder"),
        (["push", "MODEL", "--to", "it"], r"--to: expected NAME/MODEL, got it"),
        (["push", "nowhere", "--to", "me/it"], r"nowhere: expected an exported model, got no folder"),
        (["export", "CKPT", "--out", ""], r"--out: expected a new folder, got none"),
        (["export", "CKPT"], r"out: expected a value, got none. Add --out"),
        (["export", "CKPT", "more", "--out", "new"], r"expected a flag before more, got none. Omit the word"),
        (
            ["export", "CKPT", "--out", f"{__file__}/new"],
            r"cannot access .*Check the path, or choose another with --out",
        ),
    ],
)
def test_wrong_use_is_one_sentence(
    command: list[str], sentence: str, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    places = {"MODEL": str(model), "CKPT": str(ROOT / "tests/checkpoints/0.2/w1_fe.ckpt")}
    assert main([places.get(word, word) for word in command]) == 2
    assert re.search(sentence, capsys.readouterr().err)


def test_export_without_averaged_weights_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = torch.load(ROOT / "tests/checkpoints/0.2/w1_fe.ckpt", weights_only=True)
    content["hyper_parameters"]["generator"]["ema_decay"] = None
    content["state_dict"] = {name: value for name, value in content["state_dict"].items() if ".ema." not in name}
    torch.save(content, tmp_path / "raw.ckpt")
    with pytest.raises(UserError, match=r"expected averaged weights, got none, because model.generator.ema_decay is"):
        export(str(tmp_path / "raw.ckpt"), str(tmp_path / "model"))
    assert not list(tmp_path.glob("model*"))
    export(str(tmp_path / "raw.ckpt"), str(tmp_path / "model"), weights="raw")
    (command,) = re.findall(r"^    pt-flows (sample .*)$", (tmp_path / "model/README.md").read_text(), re.MULTILINE)
    monkeypatch.chdir(tmp_path)
    assert main(command.split()) == 0


def test_damage_is_found(copy: Path) -> None:
    weights = (copy / WEIGHTS).read_bytes()
    for content in (weights[:1000], weights[:-1] + bytes([weights[-1] ^ 1]), b""):
        (copy / WEIGHTS).write_bytes(content)
        with pytest.raises(UserError, match=r"model.safetensors: expected a file of an exported model, got a damaged"):
            load(copy)
    with pytest.raises(UserError, match=r"model.safetensors: expected a file of an exported model, got a damaged"):
        push(str(copy), "me/it")
    (copy / WEIGHTS).unlink()
    with pytest.raises(UserError, match=r"model.safetensors: .*No such file"):
        load(copy)
    (copy / DESCRIPTION).write_text("{")
    with pytest.raises(UserError, match=r"method.json: expected a file of an exported model, got a damaged"):
        load(copy)


def changed(copy: Path, **changes: Any) -> Path:
    """An exported model whose description is changed."""
    content = json.loads((copy / DESCRIPTION).read_text())
    (copy / DESCRIPTION).write_text(json.dumps(content | changes))
    return copy


def test_newer_format_is_refused(copy: Path) -> None:
    with pytest.raises(UserError, match=r"expected format 1 of exported models, got 2. Update pt_flows"):
        load(changed(copy, format=2))


def test_classes_of_other_packages_are_built_on_request_alone(
    copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own_nets.py").write_text(
        "from pt_flows.nets import ResidualMLPGenerator\nclass Own(ResidualMLPGenerator): ..."
    )
    monkeypatch.syspath_prepend(tmp_path)
    method = json.loads((copy / DESCRIPTION).read_text())["method"]
    for path in ("pt_flows_other.Net", "own_nets.Own"):
        method["generator"]["network"]["class_path"] = path
        with pytest.raises(
            UserError, match=rf"expected classes of pt_flows, torch.nn, got {path}. If you trust it: .*"
        ):
            load(changed(copy, method=method))
    assert "own_nets" not in sys.modules
    changed(copy, method=method)
    assert type(load(copy, trusted=["own_nets"]).players["generator"].network).__name__ == "Own"


@pytest.mark.parametrize(
    "text",
    [
        "own_nets.Own",
        '{"class_path": "own_nets.Own"}',
        r'{"class_path": "own_nets\u002eOwn"}',
        "class_path: own_nets.Own # a/b",
        "evaluations/own.yaml",
        "own",
    ],
)
@pytest.mark.parametrize("place", ["", "network", "lr_schedule"])
def test_no_text_imports_a_class(
    text: str, place: str, copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The parser would read it as an import path, as YAML, or as the name of a file with YAML."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "own_nets", raising=False)
    (tmp_path / "own_nets.py").write_text("from pt_flows.nets import MLPGenerator\nclass Own(MLPGenerator): ...")
    (tmp_path / "evaluations").mkdir()
    for file in ("own", "evaluations/own.yaml"):
        (tmp_path / file).write_text("network: {class_path: own_nets.Own}")
    method = json.loads((copy / DESCRIPTION).read_text())["method"]
    generator = {**method["generator"], place: text} if place else text
    with pytest.raises(UserError, match=r"method.generator.*: expected no text, which could name a class or a file"):
        load(changed(copy, method={**method, "generator": generator}))
    assert "own_nets" not in sys.modules


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"generator.network": "own_nets.Own"}, r"method: expected names of arguments, got 'generator.network'"),
        ({"critic": {"class_path": "pt_flows.Critic", "dict_kwargs": {}}}, r"expected class_path and init_args, got"),
        (
            {"critic": {"network": {"class_path": "torch.load"}}},
            r"expected classes of pt_flows, torch.nn, got torch.load",
        ),
    ],
)
def test_other_ways_around_the_annotations(change: dict[str, Any], said: str, copy: Path) -> None:
    method = json.loads((copy / DESCRIPTION).read_text())["method"]
    with pytest.raises(UserError, match=said):
        load(changed(copy, method=method | change))


def test_texts_where_texts_are_meant() -> None:
    """A path, a choice, a word for a class without annotations, and a function of the package."""
    guard = Guard(Path("method.json"), ("pt_flows", "torch.nn"))
    guard.check_value(str | None, "~/runs/a@b/last.ckpt", "base")
    guard.check_value(Literal["one_sided"], "one_sided", "penalty")
    guard.check_value(Sequence[str], ["a.b", "c/d"], "names")
    guard.check_value(Any, "zeros", "padding_mode")
    guard.check_value(Callable[[Any], Any], "torch.nn.functional.relu", "activation")
    for hint, text in ((Callable[[Any], Any], "os.system"), (Any, "os.system"), (nn.Module | str, "zeros")):
        with pytest.raises(UserError, match="expected no text"):
            guard.check_value(hint, text, "it")


def test_hub_without_network_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(
        UserError, match=r"someone/nothing: expected a folder here or a model on Hugging Face, got .*Check"
    ):
        load("someone/nothing")


def test_model_of_the_hub_is_loaded(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda name, **_: str(model) if name == "me/ring" else "/")
    assert torch.equal(drawn(load("me/ring")), drawn(load(model)))
    with pytest.raises(UserError, match=r"expected a model of pt_flows, got a repository without method.json"):
        load("me/other")


def test_push_uploads_the_folder(
    model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    calls: list[tuple[str, dict[str, Any]]] = []

    class Api:
        def create_repo(self, repo_id: str, **options: Any) -> None:
            calls.append((repo_id, options))

        def upload_folder(self, repo_id: str, folder_path: str, **_: Any) -> str:
            if repo_id == "me/forbidden":
                raise PermissionError("403 Forbidden\nmore")
            calls.append((repo_id, {"files": sorted(file.name for file in Path(folder_path).iterdir())}))
            return repo_id

    monkeypatch.setattr("huggingface_hub.HfApi", Api)
    push(str(model), "me/ring", private=True)
    assert calls[0] == ("me/ring", {"private": True, "exist_ok": True})
    assert {WEIGHTS, DESCRIPTION, "README.md"} <= set(calls[1][1]["files"])
    assert "me/ring" in capsys.readouterr().out
    with pytest.raises(
        UserError, match=r"--to: expected an upload to me/forbidden, got PermissionError \(403 Forbidden\)"
    ):
        push(str(model), "me/forbidden")
