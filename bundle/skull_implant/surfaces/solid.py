"""A mask as a solid without voxel steps: its blurred occupancy, whose half-way level is the surface."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage
from skimage.measure import marching_cubes

from bundle.skull_implant.bounding_box import bounding_box
from bundle.skull_implant.surfaces.clearance import Clearance
from bundle.skull_implant.surfaces.crumbs import without_bubbles, without_crumbs
from bundle.skull_implant.volume import Volume


@dataclass(frozen=True)
class Solid:
    """What is to be made.

    Args:
        field: (X, Y, Z) occupancy, zero at the border, one half on the surface.
        to_lps: (4, 4) from its index to LPS mm.
        volume_mm3: that the surface should enclose: the mask's, less what a clearance cut off.
        clearance: that was cut, if any.
    """

    field: np.ndarray
    to_lps: np.ndarray
    volume_mm3: float
    clearance: Clearance | None = None

    @property
    def spacing(self) -> np.ndarray:
        """Voxel size in mm, (3,)."""
        return np.asarray(np.linalg.norm(self.to_lps[:3, :3], axis=0))


def solid(
    mask: Volume, smoothing_voxels: float = 0.6, clearance: Clearance | None = None, crumb_ml: float = 0.01
) -> Solid:
    """The solid that a mask describes.

    Args:
        mask: nonzero inside, on any grid: anisotropic, oblique or mirrored.
        smoothing_voxels: standard deviation of the blur. 0.6 is the most that keeps a plate of one voxel.
        clearance: cuts off what is too near to the bone.
        crumb_ml: loose parts beside the largest one and closed voids that are smaller than this are left out.

    Raises:
        ValueError: the mask is empty.
    """
    inside = np.asarray(mask.voxels) != 0
    box = bounding_box(inside)
    if box is None:
        raise ValueError("the mask is empty: there is no surface to build")
    padding = 2 + int(np.ceil(3 * smoothing_voxels))
    field = ndimage.gaussian_filter(np.pad(inside[box], padding).astype(np.float32), smoothing_voxels)
    to_lps = mask.grid.affine.copy()
    to_lps[:3, 3] = (to_lps @ [*(side.start - padding for side in box), 1.0])[:3]
    field = without_bubbles(without_crumbs(field, mask.grid.voxel_ml, crumb_ml), mask.grid.voxel_ml, crumb_ml)
    volume_mm3 = np.count_nonzero(inside[box]) * mask.grid.voxel_ml * 1000.0
    if clearance is not None:
        field, to_lps, share = clearance.carve(field, to_lps)
        volume_mm3 *= share
    return Solid(field, to_lps, volume_mm3, clearance)


def level_set(field: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Vertices (N, 3) in index units, float64, and triangles (M, 3) of the half-way surface."""
    level = min(0.5, 0.5 * float(field.max()))  # below one half only where nothing is thicker than a voxel
    vertices, faces, _, _ = marching_cubes(field, level, allow_degenerate=False)
    return vertices.astype(np.float64), faces.astype(np.int64)
