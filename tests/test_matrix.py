"""The table of supported combinations in docs/scale.md; `python tests/test_matrix.py` runs every cell and prints it."""

import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from problems import METHODS, ONE_OF_EACH_KIND, ROOT, build, data, fit, traced, weights

from pt_flows.callbacks import Performance
from pt_flows.callbacks.performance import Mode
from pt_flows.errors import UserError
from pt_flows.loop.method import Method
from pt_flows.methods import CFM, IWAE, SimVAE
from pt_flows.methods.energies.base import EnergyMethod
from pt_flows.nets import ResNetCritic, ResNetGenerator
from pt_flows.training import compiled as compiling

ROWS = [name for name in METHODS if "-" not in name]


def trained(name: str, precision: str = "64-true", mode: Mode = "reference", **trainer: Any) -> Any:
    """A small method on toys after two iterations, in the precision that it is built for."""
    torch.set_default_dtype(torch.float64 if precision == "64-true" else torch.float32)
    module = build(name)
    fit(module, data(batch_size=12), max_steps=2, precision=precision, callbacks=[Performance(mode)], **trainer)
    assert bool(weights(module).isfinite().all())
    return module


def equal(a: Method, b: Method) -> str:
    """Weights, averages and chains, to rounding."""
    torch.testing.assert_close(weights(a), weights(b), rtol=0, atol=1e-9)
    return "equal"


def processes(num: int, name: str) -> str:
    return equal(trained(name, strategy="ddp_fork", devices=num), trained(name))


def bf16_mixed(name: str) -> str:
    mixed, single = trained(name, "bf16-mixed"), trained(name, "32-true")
    return "in float32" if torch.equal(weights(mixed), weights(single)) else "trains"


def fast(name: str) -> str:
    return equal(trained(name, mode="fast"), trained(name))


def compiled(name: str) -> str:
    """Differentiate as compilation does, without generating code."""
    found: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
        patch.setattr(compiling, "generate", traced)
        patch.setattr(METHODS[name]["cls"], "print", lambda self, line: found.append(line))
        module = trained(name, mode="compile")
    equal(module, trained(name))
    return next(line.removeprefix("to be compiled: ") for line in found if line.startswith("to be compiled: "))


def activation_checkpointing(name: str) -> str:
    """Train the residual pair, which supports it."""
    if issubclass(METHODS[name]["cls"], EnergyMethod | CFM | IWAE | SimVAE):
        return "no such network"
    torch.set_default_dtype(torch.float64)
    runs = []
    for again in (False, True):
        pair = [partial(net, width=4, activation_checkpointing=again) for net in (ResNetGenerator, ResNetCritic)]
        module = build(name, images=True, pair=pair)
        fit(module, data(images=True, batch_size=4), max_steps=1, precision="64-true")
        runs.append(module)
    return equal(*runs)


COLUMNS: dict[str, Callable[[str], str]] = {
    "2 processes": partial(processes, 2),
    "3 processes": partial(processes, 3),
    "bf16-mixed": bf16_mixed,
    "`--perf fast`": fast,
    "`--perf compile` compiles": compiled,
    "activation checkpointing": activation_checkpointing,
}


def row(name: str) -> str:
    """A row of the table."""
    cells = []
    for column in COLUMNS.values():
        try:
            cells.append(column(name))
        except UserError:
            cells.append("rejected")
    return f"| {METHODS[name]['cls'].__name__} | {' | '.join(cells)} |"


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=pytest.mark.slow if name in ONE_OF_EACH_KIND else pytest.mark.long) for name in ROWS],
)
def test_the_table_of_the_docs_is_what_happens(name: str) -> None:
    table = (ROOT / "docs/scale.md").read_text()
    assert f"| | {' | '.join(COLUMNS)} |" in table
    assert row(name) in table


if __name__ == "__main__":
    lines = [f"| | {' | '.join(COLUMNS)} |", "| --- " * (len(COLUMNS) + 1) + "|", *map(row, ROWS)]
    sys.stdout.write("\n".join(lines) + "\n")
