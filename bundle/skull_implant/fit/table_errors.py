"""How far a patient's tables lie from the expected ones: measured on bone, carried smoothly across the hole.

In a hole on one side the other side of the head tells the detail: its errors, moved smoothly onto those around the
hole, are most of what is carried.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from scipy import ndimage

from bundle.skull_implant.fit.table_kriging import TableKriging
from bundle.skull_implant.fit.thin_plate import ThinPlate
from bundle.skull_implant.frame.vault_rays import VaultRays

TRUSTED = 0.3  # weight from which on an error is one of the table, not of something else


@dataclass(frozen=True)
class TableErrors:
    """Settings of what is measured and how it is carried on (our choice, on validation holes).

    Args:
        match_mm: a larger distance between expected and real table is no error but a hole, a strap or another bone.
        rim_deg: bone nearer to missing bone is not measured, because its edge may be beveled.
        plate: carries errors over all rays.
        robust_mm: a measurement this far from the smooth field counts a quarter: a wall of the hole that a ray grazes.
        kriging: carries them into a hole, but at the brow and the temples.
        mirror_share: of what the other side of the head says, where it has bone and the hole's own side has none.
        mirror_deg: distance from the measured bone from which on it has all of that share; at the rim it has none.
        mirror_blur_deg: standard deviation that the other side is blurred with, because no head is symmetric to a ray.
        mirror_lowest_deg: polar angle from which on a ray without bone is no hole of the other side: an orbit, an ear.
    """

    match_mm: float = 5.0
    rim_deg: float = 1.5
    plate: ThinPlate = field(default_factory=ThinPlate)
    robust_mm: float = 0.6
    kriging: TableKriging = field(default_factory=TableKriging)
    mirror_share: float = 0.7
    mirror_deg: float = 4.5
    mirror_blur_deg: float = 1.0
    mirror_lowest_deg: float = 95.0

    def carried(
        self, expected: np.ndarray, real: np.ndarray, in_hole: np.ndarray, vault: np.ndarray, rays: VaultRays
    ) -> tuple[np.ndarray, np.ndarray]:
        """How far the real tables lie outside the expected ones, smooth and everywhere, (2, N, N) mm.

        Also the rays (N, N) bool on which that was measured. In a hole at the top and the back of the head errors are
        kriged; at the brow and the temples, where bone comes and goes, a thin plate scored better (validation).

        Args:
            expected: (2, N, N) mm, outer and inner table.
            real: (2, N, N) mm, those of the patient, NaN where there is no bone.
            in_hole: (N, N) bool.
            vault: (N, N) from 0, at the brow and the temples, to 1.
            rays: of the entries.
        """
        errors = real - expected
        bone = np.all(np.abs(errors) <= self.match_mm, axis=0)  # NaN compares as False
        away = rays.away_from_rim(bone, self.rim_deg)
        measured = np.broadcast_to(away, errors.shape).astype(float)
        errors = np.where(measured > 0, errors, 0.0)
        alike = self.plate.smoother(measured)
        smooth, weights = self._robustly_smooth(errors, measured, alike(errors))
        share = self._share_of_other_side(away, real, rays)
        other = ndimage.gaussian_filter(
            np.where(weights > TRUSTED, errors, smooth), (0.0, *[self.mirror_blur_deg / rays.step_deg] * 2)
        )[:, ::-1]
        rest = errors - other
        smooth = smooth + share * (other + self._robustly_smooth(rest, measured, alike(rest))[0] - smooth)
        hole = ndimage.binary_dilation(in_hole, iterations=2) & ~away & (vault > 0.0)
        if hole.any():
            kriged = self.kriging.between(errors, away, hole, rays, weights)
            carried = kriged(errors)
            carried += share[hole] * (other[:, hole] + kriged(rest) - carried)
            smooth[:, hole] += vault[hole] * (carried - smooth[:, hole])
        return smooth, away

    def _robustly_smooth(
        self, errors: np.ndarray, measured: np.ndarray, smooth: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Errors (2, N, N) mm carried smoothly over all rays, and what each of them weighs in that, from 0 to 1.

        Args:
            errors: 0 where they are not measured.
            measured: (2, N, N) of 0 and 1.
            smooth: (2, N, N) mm, carried with all measurements weighing the same.
        """
        weights = measured / np.square(1 + np.square((errors - smooth) / self.robust_mm))
        return self.plate.smooth(errors, weights), weights

    def _share_of_other_side(self, measured: np.ndarray, real: np.ndarray, rays: VaultRays) -> np.ndarray:
        """Share (N, N) of what the other side of the head says on each ray.

        Args:
            measured: (N, N) bool.
            real: (2, N, N) mm, tables of the patient, NaN where there is no bone.
            rays: of the entries.
        """
        steps = ndimage.distance_transform_edt(~measured) * rays.step_deg / self.mirror_deg
        bone = np.isfinite(real).all(0) | (rays.polar_deg > self.mirror_lowest_deg)
        other = ndimage.gaussian_filter(ndimage.binary_opening(bone, iterations=2)[::-1].astype(float), 1.0)
        return np.asarray(self.mirror_share * np.minimum(steps, 1.0) * other)
