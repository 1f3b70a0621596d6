r"""Rounds of training from one initialisation, each of which is repelled by the solutions of the earlier ones.

    A ← {}                                                archive of solutions
    for every round:
        θ ← θ₀                                            the same start, of optimizers and schedules too
        repeat:  θ ← optimizer(θ, ∇ [ L(θ) + λ Σ_{θ_j ∈ A} κ(‖m θ - m θ_j‖) ])
        A ← A + {θ}
    θ ← the round with the lowest L

Min 2020, Persistent Neurons, arXiv:2007.01419. Its abstracts fix the restart from one initialisation, the penalty on
convergence to the solutions of earlier rounds, and the full and the partial model, in which m selects parameters.

Departures: the form of the penalty could not be read. The kernels κ, their scale, the judge of rounds and what becomes
of players are ours: distances are taken within each player, and every round sees other minibatches and noise.
"""

import math
from collections.abc import Sequence
from fnmatch import fnmatchcase
from functools import partial
from typing import Any

import torch
from torch import Tensor

from pt_flows.bounds import Count, NonNegative, Positive
from pt_flows.construction import Constructed
from pt_flows.contracts import Terms
from pt_flows.errors import DivergenceError, UserError
from pt_flows.functional.repulsion import Kernel, repulsion, squared_distances
from pt_flows.training.distributed import mean_over_ranks
from pt_flows.training.schedules import Progress
from pt_flows.training.snapshots import Snapshot, restore, snapshot


