"""Every command and program in the README and the docs: it parses, and runs with small numbers where that is cheap."""

import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from inspect import signature
from pathlib import Path
from pkgutil import resolve_name
from typing import Any, NamedTuple

import numpy as np
import pytest
from problems import ROOT
from test_configs import small
from test_extending import own_files

from pt_flows.cli.fit import FlowCLI
from pt_flows.cli.main import main
from pt_flows.cli.parser import Explaining
from pt_flows.studies import study

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
CKPT = "checkpoints/last.ckpt"

NOT_HERE = ("cifar10", "CIFAR10", "imagenet", "mnist", "MNIST", "Inception", "DINO", "--wandb", "--trainer.devices",
            "neighbours", "check-method", "my_images", "my_table", "my_metrics", "my_callbacks", "my_samplers",
            "responses.npz", "one_shot.npz", "me/pt_flows", "--trials", "--storage", "--seeds 0..4", "study benchmarks",
            "tune-speed", "push", "watch", "dashboard", "ODESolver", "sweep.yaml", "power@")  # fmt: skip
"""Marks of commands that need data, weights, devices, an account or minutes, or have another test: only parsed."""

FEW = {
    "fork": ["--trainer.max_steps", "6", "--run.root", "forks"],
    "sample": ["--n", "3"],
    "evaluate": ["--n", "20"],
}
"""Small numbers for the commands that have no recipe."""


class Command(NamedTuple):
    """A command and its line."""

    place: str
    words: list[str]


def code_lines(page: str) -> Iterator[tuple[int, str]]:
    """Lines of indented and fenced blocks, and code inside sentences, each with its line number."""
    fenced, number = False, 0
    lines = page.splitlines()
    while number < len(lines):
        line, start = lines[number], number + 1
        fenced ^= line.lstrip().startswith("```")
        while line.endswith("\\") and number + 1 < len(lines):
            number += 1
            line = f"{line[:-1]} {lines[number].strip()}"
        if line.startswith("    ") or (fenced and not line.startswith("```")):
            yield start, line.strip()
        number += 1
    prose = re.sub(r"```.*?```|^ {4}.*?$", lambda block: re.sub(r"[^\n]", " ", block[0]), page, flags=re.S | re.M)
    for span in re.finditer(r"`([^`]+)`", prose):
        yield prose[: span.start()].count("\n") + 1, " ".join(span[1].split())


def commands(text: str) -> Iterator[list[str]]:
    """The commands of a line: of pt-flows without the program's name, of make with it; `a | b` are two."""
    if not re.search(r"\b(pt[-_]flows|make) +[a-z]", text):
        return
    words = shlex.split(text, comments=True)
    while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
        words = words[1:]
    if words[:1] == ["make"]:
        yield words
        return
    if not words or Path(words[0]).name not in ("pt-flows", "torchrun", "python", "python3"):
        return
    programs = [i for i, word in enumerate(words) if Path(word).name in ("pt-flows", "pt_flows")]
    if not programs:
        return
    names, rest = [words[programs[0] + 1]], words[programs[0] + 2 :]
    while rest[:1] == ["|"]:
        names, rest = [*names, rest[1]], rest[2:]
    yield from ([name, *rest] for name in names)


def found() -> Iterator[Command]:
    for page in PAGES:
        for number, text in code_lines(page.read_text()):
            for words in commands(text):
                if len(words) > 1:  # the bare name of a command is no command
                    yield Command(f"{page.name}:{number}", words)


COMMANDS = list(found())

FILE = re.compile(r'"""(\w+\.py)"""\n')
"""The first line of a block that the reader saves as a file."""


def blocks(language: str) -> dict[str, str]:
    """Fenced blocks of a language by their places."""
    return {
        f"{page.name}:{page.read_text()[: block.start()].count(chr(10)) + 1}": block[1]
        for page in PAGES
        for block in re.finditer(rf"^```{language}\n(.*?)^```$", page.read_text(), re.M | re.S)
    }


PROGRAMS = {place: code for place, code in blocks("python").items() if not FILE.match(code)}
YAML = blocks("yaml")


