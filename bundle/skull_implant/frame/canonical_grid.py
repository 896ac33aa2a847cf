"""Resampling between a case's own grid and the canonical one, and back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import SimpleITK as sitk
import torch

from bundle.skull_implant.frame.canonical_frame import CanonicalFrame
from bundle.skull_implant.volume import Grid, Volume


@dataclass(frozen=True)
class CanonicalBox:
    """The box that every head is resampled into: fixed mm, in the canonical RAS frame, origin at the vertex.

    Args:
        spatial_size: voxels along right, anterior, superior.
        size_mm: of the box.
        top_mm: how far it reaches above the vertex.
    """

    spatial_size: tuple[int, int, int]
    size_mm: tuple[float, float, float] = (176.0, 224.0, 160.0)
    top_mm: float = 6.0

    @property
    def spacing_mm(self) -> np.ndarray:
        """Voxel size, (3,)."""
        return np.asarray(self.size_mm) / np.asarray(self.spatial_size)

    @property
    def affine(self) -> np.ndarray:
        """Canonical index to canonical RAS mm, (4, 4); box corners are voxel corners."""
        affine = np.diag([*self.spacing_mm, 1.0])
        corner = np.array([-self.size_mm[0] / 2, -self.size_mm[1] / 2, self.top_mm - self.size_mm[2]])
        affine[:3, 3] = corner + self.spacing_mm / 2
        return affine

    def finer(self, largest_mm: float) -> CanonicalBox:
        """The same box with twice the voxels along each axis whose voxels are larger than this.

        An axis that is fine already stays as it is: a doubled grid of the paper's size would take 8 GB.
        """
        x, y, z = (
            2 * count if spacing > largest_mm else count
            for count, spacing in zip(self.spatial_size, self.spacing_mm, strict=True)
        )
        return CanonicalBox((x, y, z), self.size_mm, self.top_mm)

    def coordinates(self, device: torch.device | str = "cpu") -> torch.Tensor:
        """Canonical RAS mm of every voxel center, (3, X, Y, Z) float32."""
        axes = [
            torch.arange(size, device=device) * float(self.affine[i, i]) + float(self.affine[i, 3])
            for i, size in enumerate(self.spatial_size)
        ]
        return torch.stack(torch.meshgrid(*axes, indexing="ij")).float()

    def grid(self, frame: CanonicalFrame) -> Grid:
        """The canonical grid in this patient's LPS frame."""
        affine = frame.affine @ self.affine
        spacing = self.spacing_mm
        direction = affine[:3, :3] / spacing
        return Grid(
            (int(self.spatial_size[0]), int(self.spatial_size[1]), int(self.spatial_size[2])),
            (float(spacing[0]), float(spacing[1]), float(spacing[2])),
            (float(affine[0, 3]), float(affine[1, 3]), float(affine[2, 3])),
            tuple(direction.ravel().tolist()),
        )


def to_canonical(mask: Volume, frame: CanonicalFrame, box: CanonicalBox) -> np.ndarray:
    """Share of bone in each canonical voxel.

    The mask is first averaged over blocks no larger than a canonical voxel, so that a plate thinner than the voxel
    spacing keeps its mass and its place, then interpolated linearly.

    Args:
        mask: bone, 0 or 1, on the case's own grid.
        frame: of this case.
        box: the canonical box.

    Returns:
        (X, Y, Z) float32 in 0 to 1; 0 outside the scan.
    """
    blocks = tuple(max(1, int(np.floor(box.spacing_mm.min() / spacing + 1e-6))) for spacing in mask.grid.spacing)
    averaged = _block_mean(mask, blocks)
    return Volume.from_image(resample(averaged, box.grid(frame))).voxels


def to_native(values: np.ndarray, frame: CanonicalFrame, box: CanonicalBox, grid: Grid) -> np.ndarray:
    """Canonical values (X, Y, Z) interpolated linearly on a case's own grid, float32; 0 outside the box."""
    canonical = Volume(np.asarray(values, dtype=np.float32), box.grid(frame))
    return Volume.from_image(resample(canonical, grid)).voxels


