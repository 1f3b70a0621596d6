"""One sentence from the nested messages of the parser: the key, the given value, and a suggestion."""

import difflib
import re
import sys
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path

from pt_flows.cli.given import CONFIG, flags, given
from pt_flows.cli.keys import Keys, public
from pt_flows.cli.shipped import recipe_names
from pt_flows.runs.moves import places_of
from pt_flows.runs.upgrade import advice

EXTRAS = {"TensorBoardLogger": "pip install 'pt-flows[tensorboard]'", "RichProgressBar": "pip install rich"}
"""Commands that install the packages of Lightning's classes."""

SIGNS = (
    r"Option '(?P<option>[\w.]+)' is not accepted|does not accept option '(?P<option2>[\w.]+)'",
    r"No module named '(?P<module>[\w.]+)'",
    r"'(?P<holder>[\w.]+)' has no attribute '(?P<attribute>\w+)'",
    r"""arguments are required: (?P<required>[\w., ]+)|[Kk]ey ["'](?P<required2>[\w.]+)["'] is required""",
    r"not correspond to a subclass of (?P<base>\w+)",
    r"Expected (?:a )?dot import path string: (?P<name>\S+)",
    r"Not a valid subclass of (?P<subclass>\w+)",
    r"(?P<callable>import path or a subclass spec)",
    r"""Unable to load config ["'](?P<section>.+?)["']""",
    r"Expected (?:an? )?(?P<type>(?!a path|path|an? <)\S.*?)(?:\. Got value: .*)?$",
)
"""Patterns of lines of a message, the most specific first. jsonargparse sometimes omits the article."""


def explain(message: str, words: Sequence[str], keys: Keys) -> str:
    """Return one sentence for the user.

    Args:
        message: The message of jsonargparse.
        words: The command line, which names classes and configuration files.
        keys: The keys of the command.
    """
    if old := advice(Path(value) for name, value in flags(words) if name in CONFIG):
        return old
    if match := re.search(r"(unrecognized arguments|ambiguous option): (.+)", message):
        word = next((word for word in match[2].split() if word.strip("-")), match[2])
        if not word.startswith("-") and match[1].startswith("unrecognized"):
            return _stray(word)
        return _unknown_key(word.lstrip("-").partition("=")[0], words, keys)
    if match := re.search(r"argument (?:-\w/)?--([\w.]+): expected one argument", message):
        return _without_value(match[1], words)
    if match := re.search(r"File does not exist: (.+)", message):
        return f"--config: expected a file, got {match[1]}, which does not exist. Check the path"
    if match := re.search(r"Path is not a file: '(.+)'", message):
        return f"--config: expected a file, got the folder {match[1]}. Name a file in it"
    found = sorted(_complaints(message), key=lambda found: (-found[0].count("."), found[1]))
    if not found:
        return " ".join(message.split())[:300]
    path, rank, match = found[0]
    if match.lastgroup in ("name", "base") and (rank == 4 or keys.base(path, words)):
        name = match.groupdict().get("name") or _given_value(message)
        return _unknown_class(path, name, keys.base(path, words))
    kind, said = match.lastgroup or "", match[match.lastgroup or 0]
    if wanted := {"subclass": f"a {said}", "callable": "a class", "section": "keys with values"}.get(kind):
        got = said if kind == "section" else _nested_value(message)
        path = path or next((name for name, value in flags(words) if value == said), "configuration")
        return f"{path}: expected {wanted}, got {got}"
    if kind in ("name", "type"):
        expected = [m["type"] for p, _, m in found if p == path and m.lastgroup == "type"]
        return f"{path}: expected {_plain(expected)}, got {_given_value(message)!r}"
    if rank == 0:
        return _unknown_key(f"{path}.{said}" if path else said, words, keys)
    if rank == 3:
        names = [f"{path}.{name}" if path else name for name in re.findall(r"[\w.]+", _unprefixed(said))]
        has_file = any(name in CONFIG for name, _ in flags(words))
        missing = "Name a recipe: --config FILE" if "model" in keys.top else f"Add --{names[0]}"
        how = "Add it to the configuration file or as a flag" if has_file else missing
        return f"{', '.join(names)}: expected a value, got none. {how}"
    if rank == 2:
        return f"{path}: expected a class of the module {match['holder']}, got {said!r}. Check the name"
    return _missing_module(path, said, message)


