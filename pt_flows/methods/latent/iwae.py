r"""IWAE: an autoencoder whose bound of the likelihood weighs K samples of every latent by their importance.

    model   z ~ p(z) = N(0, I),  x ~ p_θ(x|z)                  the decoder θ
    z_k     = μ_φ(x) + σ_φ(x) ξ_k,  ξ_k ~ N(0, I)              the encoder φ: z_k ~ q_φ(z|x), k = 1 ... K
    w_k     = p_θ(x|z_k) p(z_k) / q_φ(z_k|x)
    L_K(x)  = E log (1/K) Σ_k w_k  ≤  log p_θ(x)               tighter with every K, equal as K → ∞
    step    θ, φ ← one optimizer step on  -(1/m) Σ_i L_K(x_i)  with reparameterised gradients

Burda, Grosse, Salakhutdinov 2016, Importance Weighted Autoencoders, arXiv:1509.00519. K = 1 is the variational
autoencoder of Kingma and Welling 2014, Auto-Encoding Variational Bayes, arXiv:1312.6114.

Departures: z has one stochastic layer. The divergence of q from the prior is sampled, for K = 1 too. The optimizers,
the learning rates and their schedules are those of the players, and weights are averaged. Samples are means of
p_θ(x|z) unless `denoise` is false.
"""

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor
from torch.distributions import Normal

from pt_flows.bounds import Count
from pt_flows.contracts import Batch, DecoderNet, EncoderNet, Terms, Weights
from pt_flows.errors import UserError
from pt_flows.functional.importance import effective_size, importance_bound
from pt_flows.loop.method import Method
from pt_flows.training.noise import given_or_new, row_noise
from pt_flows.training.player import descend
from pt_flows.training.players import Encoder, Generator, check_codes, check_unconditional

ROWS = 10_000
"""Latents that the decoder maps at once when a bound is measured."""


