"""The mean outer vault: a small map of radii that every skull is aligned with.

The map lives on the azimuthal equidistant plane around the vertex: the direction at polar angle `theta` from superior
and azimuth `phi` from right towards anterior lies at `(theta cos phi, theta sin phi)`. Unlike a latitude-longitude
grid it is smooth at the vertex.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
from scipy import ndimage

VAULT_END_DEG = 115.0  # polar angle from the vertex; bone further down belongs to the skull base and the face


@dataclass(frozen=True)
class VaultTemplate:
    """Radius of the outer vault for each direction, mm from the vault's center, in the canonical RAS frame.

    Args:
        radii_mm: (N, N), N odd, the vertex in the middle.
        step_deg: polar angle between neighboring entries.
        usual_rotation: (3, 3), canonical RAS to patient RAS directions of the mean training head. Scanned heads lie
            alike, but not with the vault's axes along the scanner's.
    """

    radii_mm: np.ndarray
    step_deg: float = 4.0
    usual_rotation: np.ndarray = field(default_factory=lambda: np.eye(3))

    @classmethod
    def ellipsoid(cls, semi_axes_mm: tuple[float, float, float] = (70.0, 90.0, 80.0), size: int = 69) -> VaultTemplate:
        """An ellipsoid with adult semi-axes (right, anterior, superior), to start building a template from."""
        template = cls(np.ones((size, size)))
        directions = template.directions()
        return cls(1.0 / np.linalg.norm(directions / np.asarray(semi_axes_mm), axis=-1))

    @property
    def vertex_mm(self) -> float:
        """Radius at the vertex."""
        middle = self.radii_mm.shape[0] // 2
        return float(self.radii_mm[middle, middle])

    def directions(self) -> np.ndarray:
        """Unit RAS vectors of the map's entries, (N, N, 3)."""
        half = self.radii_mm.shape[0] // 2
        plane = np.deg2rad(self.step_deg) * np.mgrid[-half : half + 1, -half : half + 1]
        theta = np.hypot(*plane)
        sinc = np.sinc(theta / np.pi)
        return np.stack([plane[0] * sinc, plane[1] * sinc, np.cos(theta)], axis=-1)

    def plane_index(self, points_mm: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Map index (2, P) and polar angle in degrees (P,) of RAS points (P, 3) given from the vault's center."""
        horizontal = np.hypot(points_mm[:, 0], points_mm[:, 1])
        theta = np.rad2deg(np.arctan2(horizontal, points_mm[:, 2]))
        scale = theta / self.step_deg / np.maximum(horizontal, 1e-9)
        half = self.radii_mm.shape[0] // 2
        return np.stack([points_mm[:, 0] * scale, points_mm[:, 1] * scale]) + half, theta

    def radius(self, points_mm: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Template radius in mm (P,) and polar angle in degrees (P,) in the directions of RAS points (P, 3)."""
        index, theta = self.plane_index(points_mm)
        return ndimage.map_coordinates(self.radii_mm, index, order=1, mode="nearest"), theta


def average_template(outlines: Iterable[np.ndarray], template: VaultTemplate) -> VaultTemplate:
    """The median vault of aligned skulls, made left-right symmetric.

    Args:
        outlines: outer vault points of each skull, (P, 3) RAS mm from its vault's center.
        template: gives the map's size. Where too few skulls have a point, the nearest entry's radius stands.
    """
    maps = []
    for points in outlines:
        index, _ = template.plane_index(points)
        cell = np.rint(index).astype(int)
        inside = np.all((cell >= 0) & (cell < template.radii_mm.shape[0]), axis=0)
        radii = np.full(template.radii_mm.shape, np.nan)
        radii[tuple(cell[:, inside])] = np.linalg.norm(points[inside], axis=1)
        maps += [radii, radii[::-1]]
    stack = np.stack(maps)
    seen = np.sum(np.isfinite(stack), axis=0) >= max(2, len(maps) // 8)
    median = np.where(seen, np.nanmedian(np.where(seen, stack, 0.0), axis=0), np.nan)
    nearest = ndimage.distance_transform_edt(~seen, return_distances=False, return_indices=True)
    return VaultTemplate(ndimage.gaussian_filter(median[tuple(nearest)], 1.0), template.step_deg)
