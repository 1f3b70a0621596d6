"""Pictures of what a model draws: grids of images, densities of toys."""

from pathlib import Path
from typing import Any

import lightning as L
import matplotlib
import numpy as np
import torch
from lightning.pytorch.loggers import WandbLogger
from torch import Tensor
from torchvision.utils import make_grid, save_image

from pt_flows.callbacks.schedule import EveryIterations, as_flow
from pt_flows.contracts import Weights
from pt_flows.errors import UserError
from pt_flows.loop.base import GenerativeModule, GeneratorModule
from pt_flows.training.noise import generator_at


def save_grid(x: Tensor, path: Path, columns: int | None = None) -> None:
    """A grid of images (B, C, H, W) in [-1, 1] as PNG, nearly square where not told; small images are enlarged."""
    columns = columns or int(np.ceil(len(x) ** 0.5))
    grid = make_grid(x.clamp(-1, 1).float().cpu() / 2 + 0.5, nrow=columns, padding=1, pad_value=1.0)
    enlarge = max(1, 64 // x.shape[-1])
    grid = grid.repeat_interleave(enlarge, 1).repeat_interleave(enlarge, 2)
    path.parent.mkdir(parents=True, exist_ok=True)
    save_image(grid, path)


def save_density(panels: dict[str, Tensor], path: Path) -> None:
    """Samples on the plane side by side, as points over their smoothed histogram, on one scale.

    Args:
        panels: Title to samples (n, 2); the first panel, the target, sets the frame.
        path: PNG to write.
    """
    matplotlib.use("Agg")
    from matplotlib.figure import Figure

    first = next(iter(panels.values()))
    centre = (first.amax(0) + first.amin(0)) / 2
    half = 0.65 * float((first.amax(0) - first.amin(0)).max())
    (left, bottom), (right, top) = (centre - half).tolist(), (centre + half).tolist()
    figure = Figure(figsize=(4 * len(panels), 4.3), layout="constrained")
    for axis, (title, x) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True):
        x = x.float().cpu()
        histogram, _, _ = np.histogram2d(
            x[:, 0].numpy(), x[:, 1].numpy(), bins=120, range=[[left, right], [bottom, top]]
        )
        axis.imshow(
            smooth(histogram).T,
            origin="lower",
            extent=(left, right, bottom, top),
            cmap="Blues",
            interpolation="bilinear",
        )
        shown = x[:1000]
        axis.scatter(shown[:, 0], shown[:, 1], s=2, c="#d95f02", alpha=0.5, linewidths=0)
        outside = 1 - float(((x - centre).abs() <= half).all(1).float().mean())
        axis.set(xlim=(left, right), ylim=(bottom, top), xticks=[], yticks=[])
        axis.set_title(title + (f" ({outside:.0%} outside)" if outside >= 0.005 else ""), fontsize=10)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def smooth(histogram: np.ndarray) -> np.ndarray:
    """Gaussian blur of 1.5 bins, and a square root so that thin parts show."""
    kernel = np.exp(-0.5 * (np.arange(-5, 6) / 1.5) ** 2)
    kernel /= kernel.sum()
    for axis in (0, 1):
        histogram = np.apply_along_axis(np.convolve, axis, histogram, kernel, "same")
    return np.sqrt(histogram)


def send_picture(trainer: L.Trainer, key: str, path: Path, iteration: int) -> None:
    """Show a picture or an animation in W&B, where the run has it.

    Args:
        trainer: Has the loggers.
        key: Name of the panel.
        path: A file of the run folder; nothing is sent if it was not written.
        iteration: The moment that it shows.
    """
    for logger in trainer.loggers:
        if isinstance(logger, WandbLogger) and path.is_file():
            import wandb

            media = wandb.Video(str(path)) if path.suffix == ".gif" else wandb.Image(str(path))
            logger.log_metrics({key: media}, step=iteration)  # pyright: ignore[reportArgumentType]


class Pictures(EveryIterations):
    """A picture every N iterations, from the same latents each time, in `pictures/` of the run folder and in W&B.

    Args:
        every_n_iterations: How often, beside after the last iteration.
        num_images: Images in a grid; toys show 5,000 points beside the target.
        weights: The moving average, or the raw weights.
    """

    def __init__(self, every_n_iterations: int = 1_000, num_images: int = 64, weights: Weights = "ema") -> None:
        super().__init__(every_n_iterations)
        if num_images < 1:
            raise UserError(f"pictures.num_images must be at least 1, got {num_images}")
        self.num_images = num_images
        self.weights: Weights = weights

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Draw where it is due; one process draws for all."""
        module = as_flow(pl_module)
        if not self.due(trainer, module) or not trainer.is_global_zero:
            return
        path = Path(trainer.default_root_dir) / "pictures" / f"{module.iteration:08d}.png"
        self.draw(trainer, module, path)
        send_picture(trainer, "samples", path, module.iteration)

    @torch.no_grad()
    def draw(self, trainer: L.Trainer, module: GenerativeModule, path: Path) -> None:
        """Write the picture of the current weights."""
        before, samples = self.before_and_after(module, self.num_images if len(module.event_shape) == 3 else 5000)
        if len(module.event_shape) == 3:
            if before is not None and before.shape == samples.shape:  # pairs, left before and right after
                samples = torch.stack([before, samples], 1).flatten(0, 1)[: 2 * (self.num_images // 2)]
            save_grid(samples, path)
        elif tuple(module.event_shape) == (2,):
            data: Any = getattr(trainer, "datamodule", None)
            panels = {"target": data.reference("test")[:5000]} if hasattr(data, "reference") else {}
            panels |= {"source": before} if before is not None and before.shape[1:] == (2,) else {}
            save_density(panels | {f"iteration {module.iteration}": samples}, path)

    def before_and_after(self, module: GenerativeModule, num: int) -> tuple[Tensor | None, Tensor]:
        """Samples from the pictures' fixed latents, on the host; before them, for maps of data, the source's."""
        rng = generator_at("cpu", "pictures")
        if not isinstance(module, GeneratorModule) or module.source is None:
            return None, module.sample(num, rng=rng, weights=self.weights).cpu()
        before = module.source.sample(num, rng)
        return before, module.push(before.to(module.device), self.weights).cpu()
