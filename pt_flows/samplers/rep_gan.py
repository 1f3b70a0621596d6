r"""REP-GAN: Markov chains in latent space that a trained critic corrects.

    s(x) = a f(x) + b               log-odds of real against generated: a, b by logistic regression on scores f
    π(u) ∝ N(u; 0, I) e^{s(G(u))}   if s is the log ratio of densities, G maps π to the data, for any G
    u ~ N(0, I), then num_steps times:
        u' = u + (τ/2) ∇[s(G(u)) - ½‖u‖²] + η ξ,   ξ ~ N(0, I)
        log α = s(G(u')) - s(G(u)) + ½‖u‖² - ½‖u'‖² + ½‖ξ‖² - ½‖ξ'‖²,   ξ' the noise that would lead back
        u ← u' with probability min(1, α)
    x = G(u)

u is the latent in units of its standard deviation. Wang, Wang, Yang, Lin 2021, Reparameterized Sampling for Generative
Adversarial Networks, arXiv:2107.00352. Independent proposals u' ~ N(0, I) make it MH-GAN (Turner et al. 2019,
arXiv:1811.11357), and no test makes it DDLS (Che et al. 2020, arXiv:2003.06060).

Departures: written from the authors' released code and the abstract; the experiments of the paper were not available.
The released code leaves batch norm in training mode, so that a score depends on the other chains and the test is not
valid; here networks are in evaluation mode. It fits a, b by gradient descent on training images; here Newton's method
fits them on real samples that training did not see. Chains start at prior draws, as there: short ones are biased
towards the generator's own distribution (the code of MH-GAN starts from real samples instead).
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor

from pt_flows.bounds import Count, Positive
from pt_flows.contracts import Weights
from pt_flows.errors import UserError, warn
from pt_flows.functional.calibration import Calibration, calibrate
from pt_flows.functional.langevin import chain_at, independent_step, mala_step, ula_step
from pt_flows.samplers.blocks import InBlocks
from pt_flows.samplers.critics import check_critic, critic_weights
from pt_flows.training.noise import BLOCK, RowNoise, generator_at, row_noise

Proposal = Literal["langevin", "independent"]
FEWEST = 10
"""Fewest real samples of a calibration."""
WEAK, STEEP = 0.1, 5.0
"""Spreads of the log-odds below and above which the calibrator is suspicious."""
State = tuple[Tensor, Tensor]
"""The latents of chains in the network's units (B, *latent_shape), and the last step's probabilities of acceptance."""


class REPGAN(InBlocks):
    """Ends of latent chains with the Metropolis-Hastings test of REP-GAN; by its options also MH-GAN and DDLS.

    It needs a generator from Gaussian latents and a critic, each sample of which gets one score. Sample i starts at the
    latent of sample i of `Direct`. Chains over a class-conditional generator keep their labels. A critic without an
    average of its weights is used with its raw ones.

    The calibrator sees `data.held_out`: the first images of the test split in a fixed order, or fixed fresh draws of a
    toy, which neither training nor an evaluation uses. Images are by default evaluated against the training split; an
    evaluation with `--split test` shares its real images with the calibrator.

    Args:
        num_steps: Length of the chains. Each step evaluates generator and critic once, with their gradients in the
            latent unless proposals are independent.
        step_size: τ, the squared step in units of the latents' standard deviation.
        noise_std: η, of the noise of a Langevin proposal; None for √τ. Others keep the test exact but mix less well.
        proposal: "langevin", or "independent" draws of latents (MH-GAN), which need no gradients and move far.
        metropolis: Whether proposals are tested; otherwise all are accepted (DDLS), which is biased.
        calibrate: Whether scores are calibrated. Without, the critic must give logits.
        num_calibration: Real samples of the calibration, at most as many as there are, and generated ones.
    """

    def __init__(
        self,
        num_steps: Count = 640,
        step_size: Positive = 0.01,
        noise_std: Positive | None = None,
        proposal: Proposal = "langevin",
        metropolis: bool = True,
        calibrate: bool = True,
        num_calibration: Count = 5_000,
    ) -> None:
        if proposal == "independent" and not metropolis:
            lost = "expected true, as untested independent proposals are the generator's own samples, got false"
            raise UserError(f"REPGAN.metropolis: {lost}. Use Direct for those")
        self.num_steps, self.step_size, self.noise_std = num_steps, step_size, noise_std
        self.independent, self.metropolis = proposal == "independent", metropolis
        self.needs_data, self.num_calibration = calibrate, num_calibration
        self.odds = Calibration(1.0, 0.0, 1.0)
        self._is_warned = False

    def check(self, method: Any) -> None:
        """Check that the method has a generator from noise, and a critic."""
        check_critic("REPGAN", method)
        if method.generator.moves_data and not self.independent:
            wanted = "expected a generator from normal noise for Langevin proposals of REPGAN"
            got = f"got {type(method).__name__} that moves data"
            raise UserError(f"sampler: {wanted}, {got}. Set proposal to independent")

    def prepare(self, method: Any, weights: Weights, data: Any = None) -> None:
        """Check the method, and calibrate its critic on real samples that training did not use."""
        super().prepare(method, weights, data)
        method.generator.weighted(weights)
        self.scoring = critic_weights(method, weights)
        self.accepted = torch.zeros((), dtype=torch.float64, device=method.device)
        self.resting, self.num_chains = torch.zeros_like(self.accepted), 0
        if self.needs_data:
            self.odds = self.calibrated(data)

    def diagnostics(self) -> dict[str, float]:
        """Mean acceptance, the fraction of chains that never moved, and the calibrator's slope."""
        num = max(self.num_chains, 1)
        found = {"acceptance": float(self.accepted) / num, "never_moved": float(self.resting) / num}
        return found | ({"calibrator_slope": self.odds.slope} if self.needs_data else {})

    # -------------------------------------------------------------------------------------------------------- chains

    @contextmanager
    def potential(self, y: Tensor | None) -> Iterator[Callable[[Tensor], Tensor]]:
        """Minus the log-odds -s(G(z)) of latents, in evaluation mode, inside a `with` block."""
        labels = () if y is None else (y,)
        with self.method.generator.fixed(self.weights) as G, self.method.critic.fixed(self.scoring) as D:
            yield lambda z: -self.odds(D(G(z, *labels), *labels))

    def block(self, num: int, y: Tensor | None, rng: torch.Generator) -> Iterator[tuple[float, Tensor]]:
        """Run chains from latents of the prior, and map their ends."""
        start, y = self.method.generator.inputs(num, y, rng)
        noise, moved = row_noise(rng, start.device), torch.zeros(num, dtype=torch.bool, device=start.device)
        z, total = start, torch.zeros(num, dtype=torch.float64, device=start.device)
        chains = self.independent_chains if self.independent else self.langevin_chains
        for step, (new, acceptance) in enumerate(chains(start, y, noise), 1):
            moved |= (new != z).flatten(1).any(1)
            z, total = new, total + acceptance
            if step % 10 == 0:
                yield step / (self.num_steps + 1), start.new_empty(0, *self.method.generator.event_shape)
        if lost := int((~z.isfinite().flatten(1).all(1)).sum()):
            raise UserError(f"REPGAN.step_size: expected chains that stay finite, got {lost} of {num} others. Lower it")
        self.accepted += total.sum() / self.num_steps
        self.resting += (~moved).sum()
        self.num_chains += num
        yield 1.0, self.method.generator.push(z, self.weights, y)

    def langevin_chains(self, z: Tensor, y: Tensor | None, noise: RowNoise) -> Iterator[State]:
        """Move latents by Langevin proposals, tested or not."""
        scale, step = self.method.generator.latent_std, mala_step if self.metropolis else ula_step
        with self.potential(y) as minus_s:
            energy = lambda u: 0.5 * u.flatten(1).square().sum(1) + minus_s(scale * u)
            chain = chain_at(energy, z / scale)
            for _ in range(self.num_steps):
                chain, acceptance = step(energy, chain, self.step_size**0.5, noise, noise_std=self.noise_std)
                yield scale * chain.x, acceptance

    @torch.no_grad()
    def independent_chains(self, z: Tensor, y: Tensor | None, noise: RowNoise) -> Iterator[State]:
        """Replace latents by fresh ones, tested by the ratio of their odds."""
        with self.potential(y) as minus_s:
            value = minus_s(z)
            for _ in range(self.num_steps):
                proposed, _ = self.method.generator.inputs(len(z), y, noise)
                z, value, acceptance = independent_step(minus_s, z, value, proposed, noise)
                yield z, acceptance

    # --------------------------------------------------------------------------------------------------- calibration

    @torch.no_grad()
    def calibrated(self, data: Any) -> Calibration:
        """Fit the log-odds to scores of real samples that training did not use, and of generated ones."""
        name = type(self.method).__name__
        if data is None:
            lost = f"expected the data of {name}, whose real samples calibrate its critic, got none"
            raise UserError(f"sampler: {lost}. Give them, or set calibrate to false")
        x, y = data.held_out(self.num_calibration)
        if len(x) < FEWEST:
            raise UserError(f"sampler: expected {FEWEST} real samples that calibrate REPGAN, got {len(x)}. Add some")
        real = self.scored(zip(x.split(BLOCK), y.split(BLOCK), strict=True))
        generated = self.scored(self.generated())
        scores, wanted = torch.cat([real, generated]), f"sampler: expected scores of {name}'s critic that"
        if not bool(scores.isfinite().all()):
            raise UserError(f"{wanted} are finite, got others, so it has diverged. Train it anew with a lower rate")
        if float(scores.std()) <= 1e-6 * float(scores.abs().max()):
            raise UserError(f"{wanted} differ, got {float(scores[0]):.4g} for all samples. Train it further")
        odds = calibrate(real, generated)
        self.warn(odds)
        return odds

    def scored(self, batches: Iterable[tuple[Tensor, Tensor | None]]) -> Tensor:
        """Raw scores (num,) of samples with their labels."""
        with self.method.critic.fixed(self.scoring) as D, torch.autocast(self.method.device.type, enabled=False):
            where = next(D.parameters())
            labels = lambda y: (y.to(where.device),) if self.method.critic.num_classes else ()
            return torch.cat([D(x.to(where), *labels(y)) for x, y in batches]).double()

    def generated(self) -> Iterator[tuple[Tensor, Tensor | None]]:
        """Generated samples from fixed noise, with their labels."""
        G, rng = self.method.generator, generator_at("cpu", "calibration")
        for z, y in G.blocks(self.num_calibration, None, rng):
            yield G.push(z, self.weights, y), y

    def warn(self, odds: Calibration) -> None:
        """Warn once if the log-odds hardly vary over the scores, fall with them, or nearly separate the two sides."""
        if WEAK <= odds.spread <= STEEP or self._is_warned:
            return
        self._is_warned = True
        found = f"log-odds change by {odds.spread:.3g} per standard deviation of the scores"
        if odds.spread > STEEP:
            means = "it tells real from generated samples almost surely, so chains freeze where its odds are best"
        elif odds.spread < -WEAK:
            means = "it is higher on generated samples than on real ones"
        else:
            means = "it hardly tells real from generated samples, so chains draw what the generator draws"
        warn(f"REPGAN: the critic's {found} (slope {odds.slope:.3g}): {means}. Train the critic further")