def scanned(points_mm: np.ndarray, grid: Grid, frame: CanonicalFrame, border_mm: float = 0.0) -> np.ndarray:
    """Canonical points (3, ...) that the scan shows, at least `border_mm` from its end; bool (...)."""
    points = np.asarray(points_mm)
    to_index = grid.inverse_affine @ frame.affine
    rest = (1,) * (points.ndim - 1)
    index = np.tensordot(to_index[:3, :3], points, axes=1) + to_index[:3, 3].reshape(3, *rest)
    margin = (border_mm / np.asarray(grid.spacing)).reshape(3, *rest)
    size = np.asarray(grid.size).reshape(3, *rest)
    return np.asarray(np.all((index > margin - 0.5) & (index < size - 0.5 - margin), axis=0))


def resize(mask: np.ndarray, box: CanonicalBox, spatial_size: tuple[int, int, int]) -> np.ndarray:
    """The same box at another grid size: share of bone in each new voxel, (X, Y, Z) float32."""
    if tuple(mask.shape) == tuple(spatial_size):
        return mask.astype(np.float32)
    nowhere = CanonicalFrame(np.eye(3), np.zeros(3), np.ones(3))
    return to_canonical(Volume(mask, box.grid(nowhere)), nowhere, CanonicalBox(spatial_size, box.size_mm, box.top_mm))


def resample(volume: Volume, grid: Grid) -> sitk.Image:
    """Linear interpolation of float32 values onto another grid; 0 outside, constant in the half voxel at the border."""
    image = volume.to_image()
    resampler = sitk.ResampleImageFilter()
    resampler.SetSize(grid.size)
    resampler.SetOutputSpacing(grid.spacing)
    resampler.SetOutputOrigin(grid.origin)
    resampler.SetOutputDirection(grid.direction)
    resampler.SetInterpolator(sitk.sitkLinear)
    resampler.SetDefaultPixelValue(0.0)
    return resampler.Execute(image)


def crop_grid(grid: Grid, low: Sequence[int], size: Sequence[int]) -> Grid:
    """The part of a grid that begins at index `low`."""
    origin = grid.affine[:3, :3] @ np.asarray(low, dtype=float) + grid.affine[:3, 3]
    return Grid(
        (int(size[0]), int(size[1]), int(size[2])),
        grid.spacing,
        (float(origin[0]), float(origin[1]), float(origin[2])),
        grid.direction,
    )


def _block_mean(mask: Volume, blocks: tuple[int, ...]) -> Volume:
    """Mean over blocks of voxels; a remainder at the far end is padded with air."""
    size = np.array(mask.voxels.shape)
    padded = -(-size // blocks) * np.array(blocks)
    voxels = mask.voxels.view(np.uint8) if mask.voxels.dtype == bool else mask.voxels
    # One axis after the other keeps the temporaries small; the slowest in memory first, or it takes 5 times as long.
    total = np.pad(voxels, [(0, int(extra)) for extra in padded - size])
    for axis in np.argsort(total.strides)[::-1].tolist():
        block = blocks[axis]
        shape = [*total.shape[:axis], total.shape[axis] // block, block, *total.shape[axis + 1 :]]
        total = total.reshape(shape).sum(axis=axis + 1, dtype=np.uint16)
    means = total.astype(np.float32) / float(np.prod(blocks))
    spacing = tuple(float(step * block) for step, block in zip(mask.grid.spacing, blocks, strict=True))
    shift = crop_grid(mask.grid, [0, 0, 0], [1, 1, 1]).affine[:3, :3] @ ((np.array(blocks) - 1) / 2.0)
    origin = tuple(float(value) for value in np.asarray(mask.grid.origin) + shift)
    grid = Grid(
        means.shape, (spacing[0], spacing[1], spacing[2]), (origin[0], origin[1], origin[2]), mask.grid.direction
    )
    return Volume(means, grid)