def _stray(word: str) -> str:
    """Return the sentence for a word without a flag."""
    if word.endswith((".yaml", ".yml")) or word in recipe_names():
        return f"expected a flag before {word}, got none. Write --config {word}"
    return f"expected a flag before {word}, got none. Omit the word, or put quotes around a value with spaces"


def _without_value(key: str, words: Sequence[str]) -> str:
    """Return the sentence for a flag without a value, or with one that looks like a flag.

    Args:
        key: The key that the parser names: that of the flag, or of its section.
        words: The command line.
    """
    for word, following in pairwise([*words, "--"]):
        name = word.lstrip("-")
        named = name == key or name.startswith(f"{key}.") or (key in CONFIG and name in CONFIG)
        is_number = following[1:].replace(".", "", 1).isdigit()  # for the parser, -1e-3 and -inf are none
        if not (word.startswith("-") and named and following.startswith("-")) or is_number:
            continue
        if re.fullmatch(r"-(\d|\.|inf|nan).*", following):
            return f"{name}: expected a value, got {following}, which looks like a flag. Write {word}={following}"
        return f"{name}: expected a value, got none. Add it"
    return f"{key}: expected a value, got none. Add it"


def nameless_help(words: Sequence[str], keys: Keys) -> str | None:
    """Return the sentence for a request such as --model.help without the name of a class; None if there is none."""
    for word, following in pairwise([*words, "-"]):
        path = word.removeprefix("--").removesuffix(".help")
        if word == f"--{path}.help" and following.startswith("-") and (base := keys.base(path, words)):
            names = sorted({c.__name__ for c in public(base)})
            return f"{path}.help: expected the name of a class, got none. There are {', '.join(names)}"
    return None


def missing_package(message: str, words: Sequence[str]) -> str | None:
    """Return the sentence for a class whose package is not installed; None if the message is about something else."""
    lacking = r"requires|No module named|is not installed|(?:not|Neither .*) available"
    match = re.search(rf"given class_path '([\w.]+)':\s+(.*(?:{lacking}).*)", message)
    if match is None:
        return None
    name = match[1].split(".")[-1]
    keys = [key for key, value in given(words) if str(value).split(".")[-1] == name]
    key = keys[0].removesuffix(".class_path") if keys else match[1]
    return f"{key}: expected the package of {name}, got none. Run {EXTRAS.get(name) or f'pip ({match[2]})'}"


def command_named(word: str, commands: Sequence[str]) -> str:
    """Return the sentence for a command that does not exist."""
    others = {"train": "fit", "resume": "fit", "generate": "sample", "predict": "sample"}
    close = [others[word]] if word in others else difflib.get_close_matches(word, commands, 1, 0.6)
    meant = f"did you mean {close[0]}? There are" if close else "there are"
    return f"there is no command {word!r}; {meant} {', '.join(commands)} (pt-flows --help)"


def _complaints(message: str) -> Iterator[tuple[str, int, re.Match[str]]]:
    """Yield the full key, the index of the pattern and its match for the lines of a message, nested by indentation."""
    open_keys: list[tuple[int, str]] = []
    for line in filter(str.strip, message.splitlines()):
        indent = len(line) - len(line.lstrip(" -"))
        while open_keys and open_keys[-1][0] >= indent:
            open_keys.pop()
        open_keys += [(indent, _unprefixed(key)) for key in re.findall(r"""[Kk]ey ["']([\w.]+)["']:""", line)]
        for rank, sign in enumerate(SIGNS):
            if match := re.search(sign, line):
                yield ".".join(key for _, key in open_keys), rank, match
                break


