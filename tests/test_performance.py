"""Shortcuts of training against the reference path."""

import copy
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from problems import METHODS, ONE_OF_EACH_KIND, ROOT, build, data, fit, slow_but_for, traced, weights
from torch import Tensor, nn

from pt_flows.callbacks import Performance
from pt_flows.callbacks.performance import compile_parts, forget_compiled, fuse, laid_out_like
from pt_flows.cli.main import main
from pt_flows.contracts import Terms
from pt_flows.data import Shapes32
from pt_flows.errors import UserError
from pt_flows.methods import W2FE, WGANGP
from pt_flows.nets import MLPCritic, MLPGenerator, ResNetCritic, ResNetGenerator
from pt_flows.training import compiled as compiling
from pt_flows.training.players import Critic, Generator
from pt_flows.training.schedules import Schedule


def trained(mode: Any, name: str = "WGANGP", **trainer: Any) -> Any:
    module = build(name, images=True)
    fit(module, data(images=True), callbacks=[Performance(mode)] if mode else [], precision="64-true", **trainer)
    return module


@pytest.mark.parametrize("name", slow_but_for(METHODS, ONE_OF_EACH_KIND.__contains__))
def test_fast_equals_reference(name: str) -> None:
    torch.set_default_dtype(torch.float64)
    bare, reference, fast = (trained(mode, name, max_steps=3) for mode in (None, "reference", "fast"))
    assert torch.equal(weights(reference), weights(bare))
    torch.testing.assert_close(weights(fast), weights(reference), rtol=0, atol=1e-9)
    convolutions = [p for net in fast.networks.values() for p in net.parameters() if p.dim() == 4 and min(p.shape) > 1]
    assert all(p.is_contiguous(memory_format=torch.channels_last) for p in convolutions) is fast.channels_last


def test_fast_equals_reference_with_residual_networks() -> None:
    torch.set_default_dtype(torch.float64)
    results = []
    for mode in ("reference", "fast"):
        torch.manual_seed(0)
        adam = partial(torch.optim.Adam, lr=1e-3)
        module = WGANGP(Generator(ResNetGenerator(width=8), adam), Critic(ResNetCritic(width=8), adam, steps=2))
        fit(module, data(images=True), max_steps=3, callbacks=[Performance(mode)], precision="64-true")
        results.append(weights(module))
    torch.testing.assert_close(*results, rtol=0, atol=1e-8)


def test_two_ranks_equal_one_in_fast_mode() -> None:
    torch.set_default_dtype(torch.float64)
    one, two = trained("fast", max_steps=3), trained("fast", max_steps=3, strategy="ddp_fork", devices=2)
    torch.testing.assert_close(weights(two), weights(one), rtol=0, atol=1e-10)


@pytest.mark.parametrize("modes", [("fast", "reference"), ("reference", "fast")], ids=lambda m: "-".join(m))
def test_a_run_continues_in_another_mode(modes: tuple[Any, Any], tmp_path: Path) -> None:
    """The moments of Adam change their layout; as they are they would be read as other numbers."""
    torch.set_default_dtype(torch.float64)
    make = lambda: build("WGANGP", images=True, lr_schedule=Schedule())
    whole = make()
    fit(whole, data(images=True), max_steps=4, callbacks=[Performance("reference")], precision="64-true")
    for mode, steps, ckpt in ((modes[0], 2, None), (modes[1], 4, tmp_path / "a.ckpt")):
        module = make()
        runner = fit(module, data(images=True), steps, ckpt, callbacks=[Performance(mode)], precision="64-true")
        if ckpt is None:
            runner.save_checkpoint(tmp_path / "a.ckpt")
    assert {group.get("fused") for o in runner.optimizers for group in o.param_groups} == {
        True if modes[1] == "fast" else None
    }
    torch.testing.assert_close(weights(module), weights(whole), rtol=0, atol=1e-9)


def test_fused_adam_gets_gradients_in_its_parameters_order() -> None:
    torch.manual_seed(0)
    last = nn.Parameter(torch.randn(4, 3, 3, 3).to(memory_format=torch.channels_last))
    plain = nn.Parameter(last.detach().clone(memory_format=torch.contiguous_format))
    gradient = torch.randn(4, 3, 3, 3)
    optimizers = [torch.optim.Adam([p], lr=0.1) for p in (last, plain)]
    fuse(optimizers[0])
    for p, optimizer in zip((last, plain), optimizers, strict=True):
        p.grad = gradient.clone()
        optimizer.step()
    torch.testing.assert_close(last.detach(), plain.detach())
    assert laid_out_like(last, gradient).stride() == last.stride()


