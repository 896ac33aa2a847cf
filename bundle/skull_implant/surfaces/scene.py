"""Masks on any grids brought onto one fine isotropic grid along the patient's axes, ready to be drawn in 3-D."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import SimpleITK as sitk
from scipy import ndimage

from bundle.skull_implant.bounding_box import bounding_box
from bundle.skull_implant.volume import Grid, Volume

Color = tuple[float, float, float]


@dataclass(frozen=True)
class Scene:
    """Masks as smoothed occupancies on one isotropic grid along the patient's axes.

    Args:
        occupancy: (L, X, Y, Z) float32 in 0..1, one per label; padded, so that the border is empty.
        colors: one per label, RGB in 0..1.
        grid: the common grid, direction identity.
        frame: (N, 3) voxels that every picture must hold, whether they are drawn or not.
    """

    occupancy: np.ndarray
    colors: tuple[Color, ...]
    grid: Grid
    frame: np.ndarray

    @classmethod
    def from_masks(cls, masks: Sequence[Volume], colors: Sequence[Color], *, spacing_mm: float = 1.0) -> Scene:
        """Masks on any grids, nonzero inside; all but one may be empty.

        Raises:
            ValueError: every mask is empty.
        """
        boxes = [bounding_box(mask.voxels) for mask in masks]
        corners = [_corners(mask.grid, box) for mask, box in zip(masks, boxes, strict=True) if box is not None]
        if not corners:
            raise ValueError("every mask is empty: there is nothing to draw")
        low = np.concatenate(corners).min(axis=0) - 4 * spacing_mm
        high = np.concatenate(corners).max(axis=0) + 4 * spacing_mm
        size = np.ceil((high - low) / spacing_mm).astype(int) + 1
        grid = Grid(tuple(size.tolist()), (spacing_mm,) * 3, tuple(low), tuple(np.eye(3).ravel()))
        occupancy = np.stack([_occupancy(mask, box, grid) for mask, box in zip(masks, boxes, strict=True)])
        frame = 4 * np.argwhere(occupancy[:, ::4, ::4, ::4].max(axis=0) > 0.3)
        return cls(occupancy, tuple(colors), grid, frame)

    def only(self, *labels: int) -> Scene:
        """The same scene with these labels alone, in the same frame: for pictures with and without the others."""
        return replace(self, occupancy=self.occupancy[list(labels)], colors=tuple(self.colors[n] for n in labels))

    @cached_property
    def solid(self) -> np.ndarray:
        """(X, Y, Z) occupancy of all labels together: labels that touch share voxels, so it is their sum."""
        total = self.occupancy[0] if len(self.occupancy) == 1 else self.occupancy.sum(axis=0)
        return np.minimum(total, np.float32(1.0))

    @cached_property
    def shell(self) -> np.ndarray:
        """(N, 3) filled voxels with an empty one among their 6 neighbors: every cell that the surface cuts has one."""
        filled = self.solid >= 0.5
        return np.argwhere(filled & ~ndimage.binary_erosion(filled))

    @cached_property
    def clear(self) -> np.ndarray:
        """How many voxels a ray may advance from anywhere in each block of 4 x 4 x 4 without meeting bone."""
        filled = self.solid >= 0.5
        for axis, length in enumerate(filled.shape):
            filled = np.logical_or.reduceat(filled, np.arange(0, length, 4), axis=axis)
        # Between block centers, less half a block's diagonal at either end and a voxel's for interpolation.
        free = 4.0 * ndimage.distance_transform_edt(~filled) - 5.0 * np.sqrt(3.0)
        return np.asarray(free, dtype=np.float32)


def _occupancy(mask: Volume, box: tuple[slice, ...] | None, grid: Grid) -> np.ndarray:
    """The share of each voxel of `grid` that a mask fills, lightly smoothed, float32."""
    occupancy = np.zeros(grid.size, np.float32)
    if box is None:
        return occupancy
    corners = (_corners(mask.grid, box) - grid.origin) / grid.spacing
    low = np.maximum(np.floor(corners.min(axis=0)).astype(int) - 4, 0)
    high = np.minimum(np.ceil(corners.max(axis=0)).astype(int) + 5, grid.size)
    part = sitk.Resample(
        _block_means(mask, box, grid.spacing[0]),
        [int(length) for length in high - low],
        sitk.Transform(),
        sitk.sitkLinear,
        np.array(grid.origin) + low * np.array(grid.spacing),
        grid.spacing,
        grid.direction,
        0.0,
        sitk.sitkFloat32,
    )
    sampled = np.ascontiguousarray(sitk.GetArrayViewFromImage(part).transpose(2, 1, 0))
    # Thick slices need more to hide their steps.
    sigma = max(0.9, 0.5 * max(mask.grid.spacing) / grid.spacing[0])
    occupancy[tuple(map(slice, low, high))] = ndimage.gaussian_filter(sampled, sigma, truncate=3.0)
    return occupancy


def _block_means(mask: Volume, box: tuple[slice, ...], target_mm: float) -> sitk.Image:
    """The mask's box averaged over blocks of about the target's spacing: keeps thin bone that sampling would miss."""
    filled = mask.voxels[box] != 0
    origin = mask.grid.affine[:3] @ [*(side.start for side in box), 1.0]
    image = Volume(filled, Grid(filled.shape, mask.grid.spacing, tuple(origin), mask.grid.direction)).to_image()
    block = [max(int(target_mm / step + 0.3), 1) for step in mask.grid.spacing]
    whole = sitk.ConstantPad(image, block, [2 * step for step in block])  # BinShrink drops blocks that are not whole
    return sitk.BinShrink(sitk.Cast(whole, sitk.sitkFloat32), block)


def _corners(grid: Grid, box: tuple[slice, ...]) -> np.ndarray:
    """LPS mm of a box's corners, (8, 3)."""
    ends = np.array([[side.start, side.stop - 1] for side in box], dtype=float)
    index = np.stack(np.meshgrid(*ends, indexing="ij"), axis=-1).reshape(-1, 3)
    return np.asarray(index @ grid.affine[:3, :3].T + grid.affine[:3, 3])
