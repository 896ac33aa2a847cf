"""Voxels near the vault, each with its place on the map of rays: where a change of the tables becomes one of voxels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from bundle.skull_implant.frame.canonical_grid import CanonicalBox
from bundle.skull_implant.frame.vault_rays import VaultRays, sample_box, vault_center, vault_radius
from bundle.skull_implant.frame.vault_template import VaultTemplate


@dataclass(frozen=True)
class VaultPoints:
    """The voxels of a canonical box that rays pass by.

    Args:
        voxels: (P,) their flat indices in the box.
        offsets: (P, 3) from the vault's center, RAS mm.
        directions: (P, 3), unit vectors.
        heights_mm: (P,) above the fitted outer vault.
        polar_deg: (P,) from the vertex.
        index: (2, P) on the map of rays.
        center: (3,) the vault's, canonical RAS mm.
    """

    voxels: np.ndarray
    offsets: np.ndarray
    directions: np.ndarray
    heights_mm: np.ndarray
    polar_deg: np.ndarray
    index: np.ndarray
    center: np.ndarray

    @classmethod
    def of(
        cls,
        box: CanonicalBox,
        rays: VaultRays,
        scales: np.ndarray,
        template: VaultTemplate,
        reached: np.ndarray | None = None,
    ) -> VaultPoints:
        """Those within the rays' heights and their lowest angle, or near wanted rays.

        Args:
            box: whose voxels.
            rays: along which tables are measured.
            scales: (3,), of the case's frame.
            template: mean vault.
            reached: (N, N) bool, the rays that are wanted; None for all.
        """
        center = vault_center(scales, template)
        offsets = box.coordinates().numpy().reshape(3, -1).T.astype(np.float64) - center
        index, polar = rays.plane.plane_index(offsets)
        if reached is None:
            near = np.flatnonzero(polar < rays.lowest_deg)
        else:
            cell = np.rint(index).astype(int)
            near = np.flatnonzero(np.all((cell >= 0) & (cell < rays.shape[0]), axis=0))
            near = near[reached[tuple(cell[:, near])]]
        length = np.linalg.norm(offsets[near], axis=1)
        directions = offsets[near] / np.maximum(length, 1e-6)[:, None]
        heights = length - vault_radius(directions, scales, template)
        close = (heights > -rays.inside_mm) & (heights < rays.outside_mm)
        near = near[close]
        return cls(near, offsets[near], directions[close], heights[close], polar[near], index[:, near], center)

    def only(self, which: np.ndarray) -> VaultPoints:
        """The points of some indices (Q,)."""
        return VaultPoints(
            self.voxels[which],
            self.offsets[which],
            self.directions[which],
            self.heights_mm[which],
            self.polar_deg[which],
            self.index[:, which],
            self.center,
        )

    def at(self, table: np.ndarray) -> np.ndarray:
        """A map (N, N) of rays, linearly interpolated, at each point (P,)."""
        return np.asarray(ndimage.map_coordinates(table, self.index, order=1, mode="nearest"))

    def moved(self, values: np.ndarray, box: CanonicalBox, outwards_mm: np.ndarray) -> np.ndarray:
        """Values (X, Y, Z) of a box at each point (P,), after they moved outwards along the rays by (P,) mm."""
        return sample_box(values, box, self.offsets - self.directions * outwards_mm[:, None] + self.center)
