"""The prose follows the vocabulary, and the check finds every pattern of it."""

import english
import pytest
from problems import ROOT

EXAMPLES = {
    "can not": "It can not work.",
    "(go|": "The run goes on.",
    "(take|": "Training takes up the state.",
    "(give|": "It gives back a tensor.",
    "(leave|": "Copies are left out.",
    "(come|": "Every recipe comes with a seed.",
    "(say|": "It says no to floats.",
    "(is|": "The best that is had.",
    "(of|": "A record of what was drawn.",
    "what samples": "It logs what samples score.",
    "(?<!power": "Samples of the same law.",
    "of the moment": "The rate of the moment.",
    "all else": "It is resumed as all else.",
    "for the eye": "Only for the eye.",
    "(every|": "Every so many iterations.",
    "of one's own": "A method of one's own.",
    "of ours": "Settings of ours.",
    "in any case": "It is saved in any case.",
    "gr[ae]y": "CMYK and grey images.",
    "moved": "Accuracy on moved images.",
    "(images?|": "Images are reduced.",
    "reduced": "They are reduced to 64 pixels.",
    "(the|uniform)": "The share of good samples.",
    "(networks?|": "Networks refuse odd sizes.",
    "data (": "These data serve no model.",
    "(checkpoints?|": "A checkpoint remembers the seed.",
    "(labels?|": "Labels are visited.",
    "(beside|": "Beside it stands the target.",
    "(killed|": "Killed, the same command starts.",
    "nothing, as": "Nothing, as for validation.",
    "never": "A process that never comes.",
    "means?": "Such features mean nothing.",
}


@pytest.mark.parametrize("pattern", english.VOCABULARY)
def test_every_pattern_is_found(pattern: str) -> None:
    examples = [line for start, line in EXAMPLES.items() if pattern.startswith(start)]
    assert examples
    for example in examples:
        for name, text in (
            ("page.md", f"\n{example}\n"),
            ("code.py", f"\n# {example}\n"),
            ("code.py", f'x = 1\nprint("Note: {example}")\n'),
            ("a.yaml", f"\nkey: 1  # {example}\n"),
        ):
            found = list(english.findings(name, text))
            assert (2, english.VOCABULARY[pattern]) in [(line, advice) for line, _, advice in found], (name, example)


def test_finds_words_that_a_line_break_separates() -> None:
    assert [row[:2] for row in english.findings("page.md", "One.\nIt can\nnot work.\n")] == [(2, "can not")]
    assert [row[:2] for row in english.findings("x.py", "# one\n# it can\n# not work\n")] == [(2, "can not")]


def test_docstrings_begin_with_a_noun_or_an_imperative() -> None:
    text = '"""Where it is."""\n\ndef f():\n    """Return x.\n\n    Args:\n        n: How many.\n    """\n'
    assert [row[:2] for row in english.findings("x.py", text)] == [(1, "Where"), (7, "n: How")]


def test_a_page_explains_the_passport_where_it_first_names_it() -> None:
    explained = "A passport (the provenance record of a number) is kept.\nPassports are read.\n"
    assert not list(english.findings("page.md", explained))
    assert [row[0] for row in english.findings("page.md", f"Text.\nThe passport.\n{explained}")] == [2]


def test_code_is_not_prose() -> None:
    assert not list(english.findings("page.md", "Use `law` here.\n\n    law can not\n\n```\nlaw can not\n```\n"))
    code = 'law = data.law\nraise KeyError(f"data.law is {law}")\n"""Return x.\n\nArgs:\n    law: N(m, 1).\n"""\n'
    assert not list(english.findings("x.py", code))
    assert not list(english.findings("x.yaml", "key: can not\n"))


def test_the_project_follows_the_vocabulary(capsys: pytest.CaptureFixture[str]) -> None:
    assert english.main([]) == 0, capsys.readouterr().out


@pytest.mark.parametrize("place", english.PLACES)
def test_every_place_exists(place: str) -> None:
    assert (ROOT / place).exists()


def test_the_command_names_file_line_and_advice(capsys: pytest.CaptureFixture[str], tmp_path) -> None:
    (tmp_path / "page.md").write_text("Fine.\nIt can not work.\n")
    assert english.main([str(tmp_path)]) == 1
    assert capsys.readouterr().out == f'{tmp_path}/page.md:2: "can not": write "cannot"\n'
