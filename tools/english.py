"""Check the prose of the project against its vocabulary: `python tools/english.py [FILE OR FOLDER ...]`.

It reads the text of Markdown files, the comments of YAML files, and the docstrings, comments and sentences of Python
files. Code in backticks and code blocks is not prose. Without arguments it reads the whole project.
"""

import ast
import io
import re
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
PLACES = ("README.md", "CHANGELOG.md", "docs", "pt_flows", "tests", "benchmarks", "tools", "configs", "Makefile",
          ".pre-commit-config.yaml", ".ci/run", "pyproject.toml")  # fmt: skip
OWN = ("tools/english.py", "tests/test_english.py")
"""The check and its test, which quote what they forbid."""
VOCABULARY = {
    r"can not": 'write "cannot"',
    r"(go|goes|going|gone|went) on": "write continue or resume",
    r"(take|takes|taking|taken|took) up": "write restore or resume",
    r"(give|gives|giving|given|gave) back": "write return",
    r"(leave|leaves|leaving|left) out": "write omit",
    r"(come|comes|coming|came) with": "write include or have",
    r"(say|says|said) no to": "write reject",
    r"(is|are|was|were) had": "name the thing, or write found, available or recorded",
    r"(of|than|from|by|against|for|to) what": 'name the thing instead of "what"',
    r"what samples score": "write the score of the samples",
    r"(?<!power\x20)laws?(?! of [a-z]\b| of large numbers)": "write distribution",
    r"of the moment": "write current",
    r"all else(?! (being )?equal)": "write everything else",
    r"for the eye": "write for logging only",
    r"(every|after|at its|at their) so many(-th)?": "write every N, after N, or the N-th",
    r"of one's own": "write your own",
    r"of ours": 'write "our own" or "this project\'s"',
    r"in any case": "write always",
    r"gr[ae]y images?": "write greyscale",
    r"moved images?": "write mapped images",
    r"(images?|files?|pictures?)( are| is)?,? reduced": "write downsampled",
    r"reduced (images?|pictures?)|reduced to \d+ pixels": "write downsampled",
    r"(the|uniform) share of(?! the work)|uniform share": "write fraction",
    r"(networks?|critics?|generators?|data|modules?|methods?|it|which|that) refuses?": "write raises or rejects",
    r"data (do not )?serve|cannot serve": "write is (not) compatible with",
    r"(checkpoints?|runs?|files?|folders?|passports?) remembers?": "write records",
    r"(labels?|levels?) (is|are|was|were) visited": "write is sampled",
    r"(beside|under|behind|above) (it|them|which|this) stands?": "put the subject first",
    r"(killed|interrupted|stopped), the same": 'write "If it is interrupted, ..."',
    r"nothing, as (for|with|in)": "write a sentence with a verb",
    r"never comes?|(does|do) not come": "write never starts, or does not respond",
    r"means? nothing": "say why it is wrong",
}  # fmt: skip
"""Patterns, in which a space is any white space, and the advice for each. Case does not matter."""
WORDS = [
    (re.compile(rf"(?<![\w.])(?:{words})(?!\w|[:=(]|\.\w)".replace(" ", r"\s+"), re.I), advice)
    for words, advice in VOCABULARY.items()
]
OPENING = re.compile(r"(?:\A|\n\s*\w+: )(Of|Whose|What|Where|How|Which|Nothing)\s")
"""Docstrings, and descriptions of arguments, that begin with a word that is no noun and no imperative."""
PASSPORT = re.compile(r"\bpassports?\b(?P<explained>\s+\(the\s+provenance\s+records?)?", re.I)


class Prose(NamedTuple):
    """A piece of text, its first line in the file, and its kind."""

    line: int
    text: str
    kind: str = ""


def blank(text: str) -> str:
    """Spaces in place of a text; its line breaks stay.

    Example:
        >>> blank("a b")
        '   '
    """
    return re.sub(r"[^\n]", " ", text)


def markdown(text: str) -> Iterator[Prose]:
    """A page without its code."""
    code = r"^```.*?^```|^ {4}[^\n]*$"
    yield Prose(1, re.sub(code, lambda block: blank(block[0]), text, flags=re.S | re.M), "page")


def comments(text: str) -> Iterator[Prose]:
    """The comments of a YAML file, a script or a Makefile."""
    kept = [re.match(r"(?:.*\s)?(#.*)|", line) for line in text.splitlines()]
    yield Prose(1, "\n".join((m[1] or "") if m else "" for m in kept).replace("#", " "))


def python(text: str) -> Iterator[Prose]:
    """Docstrings, strings with a space in them, and comments."""
    nodes = list(ast.walk(ast.parse(text)))
    docstrings = {id(node.value) for node in nodes if isinstance(node, ast.Expr)}
    inside = {id(part) for node in nodes if isinstance(node, ast.JoinedStr) for part in ast.walk(node)}
    for node in nodes:
        if isinstance(node, ast.JoinedStr):
            parts = [part.value if isinstance(part, ast.Constant) else "{}" for part in node.values]
            yield Prose(node.lineno, "".join(map(str, parts)))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in inside:
            if id(node) in docstrings:
                yield Prose(node.lineno, re.sub(r"^ *(>>>|\.\.\.) .*$", "", node.value, flags=re.M), "docstring")
            elif " " in node.value:
                yield Prose(node.lineno, node.value)
    lines = [""] * (text.count("\n") + 1)
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            lines[token.start[0] - 1] = token.string.lstrip("#! ")
    yield Prose(1, "\n".join(lines))


def findings(name: str, text: str) -> Iterator[tuple[int, str, str]]:
    """Line, words and advice for everything in a file that the vocabulary forbids.

    Args:
        name: The file's name, which says how to read it.
        text: Its content.
    """
    read = {".md": markdown, ".py": python}.get(Path(name).suffix, comments)
    for line, piece, kind in read(text):
        prose = re.sub(r"``?[^`]+?``?", lambda code: blank(code[0]), piece)
        found = [(m, advice) for pattern, advice in WORDS for m in pattern.finditer(prose)]
        if kind == "docstring":
            found += [(m, "begin with a noun or an imperative") for m in OPENING.finditer(prose)]
        first = PASSPORT.search(prose) if kind == "page" else None
        if first and not first["explained"]:
            found.append((first, 'write "passport (the provenance record of a number)" at its first use'))
        for match, advice in found:
            start = match.start() + len(match[0]) - len(match[0].lstrip())
            yield line + prose.count("\n", 0, start), " ".join(match[0].split()), advice


def files(place: Path) -> list[Path]:
    """The files of a place that have prose."""
    if place.is_file():
        return [place]
    return sorted(path for path in place.rglob("*") if path.suffix in (".md", ".py", ".yaml", ".sbatch"))


def check(places: list[Path]) -> list[str]:
    """Findings of all files in some places, each as `file:line: "words": advice`."""
    found = []
    for path in (path for place in places for path in files(place)):
        name = path.resolve().relative_to(ROOT).as_posix() if path.resolve().is_relative_to(ROOT) else str(path)
        if name not in OWN:
            rows = sorted(findings(name, path.read_text(encoding="utf-8")))
            found += [f'{name}:{line}: "{words}": {advice}' for line, words, advice in rows]
    return found


def main(arguments: list[str]) -> int:
    """Print the findings; the exit code is 1 if there are any."""
    found = check([Path(argument) for argument in arguments] or [ROOT / place for place in PLACES])
    print("\n".join(found) or "The prose follows the vocabulary.")
    return bool(found)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
