"""Random smooth deformation of skulls on the device: what lets a shape model learn from a few dozen persons."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.nn import functional


@dataclass(frozen=True)
class Deformation:
    """Ranges of the random deformation; each skull of a batch gets its own draw.

    Args:
        scale: standard deviation of the size along each axis.
        shear: standard deviation of the six shears.
        rotation_deg: standard deviation about each axis; the frame's own error.
        shift_mm: standard deviation along each axis.
        warp_mm: standard deviation of the smooth displacement at its control points.
        warp_points: control points along each axis.
        mirror: probability of exchanging left and right.
    """

    scale: float = 0.05
    shear: float = 0.03
    rotation_deg: float = 2.0
    shift_mm: float = 2.0
    warp_mm: float = 3.0
    warp_points: tuple[int, int, int] = (5, 6, 5)
    mirror: float = 0.5

    def draw(
        self, count: int, generator: torch.Generator, size_mm: Sequence[float], pivot: Sequence[float]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Random parameters, on the CPU so that they are the same on every device.

        Args:
            count: skulls in the batch.
            generator: source of randomness, CPU.
            size_mm: of the box.
            pivot: (3,) fixed point of the linear part, as a share of the box from -1 to 1.

        Returns:
            Affine maps (count, 3, 4) in coordinates of the box from -1 to 1, and displacements of the control points
            (count, 3, *warp_points).
        """
        half = torch.tensor([float(size) / 2 for size in size_mm])

        def normal(*shape: int) -> torch.Tensor:
            return torch.randn(*shape, generator=generator)

        linear = torch.eye(3).repeat(count, 1, 1)
        linear = linear + torch.diag_embed(self.scale * normal(count, 3))
        linear = linear + self.shear * normal(count, 3, 3) * (1 - torch.eye(3))
        angle = torch.deg2rad(self.rotation_deg * normal(count, 3))
        linear = linear @ torch.linalg.matrix_exp(_skew(angle))
        flipped = torch.rand(count, generator=generator) < self.mirror
        linear[:, 0] = torch.where(flipped[:, None], -linear[:, 0], linear[:, 0])
        linear = linear * half[None, None, :] / half[None, :, None]  # mm -> shares of the half box
        fixed = torch.tensor([float(value) for value in pivot])
        shift = self.shift_mm * normal(count, 3) / half + fixed - linear @ fixed
        warp = self.warp_mm * normal(count, 3, *self.warp_points) / half.view(1, 3, 1, 1, 1)
        return torch.cat([linear, shift[:, :, None]], dim=2), warp


def deform(volumes: torch.Tensor, affine: torch.Tensor, warp: torch.Tensor) -> torch.Tensor:
    """Sample volumes at deformed positions, linearly, with zeros outside.

    Args:
        volumes: (B, C, X, Y, Z).
        affine: (B, 3, 4), output to input position in coordinates of the box from -1 to 1, axes x, y, z.
        warp: (B, 3, x, y, z) displacements at control points spread over the box.

    Returns:
        (B, C, X, Y, Z).
    """
    size = volumes.shape[2:]
    position = _cubic_resize(warp, size)  # (B, 3, X, Y, Z)
    for axis, count in enumerate(size):
        along = (torch.arange(count, device=volumes.device) * 2 + 1) / count - 1
        along = along.view([count if dim == axis else 1 for dim in range(3)])
        position += affine[:, :, axis, None, None, None] * along
    position += affine[:, :, 3, None, None, None]
    # grid_sample wants (B, X, Y, Z, 3) with the last axis first: z, y, x
    grid = position.flip(1).permute(0, 2, 3, 4, 1)
    return functional.grid_sample(volumes, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


def _cubic_resize(values: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
    """Smooth interpolation of control points to the grid, one axis after the other, as matrix products."""
    for axis, count in enumerate(size):
        weights = _spline_weights(values.shape[2 + axis], count, values.device)
        values = torch.movedim(torch.tensordot(values, weights, dims=([2 + axis], [1])), -1, 2 + axis)
    return values


def _spline_weights(points: int, count: int, device: torch.device) -> torch.Tensor:
    """Cubic B-spline weights (count, points), normalized at the ends."""
    position = torch.linspace(0, points - 1, count, device=device)[:, None]
    distance = (position - torch.arange(points, device=device)).abs()
    near = 2 / 3 - distance**2 + distance**3 / 2
    far = (2 - distance).clamp_min(0) ** 3 / 6
    weights = torch.where(distance < 1, near, far)
    return weights / weights.sum(1, keepdim=True)


def _skew(vector: torch.Tensor) -> torch.Tensor:
    x, y, z = vector.unbind(1)
    zero = torch.zeros_like(x)
    return torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], dim=1).view(-1, 3, 3)