class Rounds(Constructed):
    """The rounds of a run, and what they have found. `PersistentRounds` attaches them to a method.

    Args:
        rounds: Number of rounds R, each with an equal part of trainer.max_steps.
        weight: λ, in units of the losses.
        scale: s, the distance in parameter space over which a solution repels; None for half the way that each player
            has moved in the first round.
        kernel: κ: "gaussian" exp(-d² / 2s²), "exponential" exp(-d / s), or "inverse" 1 / (d² + s²).
        parameters: Patterns of names of parameters that are penalised, such as "generator.*"; all by default.
        monitor: Term of the log that judges a round, lower is better: its mean over the last iterations of the round.
            No term has the penalty in it.
        judged_iterations: Number of these iterations.

    Attributes:
        archive: Snapshots of the ends of the rounds so far, all of them.
        losses: Their losses, without the penalty.
    """

    def __init__(
        self,
        rounds: Count = 5,
        weight: NonNegative = 1.0,
        scale: Positive | None = None,
        kernel: Kernel = "gaussian",
        parameters: Sequence[str] = ("*",),
        monitor: str = "loss",
        judged_iterations: Count = 100,
    ) -> None:
        self.rounds, self.weight, self.scale = rounds, weight, scale
        self.kernel: Kernel = kernel
        self.parameters, self.monitor, self.judged_iterations = tuple(parameters), monitor, judged_iterations
        self.archive: list[Snapshot] = []
        self.losses: list[float] = []
        self.start: Snapshot | None = None
        self.length = 0
        self._judged: list[Tensor] = []
        self._chosen: dict[str, list[tuple[str, Tensor]]] = {}
        self._seen: dict[str, tuple[Tensor, Tensor]] = {}

    # ------------------------------------------------------------------------------------------------ where the run is

    @property
    def best(self) -> int | None:
        """The round with the lowest loss, counted from 0; None before the end of the first one."""
        return min(range(len(self.losses)), key=self.losses.__getitem__) if self.losses else None

    def progress(self, iteration: int) -> Progress:
        """The progress within the round of an iteration."""
        return Progress(iteration - self.length * min(iteration // self.length, self.rounds - 1), self.length)

    # -------------------------------------------------------------------------------------------------- the algorithm

    def begin(self, method: Any, max_steps: int) -> None:
        """Begin the first round, or continue in one. By now a checkpoint has been loaded.

        Raises:
            UserError: The rounds do not fit the length of the run or the parameters, or began in another run.
        """
        if max_steps < 1 or max_steps % self.rounds:
            wanted = f"expected a multiple of the {self.rounds} rounds"
            raise UserError(f"trainer.max_steps: {wanted}, got {max_steps}. Change either")
        length = max_steps // self.rounds
        if self.start is None and method.iteration:
            got = f"one that continues from iteration {method.iteration} without them"
            raise UserError(f"PersistentRounds: expected a new run, got {got}. Start a new run")
        if self.start is not None and length != self.length:
            wanted = (
                f"expected {self.length * self.rounds}, because the rounds of this run have {self.length} iterations"
            )
            raise UserError(f"trainer.max_steps: {wanted}, got {max_steps}. Change it, or the number of rounds")
        self.length, self._chosen = length, chosen(method, self.parameters)
        self._judged = [value.to(method.device) for value in self._judged]
        if self.start is None:
            self.start = snapshot(method)
        self.repel(method)

    def enter(self, method: Any) -> None:
        """Before an iteration: return to the start if the iteration begins another round."""
        self._seen.clear()
        if method.iteration and not self.progress(method.iteration).iteration and len(self.archive) < self.rounds:
            restore(method, self._started)
            for player in method.players.values():
                player.restore_settings()
            self.repel(method)

    def leave(self, method: Any, terms: Terms) -> None:
        """After an iteration: judge it, and at the end of a round keep its solution; in the end return to the best.

        Raises:
            UserError: The method reports no term that judges rounds.
            DivergenceError: The loss of the round is not finite.
        """
        done = method.iteration % self.length or self.length
        if done > self.length - self.judged_iterations and self.monitor in terms:
            self._judged += mean_over_ranks([terms[self.monitor].detach().double()])
        if done < self.length:
            return
        if not self._judged:
            got = ", ".join(name for name in terms if not name.startswith("_"))
            raise UserError(f"PersistentRounds.monitor: expected a term such as {got}, got {self.monitor}. Change it")
        loss = float(torch.stack(self._judged).mean())
        self._judged.clear()
        if not math.isfinite(loss):
            at = f"{self.monitor} is {loss} in the round that ends at iteration {method.iteration}"
            raise DivergenceError(f"{at}. Lower the learning rate, or weight of the rounds")
        self.archive.append(snapshot(method))
        self.losses.append(loss)
        found = f"{self.monitor} {loss:.6g}; the best is round {(self.best or 0) + 1}"
        method.print(f"round {len(self.losses)} of {self.rounds}: {found}")
        if len(self.losses) == self.rounds:
            self.adopt(method, self.best or 0)

    def adopt(self, method: Any, index: int) -> None:
        """Give a method the weights of a round, counted from 0.

        Raises:
            UserError: There is no such round.
        """
        if not 0 <= index < len(self.archive):
            raise UserError(f"round: expected one of 0 ... {len(self.archive) - 1}, got {index}")
        restore(method, {**self.archive[index], "optimizers": {}})

    # ---------------------------------------------------------------------------------------------------- the penalty

    def repel(self, method: Any) -> None:
        """Give every player the penalty of the solutions so far.

        Raises:
            UserError: The scale is that of a way of length zero.
        """
        for name, player in method.players.items():
            player.penalty = None
            if self.weight and self.archive and name in self._chosen:
                names, parts = zip(*self._chosen[name], strict=True)
                points = [[kept["method"][key].to(parts[0].device) for key in names] for kept in self.archive]
                start = [self._started["method"][key].to(parts[0].device) for key in names]
                scale = self.scale or 0.5 * float(squared_distances(start, points[:1]).sqrt())
                if not scale:
                    raise UserError(
                        f"PersistentRounds: expected a first round that moves {name}, got one that stays at the start, "
                        "where no solution repels. Use another start or a larger learning rate"
                    )
                player.penalty = partial(self.penalty, name, parts, points, scale)

    def penalty(
        self, name: str, parts: Sequence[Tensor], points: list[list[Tensor]], scale: float, trained: Sequence[Tensor]
    ) -> Tensor:
        """λ Σ_j κ(d_j), a scalar."""
        squares = squared_distances(parts, points)
        value = self.weight * repulsion(squares, scale, self.kernel)
        self._seen[name] = (value.detach(), squares.detach().min().sqrt())
        return value

    def report(self) -> dict[str, float]:
        """The round, the penalty and the distance to the nearest solution at the last iteration, and losses."""
        row = {"train/round": float(min(len(self.archive) + 1, self.rounds))}
        for name, (value, distance) in self._seen.items():
            row |= {f"train/repulsion_{name}": float(value), f"train/distance_{name}": float(distance)}
        if self.losses:
            row |= {"train/loss_of_last_round": self.losses[-1], "train/loss_of_best_round": min(self.losses)}
        return row

    # --------------------------------------------------------------------------------------------------- checkpoints

    def state_dict(self) -> dict[str, Any]:
        """The start, the archive and the losses."""
        found = {"start": self.start, "archive": list(self.archive), "losses": list(self.losses)}
        return found | {"length": self.length, "judged": list(self._judged)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue where the checkpoint was written."""
        self.start, self.archive = state_dict["start"], list(state_dict["archive"])
        self.losses, self.length = [float(loss) for loss in state_dict["losses"]], int(state_dict["length"])
        self._judged = list(state_dict["judged"])

    @property
    def _started(self) -> Snapshot:
        assert self.start is not None
        return self.start


def chosen(method: Any, patterns: Sequence[str]) -> dict[str, list[tuple[str, Tensor]]]:
    """The trained parameters whose names match a pattern, with their names, by player.

    Raises:
        UserError: A pattern matches none.
    """
    names = {id(p): name for name, p in method.named_parameters()}
    found: dict[str, list[tuple[str, Tensor]]] = {}
    for player, part in method.players.items():
        if part.optimizer is not None:
            found[player] = [(names[id(p)], p) for p in part.trained]
    every = [name for pairs in found.values() for name, _ in pairs]
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in every):
            known = f"names of trained parameters, such as {', '.join(every[:2])}"
            raise UserError(f"PersistentRounds.parameters: expected {known}, got {pattern!r}, which matches none")
    if not patterns or not every:
        raise UserError("PersistentRounds.parameters: expected patterns and trained parameters, got none")
    fits = lambda name: any(fnmatchcase(name, pattern) for pattern in patterns)
    kept = {player: [(name, p) for name, p in pairs if fits(name)] for player, pairs in found.items()}
    return {player: pairs for player, pairs in kept.items() if pairs}


def penalty_gradients(player: Any) -> list[Tensor] | None:
    """Gradients of a player's penalty by its trained parameters; None without one.

    For methods that integrate by themselves; `Player.step` adds the penalty to the loss.
    """
    if player.penalty is None:
        return None
    with torch.enable_grad():
        found = torch.autograd.grad(player.penalty(player.trained), player.trained, allow_unused=True)
    return [torch.zeros_like(p) if g is None else g for p, g in zip(player.trained, found, strict=True)]
