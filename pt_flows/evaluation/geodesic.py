"""Shortest ways between latents of a trained method: lengths, classes that they cross, and pictures."""

import csv
import io
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, cast

import torch
from torch import Tensor

from pt_flows.bounds import Count, CountOrZero, NonNegative
from pt_flows.contracts import Encodes, MapsLatents, Weights
from pt_flows.data.base import FlowData
from pt_flows.errors import UserError
from pt_flows.evaluation.geodesic_pictures import draw_pictures
from pt_flows.evaluation.load import device_named, finished
from pt_flows.files import checked_target, replacing
from pt_flows.functional.distances import feature_distances
from pt_flows.functional.geodesics import Network, SineSeries, geodesics
from pt_flows.functional.geometry import Curves, Map, Metric, kinks, straight_lines
from pt_flows.progress import track
from pt_flows.runs.folder import say
from pt_flows.training.noise import generator_at

POINTS = 24
"""Times at which the energy of a curve is minimised."""
VALUES = 2**23
"""Largest number of values of the samples that are mapped at once, so that images fit the memory."""
NEIGHBOURS = 5_000
"""Number of training samples that classify points of curves."""
CLASSIFIED = 8
"""Every point of a curve with such a number is classified."""


def geodesic(
    ckpt: str,
    pairs: Count = 100,
    out: str = "geodesics.md",
    start: list[float] | None = None,
    end: list[float] | None = None,
    smoothing: NonNegative = 0.0,
    rank: Count | None = None,
    curve: Literal["series", "network"] = "series",
    starts: Count = 1,
    label: CountOrZero = 0,
    seed: int = 0,
    weights: Weights = "ema",
    device: str = "auto",
) -> None:
    """Find the shortest ways between latents of a method with a generator or a decoder, and compare straight lines.

    Lengths are those of the images of the ways in the space of data. The pairs are encoded samples that training did
    not use if the method encodes, or else draws from the prior. Write a table, and next to it pictures.

    Args:
        ckpt: A checkpoint, a run folder, or last / best of the newest run.
        pairs: Number of pairs of latents.
        out: The table, a .md or a .csv file. Pictures have its name and an ending: `_plane.png` (two latents),
            `_samples.png` (samples in the plane), `_strips.png` (images) and `_speed.png`.
        start: A latent, such as "[0, 1]", to start from instead of drawing pairs.
        end: The latent to reach from `start`.
        smoothing: λ, which makes directions of small singular values cheaper; 0 for the metric of the map.
        rank: Number of directions of the metric that are kept; by default all.
        curve: The family of curves: a series of sines, or the published network, which cannot leave a coordinate
            in which two latents agree.
        starts: First curves of every pair. One is straight, others are bent at random, and the best end is kept.
        label: The class, if the generator is class-conditional.
        seed: Seed of the pairs, the first curves and the networks.
        weights: The averaged weights, or the raw ones of the last iteration.
        device: Device to compute on; auto uses a GPU if there is one.
    """
    target = checked_target(out, (".md", ".csv"))
    run = finished(ckpt)
    method = run.method.to(device_named(device))
    if not isinstance(method, MapsLatents):
        wanted, got = "a method with latents, such as WGANGP or IWAE", type(method).__name__
        raise UserError(f"{run.checkpoint}: expected {wanted}, got {got}. Give another checkpoint")
    data = None if run.folder is None else run.data()
    encodes = isinstance(method, Encodes) and data is not None
    origin = "given" if start or end else "encoded samples" if encodes else "draws from the prior"
    z0, z1 = ends(method, data, pairs, start, end, seed, weights)
    with method.generator.fixed(weights) as network:
        f = flat_map(cast(Any, network), label)
        warn_of_kinks(f, z0)
        metric = Metric(f, smoothing, rank)
        if rank is not None and rank > z0.shape[1]:
            wanted = f"1 to {z0.shape[1]}, the dimension of the latents"
            raise UserError(f"--rank: expected {wanted}, got {rank}. Use a smaller rank, or omit it")
        lines = straight_lines(metric, z0, z1)
        found, converged = shortest(metric, z0, z1, curve, starts, seed)
        both = Ways(f, lines, found, converged, labels_of(data, z0.device), (f(z1) - f(z0)).flatten(1).norm(dim=1))
        both.write(target)
        both.tell(origin, method.iteration)
        pictures = draw_pictures(metric, lines, found, converged, target, data)
    print(f"wrote {', '.join(map(str, [target, *pictures]))}")


@torch.no_grad()
def ends(
    method: Any, data: FlowData | None, pairs: int, start: Any, end: Any, seed: int, weights: Weights
) -> tuple[Tensor, Tensor]:
    """First and last latents (pairs, d): those given, encoded samples, or draws from the prior.

    Raises:
        UserError: One is given without the other, they are the same, or one has another dimension.
    """
    rng = generator_at("cpu", seed, "geodesics")
    z = method.generator.starting_points(2 * pairs, rng).flatten(1).to(method.device)
    if start is None and end is None:
        if isinstance(method, Encodes) and data is not None:
            x, _ = data.held_out(10_000)
            chosen = torch.randperm(len(x), generator=rng)[: 2 * pairs]
            if len(chosen) < 2 * pairs:
                raise UserError(f"--pairs: expected at most {len(x) // 2}, as there are {len(x)} samples, got {pairs}")
            z = method.encode(x[chosen].to(z.device), weights).flatten(1)
        return z[:pairs], z[pairs:]
    for name, given in (("start", start), ("end", end)):
        if given is None or len(given) != z.shape[1]:
            got = "none" if given is None else len(given)
            raise UserError(f"--{name}: expected {z.shape[1]} numbers, the dimension of the latents, got {got}")
    if start == end:
        raise UserError("--end: expected another latent than --start, got the same one. Change one of them")
    return z.new_tensor([start]), z.new_tensor([end])


