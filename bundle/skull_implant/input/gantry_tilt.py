"""Slices that a tilted gantry sheared, moved onto an upright grid."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from bundle.skull_implant.volume import Grid, Volume

_PART = 1e-4  # of a pixel; less is rounding


@dataclass(frozen=True, eq=False)
class CorrectedTilt:
    """What the correction of a gantry tilt did to a volume.

    Args:
        degrees: of the tilt.
        first: index (i, j) of the first pixel of each slice that the scanner measured in full, (Z, 2).
        size: pixels along i and j that it measured, the same in all slices.
    """

    degrees: float
    first: np.ndarray
    size: tuple[int, int]

    def scanned(self, volume: Volume) -> Volume:
        """What the scanner measured of a corrected volume, each slice where it was before; the grid is no longer true.

        Args:
            volume: voxels `(X, Y, Z)` on the corrected grid, HU or a mask.
        """
        width, height = self.size
        voxels = np.empty((*self.size, len(self.first)), volume.voxels.dtype)
        for k, (i, j) in enumerate(self.first):
            voxels[:, :, k] = volume.voxels[i : i + width, j : j + height, k]
        grid = volume.grid
        return Volume(voxels, Grid((width, height, len(self.first)), grid.spacing, grid.origin, grid.direction))


@dataclass(frozen=True, eq=False)
class GantryTilt:
    """How slices follow each other.

    Args:
        shear: mm that a slice lies further along i and along j for each mm along the normal, (2,).
    """

    shear: np.ndarray

    @property
    def degrees(self) -> float:
        """Angle between the way from slice to slice and the slices' normal."""
        return float(np.degrees(np.arctan(np.linalg.norm(self.shear))))

    def corrected(self, volume: Volume, air_hu: float = -1024.0) -> tuple[Volume, CorrectedTilt]:
        """The same slices on an upright grid that is just large enough to hold them all.

        Slices stay in their planes and at their distance; each is moved within its plane, interpolated linearly
        between neighboring pixels.

        Args:
            volume: HU, voxels `(X, Y, Z)`, its grid taken to be upright from the first slice.
            air_hu: what the slices do not cover.

        Returns:
            Volume of the same voxel type and direction, with columns and rows of air added; and what lies where in it.
        """
        grid = volume.grid
        steps = np.array(grid.spacing[:2])
        # Pixels by which slice k must be moved, (Z, 2), and the whole pixels added before the first column and row.
        moves = np.outer(np.arange(grid.size[2]) * grid.spacing[2], self.shear) / steps
        before = np.ceil(np.maximum(-moves.min(axis=0), 0.0) - 1e-6).astype(int)
        after = np.ceil(np.maximum(moves.max(axis=0), 0.0) - 1e-6).astype(int)
        size = (grid.size[0] + int(before[0] + after[0]), grid.size[1] + int(before[1] + after[1]), grid.size[2])
        origin = (grid.affine @ np.array([-before[0], -before[1], 0.0, 1.0]))[:3]
        voxels = np.empty(size[::-1], volume.voxels.dtype).transpose(2, 1, 0)
        for k, move in enumerate(moves):
            voxels[:, :, k] = _moved(volume.voxels[:, :, k], before + move, size[:2], air_hu)
        first = np.ceil(before + moves - _PART).astype(int)  # a pixel that was moved by parts is air in part
        lost = (first - (before + moves) > _PART).any(axis=0)
        width, height = (np.array(grid.size[:2]) - lost).tolist()
        upright = Volume(voxels, Grid(size, grid.spacing, (origin[0], origin[1], origin[2]), grid.direction))
        return upright, CorrectedTilt(self.degrees, first, (width, height))


def _moved(pixels: np.ndarray, by: np.ndarray, size: tuple[int, int], air_hu: float) -> np.ndarray:
    """A slice `(X, Y)` in a larger one of air, its first pixel at index `by`."""
    whole = np.floor(by + _PART).astype(int)
    larger = np.full(size, air_hu, np.float32)
    larger[whole[0] : whole[0] + pixels.shape[0], whole[1] : whole[1] + pixels.shape[1]] = pixels
    for axis, part in enumerate(by - whole):
        if part > _PART:
            weights = [1.0 - part, part]  # of the pixel itself and of the one before it
            larger = ndimage.correlate1d(larger, weights[::-1], axis=axis, mode="constant", cval=air_hu)
    return np.rint(larger) if np.issubdtype(pixels.dtype, np.integer) else larger
