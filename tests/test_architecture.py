"""Rules of imports between the rooms of the package."""

import ast
import re
from pathlib import Path

import pytest
from problems import ROOT

PACKAGE = ROOT / "pt_flows"
BASICS = {"bounds", "construction", "contracts", "errors", "files", "formats", "progress"}
"""Small modules below every room."""

MAY_IMPORT = {
    "functional": set(),
    "nets": {"functional"},
    "training": {"functional"},
    "data": {"functional", "training"},
    "metrics": {"functional", "training"},
    "loop": {"training"},
    "methods": {"functional", "loop", "training"},
    "samplers": {"functional", "training"},
    "plots": set(),
    "runs": set(),
    "evaluation": {"data", "functional", "loop", "metrics", "plots", "runs", "samplers", "training"},
    "callbacks": {"evaluation", "functional", "loop", "metrics", "plots", "runs", "samplers", "training"},
    "compare": {"evaluation", "runs"},
    "studies": {"cli", "compare", "evaluation", "runs"},
}
"""Rooms and the other rooms that they may import; the command line and the modules beside it may import all."""

KNOW_LIGHTNING = {"loop", "callbacks", "runs", "cli", "data", "testing"}
UNDOCUMENTED = (
    "optim_step_progress", "_batches_that_stepped", "_layer_sync", "_lightning_optimizers", "._interval",
    "_every_n_train_steps", "_foreach_lerp_", "_given_hyperparameters", "_restricted_classmethod",
)  # fmt: skip
FUNCTIONAL_MAY_USE = {
    "abc",
    "bisect",
    "contextlib",
    "collections",
    "dataclasses",
    "itertools",
    "jaxtyping",
    "math",
    "torch",
    "typing",
}
OPTIMAL_TRANSPORT = {"transport.py": {"ot", "scipy"}}


def imports(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names.add(node.module or "")
    return names


@pytest.mark.parametrize("room", MAY_IMPORT)
def test_rooms_import_only_what_they_may(room: str) -> None:
    for file in files_of(room):
        used = {name.split(".")[1] for name in imports(file) if name.startswith("pt_flows.")}
        extra = used - MAY_IMPORT[room] - BASICS - {room}
        assert not extra, f"{file.name} imports {extra}"


@pytest.mark.parametrize("basic", sorted(BASICS))
def test_basics_import_only_one_another(basic: str) -> None:
    used = {name.split(".")[1] for name in imports(PACKAGE / f"{basic}.py") if name.startswith("pt_flows.")}
    assert used <= BASICS


def files_of(room: str) -> list[Path]:
    """The files of a room, which is a module or a package."""
    return [PACKAGE / f"{room}.py"] if (PACKAGE / f"{room}.py").is_file() else sorted((PACKAGE / room).rglob("*.py"))


def test_every_room_has_a_rule() -> None:
    rooms = {
        p.name.removesuffix(".py") for p in PACKAGE.iterdir() if not p.name.startswith("_") and p.name != "py.typed"
    }
    assert rooms - {"cli", "testing"} == set(MAY_IMPORT) | BASICS


def test_few_rooms_know_lightning_and_one_file_its_undocumented_names() -> None:
    for file in PACKAGE.rglob("*.py"):
        path = file.relative_to(PACKAGE)
        knows = any(name.split(".")[0] == "lightning" for name in imports(file))
        assert not knows or path.parts[0] in KNOW_LIGHTNING, path
        if path != Path("loop/clock.py"):
            assert not [name for name in UNDOCUMENTED if name in file.read_text()], path
    assert {p.name for p in (PACKAGE / "data").glob("*.py") if "lightning" in p.read_text()} <= {"base.py"}


def test_nobody_asks_a_method_for_its_class() -> None:
    """Callbacks, samplers, evaluation and the command line ask for capabilities."""
    for room in ("callbacks", "samplers", "evaluation", "compare", "runs", "cli"):
        for file in files_of(room):
            used = {name for name in imports(file) if name.startswith("pt_flows.methods.")}
            assert not used, f"{file} imports {used}"
            assert not re.findall(r"getattr\((module|method|pl_module),", file.read_text()), file


def test_methods_are_at_most_three_steps_from_lightning() -> None:
    import lightning as L

    import pt_flows.methods

    for name in pt_flows.methods.__all__:
        bases = [cls for cls in getattr(pt_flows.methods, name).__mro__ if issubclass(cls, L.LightningModule)]
        assert bases.index(L.LightningModule) <= 3, bases


def test_constructors_list_their_arguments() -> None:
    import inspect

    import pt_flows.data
    import pt_flows.methods
    import pt_flows.nets

    for package in (pt_flows.methods, pt_flows.data, pt_flows.nets):
        for name in package.__all__:
            kinds = {p.kind for p in inspect.signature(getattr(package, name)).parameters.values()}
            assert not kinds & {inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD}, name


def test_distances_are_computed_in_one_place() -> None:
    """torch.cdist alone picks a shortcut that loses digits far from zero."""
    users = [file.name for file in PACKAGE.rglob("*.py") if "cdist(" in file.read_text()]
    assert users == ["distances.py"]


def test_mathematics_needs_torch_only() -> None:
    for file in (PACKAGE / "functional").glob("*.py"):
        outside = {name.split(".")[0] for name in imports(file)} - {"pt_flows"}
        assert outside <= FUNCTIONAL_MAY_USE | OPTIMAL_TRANSPORT.get(file.name, set()), file.name
