"""A picture of a flow in the plane: paths of particles, level lines of the potential, and the distance over time."""

import math
from pathlib import Path
from typing import Any, cast

import lightning as L
import torch

from pt_flows.bounds import Count, CountOrZero
from pt_flows.callbacks.pictures import send_picture
from pt_flows.callbacks.schedule import EveryIterations, as_method
from pt_flows.contracts import HasPotential, MapsLatents, ShortensPaths
from pt_flows.errors import UserError
from pt_flows.functional.transport import exact_wasserstein
from pt_flows.loop.method import Method
from pt_flows.training.noise import generator_at

NUM_MEASURED = 512
GRID = 64


class FlowPicture(EveryIterations):
    """Follows particles G(z) for fixed z under the raw weights, and draws `pictures/flow.png` at the end.

    The left panel shows their paths over the target, and level lines of the potential at the last record. The right
    panel shows W2 to the target on a logarithmic axis, with the distance between real samples as the floor. For W2-FE
    it also shows Π(1 - ε), the factor by which exact Euler steps would shorten the distance. The first process draws,
    and sends the picture and the animation to W&B.

    Args:
        every_n_iterations: Iterations between two records of the particles.
        num_particles: Number of paths in the picture.
        animate: Also write `pictures/flow.gif`, one frame per record.
    """

    def __init__(self, every_n_iterations: CountOrZero = 10, num_particles: Count = 128, animate: bool = False) -> None:
        super().__init__(every_n_iterations)
        self.num_particles, self.animate = num_particles, animate
        self.left = 1.0
        self.records: list[dict[str, Any]] = []
        self._before = 0

    def state_dict(self) -> dict[str, Any]:
        """Return all records, so that a resumed run draws complete paths."""
        return {"left": self.left, "records": self.records}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the records."""
        self.left, self.records = state_dict["left"], state_dict["records"]

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Check the method before the run begins.

        Raises:
            UserError: Its samples do not lie in the plane.
        """
        if not isinstance(pl_module, MapsLatents) or tuple(pl_module.generator.event_shape) != (2,):
            got = type(pl_module).__name__
            raise UserError(f"FlowPicture: expected a generator of points in the plane, got {got}. Remove the callback")

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Choose the particles, the target and the frame, and record the start."""
        super().on_train_start(trainer, pl_module)
        module = as_method(pl_module)
        data: Any = trainer.datamodule  # pyright: ignore[reportAttributeAccessIssue]
        self.target = data.reference("test", NUM_MEASURED)
        self.floor = exact_wasserstein(data.reference("train", NUM_MEASURED), self.target, p=2)
        G = cast(MapsLatents, module).generator
        self.z = G.starting_points(max(NUM_MEASURED, self.num_particles), generator_at("cpu", "flow"))
        start = self.records[0]["particles"] if self.records else G.push(self.z.to(module.device), "raw").cpu()
        seen = torch.cat([self.target, start])
        centre, half = (seen.amax(0) + seen.amin(0)) / 2, 0.55 * float((seen.amax(0) - seen.amin(0)).max())
        self.frame = (centre - half, centre + half)
        self._before = module.iteration
        if not self.records and trainer.is_global_zero:
            self.record(module)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Record when it is due, and draw at the end."""
        module = as_method(pl_module)
        fraction = module.fraction_of_the_way if isinstance(module, ShortensPaths) else math.nan
        self.left *= max(1.0 - fraction, 0.0) ** (module.iteration - self._before)
        self._before = module.iteration
        if self.due(trainer, module) and trainer.is_global_zero:
            self.record(module)
        if self.ends and trainer.is_global_zero:
            folder = Path(trainer.default_root_dir) / "pictures"
            folder.mkdir(parents=True, exist_ok=True)
            self.draw(folder / "flow.png")
            send_picture(trainer, "flow", folder / "flow.png", module.iteration)
            if self.animate:
                self.write_animation(folder / "flow.gif")
                send_picture(trainer, "flow_animation", folder / "flow.gif", module.iteration)

    @torch.no_grad()
    def record(self, module: Method) -> None:
        """Record the particles, the potential and the distance to the target."""
        y = cast(MapsLatents, module).generator.push(self.z.to(module.device), "raw").cpu()
        (left, bottom), (right, top) = (corner.tolist() for corner in self.frame)
        grid = torch.cartesian_prod(torch.linspace(left, right, GRID), torch.linspace(bottom, top, GRID))
        f = module.values if isinstance(module, HasPotential) else None
        levels = None if f is None else f(grid.to(module.device)).cpu().view(GRID, GRID).T
        self.records.append(
            {
                "iteration": module.iteration,
                "particles": y[: self.num_particles],
                "levels": levels,
                "w2": exact_wasserstein(y[:NUM_MEASURED], self.target, p=2),
                "left": self.left,
            }
        )

    def axes(self) -> tuple[Any, Any, Any]:
        """Make a figure of two panels: the plane, which is empty, and the distance."""
        from matplotlib.figure import Figure

        figure = Figure(figsize=(9.5, 4.6), layout="constrained")
        plane, distance = figure.subplots(1, 2, width_ratios=(1, 1.05))
        iterations = [r["iteration"] for r in self.records]
        distance.semilogy(iterations, [r["w2"] for r in self.records], c="#d95f02", label="measured")
        line = [(r["iteration"], self.records[0]["w2"] * r["left"]) for r in self.records]
        shown = [(i, w2) for i, w2 in line if w2 > 0.5 * self.floor]
        if len(shown) > 1:
            distance.semilogy(*zip(*shown, strict=True), "k--", lw=1, label="exact Euler steps, Π(1 - ε)")
        distance.axhline(self.floor, c="grey", lw=1, ls=":", label="floor, real against real")
        distance.set(xlabel="iteration", ylabel=f"W2 of {NUM_MEASURED} samples")
        distance.legend(frameon=False, fontsize=9)
        return figure, plane, distance

    def draw_plane(self, plane: Any, last: int) -> None:
        """Draw the paths up to a record over the target and the recorded potential."""
        paths = torch.stack([r["particles"] for r in self.records[: last + 1]])
        record = self.records[last]
        (left, bottom), (right, top) = (corner.tolist() for corner in self.frame)
        if record["levels"] is not None:
            x, y = torch.linspace(left, right, GRID), torch.linspace(bottom, top, GRID)
            plane.contour(x, y, record["levels"], levels=24, colors="#9ecae1", linewidths=0.6, linestyles="solid")
        plane.scatter(*self.target.T, s=4, c="#bbbbbb", linewidths=0, label="target")
        plane.plot(paths[..., 0], paths[..., 1], c="#7570b3", lw=0.5, alpha=0.6)
        plane.scatter(*paths[0].T, s=6, c="#1b9e77", linewidths=0, zorder=3, label="start")
        plane.scatter(*paths[-1].T, s=8, c="#d95f02", linewidths=0, zorder=4, label=f"iteration {record['iteration']}")
        plane.set(xlim=(left, right), ylim=(bottom, top), xticks=[], yticks=[], aspect="equal")
        plane.legend(loc="upper right", fontsize=8, markerscale=1.5, framealpha=0.8)

    def draw(self, path: Path) -> None:
        """Draw the whole run."""
        figure, plane, _ = self.axes()
        self.draw_plane(plane, len(self.records) - 1)
        figure.savefig(path, dpi=110)

    def write_animation(self, path: Path) -> None:
        """Write an animation with one frame per record, twelve frames a second."""
        from matplotlib.animation import FuncAnimation, PillowWriter

        figure, plane, distance = self.axes()
        marker = distance.axvline(0, c="#1b9e77", lw=1)

        def frame(i: int) -> None:
            plane.clear()
            self.draw_plane(plane, i)
            marker.set_xdata([self.records[i]["iteration"]] * 2)

        FuncAnimation(figure, frame, frames=len(self.records)).save(str(path), writer=PillowWriter(fps=12), dpi=70)  # pyright: ignore[reportArgumentType]
