"""Shapes as depth fields: positive inside, negative outside, in mm; unions with a fillet look grown, not built."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

Point = tuple[float, float, float]


@dataclass(frozen=True)
class Clay:
    """Round cones, each worked into a depth field within its own box, once on either side of x = 0.

    Args:
        axes: coordinates x, y, z in mm, shaped to broadcast.
        corner: mm of voxel (0, 0, 0).
        step_mm: isotropic grid spacing.
        rng: moves each end by about half a millimeter, left and right separately, as nothing grows symmetric.
        reach_mm: depths are not worked out farther than this outside a cone.
    """

    axes: tuple[np.ndarray, np.ndarray, np.ndarray]
    corner: Point
    step_mm: float
    rng: np.random.Generator
    reach_mm: float = 14.0

    def empty(self) -> np.ndarray:
        """A field without anything in it."""
        return np.full(np.broadcast_shapes(*(axis.shape for axis in self.axes)), -self.reach_mm, np.float32)

    def add(self, field: np.ndarray, start: Point, end: Point, r0: float, r1: float, blend_mm: float = 2.0) -> None:
        """Merge the cone from `start` (radius `r0`, mm) to `end` (`r1`), and its mirror image, into the field."""
        for box, depth in self._cones(start, end, r0, r1):
            field[box] = blend(field[box], depth, blend_mm)

    def carve(self, field: np.ndarray, start: Point, end: Point, r0: float, r1: float) -> None:
        """Take the cone and its mirror image out of the field."""
        for box, depth in self._cones(start, end, r0, r1):
            field[box] = np.minimum(field[box], -depth)

    def _cones(self, start: Point, end: Point, r0: float, r1: float) -> Iterator[tuple[tuple[slice, ...], np.ndarray]]:
        for side in (1.0, -1.0):
            wobble = self.rng.normal(0.0, 0.4, (2, 3))
            a, b = np.array(start) * (side, 1, 1) + wobble[0], np.array(end) * (side, 1, 1) + wobble[1]
            reach = max(r0, r1) + self.reach_mm
            low = (np.minimum(a, b) - reach - self.corner) / self.step_mm
            high = (np.maximum(a, b) + reach - self.corner) / self.step_mm
            box = tuple(slice(max(int(lo), 0), max(int(hi) + 1, 0)) for lo, hi in zip(low, high, strict=True))
            local = [
                np.take(axis, np.arange(axis.size)[box[n]], axis=n) - np.float32(a[n])
                for n, axis in enumerate(self.axes)
            ]
            along = (b - a).astype(np.float32)
            t = sum(axis * step for axis, step in zip(local, along, strict=True)) / (along @ along)
            t = np.clip(t, 0, 1)
            distance = np.sqrt(sum((axis - t * step) ** 2 for axis, step in zip(local, along, strict=True)))
            yield box, (r0 + t * (r1 - r0) - distance).astype(np.float32)


def blend(a: np.ndarray, b: np.ndarray, width_mm: float) -> np.ndarray:
    """Union of two depths with a fillet of about this width (polynomial smooth maximum)."""
    overlap = np.maximum(np.float32(width_mm) - np.abs(a - b), 0)
    return np.maximum(a, b) + overlap * overlap * np.float32(0.25 / width_mm)
