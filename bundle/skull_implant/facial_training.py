"""Trains the facial network: what a facial slab took, from the bone that is left and the model's own completion."""

from __future__ import annotations

import logging
from pathlib import Path

import torch
from ignite.engine import Engine
from torch import nn

from bundle.skull_implant.errors import InputError
from bundle.skull_implant.facial_network import facial_features, missing_bone
from bundle.skull_implant.implant_unet import ImplantUNet
from bundle.skull_implant.network import LATENT_CLASSES, SkullCompleter
from bundle.skull_implant.training import Batch, update
from bundle.skull_implant.training_data import SkullBatches
from bundle.skull_implant.unet_training import ImplantLoss

logger = logging.getLogger(__name__)

FACIAL = LATENT_CLASSES.index("facial")


@torch.no_grad()
def start_facial_network(network: SkullCompleter, unet_file: str = "") -> nn.Module:
    """The completer's facial network; a new one starts from a U-Net that knows no decoded skull yet.

    Args:
        network: gets one if it has none.
        unet_file: of training with `configs/unet.yaml`; "" starts from random weights.

    Raises:
        InputError: no such file, no U-Net, or one of other sizes.
    """
    known = network.facial_network is not None
    facial = network.start_facial_network()
    if not unet_file:
        return facial
    if known:
        logger.info("%s: left out, the model has a facial network to go on from", Path(unet_file).name)
        return facial
    start = {
        name: torch.cat([weight, torch.zeros_like(weight)], dim=1) if weight.shape[1:2] == (1,) else weight
        for name, weight in ImplantUNet.from_file(unet_file).unet.state_dict().items()
    }  # the first layer, which saw one channel
    try:
        facial.load_state_dict(start)
    except RuntimeError as error:
        raise InputError(
            f"{Path(unet_file).name}: start_unet must be a U-Net of the facial network's channels, got others; "
            "train one with configs/unet.yaml or leave start_unet empty"
        ) from error
    return facial


class FacialStep:
    """One optimizer step of the facial network; in complete skulls and behind cranial holes no facial bone is missing.

    Args:
        completer: in any mode; only its facial network learns.
        loss: of the missing bone.
        bfloat16: mixed precision; worth it on GPUs and on CPUs with AMX or AVX-512 BF16.
    """

    def __init__(self, completer: SkullCompleter, loss: ImplantLoss, bfloat16: bool = False) -> None:
        self.completer = completer
        self.loss = loss
        self.bfloat16 = bfloat16

    def __call__(self, engine: Engine, batch: Batch) -> dict[str, torch.Tensor]:
        """Returns the detached loss."""
        image, whole, known, kind = (
            batch[key].to(engine.state.device) for key in ("image", "whole", "whole_known", "kind")
        )
        self.completer.eval()
        network = engine.network
        network.train()
        with torch.autocast(image.device.type, torch.bfloat16, enabled=self.bfloat16):
            with torch.no_grad():
                decoded = self.completer.completed(self.completer.encode(image), "facial").float()
            logits = network(facial_features(image, decoded))
        missing = (whole - image) * (kind == FACIAL).view(-1, 1, 1, 1, 1)
        loss = self.loss(logits.float(), missing, known)
        update(engine.optimizer, loss)
        return {"loss": loss.detach()}


class HeldOutFacialDice:
    """Mean DSC of what facial slabs took of validation skulls, on the training grid, the same slabs each time.

    Args:
        completer: in any mode.
        network: its facial network.
        batches: of validation skulls with facial defects, undeformed, with wholes.
        device: where to compute.
    """

    def __init__(
        self, completer: SkullCompleter, network: nn.Module, batches: SkullBatches, device: torch.device
    ) -> None:
        self.completer = completer
        self.network = network
        self.batches = batches
        self.device = device

    @torch.no_grad()
    def __call__(self) -> float:
        """The mean over all volumes, both thresholded at one half."""
        self.batches.epoch = 0
        self.completer.eval()
        self.network.eval()
        scores = []
        for batch in self.batches:
            image, whole = (batch[key].to(self.device) for key in ("image", "whole"))
            decoded = self.completer.completed(self.completer.encode(image), "facial")
            found = missing_bone(self.network, image, decoded).flatten(1) > 0.5
            truth = (whole - image).flatten(1) > 0.5
            scores.append(2 * (found & truth).sum(1) / (found.sum(1) + truth.sum(1)).clamp_min(1))
        return float(torch.cat(scores).mean())
