"""Completion of command lines in a real shell."""

import shlex
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from pt_flows.cli.completion import script
from pt_flows.cli.main import CHECKS, FUNCTIONS, STUDIES, TRAINING, main
from pt_flows.cli.shipped import recipe_names

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def printed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The script in a file."""
    file = tmp_path_factory.mktemp("shell") / "script.sh"
    file.write_text(script())
    return file


def completed(file: Path, words: Sequence[str]) -> set[str]:
    """Return what bash offers for the last of some words after pt-flows."""
    line = shlex.join(["pt-flows", *words])
    ask = f'source {file}; COMP_WORDS=({line}); COMP_CWORD={len(words)}; _pt_flows; printf "%s\\n" "${{COMPREPLY[@]}}"'
    done = subprocess.run(["bash", "-c", ask], capture_output=True, text=True, check=True)
    assert not done.stderr
    return set(done.stdout.split())


def test_bash_completes_every_command(printed: Path) -> None:
    assert completed(printed, [""]) == {*TRAINING, *STUDIES, *CHECKS, *FUNCTIONS, "--version", "--help"}
    assert completed(printed, ["eva"]) == {"evaluate"}


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (["fit", "--model.step_size.bo"], {"--model.step_size.boundaries"}),
        (["fit", "--see"], {"--seed_everything", "--seeds"}),
        (["sample", "--long"], {"--long-run"}),
        (["study", "--dry"], {"--dry-run"}),
        (["sweep", "--cou"], {"--count"}),
        (["fit", "--model", "W1"], {"W1FE"}),
        (["evaluate", "ckpt", "--split", ""], {"train", "test"}),
        (["evaluate", "ckpt", "--split", "=", "te"], {"test"}),
        (["fit", "--run.wandb", "="], {"auto", "online", "offline", "disabled"}),
        (["fit", "--trainer.accelerator", ""], set()),
        (["fit", "--config", "toy2d/w1_f"], {name for name in recipe_names() if name.startswith("toy2d/w1_f")}),
        (["tune", "toy2d/w1_f"], {name for name in recipe_names() if name.startswith("toy2d/w1_f")}),
        (["completion", ""], {"bash", "zsh"}),
        (["fit", "--config", "nowhere/"], set()),
        (["unknown", "--x"], set()),
    ],
)
def test_bash_completes_options_and_values(printed: Path, words: list[str], offered: set[str]) -> None:
    assert completed(printed, words) == offered


@pytest.mark.skipif(shutil.which("zsh") is None, reason="needs zsh")
def test_zsh_reads_the_script(printed: Path) -> None:
    subprocess.run(["zsh", "-n", str(printed)], check=True)


def test_another_shell_is_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", "fish"]) == 2
    assert capsys.readouterr().err == "error: completion: expected bash or zsh, got fish. Name one of them\n"
