"""The contract of methods, samplers and networks as checks that anyone can run on their own.

from pt_flows.testing import check_method

report = check_method(lambda: HingeGAN(Generator(...), Critic(...)), lambda: Toy2D(batch_size=16))
assert report.passed
"""

from collections.abc import Callable
from typing import Any

from torch import nn

from pt_flows.contracts import CriticNet, EncoderNet, EnergyNet, GeneratorNet, PredictorNet
from pt_flows.data.base import FlowData
from pt_flows.samplers import Sampler
from pt_flows.testing.case import Case
from pt_flows.testing.methods import METHOD_CHECKS, SAMPLER_CHECKS
from pt_flows.testing.networks import NETWORK_CHECKS
from pt_flows.testing.report import NotApplicable, Report, Result, result_of, run_checks

__all__ = [
    "METHOD_CHECKS",
    "NETWORK_CHECKS",
    "SAMPLER_CHECKS",
    "Case",
    "NotApplicable",
    "Report",
    "Result",
    "check_method",
    "check_network",
    "check_sampler",
    "result_of",
]


def check_method(build: Callable[[], Any], data: Callable[[], FlowData]) -> Report:
    """Run the contract on a method, on the CPU, and print a line for every check.

    Args:
        build: Makes the method anew, with its networks. It must not set a seed.
        data: Makes the data. Small minibatches of an even number of samples are enough.

    Returns:
        What was checked; `passed` tells whether nothing failed.
    """
    return run_checks(METHOD_CHECKS, Case(build, data))


def check_sampler(sampler: Callable[[], Sampler], build: Callable[[], Any], data: Callable[[], FlowData]) -> Report:
    """Check a sampler on a method, which is trained for some iterations, and print a line for every check.

    Args:
        sampler: Makes the sampler.
        build: Makes the method, as for `check_method`.
        data: Makes the data.
    """
    return run_checks(SAMPLER_CHECKS, Case(build, data, sampler))


def check_network(
    build: Callable[[], GeneratorNet | CriticNet | EnergyNet | EncoderNet | PredictorNet | nn.Module],
) -> Report:
    """Check a generator, a critic, an energy, an encoder or a predictor, and print a line for every check.

    Args:
        build: Makes the network anew.
    """
    return run_checks(NETWORK_CHECKS, build)
