"""Pictures of samples during training: grids of images, densities of toys."""

from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.loggers import WandbLogger
from torch import Tensor

from pt_flows.bounds import Count, CountOrZero
from pt_flows.callbacks.schedule import EveryIterations, as_method
from pt_flows.contracts import MapsLatents, RunsChains, Samples, Weights
from pt_flows.evaluation.subject import Subject
from pt_flows.functional.pixels import as_float
from pt_flows.loop.method import Method
from pt_flows.plots import num_shown, save_samples
from pt_flows.samplers import Sampler
from pt_flows.training.noise import generator_at


def send_picture(trainer: L.Trainer, key: str, path: Path, iteration: int, caption: str = "") -> None:
    """Send a picture or an animation to W&B, if the run uses it.

    Args:
        trainer: The trainer with the loggers.
        key: Name of the panel.
        path: A file of the run folder. Nothing is sent if it does not exist.
        iteration: The iteration in the picture.
        caption: Text under the picture; by default the iteration.
    """
    caption = caption or f"iteration {iteration:,}"
    for logger in trainer.loggers:
        if isinstance(logger, WandbLogger) and path.is_file():
            import wandb

            kind = wandb.Video if path.suffix == ".gif" else wandb.Image
            media = kind(str(path), caption=caption)
            logger.log_metrics({key: media}, step=iteration)  # pyright: ignore[reportArgumentType]


class Pictures(EveryIterations):
    """Draws samples from the same noise every N iterations, in `pictures/` of the run folder and in W&B.

    A picture of real images, `real.png`, is drawn once. Methods that generate no samples have no pictures.

    Args:
        every_n_iterations: Iterations between two pictures. Another one follows the last iteration.
        num_images: Images in a grid. Toys show 5,000 points next to the target.
        weights: The moving average, or the raw weights.
        sampler: Draws the samples; default the method's own way.
    """

    def __init__(
        self,
        every_n_iterations: CountOrZero = 1_000,
        num_images: Count = 64,
        weights: Weights = "ema",
        sampler: Sampler | None = None,
    ) -> None:
        super().__init__(every_n_iterations)
        self.num_images, self.sampler = num_images, sampler
        self.weights: Weights = weights

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Check that the sampler fits the method, before it is trained."""
        if self.sampler is not None:
            self.sampler.check(as_method(pl_module))

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Draw when it is due, on the first process alone."""
        method = as_method(pl_module)
        draws = self.sampler is not None or isinstance(method, MapsLatents | RunsChains | Samples)
        if not draws or not self.due(trainer, method) or not trainer.is_global_zero:
            return
        folder = Path(trainer.default_root_dir) / "pictures"
        if not (real := folder / "real.png").is_file() and self.draw_real(trainer, real):
            send_picture(trainer, "real", real, method.iteration, "real data, training split")
        path = folder / f"{method.iteration:08d}.png"
        self.draw(trainer, method, path)
        caption = f"iteration {method.iteration:,}, {self.weights} weights"
        send_picture(trainer, "samples", path, method.iteration, caption)

    @torch.no_grad()
    def draw(self, trainer: L.Trainer, method: Method, path: Path) -> None:
        """Draw samples of the current weights, if they are images or points in the plane."""
        data: Any = getattr(trainer, "datamodule", None)
        shape = tuple(data.event_shape)
        before, samples = self.before_and_after(method, data, self.num_images if len(shape) == 3 else num_shown(shape))
        beside = {"target": data.reference("test")} if shape == (2,) else {}
        if before is not None and before.shape == samples.shape:
            beside["source"] = before
            if len(shape) == 3:  # pairs: source left, generated right
                samples = torch.stack([before, samples], 1).flatten(0, 1)[: 2 * (self.num_images // 2)]
        save_samples(samples, path, f"iteration {method.iteration}", beside)

    def draw_real(self, trainer: L.Trainer, path: Path) -> bool:
        """Draw real images as many as generated ones, if the data are images. Pictures of toys show the target."""
        data: Any = getattr(trainer, "datamodule", None)
        if len(data.event_shape) != 3:
            return False
        return save_samples(as_float(data.up_to("train", self.num_images)), path, "real data", {})

    def before_and_after(self, method: Method, data: Any, num: int) -> tuple[Tensor | None, Tensor]:
        """Return samples from fixed noise, on the CPU, and before them, for maps of data, the samples of the source."""
        rng, source = generator_at("cpu", "pictures"), getattr(data, "source", None)
        if source is None or not isinstance(method, MapsLatents):
            sampler = Subject(method, self.weights, self.sampler, data).prepared()
            return None, sampler.sample(num, rng=rng).cpu()
        before = source.sample(num, rng)
        return before, method.generator.push(before.to(method.device), self.weights).cpu()
