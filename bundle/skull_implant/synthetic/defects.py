"""Synthetic defects: holes as surgery leaves them, and the method paper's facial slabs.

A defect is a rule on canonical RAS points, so that the same hole can be cut on the training grid and, to the voxel,
on a scan's own grid.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch

# Direction of each site's middle from the vault's center (azimuth from right towards anterior, elevation) and the
# outline's half axes in mm (along the parallel and the meridian), each as a range.
CRANIAL_SITES: Mapping[
    str, tuple[tuple[float, float], tuple[float, float], tuple[float, float], tuple[float, float]]
] = {
    "frontal_right": ((45, 75), (15, 45), (20, 38), (18, 35)),
    "frontal_left": ((105, 135), (15, 45), (20, 38), (18, 35)),
    "bifrontal": ((80, 100), (20, 40), (45, 65), (20, 32)),
    "temporal_right": ((-15, 25), (5, 20), (22, 42), (18, 30)),
    "temporal_left": ((155, 195), (5, 20), (22, 42), (18, 30)),
    "parietal_right": ((-50, 10), (30, 65), (20, 42), (20, 42)),
    "parietal_left": ((170, 230), (30, 65), (20, 42), (20, 42)),
    "occipital": ((-115, -65), (0, 30), (20, 40), (18, 32)),
    "vertex": ((0, 360), (75, 90), (20, 42), (20, 42)),
    "hemicraniectomy": ((-10, 20), (25, 40), (50, 68), (38, 52)),
}


@dataclass(frozen=True)
class CranialHole:
    """An outline on the vault: a superellipse with a wavy edge, cut through the bone towards the vault's center.

    Args:
        axis: (3,) unit RAS vector from the vault's center to the middle of the hole.
        half_axes_mm: along the parallel and the meridian, measured on a sphere of `radius_mm`.
        turn_rad: rotation of the outline.
        exponent: 2 is an ellipse, larger is a box with round corners.
        waves: (K, 2) amplitude as a share of the radius and phase of the edge's harmonics 2, 3, ...
        center_mm: (3,) canonical RAS mm of the vault's center.
        radius_mm: of the sphere on which the outline is measured.
        depth_mm: bone nearer to the center than this stays, which spares the skull base.
    """

    axis: np.ndarray
    half_axes_mm: tuple[float, float]
    turn_rad: float
    exponent: float
    waves: np.ndarray
    center_mm: tuple[float, float, float] = (0.0, 0.0, -78.0)
    radius_mm: float = 80.0
    depth_mm: float = 48.0

    def contains(self, points: torch.Tensor) -> torch.Tensor:
        """Whether canonical RAS points `(3, ...)` in mm lie in the hole, bool `(...)`."""
        # Numbers of the host enter as arguments of operations: a tensor of them would make a GPU's host wait.
        x, y, z = (points[axis] - middle for axis, middle in enumerate(self.center_mm))
        first, second = _tangents(self.axis)
        along = [float(way[0]) * x + float(way[1]) * y + float(way[2]) * z for way in (first, second, self.axis)]
        distance = (x.square() + y.square() + z.square()).sqrt()
        flat = torch.hypot(along[0], along[1])
        arc_mm = torch.atan2(flat, along[2]) * self.radius_mm
        angle = torch.atan2(along[1], along[0]) - self.turn_rad
        return (arc_mm < self._edge_mm(angle)) & (distance > self.depth_mm)

    def _edge_mm(self, angle: torch.Tensor) -> torch.Tensor:
        half_a, half_b = self.half_axes_mm
        edge = ((angle.cos().abs() / half_a) ** self.exponent + (angle.sin().abs() / half_b) ** self.exponent) ** (
            -1 / self.exponent
        )
        wavy = torch.ones_like(angle)
        for order, (amplitude, phase) in enumerate(self.waves, start=2):
            wavy = wavy + float(amplitude) * torch.cos(order * angle + float(phase))
        return edge * wavy


@dataclass(frozen=True)
class FacialSlab:
    """The method paper's facial defect: a slab off the front, over the full height and a share of the width.

    Each number may be a tensor of one element, on the points' device.

    Args:
        front_mm: canonical y of the slab's back face; what lies anterior to it goes.
        left_mm: canonical x of its left end.
        right_mm: canonical x of its right end.
    """

    front_mm: float | torch.Tensor
    left_mm: float | torch.Tensor
    right_mm: float | torch.Tensor

    def contains(self, points: torch.Tensor) -> torch.Tensor:
        """Whether canonical RAS points `(3, ...)` in mm lie in the slab, bool `(...)`."""
        return (points[1] > self.front_mm) & (points[0] > self.left_mm) & (points[0] < self.right_mm)


def draw_cranial_hole(generator: np.random.Generator, site: str | None = None) -> CranialHole:
    """A random hole at a site of :data:`CRANIAL_SITES`, or at a random one."""
    name = site or str(generator.choice(list(CRANIAL_SITES)))
    azimuth, elevation, half_a, half_b = CRANIAL_SITES[name]
    phi, elevation_rad = np.deg2rad(generator.uniform(*azimuth)), np.deg2rad(generator.uniform(*elevation))
    side = generator.choice([-1.0, 1.0]) if name == "hemicraniectomy" else 1.0
    axis = np.array(
        [side * np.cos(elevation_rad) * np.cos(phi), np.cos(elevation_rad) * np.sin(phi), np.sin(elevation_rad)]
    )
    orders = np.arange(2, 6)
    waves = np.stack([generator.normal(0.0, 0.12, 4) / (orders - 1), generator.uniform(0, 2 * np.pi, 4)], axis=1)
    return CranialHole(
        axis,
        (float(generator.uniform(*half_a)), float(generator.uniform(*half_b))),
        float(generator.normal(0.0, 0.25)),
        float(generator.uniform(2.0, 4.0)),
        waves,
    )


@dataclass(frozen=True)
class FacialShares:
    """A facial slab that was drawn before the skull was looked at.

    Args:
        width: of the slab, as a share of the skull's.
        start: where it begins, from 0 for the left end to 1 for as far right as it fits.
        depth_mm: of the slab.
    """

    width: float
    start: float
    depth_mm: float

    def slab(
        self, front_mm: float | torch.Tensor, right_mm: float | torch.Tensor, left_mm: float | torch.Tensor
    ) -> FacialSlab:
        """The slab of a skull whose foremost, rightmost and leftmost bone is here, canonical mm."""
        width = (right_mm - left_mm) * self.width
        left = left_mm + (right_mm - width - left_mm) * self.start
        return FacialSlab(front_mm - self.depth_mm, left, left + width)


def draw_facial_shares(
    generator: np.random.Generator,
    depth_mm: tuple[float, float] = (40.0, 48.0),
    share: tuple[float, float] = (0.3, 1.0),
) -> FacialShares:
    """A random facial slab (Li et al. 2022 cut 98 voxels of about 0.46 mm at a random share of the width).

    Args:
        generator: source of randomness.
        depth_mm: range of the slab's depth; about the paper's 45 mm.
        share: range of the share of the width.
    """
    return FacialShares(
        float(generator.uniform(*share)), float(generator.random()), float(generator.uniform(*depth_mm))
    )


def draw_facial_slab(
    generator: np.random.Generator,
    front_mm: float,
    right_mm: float,
    left_mm: float,
    depth_mm: tuple[float, float] = (40.0, 48.0),
    share: tuple[float, float] = (0.3, 1.0),
) -> FacialSlab:
    """A random facial slab of a skull, see :func:`draw_facial_shares`.

    Args:
        generator: source of randomness.
        front_mm: canonical y of the skull's foremost bone.
        right_mm: canonical x of its rightmost bone.
        left_mm: canonical x of its leftmost bone.
        depth_mm: range of the slab's depth.
        share: range of the share of the width.
    """
    return draw_facial_shares(generator, depth_mm, share).slab(front_mm, right_mm, left_mm)


def _tangents(axis: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Unit vectors along the parallel and the meridian at a direction; at the vertex, right and anterior."""
    around = np.cross([0.0, 0.0, 1.0], axis)
    norm = np.linalg.norm(around)
    first = around / norm if norm > 1e-6 else np.array([1.0, 0.0, 0.0])
    return first, np.cross(axis, first)
