r"""Gradient layers: a trained generator is deepened by layers that move its samples up a critic.

    L(ψ) = max_f  E_x f(x) - E_z f(ψ(G(z)))               a functional of the map ψ, f of slope about one
    ∇L(ψ) = -∇f* ∘ ψ                                      its gradient in L², f* the best critic
    ψ ← ψ + η ∇f* ∘ ψ                                     a descent step: the layer x + η ∇f*(x) on top of ψ

    G ← WGAN-GP, or a checkpoint; fixed from here on
    x_i ← G(z_i)                                          a pool of particles
    for every layer k:
        fit f to data and particles                       critic steps of WGAN-GP, on from the last layer's f
        f_k ← a frozen copy of f;   x_i ← x_i + η_k ∇f_k(x_i)     the layer, and the whole pool through it
    sample: z → G → layer 1 → ... → layer T

With `space: latent` the layers stand below G and move latents, z + η ∇_z f(G(z)), so that samples stay in G's range.

Nitanda and Suzuki 2018, Gradient Layer: Enhancing the Convergence of Adversarial Training for Generative Models,
AISTATS, arXiv:1801.02227. Its abstract and introduction fix: with the critic held fixed, a new layer moves samples
along the direction of descent in the space of functions, which no parameterisation restricts; stacked layers are a
discretised gradient flow that decreases the objective; the critic is that of a Wasserstein GAN and its variant with a
penalty.

Departures: the body of the paper was not available, so the rest is a reconstruction of our own: the loop above, the
pool (the stack is never run again in training, so T layers cost O(T)), the critic that continues from layer to layer,
step sizes, numbers of steps, layers on latents in this form, and distillation, which fits G to the pool's pairs
(z_i, x_i) and begins a new stack.
"""

import math
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from pt_flows.bounds import Count, CountOrZero, NonNegative, Positive
from pt_flows.contracts import Batch, Terms, Weights
from pt_flows.errors import UserError
from pt_flows.functional.penalties import Penalty
from pt_flows.loop.describing import built, read
from pt_flows.loop.method import Method
from pt_flows.methods.games.wgan_gp import WGANGP
from pt_flows.training.distributed import gathered, share_of
from pt_flows.training.noise import fold, given_or_new, run_seed
from pt_flows.training.players import Critic, Generator
from pt_flows.training.requirements import check_no_batch_norm
from pt_flows.training.schedules import Schedule, scheduled
from pt_flows.training.stack import Stack
from pt_flows.training.steps import fit_critic, regress


