"""Stage 1 as the method paper describes it, out of MONAI's own parts: what the speed of our step is measured against.

Each volume is read from NIfTI and resized in every epoch, by four workers; float32, batches of four, MONAI's
`VarAutoEncoder` and `DiceLoss` (Li et al. 2022, section 3).
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path

import torch
from monai.data import DataLoader, Dataset
from monai.losses import DiceLoss
from monai.networks.nets import VarAutoEncoder
from monai.transforms import Compose, EnsureChannelFirstd, LoadImaged, Resized
from torch import nn

CHANNELS = (32, 64, 64, 128, 128, 256)
STRIDES = (2, 2, 2, 2, 2, 2)
LATENT_SIZE = 32


class PlainTraining:
    """Epochs of plain training.

    Args:
        paths: NIfTI files of binary skulls; more than once for longer epochs.
        spatial_size: what each is resized to.
        device: where to compute.
        batch_size: volumes.
        workers: of the loader.
        learning_rate: of Adam.
        beta: weight of the KL divergence.
        dice_weight: of the Dice term.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        spatial_size: Sequence[int],
        device: torch.device,
        batch_size: int = 4,
        workers: int = 4,
        learning_rate: float = 1e-4,
        beta: float = 100.0,
        dice_weight: float = 80.0,
    ) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # MONAI makes readers of formats that are not read here
            load = LoadImaged(keys="image", reader="NibabelReader")
        resize = Resized(keys="image", spatial_size=tuple(spatial_size), mode="nearest")
        transform = Compose([load, EnsureChannelFirstd(keys="image"), resize])
        dataset = Dataset([{"image": str(path)} for path in paths], transform)
        self.batches = DataLoader(dataset, batch_size=batch_size, shuffle=True, num_workers=workers)
        self.device = device
        self.beta = beta
        self.dice_weight = dice_weight
        self.network = plain_network(spatial_size).to(device)
        self.optimizer = torch.optim.Adam(self.network.parameters(), lr=learning_rate)
        self.dice = DiceLoss(softmax=True, to_onehot_y=True, reduction="sum")

    def epoch(self) -> float:
        """One epoch; its mean loss a batch."""
        self.network.train()
        total = 0.0
        for batch in self.batches:
            images = batch["image"].as_tensor().to(self.device)
            scores, mean, log_variance, _ = self.network(images)
            kld = -0.5 * torch.sum(1 + log_variance - mean.pow(2) - log_variance.exp())
            loss = self.dice_weight * self.dice(scores, images) + self.beta * kld
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            total += loss.item()
        return total / len(self.batches)


def plain_network(spatial_size: Sequence[int]) -> nn.Module:
    """MONAI's network of the paper's sizes, giving logits."""
    return VarAutoEncoder(
        spatial_dims=3,
        in_shape=(1, *spatial_size),
        out_channels=2,
        latent_size=LATENT_SIZE,
        channels=CHANNELS,
        strides=STRIDES,
        norm="batch",
        use_sigmoid=False,
    )
