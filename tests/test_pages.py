"""The pages of the documentation that errors name."""

from pathlib import Path

import pytest
from problems import ROOT

from pt_flows.cli.main import CHECKS, FUNCTIONS, STUDIES, main
from pt_flows.cli.pages import CLASSES, COMMANDS, KEYS, with_page
from pt_flows.data import __all__ as data
from pt_flows.methods import __all__ as methods


@pytest.mark.parametrize("page", sorted({*KEYS.values(), *CLASSES.values(), *COMMANDS.values()}))
def test_every_page_exists(page: str) -> None:
    assert (ROOT / "docs" / f"{page}.md").is_file()


def test_every_method_has_a_page_that_names_it() -> None:
    assert set(methods) <= set(CLASSES) <= {*methods, *data}
    for name, page in CLASSES.items():
        assert name in (ROOT / "docs" / f"{page}.md").read_text(), name


def test_every_command_exists() -> None:
    assert set(COMMANDS) <= {*STUDIES, *CHECKS, *FUNCTIONS}


@pytest.mark.parametrize(
    ("text", "command", "page"),
    [
        ("there is no key rates.windw; did you mean rates.window?", "fit", "rates"),
        ("--sampler.num_steps: expected at least 1, got 0", "evaluate", "samplers"),
        ("evaluation.sampler: there is no class 'X'; there are Y", "fit", "samplers"),
        ("evaluation.metrics: expected a list, got '3'", "fit", "evaluation"),
        ("trainer.devices: expected a value that Lightning supports, got x. Say less.", "fit", "scale"),
        ("a.yaml: expected a study, got a list. Correct it", "study", "studies"),
        ("evaluations: expected an int, got 'x'", "fit", None),
        ("tune: expected CONFIG first, got none. See docs/rates.md", "tune", None),
        ("there is no command 'x'", "x", None),
    ],
)
def test_an_error_names_the_page_of_its_key_or_command(text: str, command: str, page: str | None) -> None:
    dot = "" if text.endswith(("?", ".")) else "."
    assert with_page(text, [command]) == (text if page is None else f"{text}{dot} See docs/{page}.md")


def test_the_command_line_prints_the_page(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["study", "nowhere.yaml"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: nowhere.yaml: ")
    assert error.endswith(". See docs/studies.md\n")
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "key", "page"),
    [
        (["fit", "--config", "toy2d/iwae"], "model.generator.network.std", "latent"),
        (["fit", "--config", "toy2d/w1_fe", "--config=own.yaml"], "model.critic.steps", "ode_gan"),
        (["fit", "--config", "toy2d/w1_fe", "--model", "my_module.Method"], "model.critic.steps", None),
        (
            ["fit", "--config", "toy2d/iwae", "--data", '{"class_path": "pt_flows.data.Simulated"}'],
            "data.seed",
            "simulators",
        ),
        (["fit", "--config", "toy2d/iwae"], "data.batch_size", None),
        (["fit", "--config", "toy2d/iwae"], "model", None),
        (["check-method", "--config", "toy2d/iwae"], "model.generator.network.std", "checking"),
    ],
)
def test_an_error_about_the_method_or_the_data_names_their_page(words: list[str], key: str, page: str | None) -> None:
    Path("own.yaml").write_text("model: {class_path: pt_flows.methods.ODEGAN}\n")
    text = f"{key}: expected an int, got 'x'"
    assert with_page(text, words) == (text if page is None else f"{text}. See docs/{page}.md")
