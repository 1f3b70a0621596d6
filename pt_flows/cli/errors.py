"""The parser's nested explanations as one sentence: which key, what was given, what is likely meant."""

import difflib
import importlib
import inspect
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

import lightning as L
import torch
import yaml
from lightning.pytorch.loggers import Logger

from pt_flows.callbacks import Checkpoints, Evaluate, Pictures
from pt_flows.contracts import CriticNet, EnergyNet, GeneratorNet
from pt_flows.data.base import FlowData
from pt_flows.loop.method import Method
from pt_flows.metrics.base import SampleMetric
from pt_flows.metrics.features import FeatureNet
from pt_flows.runs.folder import RunOptions

BASES: dict[str, type] = {
    "model": Method, "data": FlowData, "generator": GeneratorNet, "critic": CriticNet, "excess": CriticNet,
    "energy": EnergyNet, "metrics": SampleMetric, "full_metrics": SampleMetric, "features": FeatureNet,
    "generator_optimizer": torch.optim.Optimizer, "critic_optimizer": torch.optim.Optimizer,
    "optimizer": torch.optim.Optimizer, "callbacks": L.Callback, "logger": Logger,
}  # fmt: skip
"""Which classes may stand at a key."""

SECTIONS: dict[str, type] = {
    "trainer": L.Trainer, "evaluation": Evaluate, "pictures": Pictures, "checkpoints": Checkpoints, "run": RunOptions
}  # fmt: skip

FIT_KEYS = (*SECTIONS, "model", "data", "seed_everything", "ckpt_path", "config", "perf")

EXTRAS = {"TensorBoardLogger": "pip install 'pt-flows[tensorboard]'", "RichProgressBar": "pip install rich"}
"""What brings the packages of classes that are not ours."""

SIGNS = (
    r"Option '(?P<option>[\w.]+)' is not accepted|does not accept option '(?P<option2>[\w.]+)'",
    r"No module named '(?P<module>[\w.]+)'",
    r"'(?P<holder>[\w.]+)' has no attribute '(?P<attribute>\w+)'",
    r"""arguments are required: (?P<required>[\w., ]+)|[Kk]ey ["'](?P<required2>[\w.]+)["'] is required""",
    r"not correspond to a subclass of (?P<base>\w+)",
    r"Expected (?:a )?dot import path string: (?P<name>\S+)",
    r"Expected (?:an? )?(?P<type>(?!a path|path|an? <)\S.*?)(?:\. Got value: .*)?$",
)
"""What a line of a message may say, the most telling first. jsonargparse drops articles where the value is one."""


def explain(message: str, argv: Sequence[str], keys: Sequence[str] = FIT_KEYS) -> str:
    """One sentence for the user.

    Args:
        message: What jsonargparse says.
        argv: The command line, which names classes and configuration files.
        keys: The keys at the top.
    """
    if match := re.search(r"unrecognized arguments: -*([\w.-]+)", message):
        return _unknown_key(match[1], argv, keys)
    if match := re.search(r"File does not exist: (.+)", message):
        return f"there is no configuration file {match[1]}"
    if match := re.search(r"Path is not a file: '(.+)'", message):
        return f"--config: expected a file, got the folder {match[1]}. Name a file in it"
    found = sorted(_complaints(message), key=lambda found: (-found[0].count("."), found[1]))
    if not found:
        return " ".join(message.split())[:300]
    path, rank, match = found[0]
    if match.lastgroup in ("name", "base") and (rank == 4 or path.split(".")[-1] in BASES):
        return _unknown_class(path, match.groupdict().get("name") or _given_value(message), argv)
    if match.lastgroup in ("name", "type"):
        expected = [m["type"] for p, _, m in found if p == path and m.lastgroup == "type"]
        return f"{path}: expected {_plain(expected)}, got {_given_value(message)!r}"
    said = match[match.lastgroup or 0]
    if rank == 0:
        return _unknown_key(f"{path}.{said}" if path else said, argv, keys)
    if rank == 3:
        names = [f"{path}.{name}" if path else name for name in re.findall(r"[\w.]+", _unprefixed(said))]
        return (
            f"{', '.join(names)} missing: add it to the configuration file (complete ones are in configs/) or as a flag"
        )
    if rank == 2:
        return f"{path}: there is no {said!r} in the module {match['holder']}. Check the name of the class"
    return _missing_module(path, said, message)


