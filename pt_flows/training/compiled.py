"""Functions of tensors compiled as a whole, with all derivatives that they take inside, of any order.

`torch.compile` makes functions without second derivatives, so it cannot compile a critic whose gradient is penalised.
Here the operations of loss, penalty and gradients are recorded once for given shapes (`make_fx`), and the record, which
has no derivative left, is compiled by TorchInductor.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils._pytree import tree_flatten, tree_leaves, tree_unflatten

from pt_flows.contracts import Terms
from pt_flows.errors import UserError
from pt_flows.training.noise import Draw, drawing


class Costs(Protocol):
    """Counts evaluations of networks, which compiled code does not show."""

    def apart(self) -> AbstractContextManager[dict[str, int]]:
        """Collect the evaluations inside a `with` block, and do not count them."""
        ...

    def add(self, evaluations: Mapping[str, int]) -> None:
        """Count evaluations that were collected apart."""
        ...


class Uncounted:
    """Costs that nobody counts."""

    @contextmanager
    def apart(self) -> Iterator[dict[str, int]]:
        """Collect nothing."""
        yield {}

    def add(self, evaluations: Mapping[str, int]) -> None:
        """Count nothing."""


UNCOUNTED = Uncounted()


class Compiled:
    """A function of tensors alone, compiled for each set of shapes at its first call.

    Arguments and results are tensors in tuples and dicts; other values in them, such as names, are constants. Whatever
    else the function reads must stay as it is, because the record keeps it, except for tensors that change in place.
    So the first call, the second, the fourth, the eighth and so on are computed both ways. If compilation fails, the
    function runs as it is. Every call costs the evaluations of the function as it is, once.

    Args:
        function: The function.
        name: Its name for messages.
        report: Prints a line.
        costs: Counts evaluations of networks.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        name: str,
        report: Callable[[str], None] = print,
        costs: Costs = UNCOUNTED,
    ) -> None:
        self.function, self.name, self.report, self.costs = function, name, report, costs
        self.compiled: dict[Any, Callable[..., Any]] = {}
        self.evaluations: dict[Any, dict[str, int]] = {}
        self.num_calls, self.tolerance = 0, 0.0

    def __call__(self, *arguments: Any) -> Any:
        """Evaluate the function.

        Raises:
            UserError: The function has changed since it was compiled.
        """
        leaves, structure = tree_flatten(arguments)
        inputs = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
        key = tuple((x.shape, x.stride(), x.dtype, x.device) if isinstance(x, Tensor) else x for x in leaves)
        if key not in self.compiled:
            with self.costs.apart() as self.evaluations[key]:
                self.function(*arguments)
        with self.costs.apart():
            if key not in self.compiled:
                self.compiled[key] = self._compile(leaves, structure, inputs)
            found = self.compiled[key](*inputs)
            self.num_calls += 1
            if self.num_calls & (self.num_calls - 1) == 0:
                self._verify(found, self.function(*arguments))
        self.costs.add(self.evaluations[key])
        return found

    def _compile(self, leaves: list[Any], structure: Any, inputs: list[Tensor]) -> Callable[..., Any]:
        began, device = time.monotonic(), inputs[0].device.type
        self.tolerance = 0.1 if torch.is_autocast_enabled(device) else 0.01
        results: list[Any] = []

        def plain(*inputs: Tensor) -> Any:
            given = iter(inputs)
            full = [next(given) if isinstance(leaf, Tensor) else leaf for leaf in leaves]
            return self.function(*tree_unflatten(full, structure))

        def flat(*inputs: Tensor) -> list[Tensor]:
            results[:] = tree_flatten(plain(*inputs))
            return [leaf for leaf in results[0] if isinstance(leaf, Tensor)]

        try:
            compiled = generate(flat, inputs)
            compiled(*inputs)
        except Exception as error:  # a compiler may fail in any way, and training continues without it
            reason = str(error).strip().splitlines() or [type(error).__name__]
            self.report(f"{self.name}: expected to be compiled, got: {reason[0][:200]}. It runs as it is")
            return plain
        self.report(f"compiled: {self.name}, in {time.monotonic() - began:.0f} s")
        kinds, form = [Tensor if isinstance(leaf, Tensor) else leaf for leaf in results[0]], results[1]
        results.clear()

        def run(*inputs: Tensor) -> Any:
            values = iter(compiled(*inputs))
            return tree_unflatten([next(values) if kind is Tensor else kind for kind in kinds], form)

        return run

    def _verify(self, found: Any, expected: Any) -> None:
        """Compare all values at once: single ones, such as a small difference of large means, are lost in rounding."""
        value, wanted = (
            torch.cat([leaf.detach().flatten() for leaf in tree_leaves(values) if isinstance(leaf, Tensor)])
            for values in (found, expected)
        )
        if (value - wanted).norm() > self.tolerance * wanted.norm():
            lost = "expected the values of its compiled form, got others. It depends on something that changes"
            raise UserError(f"{self.name}: {lost}, such as the iteration. Train with --perf fast")


