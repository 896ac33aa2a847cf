"""The facial network: what a facial defect took, from the bone that is left and the decoded skull.

A decoded face is a blur, because few numbers cannot say where thin bones lie; the bone beside the defect can. The
network sees both.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from monai.networks.nets import DynUNet
from torch import nn

from bundle.skull_implant.light_unet import light_unet

if TYPE_CHECKING:
    from bundle.skull_implant.network import SkullCompleter

CHANNELS = (8, 16, 32, 64, 128)  # of the levels, finest first; each level below the first halves the grid


def make_facial_network(spatial_size: Sequence[int]) -> DynUNet:
    """MONAI's U-Net from :func:`facial_features` to the logit of missing bone `(B, 1, X, Y, Z)`.

    Args:
        spatial_size: of the grid, which can be halved twice at least; as many levels as it can be halved for.
    """
    levels = next((n for n in range(len(CHANNELS), 2, -1) if not any(size % 2 ** (n - 1) for size in spatial_size)), 3)
    return light_unet(2, CHANNELS[:levels])


def facial_features(image: torch.Tensor, decoded: torch.Tensor) -> torch.Tensor:
    """The network's input `(B, 2, X, Y, Z)`: shares of bone, and the decoded skull where it is no bone.

    Args:
        image: (B, 1, X, Y, Z), share of the patient's bone.
        decoded: (B, 1, X, Y, Z), probability of the completed skull.
    """
    both = torch.cat([image, (decoded - image).clamp_min(0.0)], dim=1)
    return both.contiguous(memory_format=torch.channels_last_3d)


@torch.no_grad()
def missing_bone(network: nn.Module, image: torch.Tensor, decoded: torch.Tensor) -> torch.Tensor:
    """Probability of missing bone `(B, 1, X, Y, Z)`.

    Args:
        network: in evaluation mode.
        image: (B, 1, X, Y, Z), share of the patient's bone.
        decoded: (B, 1, X, Y, Z), probability of the completed skull.
    """
    return torch.sigmoid(network(facial_features(image, decoded)).float())


@dataclass(frozen=True)
class FacialFit:
    """What the facial network says of a facial defect: bone that is there and bone that is missing, in one skull.

    Args:
        network: in evaluation mode.
    """

    network: nn.Module

    @classmethod
    def of(cls, completer: SkullCompleter) -> FacialFit | None:
        """With a completer's facial network; None where it has none."""
        return None if completer.facial_network is None else cls(completer.facial_network.eval())

    def refine(self, probability: np.ndarray, bone_share: np.ndarray) -> np.ndarray:
        """Probability of the completed skull (X, Y, Z) float32.

        Shares are added because at a defect's edge a voxel is half bone and half missing.

        Args:
            probability: (X, Y, Z) decoded.
            bone_share: (X, Y, Z), share of the patient's bone.
        """
        weight = next(self.network.parameters())
        image, decoded = (torch.from_numpy(each)[None, None].to(weight) for each in (bone_share, probability))
        missing = missing_bone(self.network, image, decoded)[0, 0].cpu().numpy()
        return np.asarray(np.minimum(bone_share + missing, 1.0))
