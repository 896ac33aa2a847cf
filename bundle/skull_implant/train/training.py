"""The two training stages as steps of MONAI's trainer, and what watches over them."""

from __future__ import annotations

import csv
import logging
import math
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine, Events
from torch import nn

from bundle.skull_implant.errors import InputError
from bundle.skull_implant.model.network import SkullCompleter, SkullVAE
from bundle.skull_implant.train import processes
from bundle.skull_implant.train.losses import SkullDiceLoss, dice_coefficient, kl_divergence
from bundle.skull_implant.train.training_data import send
from bundle.skull_implant.whole_files import check_writable, whole_file, write_rows

logger = logging.getLogger(__name__)

Batch = dict[str, torch.Tensor]

FIELDS = ("epoch", "dice", "kld", "seconds", "held_out_dsc", "loss")


class StageOneStep:
    """Encoder and decoder together: `80 * Dice + beta * KLD`, codes sampled (Li et al. 2022, stage 1).

    Args:
        beta: weight of the KL divergence.
        loss: the Dice term.
        bfloat16: mixed precision; worth it on GPUs and on CPUs with AMX or AVX-512 BF16, ruinous on others (16 times
            slower, measured).
    """

    def __init__(self, beta: float, loss: SkullDiceLoss, bfloat16: bool = False) -> None:
        self.beta = beta
        self.loss = loss
        self.bfloat16 = bfloat16

    def __call__(self, engine: Engine, batch: Batch) -> dict[str, torch.Tensor]:
        """One optimizer step; returns detached loss terms per volume of the batch, still on the device.

        Of several processes each returns its part of the sum.
        """
        network: SkullVAE = engine.network
        images, known = (batch[key].to(engine.state.device) for key in ("image", "known"))
        volumes = int(batch["volumes"])
        network.train()
        # Drawn by the host, whose state a checkpoint holds, and for the whole batch, of which each process has a part.
        noise = torch.randn(volumes, network.latent_size)[processes.own_part(volumes)]
        with torch.autocast(images.device.type, torch.bfloat16, enabled=self.bfloat16):
            logits, mean, log_variance = network(images, send(noise, images.device))
        dice = self.loss(logits.float(), images, known)
        kld = kl_divergence(mean.float(), log_variance.float())
        update(engine.optimizer, dice + self.beta * kld)
        return {"dice": dice.detach() / volumes, "kld": kld.detach() / volumes}


class StageTwoStep:
    """The decoupled decoder alone, from the standardized posterior mean, Dice term only (Li et al. 2022, stage 2).

    The code is the mean and is never sampled: at beta = 100 its spread over skulls is a few hundredths of the
    posterior's sigma, which would drown it.

    Args:
        loss: the Dice term.
        bfloat16: mixed precision.
    """

    def __init__(self, loss: SkullDiceLoss, bfloat16: bool = False) -> None:
        self.loss = loss
        self.bfloat16 = bfloat16

    def __call__(self, engine: Engine, batch: Batch) -> dict[str, torch.Tensor]:
        """One optimizer step of the decoder; the encoder stays frozen in evaluation mode."""
        network: SkullCompleter = engine.network
        images, known = (batch[key].to(engine.state.device) for key in ("image", "known"))
        network.eval()
        network.decoder.train()
        with torch.autocast(images.device.type, torch.bfloat16, enabled=self.bfloat16):
            with torch.no_grad():
                code = network.encode(images)
            logits = network.decoder(code)
        dice = self.loss(logits.float(), images, known)
        update(engine.optimizer, dice)
        return {"dice": dice.detach() / int(batch["volumes"])}


def check_counts(**counts: int) -> None:
    """Raise InputError where a setting, by its name, counts nothing: no epoch, an empty batch."""
    for name, count in counts.items():
        if not isinstance(count, int) or count < 1:
            raise InputError(f"{name} must be a whole number of 1 or more, got {count!r}; leave it out for the default")


def check_interval(validation_interval: int) -> None:
    """Raise InputError where no epoch can be the one that is scored."""
    check_counts(validation_interval=validation_interval)


def check_targets(output_dir: str | Path, *files: str | Path) -> None:
    """Raise InputError, before hours of training, where its folder or that of a file it ends with takes none."""
    for folder in (output_dir, *(Path(file).parent for file in files)):
        check_writable(folder)