def missing_package(message: str, argv: Sequence[str]) -> str | None:
    """The sentence for a class whose package is not installed, which shows when it is built; None if it is not that."""
    lacking = r"requires|No module named|is not installed|(?:not|Neither .*) available"
    match = re.search(rf"given class_path '([\w.]+)':\s+(.*(?:{lacking}).*)", message)
    if match is None:
        return None
    name = match[1].split(".")[-1]
    keys = [key for key, value in _given(argv) if str(value).split(".")[-1] == name]
    key = keys[0].removesuffix(".class_path") if keys else match[1]
    return f"{key}: {name} needs a package that is not installed. Run {EXTRAS.get(name) or f'pip ({match[2]})'}"


def command_named(word: str, commands: Sequence[str]) -> str:
    """The sentence for a command that does not exist."""
    others = {"train": "fit", "resume": "fit", "generate": "sample", "predict": "sample"}
    close = [others[word]] if word in others else difflib.get_close_matches(word, commands, 1, 0.6)
    meant = f"did you mean {close[0]}? There are" if close else "there are"
    return f"there is no command {word!r}; {meant} {', '.join(commands)} (pt-flows --help)"


def check_yaml(path: Path) -> str | None:
    """What is wrong with a configuration file before anyone asks what its keys mean; None if nothing is."""
    try:
        node = yaml.compose(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, yaml.reader.ReaderError):
        return f"{path}: expected a YAML text, got a binary file or one that is not UTF-8. Name another file"
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f" in line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        return f"{path}: not valid YAML: {error.problem or error.context}{where}"
    if node is None:
        return f"{path}: expected keys such as trainer, model or data, got an empty file. Fill it or leave it out"
    if not isinstance(node, yaml.MappingNode):
        return f"{path}: expected keys with values such as `seed_everything: 0`, got a {node.id}"
    for key, first, second in _repeated(node):
        return f"{path}: {key} stands in line {first} and again in line {second}. Keep one of them"
    return None


def _repeated(node: yaml.Node, prefix: str = "") -> Iterator[tuple[str, int, int]]:
    """Keys that a mapping has twice, each with its two lines."""
    if isinstance(node, yaml.SequenceNode):
        for item in node.value:
            yield from _repeated(item, prefix)
    if isinstance(node, yaml.MappingNode):
        lines: dict[str, int] = {}
        for key, value in node.value:
            path = f"{prefix}.{key.value}" if prefix else str(key.value)
            line = key.start_mark.line + 1
            if path in lines:
                yield path, lines[path], line
            lines[path] = line
            yield from _repeated(value, path)


def _complaints(message: str) -> Iterator[tuple[str, int, re.Match[str]]]:
    """What the lines of a message say: the full key, the rank of the sign, the match. Indentation is nesting."""
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
    """What was given, as the innermost explanation shows it."""
    match = re.search(r"(?:Got|Given) value: (.+)", message)
    return match[1].split(". Got value: ")[0] if match else ""


def _plain(expected: Sequence[str]) -> str:
    """Types as words."""
    words = [re.sub(r"<class '(?:[\w.]+\.)?(\w+)'>", r"\1", kind) for kind in dict.fromkeys(expected)]
    choices = ", ".join(match[1] for word in words if (match := re.search(r"Literal\[(.+)\]", word)))
    names = {"NoneType": "null", "int": "an int", "Sequence": "a list", "Iterable": "a list", "bool": "true or false"}
    plain = [names.get(word, f"a {word}") for word in words if "Literal" not in word]
    return " or ".join([*([f"one of {choices}"] if choices else []), *dict.fromkeys(plain)])


