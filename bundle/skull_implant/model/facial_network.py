"""The facial network: what a defect of the face or the forehead took, from the bone that is left and the decoded skull.

A decoded face is a blur, because few numbers cannot say where thin bones lie; the bone beside the defect and on the
other side can. The network sees both, in voxels half as large as the decoder's: a face is thinner than those.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from bundle.skull_implant.frame.canonical_grid import CanonicalBox
from bundle.skull_implant.model.light_unet import light_unet

CHANNELS = (16, 16, 32, 64, 128)  # of the levels, finest first; each level below the first halves the grid
FEWEST_LEVELS = 3
COARSEST = 4  # voxels along an axis: below, instance norm has little to norm, and PyTorch 2 errs in bfloat16
FINE_MM = 1.5  # axes with larger voxels are doubled
FRONT = 2 / 3  # of the box is seen, from the front
FACIAL_ML = 0.1  # of missing bone; a head without a hole of the vault that misses less is undamaged (validation)
THIN_BONE = 1.4  # times a probability of missing bone, which thin bone never has much of (0.36 is enough, validation)
BEHIND = -30.0  # logit of missing bone further back; its sigmoid is 1e-13


class FacialNetwork(nn.Module):
    """MONAI's U-Net on the decoder's grid; what is finer it takes and gives as channels (Shi et al. 2016).

    Args:
        spatial_size: of the decoder's grid; the network has as many levels as the part that it sees can be halved for.
        factors: finer voxels in one of that grid, along each axis.

    Raises:
        ValueError: the grid cannot be halved twice.
    """

    def __init__(self, spatial_size: Sequence[int], factors: Sequence[int]) -> None:
        super().__init__()
        self.factors = (int(factors[0]), int(factors[1]), int(factors[2]))
        levels, self.front = _levels_and_front(spatial_size)
        fine = int(np.prod(self.factors))
        self.unet = light_unet(2 * fine + 1, CHANNELS[:levels], fine)

    @torch.jit.unused
    def forward(self, image: torch.Tensor, decoded: torch.Tensor) -> torch.Tensor:
        """Logit of missing bone `(B, 1, U, V, W)`, at the finer grid.

        Args:
            image: (B, 1, U, V, W), share of the patient's bone, at the finer grid.
            decoded: (B, 1, X, Y, Z), probability of the completed skull.
        """
        coarse = functional.avg_pool3d(image, self.factors)
        beside = (decoded - coarse).clamp_min(0.0)  # the decoded skull where it is no bone
        bone = to_channels(image, self.factors)
        other_side = to_channels(image.flip(2), self.factors)  # of a head that stands straight in the canonical frame
        seen = torch.cat([bone, other_side, beside], dim=1)[:, :, :, -self.front :]
        logits = self.unet(seen.contiguous(memory_format=torch.channels_last_3d)).float()
        behind = decoded.shape[3] - self.front
        return functional.pad(to_voxels(logits, self.factors), (0, 0, behind * self.factors[1], 0), value=BEHIND)


def make_facial_network(box: CanonicalBox) -> FacialNetwork:
    """The network for a decoder's grid.

    Raises:
        ValueError: the grid cannot be halved twice.
    """
    factors = np.divide(fine_box(box).spatial_size, box.spatial_size).astype(int)
    return FacialNetwork(box.spatial_size, factors.tolist())


def fine_box(box: CanonicalBox) -> CanonicalBox:
    """The grid on which missing bone is told, of a decoder's grid."""
    return box.finer(FINE_MM)


def to_channels(volumes: torch.Tensor, factors: Sequence[int]) -> torch.Tensor:
    """Blocks of voxels as channels: `(B, C, X fx, Y fy, Z fz)` to `(B, C fx fy fz, X, Y, Z)`.

    MONAI's `pixelunshuffle`, with a factor for each axis.
    """
    batch, channels, *sizes = volumes.shape
    blocks = [each for size, factor in zip(sizes, factors, strict=True) for each in (size // factor, factor)]
    parted = volumes.reshape(batch, channels, *blocks).permute(0, 1, 3, 5, 7, 2, 4, 6)
    return parted.reshape(batch, -1, *blocks[::2])


def to_voxels(volumes: torch.Tensor, factors: Sequence[int]) -> torch.Tensor:
    """The inverse of :func:`to_channels`: `(B, C fx fy fz, X, Y, Z)` to `(B, C, X fx, Y fy, Z fz)`."""
    batch, _, *sizes = volumes.shape
    parted = volumes.reshape(batch, -1, *factors, *sizes).permute(0, 1, 5, 2, 6, 3, 7, 4)
    return parted.reshape(batch, parted.shape[1], *(size * factor for size, factor in zip(sizes, factors, strict=True)))


def finer(image: torch.Tensor, factors: Sequence[int]) -> torch.Tensor:
    """Volumes (B, C, X, Y, Z) with each voxel repeated `factors` times along the axes."""
    for axis, factor in enumerate(factors, start=2):
        image = image.repeat_interleave(factor, dim=axis)
    return image


def _levels_and_front(spatial_size: Sequence[int]) -> tuple[int, int]:
    """How many levels a grid is halved for, and how many of its voxels along y are seen."""
    for levels in range(len(CHANNELS), FEWEST_LEVELS - 1, -1):
        times = 2 ** (levels - 1)
        front = int(spatial_size[1] * FRONT) // times * times
        seen = (spatial_size[0], front, spatial_size[2])
        if all(size % times == 0 and size // times >= COARSEST for size in seen):
            return levels, front
    raise ValueError(f"spatial_size {tuple(spatial_size)} must be divisible by 4 and at least 16, along y 24")


@torch.no_grad()
def missing_bone(network: FacialNetwork, image: torch.Tensor, decoded: torch.Tensor) -> torch.Tensor:
    """Probability of missing bone `(B, 1, U, V, W)`, at the finer grid: the mean over the head and its mirror image.

    Args:
        network: in evaluation mode.
        image: (B, 1, U, V, W), share of the patient's bone at the finer grid, or at the decoder's, (B, 1, X, Y, Z).
        decoded: (B, 1, X, Y, Z), probability of the completed skull.
    """
    if image.shape == decoded.shape:
        image = finer(image, network.factors)
    straight = torch.sigmoid(network(image, decoded))
    mirrored = torch.sigmoid(network(image.flip(2), decoded.flip(2)))
    return (straight + mirrored.flip(2)) / 2


def missing_in(network: FacialNetwork, bone_share: np.ndarray, decoded: np.ndarray) -> np.ndarray:
    """Probability of missing bone (U, V, W) float32 in one skull.

    Args:
        network: in evaluation mode, on any device.
        bone_share: (U, V, W), share of the patient's bone at the finer grid.
        decoded: (X, Y, Z), probability of the completed skull.
    """
    device = next(network.parameters()).device
    image, complete = (torch.from_numpy(each)[None, None].float().to(device) for each in (bone_share, decoded))
    return np.asarray(missing_bone(network, image, complete)[0, 0].cpu().numpy())


def missing_ml(missing: torch.Tensor, box: CanonicalBox) -> torch.Tensor:
    """Volume (B,) of what is more likely missing than not, of probabilities (B, 1, X, Y, Z) in a box."""
    voxel_mm3 = float(np.prod(box.size_mm)) / float(np.prod(missing.shape[2:]))
    return (missing > 0.5).flatten(1).sum(1) * voxel_mm3 / 1000.0