class GradientLayers(WGANGP):
    """A base generator with gradient layers that grow on it.

    Args:
        generator: G, the base. Once layers begin, its averaged weights are its weights, and it is in evaluation mode.
        critic: f; without batch norm, because a layer treats every sample alone.
        step_size: η of the next layer, in units of the space per slope of the critic. The progress of a schedule is
            that of the whole run, base included.
        base: Checkpoint of a method with the same generator and critic, whose weights a new run copies at its start.
            "{seed}" in its path stands for the seed of the run.
        base_iterations: First iterations, which train a fresh base with WGAN-GP.
        iterations_per_layer: Iterations of the critic before each layer.
        space: "data" moves samples, "latent" moves latents.
        pool_size: Number of particles.
        penalty: "two_sided" (GP) or "one_sided" (LP).
        penalty_weight: λ.
        distill_every: Layers after which they are distilled into G and removed; 0 for never.
        distillation_steps: Optimizer steps of G, each on a minibatch of the pool.
    """

    settles = True
    training_state = ("points",)

    points: Tensor

    def __init__(
        self,
        generator: Generator,
        critic: Critic,
        step_size: Positive | Schedule = 0.1,
        base: str | None = None,
        base_iterations: CountOrZero = 0,
        iterations_per_layer: Count = 10,
        space: Literal["data", "latent"] = "data",
        pool_size: Count = 2_048,
        penalty: Penalty = "two_sided",
        penalty_weight: NonNegative = 10.0,
        distill_every: CountOrZero = 0,
        distillation_steps: Count = 500,
    ) -> None:
        super().__init__(generator, critic, penalty, penalty_weight)
        check_no_batch_norm("model.critic.network", critic.network)
        if base is not None and base_iterations:
            wanted = "expected 0 with model.base, which is trained already"
            raise UserError(f"model.base_iterations: {wanted}, got {base_iterations}. Omit one of the two")
        self.step_size = scheduled(step_size)
        self.base, self.base_iterations, self.iterations_per_layer = base, base_iterations, iterations_per_layer
        self.space, self.pool_size = space, pool_size
        self.distill_every, self.distillation_steps = distill_every, distillation_steps
        if not base_iterations and not distill_every:
            generator.network.requires_grad_(False)  # nothing trains it
        self.base_copied, self.pool_seed = False, -1
        self.stack = Stack(critic.network)
        shape = generator.event_shape if space == "data" else generator.network.latent_shape
        self.register_buffer("points", torch.zeros(pool_size, *shape))
        self.register_load_state_dict_pre_hook(_check_pool)
        # all processes hold the same pool and layers, so DDP need not broadcast them before a step
        self._ddp_params_and_buffers_to_ignore = ["points", "stack.snapshots"]

    # -------------------------------------------------------------------------------------------------- the algorithm

    def iterate(self, minibatches: Sequence[Batch]) -> Terms:
        """Train the base; later fit the critic to the particles, and add a layer where one is due."""
        if self.age < self.base_iterations:
            return super().iterate(minibatches)
        if self.pool_seed < 0:
            self.settle()
            self.draw_pool()

        terms = fit_critic(self.critic, self.critic_loss, minibatches, self.particles)

        if (self.age + 1 - self.base_iterations) % self.iterations_per_layer == 0:
            terms |= self.add_layer()
            if len(self.stack) == self.distill_every:
                terms |= self.distill(len(minibatches[0][0]))
                self.draw_pool()
        return terms

    def add_layer(self) -> Terms:
        """Freeze the critic as a layer, and move the pool: x ← x + η ∇f(x), or z ← z + η ∇(f ∘ G)(z)."""
        before = self.points
        self.stack.append(self.step_size(self.progress))
        self.points = self.shared(before, lambda part: self.moved(part, first=len(self.stack) - 1))
        return {"displacement": (self.points - before).flatten(1).norm(dim=1).mean()}

    def distill(self, num: int) -> Terms:
        """Fit G to the pairs of latents and moved particles, minibatch by minibatch, and remove the layers."""
        z, x = self.pool_latents(), self.shared(self.points, self.rendered)
        terms: Terms = {}
        with self.generator.fixed() as G:
            for _ in range(self.distillation_steps):
                i = self.chosen(num)
                terms = regress(self.generator, z[i], G(z[i]), x[i], num_steps=1)
        self.generator.adopt(self.generator.network)
        self.stack.clear()
        return {"distillation_loss": terms["loss_G"]}

    def particles(self, num: int) -> Tensor:
        """Particles of the pool as samples (num, *event), chosen at random."""
        return self.rendered(self.points[self.chosen(num)])

    # --------------------------------------------------------------------------------------------------------- the pool

    def settle(self) -> None:
        """Make the averaged weights of the base its weights."""
        if self.generator.ema is not None:
            self.generator.adopt(self.generator.ema.network)

    def draw_pool(self) -> None:
        """Draw the pool, the same on all ranks."""
        self.pool_seed = fold(run_seed(), "pool", self.iteration)
        z = self.pool_latents()
        samples = lambda part: self.generator.push(part, "raw").to(z)
        self.points = z if self.space == "latent" else self.shared(z, samples)

    def pool_latents(self) -> Tensor:
        """The latents (pool_size, *latent_shape) that the pool came from."""
        rng = torch.Generator().manual_seed(self.pool_seed)
        return self.generator.starting_points(self.pool_size, rng).to(self.points)

    def chosen(self, num: int) -> Tensor:
        """Indices (num,) of particles for this rank."""
        draw = lambda n, rng: torch.randint(self.pool_size, (n,), generator=rng, device=rng.device)
        return self.noise.draw(draw, num).to(self.points.device)

    def shared(self, points: Tensor, function: Any) -> Tensor:
        """A function of each point, on all points; every rank evaluates its part of them."""
        mine = share_of(len(points))
        return gathered(function(points[mine.start : mine.stop]))

    def rendered(self, points: Tensor, weights: Weights = "raw") -> Tensor:
        """The samples (B, *event) of points of the space."""
        return points if self.space == "data" else self.generator.push(points, weights)

    def moved(self, points: Tensor, first: int = 0, weights: Weights = "raw") -> Tensor:
        """Points of the space after the layers from `first` on, in chunks."""
        chunk = max(500, 20_000 // math.prod(self.generator.event_shape))
        with self.critic.fixed(), self.generator.fixed(weights) as G:
            image = G if self.space == "latent" else lambda x: x
            return torch.cat([self.stack(part, image, first) for part in points.split(chunk)])

    # --------------------------------------------------------------------------------------------------------- sampling

    def sample(
        self, num: int, y: Tensor | None = None, rng: torch.Generator | None = None, weights: Weights = "ema"
    ) -> Tensor:
        """Draw from the base and move through all layers. Sample i is the same whatever the batching.

        Args:
            num: Number of samples.
            y: Must be None.
            rng: Source of randomness, on any device; None for the global one.
            weights: The weights of the base, averaged or raw. They are the same once there are layers.

        Returns:
            Samples (num, *event) on the method's device, detached.

        Raises:
            UserError: The arguments do not fit.
        """
        if self.space == "data":
            return self.moved(self.generator.sample(num, y, rng, weights), weights=weights)
        z = torch.cat([z for z, _ in self.generator.blocks(num, y, given_or_new(rng, self.device))])
        return self.rendered(self.moved(z, weights=weights), weights)

    def diagnose(self, row: dict[str, float]) -> dict[str, float]:
        """Return the number of layers, and the size of moved latents in units of fresh ones: ‖z‖ / (σ √dim)."""
        found = {"train/layers": float(len(self.stack))}
        if self.space == "latent" and self.pool_seed >= 0:
            size = self.points.square().mean().sqrt() / self.generator.network.latent_std
            found["train/latent_size"] = float(size)
        return found

    # --------------------------------------------------------------------------------------------- base and checkpoints

    def setup(self, stage: str) -> None:
        """Check that the generator draws from noise.

        Raises:
            UserError: It maps data.
        """
        super().setup(stage)
        if self.generator.source is not None:
            name = type(self).__name__
            raise UserError(f"data.source: expected none, as {name} moves samples of noise, got one. Use other data")

    def on_fit_start(self) -> None:
        """Copy the weights of the base into a new run; by now a run that continues has loaded its own.

        Raises:
            UserError: The base does not fit.
        """
        if self.base is not None and not self.base_copied:
            copy_weights(self.base.replace("{seed}", str(run_seed())), self.generator, self.critic)
            self.base_copied = True

    def get_extra_state(self) -> dict[str, Any]:
        """The state of a method, whether a base was copied, and the seed of the pool (below zero if there is none)."""
        return super().get_extra_state() | {"base_copied": self.base_copied, "pool_seed": self.pool_seed}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Restore that state."""
        super().set_extra_state(state)
        self.base_copied, self.pool_seed = bool(state["base_copied"]), int(state["pool_seed"])


def _check_pool(method: GradientLayers, state: dict[str, Any], prefix: str, *rest: Any) -> None:
    """Reject a checkpoint with another pool, which torch would blame on the networks."""
    saved = state.get(f"{prefix}points", method.points)
    if len(saved) != method.pool_size:
        wanted = f"expected {len(saved)}, the number of particles in the checkpoint"
        raise UserError(f"model.pool_size: {wanted}, got {method.pool_size}. Keep the size, or start a new run")


def copy_weights(path: str, generator: Generator, critic: Critic) -> None:
    """Copy the networks of a checkpoint: the generator's averaged weights if it has any, and the critic's.

    Raises:
        UserError: The checkpoint is of a method without these players, or of other networks.
    """
    base: Any = built(read(path, "cpu"), path, Method, {})
    players = base.players
    if not isinstance(players.get("generator"), Generator) or not isinstance(players.get("critic"), Critic):
        wanted = "expected a checkpoint of a method with a generator and a critic"
        raise UserError(f"model.base: {wanted}, got one of {type(base).__name__}. Give another one")
    if isinstance(base, GradientLayers) and len(base.stack):
        wanted = "expected a base without gradient layers"
        raise UserError(f"model.base: {wanted}, got {len(base.stack)} of them. Continue that run with ckpt_path")
    for own, other in ((generator, players["generator"]), (critic, players["critic"])):
        network = other.weighted("ema" if other is players["generator"] and other.ema is not None else "raw")
        check_same_network(own.role, own.network, network)
        own.adopt(network)


def check_same_network(role: str, own: Any, other: Any) -> None:
    """Check that the weights of another network fit.

    Raises:
        UserError: Class, shapes or the scale of latents differ.
    """
    facts = [{"class": type(net).__name__} for net in (own, other)]
    for fact, net in zip(facts, (own, other), strict=True):
        fact |= {
            name: getattr(net, name) for name in ("event_shape", "latent_shape", "latent_std") if hasattr(net, name)
        }
        fact |= {name: tuple(value.shape) for name, value in net.state_dict().items() if isinstance(value, Tensor)}
    for name in facts[0] | facts[1]:
        ours, theirs = (fact.get(name, "none") for fact in facts)
        if ours != theirs:
            wanted = f"expected a {role} with {name} {ours}, as model.{role}.network has"
            raise UserError(f"model.base: {wanted}, got {theirs}. Give both the same network")
