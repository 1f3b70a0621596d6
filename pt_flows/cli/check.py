"""`pt-flows check-method`: the contract, run on the method, the networks and the sampler of a configuration."""

from argparse import SUPPRESS
from collections.abc import Sequence
from functools import partial
from typing import Any

from jsonargparse import Namespace

import pt_flows.data
import pt_flows.methods
import pt_flows.metrics
import pt_flows.nets  # noqa: F401  short names are those of imported classes
from pt_flows.callbacks import Evaluate
from pt_flows.cli.parser import Explaining
from pt_flows.contracts import CriticNet, EnergyNet, GeneratorNet
from pt_flows.data.base import FlowData
from pt_flows.errors import UserError
from pt_flows.loop.method import Method
from pt_flows.testing import Report, check_method, check_network, check_sampler

UNUSED = ("trainer", "pictures", "checkpoints", "run", "seed_everything", "perf", "ckpt_path")
"""Keys of `fit` that may stand in its configuration files, and that no check depends on."""


def check(words: Sequence[str]) -> None:
    """Check what a configuration names and print a line for every check; leave with 1 if one failed.

    Args:
        words: `[CLASS_PATH] --config FILE [--KEY VALUE ...]`. The class takes the place of the configuration's model.
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
        if isinstance(network, GeneratorNet | CriticNet | EnergyNet):
            print(f"network {name}: {type(network).__name__}", flush=True)
            reports.append(check_network(lambda name=name: build().networks[name]))
    if config.evaluation.sampler is not None:
        print(f"sampler {part('evaluation').sampler}", flush=True)
        reports.append(check_sampler(lambda: part("evaluation").sampler, build, data))
    if not all(report.passed for report in reports):
        raise SystemExit(1)


def checking_parser() -> Explaining:
    """A parser of the configurations of `fit`."""
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
    """The words with a class path at the beginning made the model, after all configuration files."""
    words = list(words)
    if not words or words[0].startswith("-"):
        return words
    name, *rest = words
    configs = [i for i, word in enumerate(rest) if word.partition("=")[0] == "--config"]
    if not configs:
        raise UserError(
            "--config: expected a file with a model and data, got none. Give a configuration of pt-flows fit"
        )
    end = configs[-1] + (1 if "=" in rest[configs[-1]] else 2)
    return [*rest[:end], "--model", name, *rest[end:]]
