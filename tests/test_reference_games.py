"""SNGAN and R3GAN against closed forms: hinge and pairing losses, slopes, and the game of two numbers."""

import cmath
import math

import pytest
import torch
from problems import build, data, fit
from torch import Tensor

from pt_flows.contracts import CriticNet, GeneratorNet
from pt_flows.errors import UserError
from pt_flows.functional.objectives import hinge_loss, pairing_loss
from pt_flows.functional.penalties import gradient_norm
from pt_flows.methods import R3GAN, SNGAN
from pt_flows.nets import MLPCritic, MLPGenerator
from pt_flows.training.players import Critic, Generator

# --------------------------------------------------------------------------------------------------------------- SNGAN


def test_hinge_loss_ignores_samples_beyond_the_margin() -> None:
    """Its gradient is -1/B inside the margin and zero outside; it is two where all logits are zero."""
    real, fake = torch.tensor([-1.0, 0.5, 1.5], requires_grad=True), torch.tensor([-3.0, 0.0], requires_grad=True)
    loss = hinge_loss(real, fake)
    assert loss.item() == pytest.approx((2 + 0.5 + 0) / 3 + (0 + 1) / 2)
    left, right = torch.autograd.grad(loss, (real, fake))
    torch.testing.assert_close(left, torch.tensor([-1.0, -1.0, 0.0]) / 3)
    torch.testing.assert_close(right, torch.tensor([0.0, 1.0]) / 2)
    assert float(hinge_loss(torch.zeros(4), torch.zeros(3))) == 2.0


def test_the_slope_of_a_trained_critic_stays_near_one() -> None:
    """Every layer has norm one up to the error of power iterations, and ReLU none above one."""
    module = build("SNGAN", optimizer=lambda p: torch.optim.Adam(p, lr=1e-2, betas=(0.0, 0.9)))
    free = MLPCritic(width=16, depth=2)
    free.net.load_state_dict({key: 5 * value for key, value in free.net.state_dict().items()})
    fit(module, data(), max_steps=100)
    x = 3 * torch.randn(500, 2)
    slope: Tensor = gradient_norm(module.critic.network.eval(), x).detach()
    assert 0.05 < float(slope.max()) < 1.1
    assert gradient_norm(free, x).max().item() > 2


def test_critics_without_spectral_norm_are_refused() -> None:
    critic = MLPCritic(width=8, spectral_norm=True)
    SNGAN(Generator(MLPGenerator(width=8)), Critic(critic))
    critic.net[-1] = torch.nn.Linear(8, 1)
    for lacking, place in ((critic, "net.6"), (MLPCritic(width=8), "net.0")):
        message = (
            rf"^model\.critic\.network: expected spectral norm on all layers, got none at {place}\. Set spectral_norm"
        )
        with pytest.raises(UserError, match=message):
            SNGAN(Generator(MLPGenerator(width=8)), Critic(lacking))


# --------------------------------------------------------------------------------------------------------------- R3GAN


class Linear(CriticNet):
    """D(x) = <w, x> + b."""

    def __init__(self, w: Tensor, b: float = 0.0) -> None:
        super().__init__()
        self.event_shape = tuple(w.shape)
        self.w, self.b = torch.nn.Parameter(w), b

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.w + self.b


class Point(GeneratorNet):
    """G(z) = θ for every latent."""

    def __init__(self, theta: Tensor) -> None:
        super().__init__()
        self.event_shape = self.latent_shape = tuple(theta.shape)
        self.theta = torch.nn.Parameter(theta)

    def forward(self, z: Tensor) -> Tensor:
        return self.theta.expand(len(z), -1)


def game(theta: Tensor, w: Tensor, gamma: float, b: float = 0.0) -> R3GAN:
    return R3GAN(Generator(Point(theta)), Critic(Linear(w, b), steps=1), penalty_weight=gamma)


def test_pairing_loss_is_log_two_at_equal_scores_and_pulls_pairs_apart() -> None:
    a = torch.randn(5, requires_grad=True)
    loss = pairing_loss(a, a.detach())
    (gradient,) = torch.autograd.grad(loss, a)
    assert loss.item() == pytest.approx(math.log(2))
    torch.testing.assert_close(gradient, torch.full((5,), -0.5 / 5))


def test_a_linear_critic_has_its_closed_form() -> None:
    """R1 = R2 = ½‖w‖² everywhere, and a constant of D changes nothing."""
    torch.set_default_dtype(torch.float64)
    w, x, y = torch.tensor([3.0, -4.0]), torch.randn(7, 2), torch.randn(7, 2)
    terms = game(torch.zeros(2), w, gamma=0.3).critic_loss(x, y)
    pairing = torch.log1p((-(x - y) @ w).exp()).mean()
    torch.testing.assert_close(terms["r1"].detach(), torch.tensor(12.5))
    torch.testing.assert_close(terms["r2"].detach(), torch.tensor(12.5))
    torch.testing.assert_close(terms["loss_D"].detach(), pairing + 0.3 * 25)
    for b in (0.0, 17.0):
        moved = game(torch.zeros(2), w, gamma=0.3, b=b)
        torch.testing.assert_close(moved.critic_loss(x, y)["loss_D"], terms["loss_D"])
        torch.testing.assert_close(moved.generator_loss(x, y).detach(), torch.log1p(((x - y) @ w).exp()).mean())


@pytest.mark.parametrize("gamma", [0.0, 0.1, 0.5, 1.0])
def test_penalties_make_the_game_of_two_numbers_converge(gamma: float) -> None:
    """Data at 0, G(z) = θ, D(x) = w x: the flow's eigenvalues at 0 are -γ ± √(γ² - ¼), a circle without penalties."""
    torch.set_default_dtype(torch.float64)

    def field(point: Tensor) -> Tensor:
        method = game(point[:1].clone(), point[1:].clone(), gamma)
        x, G, D = torch.zeros(4, 1), method.generator.network, method.critic.network
        y = G(torch.zeros(4, 1))
        theta, w = [*G.parameters()], [*D.parameters()]
        down_w = torch.autograd.grad(method.critic_loss(x, y.detach())["loss_D"], w)
        return -torch.cat([*torch.autograd.grad(method.generator_loss(x, y), theta), *down_w])

    h = 1e-5
    jacobian = torch.stack([(field(h * e) - field(-h * e)) / (2 * h) for e in torch.eye(2)], 1)
    found = torch.linalg.eigvals(jacobian)
    root = cmath.sqrt(gamma**2 - 0.25)
    wanted = torch.tensor([-gamma + root, -gamma - root])
    order = lambda values: sorted(values.tolist(), key=lambda v: (round(v.real, 5), round(v.imag, 5)))
    for a, b in zip(order(found), order(wanted), strict=True):
        assert abs(a - b) < 1e-3  # at γ = ½ both coincide, where roots amplify rounding
