r"""Block updates of an augmented Lagrangian of a recurrent network that is unfolded in time.

With a_t = U x_t + W s_{t-1} + b, s_t = tanh a_t, o_t = V s_t + c as constraints on variables a, s, o, and residuals

    r1_t = a_t - U x_t - W s_{t-1} - b,    r2_t = s_t - tanh a_t,    r3_t = o_t - V s_t - c,

    L = Σ_t R(o_t) + μ/2 Σ_{t<T} (‖r1_t‖² + ‖r2_t‖² + ‖r3_t‖²) + ρ/2 Σ_k ‖r_k,T - λ_k / ρ‖²

is a sum over samples. R is the cross-entropy, at every step or at the last one; r3 exists where R does. Only the last
step has multipliers. No update increases L (with the proximal term of its block). Tang et al. 2020, ADMMiRNN,
arXiv:2006.05622. The updates are derived here; those of the released code have other signs and vanish.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, one_hot


@dataclass
class Weights:
    """Weights of the network: U (H, F), W (H, H), b (H,), V (C, H), c (C,)."""

    U: Tensor
    W: Tensor
    b: Tensor
    V: Tensor
    c: Tensor


@dataclass
class Variables:
    """Variables of samples: a and s (B, T, H), o (B, K, C) at the last K steps, and multipliers of the last step.

    lambda1 and lambda2 are (B, H), lambda3 is (B, C).
    """

    a: Tensor
    s: Tensor
    o: Tensor
    lambda1: Tensor
    lambda2: Tensor
    lambda3: Tensor


class Unfolded:
    """The augmented Lagrangian at given data, weights and variables, which the updates change in place.

    Args:
        x: Sequences (B, T, F).
        y: Labels (B,) of the last step, or (B, T) of every step.
        theta: The weights.
        v: The variables.
        mu: μ.
        rho: ρ.
        prox: Weight of ‖θ - θ_old‖² / 2 per sample in the updates of the network's weights.
    """

    def __init__(self, x: Tensor, y: Tensor, theta: Weights, v: Variables, mu: float, rho: float, prox: float) -> None:
        self.x, self.theta, self.v = x, theta, v
        self.targets = one_hot(y if y.dim() > 1 else y[:, None], theta.c.numel()).to(x.dtype)
        self.rho, self.prox = rho, prox
        self.w = x.new_full((x.shape[1], 1), mu)
        self.w[-1] = rho
        self.num_outputs = self.targets.shape[1]

    # ---------------------------------------------------------------------------------------- residuals and the value

    def before(self, s: Tensor) -> Tensor:
        """s_{t-1} at every step (B, T, H), zero at first."""
        return torch.cat([torch.zeros_like(s[:, :1]), s[:, :-1]], 1)

    def residuals(self) -> tuple[Tensor, Tensor, Tensor]:
        """r1, r2 (B, T, H) and r3 (B, K, C)."""
        v, p = self.v, self.theta
        r1 = v.a - self.x @ p.U.T - self.before(v.s) @ p.W.T - p.b
        return r1, v.s - v.a.tanh(), v.o - v.s[:, -self.num_outputs :] @ p.V.T - p.c

    def shifts(self) -> tuple[Tensor, Tensor, Tensor]:
        """λ_k / ρ at the last step, and zero before."""
        v = self.v
        found = []
        for like, multiplier in ((v.a, v.lambda1), (v.s, v.lambda2), (v.o, v.lambda3)):
            shift = torch.zeros_like(like)
            shift[:, -1] = multiplier / self.rho
            found.append(shift)
        return found[0], found[1], found[2]

    def cross_entropies(self) -> Tensor:
        """R(o_t) of every sample and step, (B, K), in nats."""
        return -(self.targets * self.v.o.log_softmax(-1)).sum(-1)

    def value(self) -> Tensor:
        """L, summed over samples."""
        parts = zip(self.residuals(), self.shifts(), strict=True)
        total = self.cross_entropies().sum()
        for r, shift in parts:
            total = total + 0.5 * (self.w[-r.shape[1] :] * (r - shift).square()).sum()
        return total

    # -------------------------------------------------------------------------------------------------- block updates

    def update_o(self, num_steps: int = 20) -> None:
        """Minimise by o: steps of length 1 / (w + 1/2), as 1/2 bounds the curvature of the cross-entropy."""
        v, p, w = self.v, self.theta, self.w[-self.num_outputs :]
        target = v.s[:, -self.num_outputs :] @ p.V.T + p.c + self.shifts()[2]
        for _ in range(num_steps):
            v.o = v.o - (v.o.softmax(-1) - self.targets + w * (v.o - target)) / (w + 0.5)

    def update_output(self) -> None:
        """Minimise by V and c: least squares with a proximal term."""
        v, p = self.v, self.theta
        s = v.s[:, -self.num_outputs :]
        error = self.residuals()[2] - self.shifts()[2]
        p.V, p.c = self.solved([s], error, [p.V], p.c)

    def update_input(self) -> None:
        """Minimise by U, W and b: least squares with a proximal term."""
        p = self.theta
        error = self.residuals()[0] - self.shifts()[0]
        p.U, p.W, p.b = self.solved([self.x, self.before(self.v.s)], error, [p.U, p.W], p.b)

    def solved(self, inputs: list[Tensor], error: Tensor, old: list[Tensor], bias: Tensor) -> tuple[Tensor, ...]:
        """Old weights and bias, moved by the weighted least squares of an error (B, K, M) on inputs and one."""
        w = self.w[-error.shape[1] :]
        phi = torch.cat([*inputs, torch.ones_like(error[..., :1])], -1)
        left, right = (w * phi).flatten(0, 1), phi.flatten(0, 1)
        gram = left.T @ right + self.prox * len(phi) * torch.eye(phi.shape[-1], dtype=phi.dtype, device=phi.device)
        step = torch.linalg.solve(gram, left.T @ error.flatten(0, 1)).T
        parts = step.split([part.shape[-1] for part in inputs] + [1], 1)
        return (*(o + d for o, d in zip(old, parts[:-1], strict=True)), bias + parts[-1].squeeze(1))

    def update_s(self, t: slice = slice(None)) -> None:
        """Minimise by s at some steps, whose values do not depend on each other: linear systems."""
        v, p, T = self.v, self.theta, self.x.shape[1]
        q, o_shift = v.a.tanh() + self.shifts()[1], v.o - p.c - self.shifts()[2]
        ahead = v.a - self.shifts()[0] - self.x @ p.U.T - p.b  # what W s_{t-1} should be
        eye = torch.eye(p.W.shape[0], dtype=p.W.dtype, device=p.W.device)
        s = v.s.clone()
        for i in range(T)[t]:
            hessian, rhs = self.w[i] * eye, self.w[i] * q[:, i]
            if (k := i - T + self.num_outputs) >= 0:
                hessian, rhs = hessian + self.w[i] * p.V.T @ p.V, rhs + self.w[i] * o_shift[:, k] @ p.V
            if i + 1 < T:
                hessian, rhs = hessian + self.w[i + 1] * p.W.T @ p.W, rhs + self.w[i + 1] * ahead[:, i + 1] @ p.W
            s[:, i] = torch.linalg.solve(hessian, rhs.T).T
        v.s = s

    def update_a(self, t: slice = slice(None)) -> None:
        """Take a step down L by a at some steps, whose length a bound of the curvature gives.

        |d²/da² (q - tanh a)² / 2| ≤ 1 + 0.77 |q - tanh a|, and the other term has the curvature one.
        """
        v, p = self.v, self.theta
        z = (self.x @ p.U.T + self.before(v.s) @ p.W.T + p.b + self.shifts()[0])[:, t]
        a, f = v.a[:, t], v.a[:, t].tanh()
        gap = v.s[:, t] - self.shifts()[1][:, t] - f
        new = v.a.clone()
        new[:, t] = a - (a - z - (1 - f.square()) * gap) / (2 + 0.77 * gap.abs())
        v.a = new

    def update_multipliers(self) -> None:
        """λ_k ← λ_k - ρ r_k at the last step."""
        v = self.v
        r1, r2, r3 = self.residuals()
        v.lambda1, v.lambda2 = v.lambda1 - self.rho * r1[:, -1], v.lambda2 - self.rho * r2[:, -1]
        v.lambda3 = v.lambda3 - self.rho * r3[:, -1]

    # --------------------------------------------------------------------------------------------------------- sweeps

    def backward(self, reverse_time: bool = False) -> list[Callable[[], None]]:
        """The blocks from the outputs to the inputs: all s, then all a, or pairs of them from the last step on."""
        T = self.x.shape[1]
        inner: list[Callable[[], None]] = [self.update_s, self.update_a]
        if reverse_time:
            steps = [slice(t, t + 1) for t in reversed(range(T))]
            inner = [f for t in steps for f in (lambda t=t: self.update_s(t), lambda t=t: self.update_a(t))]
        return [self.update_o, self.update_output, *inner, self.update_input]

    def forward(self) -> list[Callable[[], None]]:
        """The blocks from the inputs to the outputs, after those of `backward`, which ends with the inputs."""
        return [self.update_a, self.update_s, self.update_output, self.update_o]


def unfolded(x: Tensor, theta: Weights, num_outputs: int) -> Variables:
    """The variables of a forward pass, at which all residuals are zero, with zero multipliers.

    Args:
        x: Sequences (B, T, F).
        theta: The weights.
        num_outputs: K, one or T.
    """
    s, a = x.new_zeros(len(x), theta.W.shape[0]), []
    for drive in (x @ theta.U.T + theta.b).unbind(1):
        a.append(drive + s @ theta.W.T)
        s = a[-1].tanh()
    stacked = torch.stack(a, 1)
    o = stacked.tanh()[:, -num_outputs:] @ theta.V.T + theta.c
    zeros = torch.zeros_like(s)
    return Variables(stacked, stacked.tanh(), o, zeros, zeros.clone(), torch.zeros_like(o[:, -1]))


def mean_cross_entropy(o: Tensor, y: Tensor) -> Tensor:
    """The mean cross-entropy of logits (B, K, C) and labels (B,) or (B, K), in nats."""
    return cross_entropy(o.flatten(0, 1), y.flatten())