def narrow_product(a: Tensor, b: Tensor) -> Tensor:
    """Return a @ b by its transpose if b has few columns: libraries are several times as fast with few rows."""
    if not b.shape[1] <= 4 < a.shape[0]:
        return NotImplemented
    return (b.t() @ a.t()).t()


def narrow_affine(bias: Tensor, a: Tensor, b: Tensor, *, beta: float = 1, alpha: float = 1) -> Tensor:
    """Return beta * bias + alpha * a @ b if b has few columns."""
    product = narrow_product(a, b)
    return NotImplemented if product is NotImplemented else beta * bias + alpha * product


NARROW_PRODUCTS: dict[Any, Callable[..., Any]] = {
    torch.ops.aten.mm.default: narrow_product,
    torch.ops.aten.addmm.default: narrow_affine,
}


def recorded(function: Callable[..., list[Tensor]], inputs: list[Tensor]) -> nn.Module:
    """Return the record of the operations of a function. Autocast is recorded with them."""
    from torch.fx.experimental.proxy_tensor import make_fx

    return make_fx(function, decomposition_table=NARROW_PRODUCTS)(*inputs)


def generate(function: Callable[..., list[Tensor]], inputs: list[Tensor]) -> Callable[..., Any]:
    """Record the operations of a function, and compile the record."""
    import torch._inductor

    device, graph = inputs[0].device.type, recorded(function, inputs)
    with torch.no_grad(), torch.autocast(device, enabled=False):  # or it would be applied once more
        compiled: Any = torch._inductor.compile(graph, inputs)  # pyright: ignore[reportArgumentType]

    @torch.no_grad()
    def run(*inputs: Tensor) -> Any:
        with torch.autocast(device, enabled=False):
            return compiled(*inputs)

    return run


class CompiledLoss:
    """A loss of networks, compiled with its gradients.

    Random numbers are drawn as the loss draws them, in the same order, and given to the compiled function.

    Args:
        networks: The networks that the loss is differentiated by.
        loss: Maps tensors to terms. It depends on tensors, networks and `NoiseStream` alone.
        key: Name of the term that is the loss.
        name: Its name for messages.
        report: Prints a line.
        costs: Counts evaluations of networks.
    """

    def __init__(
        self,
        networks: Sequence[nn.Module],
        loss: Callable[..., Terms],
        key: str,
        name: str,
        report: Callable[[str], None] = print,
        costs: Costs = UNCOUNTED,
    ) -> None:
        self.loss, self.key, self.evaluation = loss, key, _Evaluation(networks, loss)
        self.parameters = {name: p for name, p in self.evaluation.named_parameters() if p.requires_grad}
        self.draws: list[Draw] | None = None
        self.compiled = Compiled(self.evaluate, name, report, costs)

    def __call__(self, *inputs: Tensor) -> tuple[Terms, list[Tensor]]:
        """The terms, detached, and the gradients of the loss by the trainable parameters, in their order."""
        drawn = self._first(inputs) if self.draws is None else [draw() for draw in self.draws]
        return self.compiled([p.detach() for p in self.parameters.values()], inputs, drawn)

    def gradients(self, gradients: Sequence[Tensor], parameters: Sequence[Tensor]) -> list[Tensor]:
        """The same gradients in the order of other lists of these parameters, such as those of an optimizer."""
        own = {id(p): gradient for p, gradient in zip(self.parameters.values(), gradients, strict=True)}
        return [own[id(p)] for p in parameters]

    def evaluate(
        self, parameters: list[Tensor], inputs: Sequence[Tensor], drawn: list[Tensor]
    ) -> tuple[Terms, list[Tensor]]:
        """Terms and gradients as a function of parameters, inputs and random numbers alone."""
        leaves, rest = [p.detach().requires_grad_() for p in parameters], iter(drawn)
        with torch.enable_grad(), drawing(lambda draw: next(rest)):
            terms: Terms = functional_call(self.evaluation, dict(zip(self.parameters, leaves, strict=True)), inputs)
            with torch.autocast(leaves[0].device.type, enabled=False):
                gradients = torch.autograd.grad(terms[self.key], leaves)
        return {name: value.detach() for name, value in terms.items()}, [g.detach() for g in gradients]

    def _first(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        """Learn which random numbers the loss draws, and return these."""
        drawn: list[Tensor] = []
        self.draws = draws = []

        def record(draw: Draw) -> Tensor:
            draws.append(draw)
            drawn.append(draw())
            return drawn[-1]

        with drawing(record), self.compiled.costs.apart():
            self.loss(*inputs)
        return drawn


class _Evaluation(nn.Module):
    """A loss as a module, so that `functional_call` can put other parameters into the networks that it evaluates."""

    def __init__(self, networks: Sequence[nn.Module], loss: Callable[..., Terms]) -> None:
        super().__init__()
        self.networks, self.loss = nn.ModuleList(networks), loss

    def forward(self, *inputs: Tensor) -> Terms:
        return self.loss(*inputs)
