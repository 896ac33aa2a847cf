"""Fits a code to the patient's bone: the encoder guesses it from a skull with a hole, the decoder knows more."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy import ndimage
from torch.optim.adam import adam

from bundle.skull_implant.mask_morphology import far_from_bone
from bundle.skull_implant.model.network import SkullCompleter


@dataclass(frozen=True)
class CodeFit:
    """Gradient descent on the code with the decoder fixed: maximum a posteriori around the start (our choice of loss).

    The loss is the squared Dice of decoded skull and bone, where the hole and its surroundings are left out, plus the
    mean square of the code's way from its start.

    Args:
        steps: of Adam; 0 leaves the code as it is.
        learning_rate: of Adam, in standard deviations of the code.
        prior: weight of the way from the start.
        core_mm: decoded bone at least this far from all bone is the hole's core.
        margin_mm: voxels nearer than this to the core are left out.
    """

    steps: int = 30
    learning_rate: float = 0.05
    prior: float = 0.01
    core_mm: float = 4.0
    margin_mm: float = 6.0

    def __call__(self, network: SkullCompleter, image: torch.Tensor, start: torch.Tensor) -> torch.Tensor:
        """A better code.

        Args:
            network: in evaluation mode.
            image: (B, 1, X, Y, Z), share of bone.
            start: (B, latent_size), codes of completed skulls.

        Returns:
            (B, latent_size).
        """
        if self.steps == 0:
            return start
        with torch.no_grad():
            weight = self._weight(network.decode(start), image, network.box.spacing_mm)
        code = start.detach().clone()
        moments, step = (torch.zeros_like(code), torch.zeros_like(code)), torch.tensor(0.0)
        for _ in range(self.steps):
            with torch.enable_grad():
                moved = code.detach().requires_grad_(True)
                near = self.prior * (moved - start).square().mean(1).sum()
                loss = self._loss(network.decode(moved), image, weight) + near
                (gradient,) = torch.autograd.grad(loss, [moved])
            self._adam(code, gradient, moments, step)
        return code

    def _adam(
        self, code: torch.Tensor, gradient: torch.Tensor, moments: tuple[torch.Tensor, torch.Tensor], step: torch.Tensor
    ) -> None:
        """One step of Adam, in place. The class `torch.optim.Adam` imports PyTorch's compiler first, for a second."""
        first, second = moments
        adam(
            [code],
            [gradient],
            [first],
            [second],
            [],
            [step],
            amsgrad=False,
            beta1=0.9,
            beta2=0.999,
            lr=self.learning_rate,
            weight_decay=0.0,
            eps=1e-8,
            maximize=False,
        )

    def _weight(self, decoded: torch.Tensor, image: torch.Tensor, spacing_mm: np.ndarray) -> torch.Tensor:
        """1 where decoded skull and bone are compared, 0 in and around the hole, shaped as the image."""
        weights = []
        for skull, bone in zip(decoded[:, 0].cpu().numpy(), image[:, 0].cpu().numpy(), strict=True):
            core = far_from_bone(skull > 0.5, bone, spacing_mm, self.core_mm)
            near = ndimage.distance_transform_edt(~core, sampling=spacing_mm) <= self.margin_mm if core.any() else core
            weights.append(torch.from_numpy(~near))
        return torch.stack(weights)[:, None].to(image)

    @staticmethod
    def _loss(decoded: torch.Tensor, image: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        both = (weight * decoded * image).flatten(1).sum(1)
        total = (weight * (decoded.square() + image.square())).flatten(1).sum(1)
        return (1 - 2 * both / total.clamp_min(1e-6)).sum()
