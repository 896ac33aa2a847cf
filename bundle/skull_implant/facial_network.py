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

from bundle.skull_implant.canonical_grid import CanonicalBox
from bundle.skull_implant.light_unet import light_unet

if TYPE_CHECKING:
    from bundle.skull_implant.network import SkullCompleter

CHANNELS = (8, 16, 32, 64, 128)  # of the levels, finest first; each level below the first halves the grid
FEWEST_LEVELS = 3
COARSEST = 4  # voxels along an axis: below, instance norm has little to norm, and PyTorch 2 errs in bfloat16
THIN_BONE = 1.4  # times a probability of missing bone: thin bone fills no voxel by half and would be lost
FACIAL_ML = 0.7  # with less missing bone the decoded skull stays


def make_facial_network(spatial_size: Sequence[int]) -> DynUNet:
    """MONAI's U-Net from :func:`facial_features` to the logit of missing bone `(B, 1, X, Y, Z)`.

    Args:
        spatial_size: of the grid; the network has as many levels as it can be halved for.

    Raises:
        ValueError: the grid cannot be halved twice.
    """
    for levels in range(len(CHANNELS), FEWEST_LEVELS - 1, -1):
        times = 2 ** (levels - 1)
        if all(size % times == 0 and size // times >= COARSEST for size in spatial_size):
            return light_unet(2, CHANNELS[:levels])
    raise ValueError(f"spatial_size {tuple(spatial_size)} must be divisible by 4 and at least 16")


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


def missing_ml(missing: torch.Tensor, box: CanonicalBox) -> torch.Tensor:
    """Volume (B,) of what is more likely missing than not, of probabilities (B, 1, X, Y, Z) in a box."""
    return (missing > 0.5).flatten(1).sum(1) * float(np.prod(box.spacing_mm)) / 1000.0


@dataclass(frozen=True)
class FacialFit:
    """What the facial network says of a facial defect: bone that is there and bone that is missing, in one skull.

    Args:
        completer: in evaluation mode, with a facial network.
    """

    completer: SkullCompleter

    @classmethod
    def of(cls, completer: SkullCompleter) -> FacialFit | None:
        """With a completer's facial network; None where it has none."""
        return None if completer.facial_network is None else cls(completer)

    @torch.no_grad()
    def refine(
        self, probability: np.ndarray, bone_share: np.ndarray, code: torch.Tensor, gamma: float = 1.0
    ) -> np.ndarray:
        """Probability of the completed skull (X, Y, Z) float32; as decoded where the network finds nothing missing.

        Shares are added because at a defect's edge a voxel is half bone and half missing. The network learned at a
        gamma of 1, so gamma scales its answer: 0 adds nothing, more thickens.

        Args:
            probability: (X, Y, Z), decoded at gamma.
            bone_share: (X, Y, Z), share of the patient's bone.
            code: (latent_size,), of the skull with its defect.
            gamma: strength of the completion.
        """
        completer = self.completer
        assert completer.facial_network is not None
        image = torch.from_numpy(bone_share)[None, None].to(completer.latent_mean)
        missing = missing_bone(completer.facial_network, image, completer.completed(code[None].to(image), "facial"))
        if missing_ml(missing, completer.box)[0] < FACIAL_ML:
            return probability
        strength = THIN_BONE * max(gamma, 0.0)
        return np.asarray(np.minimum(bone_share + strength * missing[0, 0].cpu().numpy(), 1.0))
