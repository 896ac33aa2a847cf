"""Rays from the vault's center: on them the vault is two numbers, the heights of its outer and of its inner table."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy import ndimage

from bundle.skull_implant.frame.canonical_grid import CanonicalBox
from bundle.skull_implant.frame.vault_template import VaultTemplate


@dataclass(frozen=True)
class VaultRays:
    """Directions on the azimuthal equidistant plane around the vertex, as those of :class:`VaultTemplate`.

    Args:
        step_deg: between neighboring rays; 1.5 degrees are 2 mm.
        lowest_deg: polar angle from the vertex down to which rays are cast.
        inside_mm: depth below the fitted outer vault at which rays begin.
        outside_mm: height above it at which they end.
        step_mm: along a ray.
        film_mm: what is thinner than this outside of a thicker plate is no bone but a bandage, a strap or noise.
    """

    step_deg: float = 1.5
    lowest_deg: float = 120.0
    inside_mm: float = 24.0
    outside_mm: float = 10.0
    step_mm: float = 0.5
    film_mm: float = 2.0

    @cached_property
    def plane(self) -> VaultTemplate:
        """The plane: its entries' directions and where a direction lies on it."""
        half = int(self.lowest_deg // self.step_deg) + 1
        return VaultTemplate(np.ones((2 * half + 1, 2 * half + 1)), self.step_deg)

    @property
    def shape(self) -> tuple[int, int]:
        """Entries of the plane, (N, N)."""
        count = self.plane.radii_mm.shape[0]
        return count, count

    @cached_property
    def polar_deg(self) -> np.ndarray:
        """Polar angle of each entry, (N, N); the corners of the plane lie below `lowest_deg`."""
        half = self.shape[0] // 2
        return np.asarray(self.step_deg * np.hypot(*np.mgrid[-half : half + 1, -half : half + 1]))

    def nearest_in(self, denser: VaultRays) -> np.ndarray:
        """Index (N,), along either axis of a denser map, of the rays nearest to these."""
        half, own_half = denser.shape[0] // 2, self.shape[0] // 2
        steps = (np.arange(self.shape[0]) - own_half) * self.step_deg / denser.step_deg
        return np.clip(np.rint(steps).astype(int) + half, 0, 2 * half)

    def away_from_rim(self, bone: np.ndarray, distance_deg: float) -> np.ndarray:
        """Rays (N, N) bool that meet bone, without those nearer to one that meets none than a distance, or a step."""
        cells = max(1, round(distance_deg / self.step_deg))
        return ndimage.binary_erosion(bone, ndimage.generate_binary_structure(2, 2), iterations=cells)

    @property
    def heights_mm(self) -> np.ndarray:
        """Of the samples along a ray above the fitted outer vault, (H,)."""
        return np.arange(-self.inside_mm, self.outside_mm + self.step_mm, self.step_mm)

    def sample(self, values: np.ndarray, box: CanonicalBox, scales: np.ndarray, template: VaultTemplate) -> np.ndarray:
        """Values along the rays, (N * N, H).

        Args:
            values: (X, Y, Z), canonical.
            box: of the values.
            scales: (3,), of the case's frame.
            template: mean vault.
        """
        return sample_box(values, box, self.points(self.heights_mm, scales, template))

    def points(self, heights_mm: np.ndarray, scales: np.ndarray, template: VaultTemplate) -> np.ndarray:
        """Canonical RAS mm on the rays, (N * N, H, 3), at heights (H,) above the fitted outer vault.

        Args:
            heights_mm: of the points.
            scales: (3,), of the case's frame.
            template: mean vault.
        """
        directions = self.plane.directions().reshape(-1, 3)
        length = vault_radius(directions, scales, template)[:, None] + heights_mm  # mm from the center
        return np.asarray(vault_center(scales, template) + directions[:, None] * length[..., None])

    def tables(self, profile: np.ndarray) -> np.ndarray:
        """Outer and inner table (2, N, N) of samples (N * N, H), mm above the fitted vault; NaN where there is none.

        The outer table is the outermost crossing of one half, the inner one the next crossing below it. A film outside
        of thicker bone is passed by.
        """
        height = self.heights_mm
        solid = profile > 0.5
        last, first = _outermost_run(solid)
        below_it = solid & (np.arange(len(height)) < first[:, None])
        deeper_last, deeper_first = _outermost_run(below_it)
        film = (last - first) * self.step_mm < self.film_mm
        film &= (deeper_last >= 0) & (deeper_first >= 0) & (deeper_last - deeper_first > last - first)
        last, first = np.where(film, deeper_last, last), np.where(film, deeper_first, first)
        count = len(height)
        tables = np.full((2, len(profile)), np.nan)
        rows = np.flatnonzero((last >= 0) & (last < count - 1) & (first >= 0))
        for table, below in zip(tables, (last[rows], first[rows]), strict=True):
            low, high = profile[rows, below], profile[rows, below + 1]
            table[rows] = height[below] + self.step_mm * (0.5 - low) / (high - low)
        return tables.reshape(2, *self.shape)


def _outermost_run(solid: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Index (P,) of the last True sample of each row (P, H), and of the last False one below it; -1 where none is."""
    count = solid.shape[1]
    rank = np.arange(count)
    last = np.where(solid.any(1), count - 1 - np.argmax(solid[:, ::-1], axis=1), -1)
    return last, np.where(~solid & (rank[None] < last[:, None]), rank, -1).max(1)


def vault_center(scales: np.ndarray, template: VaultTemplate) -> np.ndarray:
    """The vault's center, (3,) canonical RAS mm."""
    return np.array([0.0, 0.0, -template.vertex_mm * scales[2]])


def vault_radius(directions: np.ndarray, scales: np.ndarray, template: VaultTemplate) -> np.ndarray:
    """Radius of the fitted outer vault in mm (P,) along unit directions (P, 3) from its center."""
    scaled = directions / scales
    radius, _ = template.radius(scaled)
    return np.asarray(radius / np.linalg.norm(scaled, axis=1))


def sample_box(values: np.ndarray, box: CanonicalBox, points: np.ndarray) -> np.ndarray:
    """Linear interpolation at canonical mm (..., 3); 0 outside the box."""
    affine = box.affine
    index = [(points[..., axis] - affine[axis, 3]) / affine[axis, axis] for axis in range(3)]
    sampled = ndimage.map_coordinates(values, index, order=1, mode="constant", cval=0.0, output=np.float32)
    return np.asarray(sampled)