def _unprefixed(key: str) -> str:
    return re.sub(r"\b(fit|validate|test)\.", "", key).strip()


def _given_value(message: str) -> str:
    """Return the given value in the innermost message."""
    match = re.search(r"(?:Got|Given) value: (.+)", message)
    return match[1].split(". Got value: ")[0] if match else ""


def _nested_value(message: str) -> str:
    """Return the given value of a key inside a class, as one writes it in YAML."""
    value = re.sub(r"NestedArg\(key='[\w.]+', val=(.+)\)$", r"\1", _given_value(message))
    return "null" if value == "None" else value


def _plain(expected: Sequence[str]) -> str:
    """Return types as words."""
    words = [re.sub(r"<class '(?:[\w.]+\.)?(\w+)'>", r"\1", kind) for kind in dict.fromkeys(expected)]
    choices = ", ".join(match[1] for word in words if (match := re.search(r"Literal\[(.+)\]", word)))
    names = {"NoneType": "null", "int": "an int", "Sequence": "a list", "Iterable": "a list", "bool": "true or false"}
    plain = [names.get(word, f"a {word}") for word in words if "Literal" not in word]
    return " or ".join([*([f"one of {choices}"] if choices else []), *dict.fromkeys(plain)])


def _unknown_key(path: str, words: Sequence[str], keys: Keys) -> str:
    path = next((name for name, _ in flags(words) if name == path or name.endswith(f".{path}")), path)
    section, leaf = path.split(".")[0], path.split(".")[-1]
    if "." in path and section not in keys.top:
        path = leaf = section
    known = [key for key in keys.existing(words) if key != path]
    places = places_of(path, known)
    if places and all(".".join(place.split(".")[:3]) in known for place in places):
        return f"{path}: expected a key of pt_flows 0.2, got one of 0.1. Use {' and '.join(places)}"
    same = [key for key in known if key.split(".")[-1] == leaf]
    ratio = lambda a, b: difflib.SequenceMatcher(None, a, b).ratio()
    beside = lambda key: key.rpartition(".")[0] == path.rpartition(".")[0]
    alike = lambda key: ratio(leaf, key.split(".")[-1]) + 0.15 * beside(key)  # keys of the same section come first
    close = same[:3] or sorted((key for key in known if alike(key) >= 0.75), key=alike)[-1:]
    return f"there is no key {path}; " + (
        f"did you mean {' or '.join(close)}?" if close else "see --help, or --model.help CLASS"
    )


def _unknown_class(path: str, name: str, base: type | None) -> str:
    known = sorted({c.__name__ for c in public(base)}) if base else []
    close = difflib.get_close_matches(name, known, 1, 0.5)
    hint = f"did you mean {close[0]}? There are" if close else "there are"
    listed = (
        f"{hint} {', '.join(known)}, and your own as package.module.Class" if known else "give package.module.Class"
    )
    wrong = f"there is no class {name!r}" if "." not in name else f"expected a {base.__name__ if base else 'class'}"
    return f"{path}: {wrong}{'' if '.' not in name else f', got {name}'}; {listed}"


def _missing_module(path: str, module: str, message: str) -> str:
    named = re.search(r"given class_path '([\w.]+)'|Got value: ([\w.]+)", message)
    wanted = re.findall(r"(?:class_path '|Got value: )([\w.]+)", message)
    owner = next((name for name in wanted if f"{name}.".startswith(f"{module}.")), None)
    if named and owner is None:
        return f"{path}: {wanted[-1] if wanted else named[0]} imports {module}, which is not installed. Install it"
    places = [p or "." for p in sys.path if not p.startswith((sys.prefix, sys.base_prefix)) and Path(p or ".").is_dir()]
    looked = ", ".join([*dict.fromkeys(places), "the installed packages"])
    return (
        f"{path}: the module {module} was not found; it was looked for in {looked}. "
        "Put its folder on the path (PYTHONPATH=FOLDER pt-flows ...) or install it"
    )