class ResumableCheckpoint:
    """Saves everything a stage needs at the end of each epoch, atomically, and continues from it at the next start.

    Args:
        path: checkpoint file.
        parts: name -> object with `state_dict` and `load_state_dict`: network, optimizer, scheduler.
        batches: loader whose `epoch` counter is set when resuming.
        resume: False starts anew, whatever the file holds.
        settings: name -> value of what the training is of, all but its number of epochs. A file with others is refused.
        frozen: beginning of the names of those weights of the network that the stage is given and leaves as they are. A
            file in which they are others is passed over.
    """

    def __init__(
        self,
        path: str | Path,
        parts: dict[str, Any],
        batches: Any,
        resume: bool = True,
        settings: Mapping[str, Any] | None = None,
        frozen: str = "",
    ) -> None:
        self.path = Path(path)
        self.parts = parts
        self.batches = batches
        self.resume = resume
        self.settings = {name: _as_text(value) for name, value in (settings or {}).items()}
        self.frozen = frozen

    def attach(self, engine: Engine) -> None:
        """Register with a trainer."""
        engine.add_event_handler(Events.STARTED, self.load)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self.save)

    def load(self, engine: Engine) -> None:
        """Restore the last epoch, if there is one.

        Raises:
            InputError: it is of a training with other settings.
        """
        if not (self.resume and self.path.is_file()):
            return
        content = torch.load(self.path, map_location=engine.state.device, weights_only=True)
        kept = content.get("settings", {})  # earlier versions wrote none
        changed = [name for name, value in self.settings.items() if kept.get(name, value) != value]
        if changed:
            raise InputError(
                f"{self.path}: holds a training with other settings ({', '.join(changed[:4])} differ); "
                "name another output_dir or pass --resume False"
            )
        if self.frozen and not self._begins_alike(content["network"]):
            logger.info("%s: begun anew, what it goes on from has been trained on", self.path.name)
            return
        for name, part in self.parts.items():
            planned = getattr(part, "T_max", 0)
            part.load_state_dict(content[name])
            if planned != getattr(part, "T_max", 0):
                _replan(part, planned)
        torch.set_rng_state(content["rng"].cpu())
        engine.state.epoch = content["epoch"]
        engine.state.iteration = content["epoch"] * len(self.batches)
        self.batches.epoch = content["epoch"]
        logger.info("%s: resumed after epoch %d", self.path.name, content["epoch"])

    def save(self, engine: Engine) -> None:
        """Write to a temporary name, then rename; of several processes the first one."""
        if not processes.is_first():
            return
        content: dict[str, Any] = {name: part.state_dict() for name, part in self.parts.items()}
        content |= {"epoch": engine.state.epoch, "rng": torch.get_rng_state(), "settings": self.settings}
        with whole_file(self.path) as partial:
            torch.save(content, partial)

    def _begins_alike(self, kept: Mapping[str, torch.Tensor]) -> bool:
        """Whether the weights that a file's training was given are those of the network."""
        given = {name: value for name, value in self.parts["network"].state_dict().items() if name in kept}
        return all(torch.equal(value, kept[name]) for name, value in given.items() if name.startswith(self.frozen))


def _as_text(value: Any) -> str:
    """A setting as a checkpoint keeps it; a number is the same as 1 and as 1.0."""
    return str(float(value)) if isinstance(value, int | float) else str(value)


def _replan(scheduler: torch.optim.lr_scheduler.CosineAnnealingLR, epochs: int) -> None:
    """Put a restored schedule on the cosine of another number of epochs; its own has ended at a rate of 0."""
    scheduler.T_max = epochs
    share = (1 + math.cos(math.pi * scheduler.last_epoch / epochs)) / 2
    for group, base in zip(scheduler.optimizer.param_groups, scheduler.base_lrs, strict=True):
        group["lr"] = scheduler.eta_min + (base - scheduler.eta_min) * share


class EpochSchedule:
    """Steps a learning-rate schedule at the end of each epoch, before the checkpoint is written.

    Args:
        scheduler: of torch.
    """

    def __init__(self, scheduler: torch.optim.lr_scheduler.LRScheduler) -> None:
        self.scheduler = scheduler

    def attach(self, engine: Engine) -> None:
        """Register with a trainer."""
        engine.add_event_handler(Events.EPOCH_COMPLETED, lambda _: self.scheduler.step())


