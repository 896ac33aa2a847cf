"""The part of a grid that masks use."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def bounding_box(*masks: np.ndarray, margin: Sequence[int] = (0, 0, 0)) -> tuple[slice, ...] | None:
    """Slices around everything nonzero in any of the masks.

    Args:
        masks: (X, Y, Z), of one shape.
        margin: voxels to add on both sides of each axis, as far as the grid goes.

    Returns:
        One slice per axis; None if every mask is empty.
    """
    box = []
    for axis in range(3):
        others = tuple(other for other in range(3) if other != axis)
        used = np.flatnonzero(np.logical_or.reduce([mask.any(axis=others) for mask in masks]))
        if not used.size:
            return None
        box.append(slice(max(int(used[0]) - margin[axis], 0), int(used[-1]) + 1 + margin[axis]))
    return tuple(box)