def run_program(code: str) -> None:
    """Run a program of a page for a few iterations, on few samples."""
    few = re.sub(r"max_steps=\d+", "max_steps=4", code)
    few = re.sub(r"num_samples=\d+", "num_samples=20", few).replace('"auto"', '"cpu"')
    few = few.replace("L.Trainer(", 'L.Trainer(accelerator="cpu", ') if "accelerator" not in few else few
    variables: dict[str, Any] = {"__name__": "program"}
    exec(compile(few, "program", "exec"), variables)


def train(recipe: str, *arguments: str) -> Path:
    config = ROOT / f"configs/toy2d/{recipe}.yaml"
    small_run = [*small(config), "--trainer.max_steps", "2", "--trainer.accelerator", "cpu"]
    assert main(["fit", "--config", str(config), *small_run, "--evaluation.num_samples", "20", *arguments]) == 0
    return max(Path("runs").glob("*/*"), key=lambda folder: folder.stat().st_mtime)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder like that of a user who has trained a little: recipes, files of the pages, a few short runs."""
    folder = tmp_path_factory.mktemp("place")
    (folder / "configs").symlink_to(ROOT / "configs")
    (folder / "benchmarks").symlink_to(ROOT / "benchmarks")
    for code in blocks("python").values():
        if name := FILE.match(code):
            (folder / name[1]).write_text(code)
    own_files(folder)
    (folder / "old.yaml").write_text("model: {class_path: W1FE, init_args: {lr_decay: cosine, num_critic_steps: 5}}\n")
    np.savez(folder / "folder_or_file.npz", samples=np.zeros((4, 8, 8, 3), np.uint8))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for name, recipe in (("w1fe", "w1_fe"), ("wgangp", "wgan_gp"), ("energy", "da_ebm")):
            (folder / name).symlink_to(train(recipe).absolute())
        shutil.copytree("w1fe", "evaluated")
        (program,) = (code for code in PROGRAMS.values() if "ring8-python" in code)
        run_program(program)
    return folder


def filled_in(words: list[str]) -> list[str]:
    """The words with real paths instead of placeholders."""
    energy = words[0] in ("density", "ood") or {"--plus", "--long-run"} & set(words)
    run = "energy" if energy else "evaluated" if words[0] == "evaluate" else "w1fe"
    chosen: list[str] = []
    for i, word in enumerate(words):
        if word == "...":
            chosen += ["configs/toy2d/w1_fe.yaml"] if words[i - 1] == "--config" else []
        elif word in ("RECIPE", "FILE", "CONFIG") and words[i - 1] in ("--config", "tune", "tune-speed"):
            chosen.append("configs/toy2d/w1_fe.yaml")
        elif word == "FILE" and words[0] == "upgrade":
            chosen.append("old.yaml")
        elif word in ("CKPT", "OTHER") or (word.startswith("runs/") and word.endswith(".ckpt")):
            chosen.append(f"{run}/{CKPT}")
        elif word == "RUN" or (word.startswith("runs/") and not Path(word).exists()):
            chosen.append(run)
        elif word == "S":
            chosen.append("1")
        else:
            chosen.append(word)
    return chosen


def stop(*_: object, **__: object) -> None:
    raise SystemExit(0)


@pytest.fixture
def parses(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The program ends once it has understood its command line."""
    with monkeypatch.context() as patch:
        patch.setattr(FlowCLI, "before_instantiate_classes", stop)
        patch.setattr(Explaining, "instantiate_classes", stop)
        patch.setattr("pt_flows.studies.tune.completed", stop)
        patch.setattr("pt_flows.studies.seeds.completed", stop)
        patch.setattr("pt_flows.studies.speed.measured", stop)
        patch.setattr("pt_flows.studies.sweep.read_sweep", stop)
        patch.setattr(study, "recipes_of", stop)
        yield


MAKE = [command for command in COMMANDS if command.words[0] == "make"]
PARSE = [command for command in COMMANDS if any(sign in " ".join(command.words) for sign in NOT_HERE)]
PARSE = [command for command in PARSE if command not in MAKE]
RUN = [command for command in COMMANDS if command not in [*MAKE, *PARSE]]


def name(command: Command) -> str:
    return f"{command.place} {' '.join(command.words)}"[:70]