class ProgressLine:
    """One line an epoch: losses, KL divergence, held-out DSC and seconds; a CSV file keeps them for the curves.

    They are left in `engine.state.metrics` for trackers.

    Args:
        stage: name in the line.
        path: CSV file.
        held_out: gives the reconstruction DSC of validation skulls, or None for none.
        interval: epochs between two held-out scores.
        resume: False removes the numbers of an earlier run.
    """

    def __init__(
        self,
        stage: str,
        path: str | Path,
        held_out: Callable[[], float] | None = None,
        interval: int = 1,
        resume: bool = True,
    ) -> None:
        self.stage = stage
        self.path = Path(path)
        self.held_out = held_out
        self.interval = interval
        self.resume = resume
        self.totals: dict[str, torch.Tensor] = {}
        self.started = 0.0
        self.begun = False

    def attach(self, engine: Engine) -> None:
        """Register with a trainer."""
        engine.add_event_handler(Events.STARTED, self._prepare)
        engine.add_event_handler(Events.EPOCH_STARTED, self._begin)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._add)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._report)

    def _prepare(self, engine: Engine) -> None:
        self.begun = False
        if processes.is_first() and not self.resume:
            self.path.unlink(missing_ok=True)

    def _begin(self, engine: Engine) -> None:
        if not self.begun and processes.is_first():
            self._forget(engine.state.epoch)
        self.begun = True
        self.totals, self.started = {}, time.monotonic()

    def _forget(self, epoch: int) -> None:
        """Remove the lines of this epoch and later ones: a run was killed before its checkpoint was written."""
        if self.path.exists():
            with self.path.open(newline="") as file:
                rows = [row for row in csv.DictReader(file) if (row["epoch"] or "").isdigit()]
            self._write([row for row in rows if int(row["epoch"]) < epoch])

    def _write(self, rows: Iterable[Mapping[str, Any]]) -> None:
        write_rows(self.path, rows, FIELDS)

    def _add(self, engine: Engine) -> None:
        # Sums stay on the device: reading them here would wait for it in every step.
        for name, value in engine.state.output.items():
            self.totals[name] = self.totals.get(name, torch.zeros_like(value)) + value

    def _report(self, engine: Engine) -> None:
        row: dict[str, float] = {"epoch": engine.state.epoch}
        totals = {name: float(processes.total(value)) for name, value in self.totals.items()}
        row |= {name: value / engine.state.epoch_length for name, value in totals.items()}
        row["seconds"] = time.monotonic() - self.started
        if self.held_out and (engine.state.epoch % self.interval == 0 or engine.state.epoch == engine.state.max_epochs):
            row["held_out_dsc"] = self.held_out()
        engine.state.metrics = {name: value for name, value in row.items() if name != "epoch"}
        numbers = " ".join(f"{name} {value:.4g}" for name, value in row.items() if name != "epoch")
        logger.info("%s epoch %d/%d: %s", self.stage, engine.state.epoch, engine.state.max_epochs, numbers)
        if not processes.is_first():
            return
        if not self.path.exists():
            self._write([])
        with self.path.open("a", newline="") as file:
            csv.DictWriter(file, FIELDS).writerow(row)


class HeldOutDice:
    """Mean reconstruction DSC of validation skulls: undeformed, the same three classes of volumes each time.

    Args:
        reconstruct: images (B, 1, X, Y, Z) to probabilities of skull.
        batches: of validation skulls.
        device: where to compute.
    """

    def __init__(
        self, reconstruct: nn.Module | Callable[[torch.Tensor], torch.Tensor], batches: Any, device: torch.device
    ) -> None:
        self.reconstruct = reconstruct
        self.batches = batches
        self.device = device

    @torch.no_grad()
    def __call__(self) -> float:
        """The mean over all volumes, at the training grid, thresholded at one half."""
        self.batches.epoch = 0
        scores = [
            dice_coefficient(self.reconstruct(images) > 0.5, images > 0.5)
            for images in _images(self.batches, self.device)
        ]
        return float(processes.gather(torch.cat(scores)).mean())


class Reconstruction:
    """Encode and decode without DEV, by either network, in evaluation mode.

    Args:
        network: :class:`SkullVAE` or :class:`SkullCompleter`.
    """

    def __init__(self, network: SkullVAE | SkullCompleter) -> None:
        self.network = network

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """Probability of skull `(B, 1, X, Y, Z)`."""
        self.network.eval()
        if isinstance(self.network, SkullCompleter):
            return self.network.decode(self.network.encode(images))
        return torch.softmax(self.network(images)[0], dim=1)[:, 1:]


def _images(batches: Iterable[Batch], device: torch.device) -> Iterable[torch.Tensor]:
    return (batch["image"].to(device) for batch in batches)


def update(optimizer: torch.optim.Optimizer, loss: torch.Tensor) -> None:
    """One step of an optimizer along a loss, the sum of the losses of all processes."""
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    processes.sum_gradients(each for group in optimizer.param_groups for each in group["params"])
    optimizer.step()
