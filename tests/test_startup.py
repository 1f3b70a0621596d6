"""The command line starts quickly, and commands that need no method do not import torch."""

import os
import signal
import subprocess
import sys
import types
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, final

import pytest

from pt_flows.bounds import Bound, Count
from pt_flows.cli import main as command_line
from pt_flows.cli.functions import run_function
from pt_flows.cli.keys import Keys
from pt_flows.cli.main import main
from pt_flows.construction import Constructed
from pt_flows.errors import UserError
from pt_flows.runs.folder import describe_run

HEAVY = ("torch", "torchvision", "lightning", "matplotlib", "scipy")


def imported_by(*calls: str) -> tuple[list[str], str]:
    """Modules that a fresh process has imported after some command lines, and their errors."""
    program = f"import sys; from pt_flows.cli.main import main; {'; '.join(calls)}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return [name for name in HEAVY if name in done.stdout.splitlines()[-1].split()], done.stderr


def test_version_help_and_mistakes_need_no_torch() -> None:
    found, said = imported_by(
        'assert main(["--version"]) == main(["--help"]) == main(["help"]) == 0', 'assert main(["fitt"]) == 2'
    )
    assert "no command 'fitt'; did you mean fit?" in said
    assert found == []


def test_comparisons_need_no_torch() -> None:
    found, said = imported_by(
        'assert main(["compare", "--help"]) == main(["report", "--help"]) == 0',
        'assert main(["compare"]) == main(["compare", "a", "--gaol", "1"]) == main(["compare", "no_run"]) == 2',
    )
    assert "no key gaol; did you mean goal?" in said
    assert set(found) <= {"scipy"}  # for the statistics


def test_a_module_runs_like_the_program(capfd: pytest.CaptureFixture[str]) -> None:
    assert subprocess.run([sys.executable, "-m", "pt_flows", "fitt"], check=False).returncode == 2
    assert capfd.readouterr().err.startswith("error: there is no command 'fitt'")


def test_an_interrupted_import_gets_one_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command_line, "resolve_name", lambda name: signal.raise_signal(signal.SIGTERM))
    monkeypatch.setattr(os, "_exit", sys.exit)
    before = signal.getsignal(signal.SIGTERM)
    assert main(["fit"]) == 143
    assert signal.getsignal(signal.SIGTERM) is before
    assert capsys.readouterr().err == "error: stopped by SIGTERM. Nothing was done\n"


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_upload_keeps_the_run(
    number: signal.Signals, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = types.SimpleNamespace(sync_dir="runs/a/b/wandb/run-1")
    wandb: Any = types.ModuleType("wandb")
    wandb.run, wandb.finish = types.SimpleNamespace(settings=settings), lambda exit_code: signal.raise_signal(number)
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    assert main(["--version"]) == code
    said = capsys.readouterr()
    assert said.out.startswith("pt-flows ")
    error = said.err
    assert error.startswith(f"error: stopped by {number.name}. The run folder is complete")
    assert error.endswith("wandb sync runs/a/b/wandb/run-1\n")


def count(path: str, n: Annotated[int, Bound(2)] = 2, num_seeds: Count | None = None) -> None:
    """Count."""
    print("counted", path, n, num_seeds)


def test_bounds_of_commands_stand_in_their_signatures(capsys: pytest.CaptureFixture[str]) -> None:
    run_function("count", count, ["here", "--n", "3", "--num-seeds", "1"])
    assert capsys.readouterr().out == "counted here 3 1\n"
    with pytest.raises(UserError, match=r"^--n: expected at least 2, got 1$"):
        run_function("count", count, ["here", "--n", "1"])
    with pytest.raises(UserError, match=r"^--num_seeds: expected at least 1, got 0$"):
        run_function("count", count, ["here", "--num-seeds", "0"])


class Network(Constructed):
    """A base with one network."""

    def __init__(self, width: Count = 1) -> None: ...


class Wide(Network):
    """A network."""

    def __init__(self, depth: Count = 1, **kwargs: Any) -> None:
        super().__init__(**kwargs)


@dataclass(frozen=True)
class Rate:
    """A group of keys without a class path."""

    decay: str = "constant"


@final
class Trained:
    """A group with a network and a rate in it."""

    def __init__(self, network: Network, rate: Rate | None = None) -> None: ...


def test_keys_are_read_from_annotations() -> None:
    keys = Keys(hints={"first": Trained, "others": list[Network] | Network | None}, sections={"section": Rate})
    words = ["command", "--first.network", "Wide", "--others=[Network, Wide]"]
    assert list(keys.existing(words)) == [
        "section", "section.decay", "first", "first.network", "first.network.depth", "first.network.width",
        "first.rate", "first.rate.decay", "others", "others.depth", "others.width",
    ]  # fmt: skip
    assert keys.base("first.network", words) is keys.base("others", words) is Network
    assert keys.base("first.rate", words) is keys.base("first.network.depth", words) is None


def test_a_refused_argument_is_named_by_its_key() -> None:
    keys = Keys(hints={"first": Trained, "second": Trained}, sections={"section": Rate})
    named = partial(keys.told, words=["command", "--first.network", "Wide"])
    assert named("Wide.depth: expected at least 1, got 0") == "first.network.depth: expected at least 1, got 0"
    assert named("Trained.rate: expected 1") == "first.rate or second.rate: expected 1"
    assert keys.told("Trained.rate: expected 1", ["command", "--second.rate=0"]) == "second.rate: expected 1"
    assert named("Other.depth: expected 1") == "Other.depth: expected 1"
    assert named("there is no file") == "there is no file"


def build(path: str, network: Network | None = None) -> None:
    """Build."""
    print("built", path, type(network).__name__)


def test_a_class_that_refuses_an_argument_on_the_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    run_function("build", build, ["here", "--network", "Wide", "--network.depth", "2"])
    assert capsys.readouterr().out == "built here Wide\n"
    with pytest.raises(UserError, match=r"^network.width: expected at least 1, got 0$"):
        run_function("build", build, ["here", "--network", "Wide", "--network.width", "0"])


def test_only_half_written_files_of_a_run_are_removed(tmp_path: Path) -> None:
    own = [tmp_path / "config.yaml.12.partial", tmp_path / "checkpoints/last.ckpt.34.partial"]
    foreign = [tmp_path / "notes.partial", tmp_path / "wandb/a.5.partial", tmp_path / "evaluations/b.json.6.partial"]
    for path in own + foreign:
        path.parent.mkdir(exist_ok=True)
        path.touch()
    describe_run(tmp_path, "a: 1\n", {"seed": 0})
    assert [path for path in own + foreign if path.exists()] == foreign
    assert (tmp_path / "config.yaml").read_text() == "a: 1\n"
