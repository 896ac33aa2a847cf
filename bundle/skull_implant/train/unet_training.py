"""Training of the supervised peer on the batches that the VAE learns from."""

from __future__ import annotations

from typing import Any

import torch
from ignite.engine import Engine
from monai.losses import DiceLoss
from torch import nn

from bundle.skull_implant.model.implant_unet import ImplantUNet
from bundle.skull_implant.train import processes
from bundle.skull_implant.train.losses import dice_coefficient
from bundle.skull_implant.train.training import Batch, update
from bundle.skull_implant.train.training_data import SkullBatches

FAR_LOGIT = -30.0  # its sigmoid is 1e-13, and the masked voxel has no gradient


class ImplantLoss(nn.Module):
    """MONAI's Dice plus cross entropy of the missing bone, where it is known.

    The Dice term is each volume's own, with squares, whose optimum for shares of bone is the share itself. An undamaged
    skull has cross entropy alone: its Dice is a cliff, 1 unless every probability is next to 0, over which a long
    training once went, and found less of the holes from then on.
    """

    def __init__(self) -> None:
        super().__init__()
        self.dice = DiceLoss(sigmoid=True, squared_pred=True, reduction="none")
        self.cross_entropy = nn.BCEWithLogitsLoss()

    def forward(self, logits: torch.Tensor, missing: torch.Tensor, known: torch.Tensor) -> torch.Tensor:
        """Mean over volumes; all arguments `(B, 1, X, Y, Z)`.

        Args:
            logits: of missing bone.
            missing: the share of bone that a defect took, 0 to 1.
            known: 0 where it is not known, which the loss then counts as rightly empty, whatever the logit.
        """
        # MONAI's masked losses multiply the logits, whose 0 is a probability of one half.
        logits, missing = logits.masked_fill(known == 0, FAR_LOGIT), missing * known
        damaged = missing.amax(dim=(1, 2, 3, 4)) > 0
        dice = self.dice(logits, missing).flatten(1).mean(1) * damaged
        loss: torch.Tensor = dice.mean() + self.cross_entropy(logits, missing)
        return loss


class ImplantStep:
    """One optimizer step of the U-Net.

    Args:
        loss: of the missing bone.
        bfloat16: mixed precision.
    """

    def __init__(self, loss: ImplantLoss, bfloat16: bool = False) -> None:
        self.loss = loss
        self.bfloat16 = bfloat16

    def __call__(self, engine: Engine, batch: Batch) -> dict[str, torch.Tensor]:
        """Returns the detached loss a volume, still on the device; of several processes each its part of the sum."""
        network: ImplantUNet = engine.network
        image, whole, known = (batch[key].to(engine.state.device) for key in ("image", "whole", "whole_known"))
        network.train()
        loss = processes.no_loss(network)
        if len(image):
            with torch.autocast(image.device.type, torch.bfloat16, enabled=self.bfloat16):
                logits = network(image)
            loss = self.loss(logits.float(), whole - image, known) * (len(image) / int(batch["volumes"]))
        update(engine.optimizer, loss)
        return {"loss": loss.detach()}


class HeldOutImplantDice:
    """Mean implant DSC of validation skulls on the training grid: undeformed, cranial and facial defects.

    Args:
        network: in any mode.
        batches: of validation skulls, with wholes.
        device: where to compute.
    """

    def __init__(self, network: ImplantUNet, batches: SkullBatches, device: torch.device) -> None:
        self.network = network
        self.batches = batches
        self.device = device

    def __call__(self) -> float:
        """The mean over all defective volumes, both thresholded at one half."""
        self.batches.epoch = 0
        self.network.eval()
        scores = [self._scores(batch) for batch in self.batches]
        return float(processes.gather(torch.cat(scores)).mean())

    def _scores(self, batch: dict[str, Any]) -> torch.Tensor:
        damaged = batch["kind"] > 0
        image, whole = (batch[key][damaged].to(self.device) for key in ("image", "whole"))
        if not len(image):
            return torch.zeros(0)
        return dice_coefficient(self.network.missing(image) > 0.5, whole - image > 0.5).cpu()
