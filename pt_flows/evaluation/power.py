"""Power-function averages of a finished run, combined from its snapshots when their name asks for them."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pt_flows.contracts import POWER, Weights
from pt_flows.errors import UserError
from pt_flows.files import reading
from pt_flows.loop.method import Method
from pt_flows.runs.folder import say
from pt_flows.training.player import Player
from pt_flows.training.power import PowerAverage, combination

LARGEST_ERROR = 0.1
"""Largest error of a combined profile, relative to its norm."""

State = dict[str, Tensor]


def offer(method: Method, content: dict[str, Any], folder: Path | None) -> None:
    """Let the players of a loaded method make power-function averages, if its run has kept any.

    Args:
        method: The method.
        content: Content of its checkpoint, where every average ends.
        folder: The run folder with the earlier snapshots; None for a checkpoint alone.
    """
    own = content.get("callbacks", {}).get("PowerAverages", {}).get("averages", {})
    for name, states in own.items():
        method.players[name].recall = Recall(method.players[name], name, states, method.iteration, folder)


class Recall:
    """The averages of a player by name, such as power@0.08, made once each.

    Args:
        player: The player.
        name: Its name.
        last: States of its averages in the checkpoint, by width.
        iteration: Iteration of the checkpoint.
        folder: The run folder; None without one.
    """

    def __init__(
        self, player: Player[Any], name: str, last: dict[float, State], iteration: int, folder: Path | None
    ) -> None:
        self.player, self.name, self.last, self.iteration = player, name, last, iteration
        files = sorted((folder / "averages").glob("*.pt")) if folder is not None else []
        self.files = [file for file in files if file.stem.isdigit() and int(file.stem) < iteration]
        self.made: dict[Weights, PowerAverage[Any]] = {}

    def __call__(self, weights: Weights) -> PowerAverage[Any]:
        """Return the average, on the player's device.

        Raises:
            UserError: No average has this width, the snapshots are too few for it, or one is damaged.
        """
        if weights not in self.made:
            self.made[weights] = self.make(weights)
        return self.made[weights].to(next(self.player.network.parameters()).device)

    def make(self, weights: Weights) -> PowerAverage[Any]:
        """Combine the average from all stored ones."""
        times = [int(file.stem) for file in self.files] + [self.iteration]
        kept, width = list(self.last), float(weights.removeprefix(POWER))
        coefficients, error = combination(kept * len(times), [t for t in times for _ in kept], width, self.iteration)
        told = f"{len(coefficients)} stored averages with an error of {100 * error:.1f} %"
        if error > LARGEST_ERROR:
            wanted = f"expected an average of {self.name} that stored ones give within {100 * LARGEST_ERROR:.0f} %"
            advice = f"Use a width near {' to '.join(map(str, kept))}, or more snapshots"
            raise UserError(f"weights: {wanted}, got {weights} from {told}. {advice}")
        say(f"{weights} of {self.name}: {told} of the profile")
        total = {key: torch.zeros_like(value, dtype=torch.float64) for key, value in floats(self.last[kept[0]])}
        for x, state in zip(coefficients, self.states(), strict=True):
            for key, sum_ in total.items():
                sum_.add_(state[key].double(), alpha=x)
        average = PowerAverage(self.player.averages[0].network, width)
        average.network.load_state_dict(self.last[kept[0]] | total)
        return average

    def states(self) -> Iterator[State]:
        """The stored averages in the order of iterations and widths."""
        for file in self.files:
            with reading(file, f"averages of {self.name}", "Remove it"):
                stored = torch.load(file, map_location="cpu", weights_only=True, mmap=True)["averages"][self.name]
            yield from (stored[width] for width in self.last)
        yield from self.last.values()


def floats(state: State) -> list[tuple[str, Tensor]]:
    """The tensors of a state that are averaged; counters are not."""
    return [(key, value) for key, value in state.items() if value.is_floating_point()]