class IWAE(Method):
    """Importance-weighted autoencoder; with one importance sample a variational autoencoder.

    Args:
        generator: The decoder θ, whose network has a likelihood p(x|z), such as MLPDecoder.
        encoder: The encoder φ.
        num_importance_samples: K.
        denoise: Whether samples are means of p(x|z), which form a smooth image of the latents. If false, they are
            draws from p(x|z), as the model has them.
    """

    differentiated_once = ("generator", "encoder")

    def __init__(
        self, generator: Generator, encoder: Encoder, num_importance_samples: Count = 1, denoise: bool = True
    ) -> None:
        super().__init__()
        check_decoder(generator)
        check_codes(encoder, generator)
        check_unconditional(type(self).__name__, [generator])
        check_same_averages(generator, encoder)
        self.generator, self.encoder = generator, encoder
        self.num_importance_samples, self.denoise = num_importance_samples, denoise
        self._is_checked = False

    def iterate(self, minibatches: Sequence[Batch]) -> Terms:
        """Take one step of both players up the bound."""
        ((x, _),) = minibatches
        self.check_support(x)

        xi = self.noise.normal(len(x), self.num_importance_samples, *self.encoder.network.latent_shape)
        log_p, log_ratio = self.log_weights(x, xi, self.decoder, self.encoder.network)
        log_w = log_p + log_ratio
        bound = importance_bound(log_w).mean()
        descend([self.generator, self.encoder], -bound)

        terms = {"bound": bound, "reconstruction": log_p.mean(), "divergence": -log_ratio.mean()}
        terms["effective_size"] = effective_size(log_w).mean()
        return {name: value.detach() for name, value in terms.items()}

    def log_weights(self, x: Tensor, xi: Tensor, decoder: DecoderNet, encoder: EncoderNet) -> tuple[Tensor, Tensor]:
        """Logarithms of p(x|z_k) and of p(z_k) / q(z_k|x), each (B, K), in the precision of x.

        Args:
            x: Data (B, *event).
            xi: Standard normal noise ξ (B, K, *latent_shape).
            decoder: The network of θ.
            encoder: The network of φ.
        """
        num, K = xi.shape[:2]
        mean, std = encoder(x)[:, None].unbind(2)
        z = mean + std * xi
        log_prior = Normal(0.0, decoder.latent_std, validate_args=False).log_prob(z).flatten(2).sum(2)
        log_q = Normal(mean, std, validate_args=False).log_prob(z).flatten(2).sum(2)
        log_p = decoder(z.flatten(0, 1), x.repeat_interleave(K, 0)).view(num, K)
        return log_p, log_prior - log_q

    @property
    def decoder(self) -> DecoderNet:
        """The network of θ."""
        return cast(DecoderNet, self.generator.network)

    # ------------------------------------------------------------------------------------------- what others ask for

    @torch.no_grad()
    def likelihood_bound(
        self, x: Tensor, num_importance_samples: int, rng: torch.Generator, weights: Weights = "ema"
    ) -> Tensor:
        """Estimates (B,) of L_K(x) in nats, without gradients.

        Args:
            x: Data (B, *event) on the method's device.
            num_importance_samples: K, any number.
            rng: Source of randomness, on the method's device.
            weights: The averaged weights, or the raw ones.
        """
        bounds = []
        with self.generator.fixed(weights) as decoder, self.encoder.fixed(weights) as encoder:
            for part in x.split(max(1, ROWS // num_importance_samples)):
                shape = (num_importance_samples, len(part), *encoder.latent_shape)
                xi = torch.randn(shape, generator=rng, device=rng.device).to(x).transpose(0, 1)
                pieces = xi.split(max(1, ROWS // len(part)), 1)
                pairs = [self.log_weights(part, piece, cast(DecoderNet, decoder), encoder) for piece in pieces]
                bounds.append(importance_bound(torch.cat([log_p + log_ratio for log_p, log_ratio in pairs], 1)))
        return torch.cat(bounds)

    def encode(self, x: Tensor, weights: Weights = "ema") -> Tensor:
        """Means (B, *latent_shape) of q(z|x)."""
        return self.encoder.encode(x, weights)

    @torch.no_grad()
    def sample(
        self, num: int, y: Tensor | None = None, rng: torch.Generator | None = None, weights: Weights = "ema"
    ) -> Tensor:
        """Draw z from the prior, and x as the mean of p(x|z) or from it."""
        rng = given_or_new(rng, self.device)
        if self.denoise:
            return self.generator.sample(num, y, rng, weights)
        decoder, pieces = cast(DecoderNet, self.generator.weighted(weights)), []
        for z, _ in self.generator.blocks(num, y, rng):
            mean = self.generator.push(z, weights)
            pieces.append(decoder.draw(mean, row_noise(rng, mean.device).normal(*mean.shape)))
        return torch.cat(pieces)

    def setup(self, stage: str) -> None:
        """Reject data with a source, because latents are noise."""
        super().setup(stage)
        if self.generator.moves_data:
            raise UserError(f"data.source: expected none, as latents of {type(self).__name__} are noise, got one")

    def check_support(self, x: Tensor) -> None:
        """Check once in a run that p(x|z) is defined at the data.

        Raises:
            UserError: It is not.
        """
        if self._is_checked:
            return
        self._is_checked, outside = True, x[~self.decoder.supports(x)]
        if len(outside):
            wanted = "expected values at which p(x|z) of the decoder is defined, -1 and 1 for a bernoulli likelihood"
            advice = "Set data.binarise (MNIST), or likelihood: gaussian"
            raise UserError(f"data: {wanted}, got {float(outside[0]):.3g}. {advice}")


def check_decoder(generator: Generator) -> None:
    """Check that a generator has a likelihood.

    Raises:
        UserError: It has none.
    """
    if not isinstance(generator.network, DecoderNet):
        wanted, got = "a decoder with a likelihood, such as MLPDecoder", type(generator.network).__name__
        raise UserError(f"model.generator.network: expected {wanted}, got {got}. Use another network")


def check_same_averages(generator: Generator, encoder: Encoder) -> None:
    """Check that both players or none keep an average of their weights, because a bound needs both.

    Raises:
        UserError: One keeps an average.
    """
    further = [[average.decay for average in player.averages[1:]] for player in (generator, encoder)]
    if (generator.ema is None) != (encoder.ema is None) or further[0] != further[1]:
        wanted = "an average of weights like that of model.generator"
        got = f"ema_decay {encoder.ema_decay} beside {generator.ema_decay}"
        raise UserError(f"model.encoder.ema_decay: expected {wanted}, got {got}. Set both alike, or none")