@pytest.mark.usefixtures("parses")
@pytest.mark.parametrize("command", PARSE, ids=name)
def test_commands_parse(command: Command, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    monkeypatch.syspath_prepend(str(place))
    assert main(filled_in(command.words)) == 0


@pytest.mark.slow
@pytest.mark.parametrize("command", RUN, ids=name)
def test_commands_run(command: Command, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    monkeypatch.syspath_prepend(str(place))
    words = filled_in(command.words)
    few = FEW.get(words[0], [])
    if "--long-run" in words:
        few = [*few, "--long-run", "20"]
    if words[0] in ("fit", "validate", "test"):
        few = [*small_flags(words), "--evaluation.num_samples", "20"]
        few += ["--trainer.accelerator", "cpu", *(["--trainer.max_steps", "4"] if words[0] == "fit" else [])]
        few += ["--run.root", "elsewhere"] if words[0] == "fit" and "--ckpt_path" not in words else []
    assert main([*words, *few]) == 0


def small_flags(words: list[str]) -> list[str]:
    """Flags that make a recipe small, without those for arguments that its method lacks."""
    flags = small(ROOT / words[words.index("--config") + 1])
    own = words[words.index("--model") + 1] if "--model" in words else ""
    if not own.startswith("my_"):
        return flags
    arguments = signature(resolve_name(own)).parameters
    pairs = zip(flags[::2], flags[1::2], strict=True)
    fitting = [pair for pair in pairs if not pair[0].startswith("--model.") or pair[0].split(".")[1] in arguments]
    return [word for pair in fitting for word in pair]


@pytest.mark.parametrize("program", PROGRAMS)
def test_programs_run(program: str, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    monkeypatch.syspath_prepend(str(place))
    if program.startswith("sharing.md") and not Path("ring").exists():
        assert main(["export", "w1fe", "--out", "ring"]) == 0  # as the commands of the page do
    run_program(PROGRAMS[program])


@pytest.mark.parametrize("block", YAML)
def test_configurations_parse(
    block: str, place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(place)
    monkeypatch.syspath_prepend(str(place))
    Path("block.yaml").write_text(YAML[block])
    recipe = "pcd" if "PCD" in YAML[block] else "w1_fe"
    words = ["fit", "--config", f"configs/toy2d/{recipe}.yaml", "--config", "block.yaml", "--print_config"]
    assert main(words) == 0, capsys.readouterr().err


def test_the_readme_has_a_short_program_and_stays_short() -> None:
    lines = (ROOT / "README.md").read_text().splitlines()
    (program,) = (code for place, code in PROGRAMS.items() if place.startswith("README"))
    assert len(lines) < 120
    assert len(program.splitlines()) <= 11
    assert sum(line.startswith("![") for line in lines) == 1


@pytest.mark.skipif(shutil.which("make") is None, reason="no make")
@pytest.mark.parametrize("command", MAKE, ids=name)
@pytest.mark.usefixtures("parses")
def test_targets_of_make_name_commands_that_parse(
    command: Command, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    printed = subprocess.run(
        ["make", "-n", "--no-print-directory", *command.words[1:]], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    monkeypatch.chdir(place)
    for line in printed.replace("\\\n", " ").splitlines():
        for words in commands(line):
            assert main(words) == 0


def test_commands_are_found_wherever_they_stand() -> None:
    page = (
        "Text with `make check` and `pt-flows fork RUN\n--model.step_size 0.1` inside.\n\n"
        "    X=1 pt-flows ood | density CKPT   # two\n"
        "    torchrun -m -- pt_flows \\\n      fit --config a.yaml\n\n"
        "```\n.venv/bin/pt-flows sample CKPT --n 3\npython x.py\n```\n"
        "`pt-flows evaluate` is a name.\n"
    )
    assert [(number, words) for number, text in code_lines(page) for words in commands(text)] == [
        (4, ["ood", "CKPT"]),
        (4, ["density", "CKPT"]),
        (5, ["fit", "--config", "a.yaml"]),
        (9, ["sample", "CKPT", "--n", "3"]),
        (1, ["make", "check"]),
        (1, ["fork", "RUN", "--model.step_size", "0.1"]),
        (12, ["evaluate"]),
    ]
    assert {"README.md", "energy.md", "evaluation.md", "methods.md", "scale.md"} <= {
        command.place.split(":")[0] for command in COMMANDS
    }
    assert {"fit", "evaluate", "compare", "sample", "density", "fork"} <= {command.words[0] for command in RUN}
