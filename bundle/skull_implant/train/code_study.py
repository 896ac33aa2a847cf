"""What the stage-2 decoder should learn from: one decoder for each kind of code, side by side on the same batches."""

from __future__ import annotations

import copy
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import torch

from bundle.skull_implant.model.encoder_decoder import Decoder
from bundle.skull_implant.model.network import SkullCompleter
from bundle.skull_implant.train.losses import SkullDiceLoss
from bundle.skull_implant.train.training import HeldOutDice, update
from bundle.skull_implant.train.training_data import SkullBatches
from bundle.skull_implant.whole_files import write_rows, write_text

logger = logging.getLogger(__name__)

Code = Callable[[SkullCompleter, torch.Tensor], torch.Tensor]


def raw_code(network: SkullCompleter, images: torch.Tensor) -> torch.Tensor:
    """`mu + sigma`, as the method paper's published code did in stage 2; it varies by hundredths around 1."""
    mean, log_variance = network.encoder(images)
    return mean + torch.exp(0.5 * log_variance)


def standardized_code(network: SkullCompleter, images: torch.Tensor) -> torch.Tensor:
    """The posterior mean, zero mean and unit standard deviation over the training volumes."""
    return network.encode(images)


def sampled_code(network: SkullCompleter, images: torch.Tensor) -> torch.Tensor:
    """A sample of the posterior, as in stage 1."""
    mean, log_variance = network.encoder(images)
    return mean + torch.randn_like(mean) * torch.exp(0.5 * log_variance)


def mean_code(network: SkullCompleter, images: torch.Tensor) -> torch.Tensor:
    """The posterior mean itself: what a decoder of samples is scored with."""
    return network.encoder(images)[0]


# Name -> the code to learn from, and the code to score with.
CODES: Mapping[str, tuple[Code, Code]] = {
    "mu + sigma": (raw_code, raw_code),
    "standardized mean": (standardized_code, standardized_code),
    "sampled": (sampled_code, mean_code),
}


class CodeStudy:
    """Stage 2 for each of :data:`CODES`, from the same initial decoder and on the same batches.

    Args:
        batches: of training skulls, as in stage 2.
        scored: "training" and "validation" persons: undeformed batches whose reconstruction is scored.
        loss: the Dice term.
        epochs: of stage 2.
        learning_rate: falls to 0 along a cosine, as in stage 2.
        interval: epochs between two scores.
        levels: reconstruction DSC whose first epoch is told.
    """

    def __init__(
        self,
        batches: SkullBatches,
        scored: Mapping[str, SkullBatches],
        loss: SkullDiceLoss,
        epochs: int,
        learning_rate: float,
        interval: int = 5,
        levels: Sequence[float] = (0.58, 0.59, 0.6),
    ) -> None:
        self.batches = batches
        self.scored = scored
        self.loss = loss
        self.epochs = epochs
        self.learning_rate = learning_rate
        self.interval = interval
        self.levels = levels

    def run(self, network: SkullCompleter, output_dir: str | Path, device: torch.device) -> str:
        """Train the decoders, write `codes.csv` and `codes.md`, and return the table.

        Args:
            network: its encoder and standardization are trained; left as they are.
            output_dir: where the files go.
            device: where to compute.
        """
        network.eval()
        decoders = {name: copy.deepcopy(network.decoder) for name in CODES}
        optimizers = {name: torch.optim.Adam(each.parameters(), self.learning_rate) for name, each in decoders.items()}
        schedules = [torch.optim.lr_scheduler.CosineAnnealingLR(each, self.epochs) for each in optimizers.values()]
        rows: list[dict[str, float | str]] = []
        for epoch in range(1, self.epochs + 1):
            started = time.monotonic()
            for batch in self.batches:
                images, known = (batch[key].to(device) for key in ("image", "known"))
                for name, (learned_from, _) in CODES.items():
                    with torch.no_grad():
                        code = learned_from(network, images)
                    self._step(decoders[name], optimizers[name], code, images, known)
            for schedule in schedules:
                schedule.step()
            if epoch % self.interval == 0 or epoch == self.epochs:
                rows += [self._score(network, name, decoder, epoch, device) for name, decoder in decoders.items()]
                self._write(rows, Path(output_dir))
            logger.info("codes epoch %d/%d: seconds %.1f", epoch, self.epochs, time.monotonic() - started)
        return self.table(rows)

    def table(self, rows: Sequence[Mapping[str, float | str]]) -> str:
        """Markdown: a row for each code and part, the first scored epoch at each level, and the last score."""
        lines = [
            f"| code | persons | {' | '.join(f'epochs to {level:g}' for level in self.levels)} | DSC at the end |",
            "|---|---|" + "---|" * (len(self.levels) + 1),
        ]
        for name in CODES:
            own = [row for row in rows if row["code"] == name]
            for part in self.scored:
                first = [
                    next((f"{row['epoch']}" for row in own if float(row[part]) >= level), "-") for level in self.levels
                ]
                lines.append(f"| {name} | {part} | {' | '.join(first)} | {float(own[-1][part]):.3f} |")
        return "\n".join(lines)

    def _step(
        self,
        decoder: Decoder,
        optimizer: torch.optim.Optimizer,
        code: torch.Tensor,
        images: torch.Tensor,
        known: torch.Tensor,
    ) -> None:
        decoder.train()
        update(optimizer, self.loss(decoder(code), images, known))

    def _score(
        self, network: SkullCompleter, name: str, decoder: Decoder, epoch: int, device: torch.device
    ) -> dict[str, float | str]:
        decoder.eval()
        decode = partial(_decode, network, decoder, CODES[name][1])
        row: dict[str, float | str] = {"code": name, "epoch": epoch}
        for part, batches in self.scored.items():
            row[part] = HeldOutDice(decode, batches, device)()
        logger.info("%s epoch %d: %s", name, epoch, ", ".join(f"{part} DSC {row[part]:.3f}" for part in self.scored))
        return row

    def _write(self, rows: Sequence[Mapping[str, float | str]], folder: Path) -> None:
        write_rows(folder / "codes.csv", rows, list(rows[0]))
        write_text(folder / "codes.md", self.table(rows) + "\n")


def _decode(network: SkullCompleter, decoder: Decoder, code: Code, images: torch.Tensor) -> torch.Tensor:
    """Probability of skull (B, 1, X, Y, Z)."""
    return torch.softmax(decoder(code(network, images)), dim=1)[:, 1:]
