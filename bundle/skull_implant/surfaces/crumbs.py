"""Crumbs beside a piece and bubbles in it, which a surface would have as bodies of their own and no printer needs."""

from __future__ import annotations

import numpy as np
from scipy import ndimage


def without_crumbs(field: np.ndarray, voxel_ml: float, crumb_ml: float, *, keep_largest: bool = True) -> np.ndarray:
    """A solid's field without its small loose parts.

    Args:
        field: (X, Y, Z) occupancy, the solid's surface at one half; changed in place.
        voxel_ml: volume of one.
        crumb_ml: loose parts smaller than this come off.
        keep_largest: even if it is smaller.
    """
    solid = field > 0.5
    crumbs = _small(solid, voxel_ml, crumb_ml, keep_largest)
    if crumbs.any():
        field[ndimage.binary_dilation(crumbs, iterations=2) & ~(solid & ~crumbs)] = 0.0
    return field


def without_bubbles(field: np.ndarray, voxel_ml: float, bubble_ml: float) -> np.ndarray:
    """A solid's field without its small closed voids.

    Args:
        field: (X, Y, Z) occupancy, the solid's surface at one half, empty all around; changed in place.
        voxel_ml: volume of one.
        bubble_ml: closed voids smaller than this are filled.
    """
    field[_small(field <= 0.5, voxel_ml, bubble_ml, keep_largest=True)] = 1.0
    return field


def _small(mask: np.ndarray, voxel_ml: float, limit_ml: float, keep_largest: bool) -> np.ndarray:
    """Parts of a mask, connected by faces, that are smaller than a limit, (X, Y, Z) bool."""
    labels, count = ndimage.label(mask)
    volumes = np.bincount(labels.ravel(), minlength=count + 1) * voxel_ml
    volumes[0] = np.inf  # what is none of the mask
    if keep_largest and count:
        volumes[1 + np.argmax(volumes[1:])] = np.inf
    return np.asarray((volumes < limit_ml)[labels])
