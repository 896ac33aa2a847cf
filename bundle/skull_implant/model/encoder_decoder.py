"""The layers of the method paper's beta-VAE (Li et al. 2022).

Strided convolutions with batch norm, two linear layers to the posterior's mean and log variance, and a mirrored decoder
with two output channels (background, skull) that gives logits.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from monai.networks.blocks import Convolution
from torch import nn


class Encoder(nn.Module):
    """Skull `(B, 1, X, Y, Z)` to the posterior's mean and log variance, each `(B, latent_size)`.

    Args:
        spatial_size: voxels of the canonical grid; each must be divisible by the product of the strides.
        channels: of each convolution.
        strides: of each convolution.
        latent_size: numbers in a code.
        prelu: the paper's activation; else a leaky ReLU, in three quarters of the time on a CPU.
    """

    def __init__(
        self,
        spatial_size: Sequence[int],
        channels: Sequence[int],
        strides: Sequence[int],
        latent_size: int,
        prelu: bool = True,
    ) -> None:
        super().__init__()
        self.final_size = _final_size(spatial_size, strides)
        sizes = [1, *channels]
        self.layers = nn.Sequential(
            *(
                Convolution(3, sizes[i], sizes[i + 1], strides=strides[i], norm="batch", act=_activation(prelu))
                for i in range(len(channels))
            )
        )
        features = channels[-1] * int(np.prod(self.final_size))
        self.mean = nn.Linear(features, latent_size)
        self.log_variance = nn.Linear(features, latent_size)

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and log variance of the code's posterior."""
        features = self.layers(image).flatten(1)  # (B, C, x, y, z) -> (B, C x y z)
        return self.mean(features), self.log_variance(features)


class Decoder(nn.Module):
    """Code `(B, latent_size)` to logits `(B, 2, X, Y, Z)` of background and skull.

    Args:
        spatial_size: voxels of the canonical grid; each must be divisible by the product of the strides.
        channels: of the encoder's convolutions; the decoder mirrors them.
        strides: of the encoder's convolutions.
        latent_size: numbers in a code.
        prelu: the paper's activation; else a leaky ReLU.
        refined_levels: coarsest levels that have a second convolution; the paper's decoder has none.
    """

    def __init__(
        self,
        spatial_size: Sequence[int],
        channels: Sequence[int],
        strides: Sequence[int],
        latent_size: int,
        prelu: bool = True,
        refined_levels: int = 0,
    ) -> None:
        super().__init__()
        self.final_size = _final_size(spatial_size, strides)
        self.coarsest_channels = channels[-1]
        self.linear = nn.Linear(latent_size, self.coarsest_channels * int(np.prod(self.final_size)))
        sizes = [*channels[::-1], 2]
        steps = list(strides)[::-1]
        last = len(channels) - 1
        layers = []
        for i in range(len(channels)):
            common: dict[str, Any] = {"norm": "batch", "act": _activation(prelu)}
            layers.append(
                Convolution(
                    3, sizes[i], sizes[i + 1], strides=steps[i], is_transposed=True, conv_only=i == last, **common
                )
            )
            if i < min(refined_levels, last):
                layers.append(Convolution(3, sizes[i + 1], sizes[i + 1], **common))
        self.layers = nn.Sequential(*layers)

    def forward(self, code: torch.Tensor) -> torch.Tensor:
        """Logits of background and skull."""
        features = self.linear(code)  # (B, C x y z)
        x, y, z = self.final_size[0], self.final_size[1], self.final_size[2]  # TorchScript cannot unpack a list
        return self.layers(features.view(features.shape[0], self.coarsest_channels, x, y, z))


def _activation(prelu: bool) -> Any:
    return "prelu" if prelu else ("leakyrelu", {"negative_slope": 0.1, "inplace": True})


def _final_size(spatial_size: Sequence[int], strides: Sequence[int]) -> list[int]:
    total = int(np.prod(strides))
    if any(size % total for size in spatial_size):
        raise ValueError(f"spatial_size {tuple(spatial_size)} must be divisible by the product of the strides, {total}")
    return [size // total for size in spatial_size]
