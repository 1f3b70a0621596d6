"""Who may import whom."""

import ast
from pathlib import Path

import pytest
from problems import ROOT

PACKAGE = ROOT / "pt_flows"
MAY_IMPORT = {
    "construction": set(),
    "contracts": {"construction"},
    "files": set(),
    "progress": set(),
    "functional": set(),
    "state": {"contracts", "functional"},
    "nets": {"contracts", "functional"},
    "data": {"construction", "contracts", "files", "functional", "progress", "state"},
    "metrics": {"contracts", "files", "functional", "progress", "state"},
    "methods": {"construction", "contracts", "functional", "state"},
    "metrics_csv": {"files"},
    "run_lock": {"contracts", "files"},
    "run_start": {"run_lock", "runs"},
    "runs": {"contracts", "files", "metrics_csv"},
    "settings": set(),
    "checkpoints": {"contracts", "runs", "settings"},
    "callbacks": {"contracts", "files", "functional", "methods", "metrics", "progress", "state"},
    "evaluation": {
        "callbacks",
        "checkpoints",
        "contracts",
        "data",
        "files",
        "functional",
        "methods",
        "metrics",
        "progress",
        "runs",
        "state",
    },
}
FUNCTIONAL_MAY_USE = {"bisect", "collections", "dataclasses", "itertools", "jaxtyping", "math", "torch", "typing"}
OPTIMAL_TRANSPORT = {"transport.py": {"ot"}}


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
    files = [PACKAGE / f"{room}.py"] if (PACKAGE / f"{room}.py").is_file() else sorted((PACKAGE / room).glob("*.py"))
    assert files
    for file in files:
        used = {name.split(".")[1] for name in imports(file) if name.startswith("pt_flows.")}
        assert used <= MAY_IMPORT[room] | {room}, f"{file.name} imports {used - MAY_IMPORT[room] - {room}}"


def test_every_room_has_a_rule() -> None:
    rooms = {
        p.name.removesuffix(".py") for p in PACKAGE.iterdir() if not p.name.startswith("_") and p.name != "py.typed"
    }
    assert rooms - {"cli", "cli_checks", "cli_endings", "cli_errors"} == set(MAY_IMPORT)


def test_distances_are_computed_in_one_place() -> None:
    """torch.cdist alone picks a shortcut that loses digits far from zero."""
    users = [file.name for file in PACKAGE.rglob("*.py") if "cdist(" in file.read_text()]
    assert users == ["distances.py"]


def test_mathematics_needs_torch_only() -> None:
    for file in (PACKAGE / "functional").glob("*.py"):
        outside = {name.split(".")[0] for name in imports(file)} - {"pt_flows"}
        assert outside <= FUNCTIONAL_MAY_USE | OPTIMAL_TRANSPORT.get(file.name, set()), file.name