def flat_map(network: Any, label: int) -> Map:
    """The network as a map of latent vectors, with one class if it is class-conditional.

    Raises:
        UserError: There is no such class.
    """
    if label >= max(network.num_classes, 1):
        classes = f"a class below {network.num_classes}" if network.num_classes else "none, as there are no classes"
        raise UserError(f"--label: expected {classes}, got {label}")
    shape = tuple(network.latent_shape)
    if not network.num_classes:
        return lambda z: network(z.unflatten(1, shape))
    return lambda z: network(z.unflatten(1, shape), torch.full((len(z),), label, device=z.device))


def warn_of_kinks(f: Map, z: Tensor) -> None:
    """Warn of activations with which an energy is not truly minimised."""
    if names := kinks(f, z[:1]):
        why = "its Jacobian is constant in pieces, and shortest ways are approximate"
        advice = "For geometry, train a network with tanh, softplus or silu, such as MLPDecoder"
        say(f"warning: the network has {' and '.join(names)}: {why}. {advice}")


def shortest(metric: Metric, z0: Tensor, z1: Tensor, curve: str, starts: int, seed: int) -> tuple[Curves, Tensor]:
    """Geodesics of all pairs, as many at once as fit the memory, and whether each has converged."""
    with torch.no_grad():
        values = metric.f(z0[:1]).numel() * (1 if not metric.is_smoothed(z0.shape[1]) else z0.shape[1])
    at_once = max(1, VALUES // (values * POINTS * starts))
    family = SineSeries() if curve == "series" else Network()
    parts = []
    for i, (first, last) in enumerate(zip(z0.split(at_once), z1.split(at_once), strict=True)):
        title = "geodesics" if at_once >= len(z0) else f"geodesics, part {i + 1} of {-(-len(z0) // at_once)}"
        bar = partial(track, text=title)
        rng = generator_at(z0.device, seed, "curves", i)
        parts.append(geodesics(metric, first, last, family, POINTS, num_starts=starts, rng=rng, progress=bar))
    curves = [torch.cat(pieces) for pieces in zip(*(part.curves for part in parts), strict=True)]
    return Curves(*curves), torch.cat([part.converged for part in parts])


Labels = Callable[[Tensor], Tensor]
"""Classes (B,) of samples (B, *event)."""


def labels_of(data: FlowData | None, device: torch.device) -> Labels | None:
    """The class of the nearest of some training samples, in the space of data; None if data have no classes."""
    if data is None or not data.num_classes:
        return None
    drawn = data.draw(0, -(-NEIGHBOURS // data.batch_size))
    drawn = data.on_after_batch_transfer(drawn, 0)  # images become floats here
    x, y = (part.flatten(0, 1)[:NEIGHBOURS].to(device) for part in drawn[:2])
    return lambda points: torch.cat([y[feature_distances(part, x).argmin(1)] for part in points.split(500)])


@dataclass
class Ways:
    """Straight lines and geodesics of the same pairs.

    Attributes:
        f: The map.
        lines: The straight lines.
        found: The geodesics.
        converged: Whether the search of each has settled (P,).
        labels: The classifier; None without classes.
        chords: Distances of the ends in the space of data (P,), lower bounds of lengths unless they are smoothed.
    """

    f: Map
    lines: Curves
    found: Curves
    converged: Tensor
    labels: Labels | None
    chords: Tensor

    def __post_init__(self) -> None:
        self.columns: dict[str, list[Any]] = {
            "straight": self.lines.length.tolist(),
            "geodesic": self.found.length.tolist(),
            "ratio": (self.found.length / self.lines.length).tolist(),
            "chord": self.chords.tolist(),
        }
        if self.labels is not None:
            self.columns["classes straight"] = self.crossed(self.lines)
            self.columns["classes geodesic"] = self.crossed(self.found)
        self.columns["converged"] = ["yes" if settled else "no" for settled in self.converged.tolist()]

    @torch.no_grad()
    def crossed(self, curves: Curves) -> list[int]:
        """Number of classes on each curve, both ends included."""
        assert self.labels is not None
        z = curves.points[:, ::CLASSIFIED]
        found = torch.cat([self.labels(self.f(part)) for part in z.flatten(0, 1).split(1_000)])
        return [len(set(row)) for row in found.view(z.shape[:2]).tolist()]

    def write(self, target: Path) -> None:
        """Write the table as Markdown or CSV."""
        header = ["pair", *self.columns]
        told = [[f"{v:.6g}" if isinstance(v, float) else str(v) for v in column] for column in self.columns.values()]
        rows = [[str(i), *row] for i, row in enumerate(zip(*told, strict=True), 1)]
        text = io.StringIO()
        if target.suffix == ".csv":
            csv.writer(text, lineterminator="\n").writerows([header, *rows])
        else:
            rule = ["---:"] * len(header)
            text.writelines(f"| {' | '.join(row)} |\n" for row in [header, rule, *rows])
        with replacing(target) as path:
            path.write_text(text.getvalue())

    def tell(self, origin: str, iteration: int) -> None:
        """Print means over pairs."""
        mean = {name: sum(v) / len(v) for name, v in self.columns.items() if name != "converged"}
        settled = int(self.converged.sum())
        print(f"{len(self.converged)} pairs of latents, {origin}, after {iteration} iterations; {settled} converged")
        for name, value in mean.items():
            print(f"  mean {name:<20} {value:.4f}")