def _unknown_key(path: str, argv: Sequence[str], keys: Sequence[str]) -> str:
    section, leaf = path.split(".")[0], path.split(".")[-1]
    if "." in path and section not in keys:
        path = leaf = section
    known = [key for key in _existing_keys(argv, keys) if key != path]
    same = [key for key in known if key.split(".")[-1] == leaf]
    ratio = lambda a, b: difflib.SequenceMatcher(None, a, b).ratio()
    beside = lambda key: key.rpartition(".")[0] == path.rpartition(".")[0]
    alike = lambda key: ratio(leaf, key.split(".")[-1]) + 0.15 * beside(key)  # a neighbour is likelier meant
    close = same[:3] or sorted((key for key in known if alike(key) >= 0.75), key=alike)[-1:]
    return f"there is no key {path}; " + (
        f"did you mean {' or '.join(close)}?" if close else "see --help, or --model.help CLASS"
    )


def _unknown_class(path: str, name: str, argv: Sequence[str]) -> str:
    base = BASES.get(path.split(".")[-1])
    known = sorted({c.__name__ for c in _public(base)}) if base else []
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


def _existing_keys(argv: Sequence[str], keys: Sequence[str]) -> list[str]:
    """Every key that the classes of a command line and its configuration files have."""
    at: dict[str, str] = {}
    for key, value in _given(argv):
        names = value if isinstance(value, list) else [value]
        at |= {key.removesuffix(".class_path"): name for name in names if isinstance(name, str)}

    def below(path: str) -> Iterator[str]:
        yield path
        cls = SECTIONS.get(path) or _class_named(at.get(path, ""))
        for name in _parameters(cls) if cls else ():
            yield from below(f"{path}.{name}")

    return [key for top in keys for key in below(top)]


def _given(argv: Sequence[str]) -> Iterator[tuple[str, Any]]:
    """Keys and values in the order in which they are given, from configuration files and flags."""
    for token, following in zip(argv, [*argv[1:], ""], strict=True):
        if token.startswith("-"):
            name, assigned, value = token.lstrip("-").partition("=")
            value = value if assigned else following
            if name in ("config", "c"):
                if Path(value).is_file() and check_yaml(Path(value)) is None:
                    yield from _paths(yaml.safe_load(Path(value).read_text(encoding="utf-8")))
            else:
                key = name.replace(".init_args", "")
                yield key, value
                if value.startswith(("[", "{")):
                    yield from _paths(_loaded(value), key)


def _paths(tree: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(tree, dict):
        for key, value in tree.items():
            here = prefix if key == "init_args" else f"{prefix}.{key}" if prefix else str(key)
            yield here, value
            yield from _paths(value, here)
    elif isinstance(tree, list):
        yield prefix, tree
        for value in tree:
            yield from _paths(value, prefix)


def _loaded(text: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        return None


def _class_named(name: str) -> type | None:
    """The class of a short name or an import path, if there is one."""
    module, _, leaf = name.rpartition(".")
    if not module:
        return next((c for base in BASES.values() for c in _subclasses(base) if c.__name__ == name), None)
    try:
        found = getattr(importlib.import_module(module), leaf, None)
    except (ImportError, ValueError):
        return None
    return found if inspect.isclass(found) else None


def _parameters(cls: type) -> list[str]:
    """Names of a class's arguments; what `**kwargs` passes on is looked for in its bases."""
    names: list[str] = []
    for owner in (c for c in cls.__mro__ if "__init__" in vars(c)):
        parameters = inspect.signature(owner.__init__).parameters.values()
        names += [p.name for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
        if all(p.kind != p.VAR_KEYWORD for p in parameters):
            break
    return [name for name in dict.fromkeys(names) if name not in ("self", "params")]


def _public(base: type) -> Iterable[type]:
    """Classes that may stand where a base is wanted; of libraries those that they export."""

    def exported(cls: type) -> bool:
        places = accumulate(cls.__module__.split("."), "{}.{}".format)
        return any(cls.__name__ in getattr(sys.modules.get(place), "__all__", ()) for place in places)

    libraries = ("lightning", "pt_flows", "torch")
    return [c for c in _subclasses(base) if c.__module__.split(".")[0] not in libraries or exported(c)]


def _subclasses(base: type) -> set[type]:
    direct = set(base.__subclasses__())
    return {c for c in direct.union(*(_subclasses(c) for c in direct)) if not inspect.isabstract(c)}
