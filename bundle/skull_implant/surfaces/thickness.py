"""How thick an implant is, and how much of it is too thin."""

from __future__ import annotations

import numpy as np
from scipy import ndimage
from scipy.spatial import cKDTree

from bundle.skull_implant.surfaces.clearance import Clearance
from bundle.skull_implant.surfaces.solid import level_set, solid
from bundle.skull_implant.volume import Volume

BESIDE_MM = 3.0  # a dimple narrower than twice this is no thickness of the plate


def plate_chords_mm(mask: Volume, *, clearance: Clearance | None = None, maximum_samples: int = 20_000) -> np.ndarray:
    """How thick a plate is all over, measured across its middle surface.

    Samples are voxels half-way between two faces: there the distance map is flat, its gradient at most one half (two
    middle layers), against 0.7 where the ridges run into the corners of a rim and 1 elsewhere; but not within 3 mm of
    much deeper ones, where a voxel's step in the surface looks like a middle. From each, the line
    through the nearest surface point is followed to the opposite face; the chord is the thickness, if its sample halves
    it (within a voxel). Finer than twice the distance map, which is a voxel short where a plate is an even number of
    voxels thick. Within 2 % on flat plates of any number of voxels.

    Args:
        mask: nonzero inside, on any grid.
        clearance: measure what it leaves.
        maximum_samples: evenly thinned to about this many.

    Returns:
        (N,) mm, empty where the clearance leaves nothing. Chords below one voxel are not resolved and count as the
        finest spacing.

    Raises:
        ValueError: the mask is empty.
    """
    shape = solid(mask, 0.45, clearance)  # more widens thin plates, less leaves voxel steps
    if shape.volume_mm3 == 0:
        return np.empty(0)
    field, spacing = shape.field, shape.spacing  # a thickness does not depend on where the grid points
    middle = _middle_voxels(field, spacing)
    middle = middle[:: 1 + len(middle) // maximum_samples]
    surface = level_set(field)[0] * spacing
    near_mm, nearest = cKDTree(surface).query(middle * spacing)
    across = (middle * spacing - surface[nearest]) / np.maximum(near_mm, 1e-9)[:, None]
    far_mm = _exit_distance(field, middle, across / spacing, near_mm + 1.2 * spacing.max())
    halved = np.abs(far_mm - near_mm) <= 1.1 * spacing.max()  # two middle layers lie one voxel apart, plus rounding
    return np.maximum((near_mm + far_mm)[halved] if halved.any() else 2.0 * near_mm, spacing.min())


def thickness_mm(chords: np.ndarray) -> dict[str, float]:
    """The range of a plate's thickness.

    Args:
        chords: (N,) mm, of :func:`plate_chords_mm`.

    Returns:
        `min`, `p05` (5th percentile: unlike the minimum not at the mercy of a single loose voxel), `median`, `p95`,
        `max` in mm.
    """
    names = {"min": 0, "p05": 5, "median": 50, "p95": 95, "max": 100}
    return {name: float(np.percentile(chords, percent)) for name, percent in names.items()}


def _middle_voxels(field: np.ndarray, spacing: np.ndarray) -> np.ndarray:
    """Voxels (N, 3) half-way between two faces; the best there are where nothing has a middle."""
    inside = field > 0.5
    depth = ndimage.distance_transform_edt(inside, sampling=spacing)
    slope = np.sqrt(sum(along**2 for along in np.gradient(depth, *spacing)))
    window = 2 * np.maximum(1, np.rint(BESIDE_MM / spacing)).astype(int) + 1
    deepest = ndimage.maximum_filter(depth, size=tuple(window))
    middle = np.argwhere(inside & (slope < 0.6) & (depth >= 0.7 * deepest))
    return middle if len(middle) else np.argwhere(field == field.max())


def _exit_distance(field: np.ndarray, start: np.ndarray, step: np.ndarray, limit_mm: np.ndarray) -> np.ndarray:
    """How far lines from inside run before the field falls below one half, mm; infinite beyond the limit.

    `start` is in voxels, `step` in voxels per mm, both (N, 3); `limit_mm` is (N,).
    """
    fractions = np.linspace(0.0, 1.0, 33)
    along_mm = limit_mm[:, None] * fractions  # (N, 33)
    points = start[:, None, :] + along_mm[..., None] * step[:, None, :]  # (N, 33, 3)
    values = ndimage.map_coordinates(field, points.transpose(2, 0, 1), order=1)
    outside = values < 0.5
    first = np.maximum(outside.argmax(axis=1), 1)
    rows = np.arange(len(start))
    before, after = values[rows, first - 1], values[rows, first]
    share = (before - 0.5) / np.maximum(before - after, 1e-9)
    distance = along_mm[rows, first - 1] + share * (along_mm[rows, first] - along_mm[rows, first - 1])
    return np.where(outside.any(axis=1), distance, np.inf)
