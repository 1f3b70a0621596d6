"""A picture of the chains of an energy-based model: their points, their labels and their jumps."""

from pathlib import Path
from typing import Any

import lightning as L
import torch
from torchvision.utils import make_grid

from pt_flows.bounds import Count, CountOrZero
from pt_flows.callbacks.pictures import send_picture
from pt_flows.callbacks.schedule import EveryIterations, as_method
from pt_flows.contracts import HasLevels, RunsChains
from pt_flows.errors import UserError
from pt_flows.training.noise import generator_at


class ChainPicture(EveryIterations):
    """Draws the current replay buffer to `pictures/chains_<iteration>.png`, and sends the picture to W&B.

    The picture shows samples of the buffer. If chains have labels, these samples have label 0, and three panels follow:
    the fraction of chains at each label, the step sizes and acceptance rates, and the jumps between labels.

    Args:
        every_n_iterations: Iterations between two pictures. Another one follows the last iteration.
        num_images: Number of images in the picture.
    """

    def __init__(self, every_n_iterations: CountOrZero = 1_000, num_images: Count = 36) -> None:
        super().__init__(every_n_iterations)
        self.num_images = num_images

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Check the method before the run begins.

        Raises:
            UserError: It runs no chains.
        """
        if not isinstance(pl_module, RunsChains):
            got = type(pl_module).__name__
            raise UserError(f"ChainPicture: expected an energy-based model, got {got}. Remove the callback")

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Draw when it is due, on the first process alone."""
        method = as_method(pl_module)
        if self.due(trainer, method) and trainer.is_global_zero and isinstance(method, RunsChains):
            folder = Path(trainer.default_root_dir) / "pictures"
            folder.mkdir(parents=True, exist_ok=True)
            path = folder / f"chains_{method.iteration:08d}.png"
            self.draw(method, method.iteration, path)
            send_picture(trainer, "chains", path, method.iteration)

    def draw(self, method: RunsChains, iteration: int, path: Path) -> None:
        """Draw the current chains.

        Args:
            method: The method that runs them.
            iteration: The current iteration, for the title.
            path: The file to write.
        """
        from matplotlib.figure import Figure

        levels = method if isinstance(method, HasLevels) else None
        figure = Figure(figsize=(13 if levels else 4.6, 4), layout="constrained")
        axes = figure.subplots(1, 4 if levels else 1, squeeze=False)[0]
        self.draw_points(method, axes[0])
        axes[0].set_title(f"buffer at iteration {iteration}" + (", label 0" if levels else ""))
        if levels is not None:
            draw_labels(levels, axes[1])
            draw_steps(levels, axes[2])
            draw_jumps(levels, axes[3])
        figure.savefig(path, dpi=100)

    def draw_points(self, module: RunsChains, axis: Any) -> None:
        """Draw images of the buffer, or its points in the plane."""
        buffer = module.buffer
        here = (buffer.labels[: len(buffer)] == 0).nonzero().squeeze(1).cpu()
        order = torch.randperm(len(here), generator=generator_at("cpu", "chains"))
        images = len(module.event_shape) == 3
        x = buffer.read(here[order[: self.num_images if images else 2000]].to(buffer.labels.device)).float().cpu()
        if images and len(x):
            grid = make_grid(x.clamp(-1, 1) / 2 + 0.5, nrow=round(self.num_images**0.5), padding=1, pad_value=1.0)
            axis.imshow(grid.permute(1, 2, 0))
        elif x.shape[1:] == (2,):
            axis.scatter(*x.T, s=2, c="#d95f02", alpha=0.6, linewidths=0)
            axis.set_aspect("equal")
        axis.set(xticks=[], yticks=[])


def draw_labels(module: HasLevels, axis: Any) -> None:
    """Draw the fraction of chains at every label, relative to uniform labels, which a trained model has."""
    fractions = module.buffer.labels.bincount(minlength=module.num_labels) * module.num_labels / module.buffer.size
    axis.bar(range(module.num_labels), fractions.cpu(), color="#7570b3")
    axis.axhline(1, c="black", lw=1, ls="--")
    axis.set(xlabel="label (0: data)", title="fraction of chains / uniform")


def draw_steps(module: HasLevels, axis: Any) -> None:
    """Draw the step size of every label with its cap, and the acceptance of the last window."""
    steps, labels = module.step_sizes, range(module.num_labels)
    axis.semilogy(labels, steps.values.cpu(), c="#1b9e77", label="step size")
    axis.semilogy(labels, steps.caps.cpu(), c="#1b9e77", lw=0.8, ls=":", label="its cap")
    axis.set(xlabel="label", title="step size (left), acceptance (right)")
    axis.legend(frameon=False, fontsize=8, loc="upper left")
    right = axis.twinx()
    right.plot(labels, steps.acceptance.cpu(), c="#d95f02", marker=".")
    right.axhspan(steps.LOW, steps.HIGH, color="#d95f02", alpha=0.1, lw=0)
    right.set_ylim(0, 1.02)


def draw_jumps(module: HasLevels, axis: Any) -> None:
    """Draw the jumps from label to label over about the last ten windows; the fractions of a row sum to one."""
    jumps = module.jumps.cpu()
    axis.imshow(jumps / jumps.sum(1, keepdim=True).clamp(min=1), cmap="Blues", vmin=0)
    axis.set(xlabel="label after", ylabel="label before", title="jumps")
