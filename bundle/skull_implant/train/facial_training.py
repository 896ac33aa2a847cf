"""Trains the facial network: what a defect took, from the bone that is left and the model's own completion."""

from __future__ import annotations

import logging
from pathlib import Path

import torch
from ignite.engine import Engine
from torch.nn import functional

from bundle.skull_implant.errors import InputError
from bundle.skull_implant.model.facial_network import FacialNetwork, finer, missing_bone
from bundle.skull_implant.model.implant_unet import ImplantUNet
from bundle.skull_implant.model.network import LATENT_CLASSES, SkullCompleter
from bundle.skull_implant.train import processes
from bundle.skull_implant.train.losses import dice_coefficient
from bundle.skull_implant.train.training import Batch, update
from bundle.skull_implant.train.training_data import SkullBatches
from bundle.skull_implant.train.unet_training import ImplantLoss

logger = logging.getLogger(__name__)

CRANIAL = LATENT_CLASSES.index("cranial")


@torch.no_grad()
def start_facial_network(network: SkullCompleter, unet_file: str = "") -> FacialNetwork:
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
    unet = ImplantUNet.from_file(unet_file).unet.state_dict()
    try:
        own = facial.unet.state_dict()
        facial.unet.load_state_dict({name: _widened(name, unet[name], own[name]) for name in own})
    except (KeyError, RuntimeError) as error:
        raise InputError(
            f"{Path(unet_file).name}: start_unet must be a U-Net whose levels below the first have the facial "
            "network's channels, got others; train one with configs/unet.yaml or leave start_unet empty"
        ) from error
    return facial


def _widened(name: str, known: torch.Tensor, own: torch.Tensor) -> torch.Tensor:
    """A U-Net's weight for the wider facial network, which so starts by giving each fine voxel the U-Net's logit.

    Channels that the U-Net has not keep their random start, and are not listened to at first.

    Args:
        name: of the weight.
        known: the U-Net's.
        own: the facial network's.
    """
    if known.shape == own.shape:
        return known
    own, count = own.clone(), known.shape[0]
    if name.startswith("output_block"):
        own.zero_()
        own.view(len(own), -1)[:, : known[0].numel()] = known.flatten()
    elif known.ndim == 1:
        own[:count] = known
    elif "transp_conv" in name:  # (in, out, ...)
        own[:, : known.shape[1]] = known
    elif known.shape[1] == 1:  # the first layer: the mean over a voxel's fine ones
        fine = own.shape[1] // 2
        own[:count] = 0
        own[:count, :fine] = known / fine
    else:
        parts = 2 if "conv_block.conv1" in name else 1  # from the level below, and from the one on the way down
        for wide, narrow in zip(own.chunk(parts, dim=1), known.chunk(parts, dim=1), strict=True):
            wide[:count] = 0
            wide[:count, : narrow.shape[1]] = narrow
    return own


class FacialStep:
    """One optimizer step of the facial network.

    Args:
        completer: in any mode; only its facial network learns.
        loss: of the missing bone.
        bfloat16: mixed precision; worth it on GPUs and on CPUs with AMX or AVX-512 BF16.
        blurred_share: of the batches, that show no more than the completer's grid does.
    """

    def __init__(
        self, completer: SkullCompleter, loss: ImplantLoss, bfloat16: bool = False, blurred_share: float = 0.15
    ) -> None:
        self.completer = completer
        self.loss = loss
        self.bfloat16 = bfloat16
        self.blurred_share = blurred_share

    def __call__(self, engine: Engine, batch: Batch) -> dict[str, torch.Tensor]:
        """Returns the detached loss a volume, still on the device; of several processes each its part of the sum."""
        image, whole, known, kind = (
            batch[key].to(engine.state.device) for key in ("image", "whole", "whole_known", "kind")
        )
        self.completer.eval()
        network = engine.network
        network.train()
        seen = self._seen(image)
        loss = processes.no_loss(network)
        if len(image):
            with torch.autocast(image.device.type, torch.bfloat16, enabled=self.bfloat16):
                logits = network(seen, completed(self.completer, image, kind))
            loss = self.loss(logits, whole - image, known) * (len(image) / int(batch["volumes"]))
        update(engine.optimizer, loss)
        return {"loss": loss.detach()}

    def _seen(self, image: torch.Tensor) -> torch.Tensor:
        """The skulls at their own grid, or now and then as blurred as the decoder's grid, or a scan's thick slices."""
        if float(torch.rand(())) >= self.blurred_share:
            return image
        return finer(coarse_share(image, self.completer), self.completer.start_facial_network().factors)


@torch.no_grad()
def completed(completer: SkullCompleter, image: torch.Tensor, kind: torch.Tensor) -> torch.Tensor:
    """Probability of the completed skulls (B, 1, X, Y, Z), at the completer's grid.

    Args:
        completer: in evaluation mode.
        image: (B, 1, U, V, W), share of bone at a finer grid.
        kind: (B,) of the volumes, in :data:`LATENT_CLASSES`; a complete skull is taken for one with a facial defect.
    """
    code = completer.encode(coarse_share(image, completer))
    return completer.decode(code + completer.step(code, (kind != CRANIAL).long())).float()


def coarse_share(image: torch.Tensor, completer: SkullCompleter) -> torch.Tensor:
    """Share of bone at the completer's grid (B, 1, X, Y, Z), of a finer one."""
    return functional.adaptive_avg_pool3d(image, completer.box.spatial_size)


class HeldOutFacialDice:
    """Mean DSC of what defects took of validation skulls, on the training grid, the same defects each time.

    Args:
        completer: in any mode.
        network: its facial network.
        batches: of validation skulls with defects, undeformed, with wholes.
        device: where to compute.
    """

    def __init__(
        self, completer: SkullCompleter, network: FacialNetwork, batches: SkullBatches, device: torch.device
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
        scores = [torch.zeros(0)]
        for batch in self.batches:
            if not len(batch["image"]):
                continue
            image, whole = (batch[key].to(self.device) for key in ("image", "whole"))
            decoded = completed(self.completer, image, batch["kind"].to(self.device))
            found = missing_bone(self.network, image, decoded) > 0.5
            scores.append(dice_coefficient(found, whole - image > 0.5).cpu())
        return float(processes.gather(torch.cat(scores)).mean())