def test_a_chosen_kernel_is_left_alone() -> None:
    chosen = torch.optim.Adam([nn.Parameter(torch.zeros(2))], foreach=True)
    other = torch.optim.SGD([nn.Parameter(torch.zeros(2))], lr=1.0)
    for optimizer in (chosen, other):
        before = copy.deepcopy(optimizer.param_groups[0]["fused"])
        fuse(optimizer)
        assert optimizer.param_groups[0]["fused"] == before


COMPILED_IN_FAST_TESTS = ("W1FE", "ODEGAN", "PCD")


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(
            name,
            marks=() if name in COMPILED_IN_FAST_TESTS else pytest.mark.slow if name == "DAEBM" else pytest.mark.long,
        )
        for name in METHODS
        if "-" not in name
    ],
)
def test_compiled_equals_reference(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Tracing and differentiating as compilation does, without generating code: a second derivative would raise."""
    torch.set_default_dtype(torch.float64)
    torch._dynamo.reset()
    compiled: list[Any] = []

    def compile_without_code(function: Any) -> Any:
        compiled.append(function.__self__)
        return original(function, backend="aot_eager")

    original = torch.compile
    monkeypatch.setattr(torch, "compile", compile_without_code)
    monkeypatch.setattr(compiling, "generate", traced)
    module = build(name)
    runs = [build(name), module]
    for run, mode in zip(runs, ("reference", "compile"), strict=True):
        fit(run, data(), max_steps=2, callbacks=[Performance(mode)], precision="64-true")
    torch.testing.assert_close(*map(weights, runs), rtol=0, atol=1e-9)
    assert module.cost.evaluations == runs[0].cost.evaluations
    out = capsys.readouterr().out
    assert "expected to be compiled" not in out
    parts = ["field", "first_stage", *(f"loss of the {player}" for player in module.players)]
    whole = [part for part in parts if f"compiled: {part}, in" in out]
    assert whole == WHOLE.get(name, [])
    alone = [n for n in module.differentiated_once if f"loss of the {n}" not in whole]
    assert list(dict.fromkeys(compiled)) == [module.networks[n] for n in alone]
    assert not any({"forward", "at"} & set(net.__dict__) for net in compiled)
    assert all(player.compiling is None for player in module.players.values())
    assert not set(module.pure) & set(module.__dict__)


PAIR = ["loss of the generator", "loss of the critic"]
WHOLE = {
    "W1FE": PAIR,
    "W2FE": PAIR,
    "JSFlow": PAIR,
    "WGANGP": PAIR,
    "GradientLayers": PAIR,
    "MinibatchW2FE": PAIR[:1],
    "R3GAN": PAIR[1:],
    "ODEGAN": ["field", "first_stage"],
}
"""Parts that are compiled with their derivatives."""


@pytest.mark.slow
@pytest.mark.parametrize("name", ["W1FE", "ODEGAN"])
def test_generated_code_equals_reference(name: str) -> None:
    torch.set_default_dtype(torch.float64)
    runs = [build(name), build(name)]
    for run, mode in zip(runs, ("reference", "compile"), strict=True):
        fit(run, data(), max_steps=3, callbacks=[Performance(mode)], precision="64-true")
    torch.testing.assert_close(*map(weights, runs), rtol=0, atol=1e-9)


@pytest.mark.parametrize(
    ("rows", "inner", "columns"), [(128, 512, 2), (512, 64, 1), (3, 5, 2), (2, 512, 64), (7, 2, 9)]
)
def test_products_with_few_columns_are_recorded_transposed(rows: int, inner: int, columns: int) -> None:
    a, b, bias = (torch.randn(*shape, dtype=torch.float64) for shape in ((rows, inner), (inner, columns), (columns,)))
    function = lambda a, b, bias: [a @ b, torch.addmm(bias, a, b), torch.addmm(bias, a, b, beta=0.5, alpha=2.0)]
    graph: Any = compiling.recorded(function, [a, b, bias])
    for found, expected in zip(graph(a, b, bias), function(a, b, bias), strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    shapes = [node.meta["val"].shape for node in graph.graph.nodes if "mm" in str(node.target)]
    turned = columns <= 4 < rows
    assert set(shapes) == {torch.Size([columns, rows] if turned else [rows, columns])}


def test_a_compiled_loss_that_depends_on_the_iteration_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A record keeps numbers as they were, so the run must not continue with them."""

    class Changing(WGANGP):
        def critic_loss(self, x: Tensor, y: Tensor) -> Terms:
            terms = super().critic_loss(x, y)
            return terms | {"loss_D": terms["loss_D"] * (1 + self.iteration)}

    monkeypatch.setattr(compiling, "generate", traced)
    module = Changing(Generator(MLPGenerator(width=8)), Critic(MLPCritic(width=8), steps=1))
    with pytest.raises(UserError, match=r"loss of the critic: expected the values of its compiled form.*--perf fast"):
        fit(module, data(), max_steps=4, callbacks=[Performance("compile")])


def test_a_compiled_step_costs_as_much_and_follows_its_own_parameters(monkeypatch: pytest.MonkeyPatch) -> None:
    """Over calls that nothing verifies; and in the optimizer's order, which groups of parameters change."""
    torch.set_default_dtype(torch.float64)
    monkeypatch.setattr(compiling, "generate", traced)

    def grouped(parameters: Any, lr: float = 1e-3) -> torch.optim.Optimizer:
        own = list(parameters)
        return torch.optim.AdamW([{"params": own[1::2], "weight_decay": 0.0}, {"params": own[::2]}], lr=lr)

    class Watched(W2FE):
        def iterate(self, minibatches: Any) -> Terms:
            terms = super().iterate(minibatches)
            exact.append(self.diagnose({"train/dual": float(terms["dual"])})["train/dual_exact"])
            return terms

    runs = []
    for mode in ("fast", "compile"):
        torch.manual_seed(0)
        exact: list[float] = []
        critic = Critic(MLPCritic(width=8), grouped, steps=1)
        module = Watched(Generator(MLPGenerator(width=8)), critic, MLPCritic(width=8), step_size=0.1)
        fit(module, data(), max_steps=7, callbacks=[Performance(mode)], precision="64-true")
        runs.append((module, exact))
    (plain, expected), (compiled, found) = runs
    torch.testing.assert_close(weights(compiled), weights(plain), rtol=0, atol=1e-9)
    assert compiled.cost.evaluations == plain.cost.evaluations
    assert found == pytest.approx(expected, rel=1e-6)
    assert len(set(expected)) == len(expected) > 5


def test_training_goes_on_where_the_compiler_fails(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(function: Any, inputs: Any) -> Any:
        raise RuntimeError("no compiler\nand a long trace")

    monkeypatch.setattr(compiling, "generate", fail)
    monkeypatch.setattr(torch, "compile", lambda function: function)
    runs = [build("WGANGP"), build("WGANGP")]
    for run, mode in zip(runs, ("fast", "compile"), strict=True):
        fit(run, data(), max_steps=3, callbacks=[Performance(mode)])
    torch.testing.assert_close(*map(weights, runs), rtol=0, atol=0)
    out = capsys.readouterr().out
    assert out.count("loss of the critic: expected to be compiled, got: no compiler. It runs as it is") == 1


def test_settings_of_torch_are_restored(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    cuda, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    settings = lambda: (cuda.allow_tf32, cudnn.allow_tf32, cudnn.benchmark)
    before = settings()
    for name in ("WGANGP", "ODEGAN"):
        for mode in ("fast", "reference"):
            module, original = build(name), type(build(name)).iterate
            monkeypatch.setattr(type(module), "iterate", lambda *a, f=original: (seen.append(settings()), f(*a))[1])
            fit(module, data(iterations_per_block=1), max_steps=1, callbacks=[Performance(mode)])
            monkeypatch.undo()
    assert settings() == before
    precise = (False, False, True)  # small differences
    assert seen == [(True, True, True), (False, False, False), precise, (False, False, False)]


def test_reference_keeps_images_off_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    images = Shapes32(batch_size=8)
    fit(build("WGANGP", images=True), images, max_steps=1, callbacks=[Performance("reference")])
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (10**12, 10**12))
    images.device = torch.device("cuda")
    assert not images.resident
    assert images.workers


def test_reference_is_one_flag(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["fit", "--config", str(ROOT / "configs/toy2d/wgan_gp.yaml"), "--perf", "reference"]
    words += ["--trainer.precision", "bf16-mixed", "--trainer.max_steps", "1", "--trainer.accelerator", "cpu"]
    assert main([*words, "--evaluation.num_samples", "64", "--evaluation.metrics", "[]"]) == 0
    assert "--perf reference computes in float32 instead of bf16-mixed" in capsys.readouterr().out
    (config,) = Path("runs").glob("*/*/config.yaml")
    assert "perf: reference" in config.read_text()
    assert "precision: 32-true" in config.read_text()


def test_draws_of_labels_are_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chains of a compiled energy call its compiled methods, for steps and for draws of labels; they can be undone."""
    called: list[str] = []

    def noted(function: Any) -> Any:
        return lambda *args: (called.append(function.__name__), function(*args))[1]

    monkeypatch.setattr(torch, "compile", noted)
    module = build("DAEBM")
    plain = module.transition(torch.zeros(4, 2), torch.zeros(4, dtype=torch.int64), torch.Generator().manual_seed(0))
    module.print = print
    compile_parts(module)
    moved = module.transition(torch.zeros(4, 2), torch.zeros(4, dtype=torch.int64), torch.Generator().manual_seed(0))
    assert set(called) == {"at", "every"}
    assert torch.equal(moved.x, plain.x)
    forget_compiled(module)
    assert not {"forward", "at", "every"} & vars(module.energy.network).keys()
