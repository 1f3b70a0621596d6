r"""SimVAE: an approximate inverse of a simulator, through a decoder that imitates it.

    z ~ p(z),  x = S(z)                                     the simulator S, which is never differentiated
    stage one   min_φ  E D[ x, G_φ(z) ]                     the decoder φ learns the simulator by regression
    stage two   min_θ  E D[ x, G_φ(z̄) ],  φ frozen          the encoder θ inverts it without seeing z:
                z̄ = μ_θ(x) + σ_θ(x) ε,  ε ~ N(0, I)

Srivastava, Rosenberg, Gutfreund, Cox 2019, SimVAE: Simulator-Assisted Training for Interpretable Generative Models,
arXiv:1911.08051. Stage two has no term of a prior, so σ_θ shrinks and is no posterior. If several z give one x, the
encoder finds one of them, while the baseline of that paper, the regression min_θ E ‖z - μ_θ(S(z))‖², finds their mean.

Departures: latents are normal and become parameters by the prior of the data (`Simulated`), so that every finite latent
is a parameter of the prior. Means lie in (-b, b), where the decoder was trained. Learning rates decay over each stage,
and weights are averaged.
"""

from collections.abc import Sequence
from typing import Any, ClassVar, Literal, cast

from torch import Tensor, nn

from pt_flows.bounds import Count, Positive
from pt_flows.contracts import Batch, DecoderNet, Terms, Weights
from pt_flows.errors import UserError
from pt_flows.loop.method import Method
from pt_flows.training.players import Encoder, Generator, check_codes, check_unconditional
from pt_flows.training.schedules import Progress

Discrepancy = Literal["squared", "likelihood"]


class SimVAE(Method):
    """Decoder of a simulator, then an encoder through the frozen decoder.

    Args:
        generator: The decoder G.
        encoder: The encoder μ, σ.
        decoder_iterations: Length of stage one. Stage two lasts until trainer.max_steps.
        discrepancy: D, "squared" for the mean square, or "likelihood" for -log p(x|z) per value of a network that has
            one, such as a bernoulli ConvDecoder for images.
        encoder_target: "observation" for stage two as above, or "latent" for the regression of z.
        latent_noise: Whether z̄ has noise; if not, z̄ = μ.
        latent_bound: b.
    """

    takes_latents: ClassVar[bool] = True
    differentiated_once = ("generator", "encoder")

    def __init__(
        self,
        generator: Generator,
        encoder: Encoder,
        decoder_iterations: Count = 2_000,
        discrepancy: Discrepancy = "squared",
        encoder_target: Literal["observation", "latent"] = "observation",
        latent_noise: bool = True,
        latent_bound: Positive = 4.0,
    ) -> None:
        super().__init__()
        check_codes(encoder, generator)
        check_unconditional(type(self).__name__, [generator])
        check_discrepancy(discrepancy, generator)
        self.generator, self.encoder = generator, encoder
        self.decoder_iterations, self.discrepancy = decoder_iterations, discrepancy
        self.encoder_target, self.latent_noise, self.latent_bound = encoder_target, latent_noise, latent_bound

    def iterate(self, minibatches: Sequence[Batch]) -> Terms:
        """Take one step of the decoder, or of the encoder."""
        x, _, z = cast(tuple[Tensor, Tensor, Tensor], minibatches[0])
        if self.age < self.decoder_iterations:
            return self.fit_decoder(x, z)
        return self.fit_encoder(x, z)

    def fit_decoder(self, x: Tensor, z: Tensor) -> Terms:
        """Take a step of stage one."""
        self.generator.begin(Progress(self.age, self.decoder_iterations))
        loss_G = self.distance(x, z, self.generator.network)
        self.generator.step(loss_G)
        return {"loss_G": loss_G.detach()}

    def fit_encoder(self, x: Tensor, z: Tensor) -> Terms:
        """Take a step of stage two, in which nothing but the encoder moves."""
        done, total = self.age - self.decoder_iterations, self.progress.total - self.decoder_iterations
        self.encoder.begin(Progress(done, total))
        mean, std = self.encoder(x).unbind(1)
        mean = self.bounded(mean)
        if self.encoder_target == "latent":
            loss_E = (mean - z).square().mean()
        else:
            z_bar = mean + std * self.noise.normal(*mean.shape) if self.latent_noise else mean
            with self.generator.fixed("raw") as G:
                loss_E = self.distance(x, z_bar, G)
        self.encoder.step(loss_E)
        return {"loss_E": loss_E.detach(), "latent_std": std.mean().detach()}

    def distance(self, x: Tensor, z: Tensor, G: nn.Module) -> Tensor:
        """Return D[x, G(z)], a mean over samples and values."""
        if self.discrepancy == "likelihood":
            return -G(z, x).mean() / x[0].numel()
        return (G(z) - x).square().mean()

    def bounded(self, mean: Tensor) -> Tensor:
        """Return means in (-b, b); small ones hardly change."""
        return self.latent_bound * (mean / self.latent_bound).tanh()

    # ------------------------------------------------------------------------------------------- what others ask for

    def encode(self, x: Tensor, weights: Weights = "ema") -> Tensor:
        """Means (B, *latent_shape) at observations (B, *event): the latents of the inferred parameters."""
        return self.bounded(self.encoder.encode(x, weights))

    def setup(self, stage: str) -> None:
        """Check that the data are those of a simulator with as many parameters, and say what a short run trains.

        Raises:
            UserError: They are not.
        """
        super().setup(stage)
        data: Any = getattr(self.trainer, "datamodule", None)
        wanted, got = tuple(self.encoder.network.latent_shape), getattr(data, "latent_shape", None)
        if data is not None and got is None:
            kind = "data of a simulator, whose minibatches have latents, such as Simulated"
            raise UserError(f"data: expected {kind}, got {type(data).__name__}. Use other data")
        if got is not None and got != wanted:
            raise UserError(
                f"model.generator.network: expected latents of shape {got}, one for every parameter of the simulator, "
                f"got {wanted}. Set latent_dim of both networks"
            )
        if stage == "fit" and 0 < self.trainer.max_steps <= self.decoder_iterations:
            self.print(
                f"note: this run trains the decoder alone, because it ends at iteration {self.trainer.max_steps} and "
                f"the encoder starts after iteration {self.decoder_iterations} (model.decoder_iterations)"
            )


def check_discrepancy(discrepancy: Discrepancy, generator: Generator) -> None:
    """Check that a generator has a likelihood if it is needed.

    Raises:
        UserError: It has none.
    """
    if discrepancy == "likelihood" and not isinstance(generator.network, DecoderNet):
        wanted, got = "squared for a network without a likelihood", f"likelihood for {type(generator.network).__name__}"
        raise UserError(f"model.discrepancy: expected {wanted}, got {got}. Change it, or use ConvDecoder or MLPDecoder")
