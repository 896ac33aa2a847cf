"""The two terms of the method paper's loss, equation by equation, and the Dice coefficient that trainings report."""

from __future__ import annotations

import torch
from torch import nn


class SkullDiceLoss(nn.Module):
    """`weight` times the Dice loss of softmax logits, summed over batch and both channels (Li et al. 2022).

    The same number as MONAI's `DiceLoss(softmax=True, reduction="sum")` on two channels; as both channels follow from
    the skull's alone it is computed from that one, in a third of the time and memory. With a mask it is the number of
    `MaskedDiceLoss`' idea on both channels: voxels whose truth is not known count nowhere.

    Args:
        weight: the paper's 80.
        squared: squares in the denominator, whose optimum for partial-volume targets is the target itself; the plain
            Dice's optimum is a thresholded one, so that thickness is lost.
        smooth: added to numerator and denominator.
    """

    def __init__(self, weight: float = 80.0, squared: bool = True, smooth: float = 1e-5) -> None:
        super().__init__()
        self.weight = weight
        self.squared = squared
        self.smooth = smooth

    def forward(self, logits: torch.Tensor, target: torch.Tensor, known: torch.Tensor | None = None) -> torch.Tensor:
        """Loss of logits `(B, 2, X, Y, Z)` against skulls `(B, 1, X, Y, Z)` in 0 to 1.

        Args:
            logits: of background and skull.
            target: share of bone.
            known: (B, 1, X, Y, Z), 1 where the target is the truth and 0 where nothing is known; None for 1 everywhere.
        """
        skull = torch.sigmoid(logits[:, 1] - logits[:, 0]).flatten(1)  # softmax over two channels
        target = target[:, 0].flatten(1)
        voxels: float | torch.Tensor = target.shape[1]
        if known is not None:
            known = known[:, 0].flatten(1)
            skull, target, voxels = skull * known, target * known, known.sum(1)
        both = (skull * target).sum(1)
        skull_sum, target_sum = skull.sum(1), target.sum(1)
        both_background = voxels - skull_sum - target_sum + both
        if self.squared:
            skull_square, target_square = skull.square().sum(1), target.square().sum(1)
            total = skull_square + target_square
            total_background = 2 * voxels - 2 * skull_sum + skull_square - 2 * target_sum + target_square
        else:
            total = skull_sum + target_sum
            total_background = 2 * voxels - total
        dice = (2 * both + self.smooth) / (total + self.smooth)
        dice_background = (2 * both_background + self.smooth) / (total_background + self.smooth)
        return self.weight * (2 - dice - dice_background).sum()


def kl_divergence(mean: torch.Tensor, log_variance: torch.Tensor) -> torch.Tensor:
    """Divergence of N(mean, variance) from N(0, I), summed over batch and codes (Li et al. 2022, eq. 5)."""
    return -0.5 * (1 + log_variance - mean.square() - log_variance.exp()).sum()


def dice_coefficient(found: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """Dice coefficient (B,) of masks (B, ...) bool; 0 where both are empty."""
    found, truth = found.flatten(1), truth.flatten(1)
    return 2 * (found & truth).sum(1) / (found.sum(1) + truth.sum(1)).clamp_min(1)
