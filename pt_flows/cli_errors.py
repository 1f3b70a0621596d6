"""The parser's nested explanations as one sentence: which key, what was given, what is likely meant."""

import difflib
import inspect
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import lightning as L
import torch
import yaml

from pt_flows.callbacks import Checkpoints, Evaluate, Pictures
from pt_flows.contracts import CriticNet, GeneratorNet
from pt_flows.data.base import FlowData
from pt_flows.methods.base import GenerativeModule
from pt_flows.metrics.base import SampleMetric
from pt_flows.metrics.features import FeatureNet
from pt_flows.runs import RunOptions

BASES: dict[str, type] = {
    "model": GenerativeModule, "data": FlowData, "generator": GeneratorNet, "critic": CriticNet,
    "metrics": SampleMetric, "features": FeatureNet, "generator_optimizer": torch.optim.Optimizer,
    "critic_optimizer": torch.optim.Optimizer, "callbacks": L.Callback,
}  # fmt: skip
"""Which classes may stand at a key."""

SECTIONS: dict[str, type] = {
    "trainer": L.Trainer, "evaluation": Evaluate, "pictures": Pictures, "checkpoints": Checkpoints, "run": RunOptions
}  # fmt: skip


def explain(message: str, argv: Sequence[str]) -> str:
    """One sentence for the user.

    Args:
        message: What jsonargparse says.
        argv: The command line, where the full key is found (or in the configuration files that it names).
    """
    if match := re.search(
        r"[Oo]ption '([\w.]+)' is not accepted|does not accept option '([\w.]+)'|unrecognized arguments: -*([\w.]+)",
        message,
    ):
        return _unknown_key(match[1] or match[2] or match[3], argv)
    if match := re.search(r"Expected a dot import path string: (.+)", message):
        return _unknown_class(match[1].strip(), message, argv)
    if match := re.search(r"""arguments are required: ([\w., ]+)|[Kk]ey ["']([\w.]+)["'] is required""", message):
        where = re.search(r"given class_path '[\w.]+\.(\w+)'", message)
        names = re.sub(r"\b(fit|validate|test)\.", "", match[1] or match[2]).strip()
        owner = f" for {where[1]}" if where else ""
        return f"{names} missing{owner}: add it to the configuration file (complete ones are in configs/)"
    if match := re.search(r"""[Kk]ey ["']([\w.]+)["']:\s+(Expected .+?)\. Got value: (.+)""", message):
        return f"{_locate(match[1], argv)}: {_plain_type(match[2])}, got {match[3]!r}"
    if match := re.search(r"File does not exist: (.+)", message):
        return f"there is no configuration file {match[1]}"
    if "Problems parsing config" in message or "YAML" in message:
        return "the configuration file is not valid YAML: " + " ".join(message.split("config:", 1)[-1].split())
    if match := re.search(r"""[Kk]ey ["'](model|data)["']:.*Given value: .*""", message, re.DOTALL):
        return (
            f"{match[1]} must be a class name, or class_path and init_args; arguments stand under init_args, as in "
            "configs/toy2d/w1_fe.yaml"
        )
    return " ".join(message.split())[:300]


def _unknown_key(name: str, argv: Sequence[str]) -> str:
    path = _locate(name.split(".")[-1], argv) if "." not in name else name
    section, leaf = path.split(".")[0], path.split(".")[-1]
    top = {*SECTIONS, "model", "data", "seed_everything", "ckpt_path", "config", "perf"}
    if section not in top:
        path = leaf = section
    names = (
        set(_parameters(SECTIONS[section])) if section in SECTIONS else {n for c in _classes() for n in _parameters(c)}
    )
    if "." not in path:
        names = top
    close = difflib.get_close_matches(leaf, sorted(names), 1, 0.6)
    return f"there is no key {path}; " + (f"did you mean {close[0]}?" if close else "see --help, or --model.help CLASS")


def _unknown_class(name: str, message: str, argv: Sequence[str]) -> str:
    keys = re.findall(r"""[Kk]ey ["']([\w.]+)["']""", message)
    path = _locate(keys[-1], argv) if keys else "class_path"
    base = BASES.get(path.split(".")[-1])
    known = sorted({c.__name__ for c in _subclasses(base)} - {"LightningOptimizer"}) if base else []
    close = difflib.get_close_matches(name, known, 1, 0.5)
    hint = f"did you mean {close[0]}? There are" if close else "there are"
    listed = (
        f"{hint} {', '.join(known)}, and your own as package.module.Class" if known else "give package.module.Class"
    )
    return f"{path}: there is no class {name!r}; {listed}"


def _plain_type(expected: str) -> str:
    expected = re.sub(r"<class '([\w.]+)'>", r"\1", expected)
    return re.sub(r"a typing\.Literal\[(.+)\]", r"one of \1", expected).replace("Expected", "expected")


def _locate(leaf: str, argv: Sequence[str]) -> str:
    """The full dotted key of a leaf, from the command line or the configuration files; the leaf if not found."""
    flags = [token[2:].split("=")[0] for token in argv if token.startswith("--")]
    found = [flag for flag in flags if flag.split(".")[-1] == leaf]
    files = [Path(b) for a, b in zip(argv, argv[1:], strict=False) if a in ("--config", "-c")]
    for file in files:
        if file.is_file():
            try:
                found += [path for path in _paths(yaml.safe_load(file.read_text())) if path.split(".")[-1] == leaf]
            except yaml.YAMLError:
                continue
    return found[0].replace(".init_args", "") if found else leaf


def _paths(tree: Any, prefix: str = "") -> Iterator[str]:
    if isinstance(tree, dict):
        for key, value in tree.items():
            here = f"{prefix}.{key}" if prefix else str(key)
            yield here
            yield from _paths(value, here)
    elif isinstance(tree, list):
        for value in tree:
            yield from _paths(value, prefix)


def _parameters(cls: type) -> list[str]:
    return [name for name in inspect.signature(cls).parameters if name not in ("self", "args", "kwargs")]


def _classes() -> list[type]:
    return [c for base in BASES.values() for c in _subclasses(base) if not c.__module__.startswith("lightning")]


def _subclasses(base: type) -> set[type]:
    direct = set(base.__subclasses__())
    return {c for c in direct.union(*(_subclasses(c) for c in direct)) if not inspect.isabstract(c)}
