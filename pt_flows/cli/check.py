"""The command `check-method`: checks of the method, the networks and the sampler of a configuration."""

from argparse import SUPPRESS
from collections.abc import Sequence
from functools import partial
from typing import Any

from jsonargparse import Namespace

import pt_flows.data
import pt_flows.methods
import pt_flows.metrics
import pt_flows.nets  # noqa: F401  only imported classes have short names
from pt_flows.callbacks import Evaluate
from pt_flows.cli.parser import Explaining
from pt_flows.contracts import CriticNet, EnergyNet, GeneratorNet, PredictorNet
from pt_flows.data.base import FlowData
from pt_flows.errors import UserError
from pt_flows.loop.method import Method
from pt_flows.testing import Report, check_method, check_network, check_sampler

UNUSED = ("trainer", "pictures", "checkpoints", "rates", "run", "seed_everything", "perf", "ckpt_path")
"""Keys of `fit` that its configuration files may have, and that no check needs."""


def check(words: Sequence[str]) -> None:
    """Check the parts of a configuration, and print a line for every check. The exit code is 1 if one failed.

    Args:
        words: `[CLASS_PATH] --config FILE [--KEY VALUE ...]`. The class replaces the model of the configuration.
    """
    parser = checking_parser()
    config = parser.parse_args(with_class(words))
    config.evaluation.metrics = config.evaluation.full_metrics = None  # nothing is measured
    part = lambda key: getattr(parser.instantiate_classes(Namespace({key: config[key].clone()})), key)
    build, data = partial(part, "model"), partial(part, "data")
    method: Any = build()
    print(f"method {type(method).__name__} on {type(data()).__name__}", flush=True)
    reports: list[Report] = [check_method(build, data)]
    for name, network in method.networks.items():
        if isinstance(network, GeneratorNet | CriticNet | EnergyNet | PredictorNet):
            print(f"network {name}: {type(network).__name__}", flush=True)
            reports.append(check_network(lambda name=name: build().networks[name]))
    if config.evaluation.sampler is not None:
        print(f"sampler {part('evaluation').sampler}", flush=True)
        reports.append(check_sampler(lambda: part("evaluation").sampler, build, data))
    if not all(report.passed for report in reports):
        raise SystemExit(1)


def checking_parser() -> Explaining:
    """Return a parser of the configurations of `fit`."""
    parser = Explaining(
        prog="pt-flows check-method [CLASS_PATH]", description="Check a method, its networks, a sampler."
    )
    parser.add_argument("--config", action="config", help="a configuration of pt-flows fit; may be repeated")
    parser.add_subclass_arguments(Method, "model", required=True)
    parser.add_subclass_arguments(FlowData, "data", required=True)
    parser.add_class_arguments(Evaluate, "evaluation")
    for key in UNUSED:
        parser.add_argument(f"--{key}", type=Any, help=SUPPRESS)
    return parser


def with_class(words: Sequence[str]) -> list[str]:
    """Return the words with a leading class path as `--model` after all configuration files."""
    words = list(words)
    if not words or words[0].startswith("-"):
        return words
    name, *rest = words
    configs = [i for i, word in enumerate(rest) if word.partition("=")[0] == "--config"]
    if not configs:
        raise UserError("--config: expected a file with a model and data, got none. Give a configuration of fit")
    end = configs[-1] + (1 if "=" in rest[configs[-1]] else 2)
    return [*rest[:end], "--model", name, *rest[end:]]
