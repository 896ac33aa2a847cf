"""Carries what is known of the vault's tables on bone into a hole, by Gaussian process regression (kriging).

A field that bends as little as it can takes every bump at the rim for the beginning of a slope. A Gaussian process as
rough as real skulls does not, and knows that the two tables bulge together.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import linalg
from scipy.spatial import cKDTree

from bundle.skull_implant.frame.vault_rays import VaultRays

VAULT_RADIUS_MM = 80.0  # turns angles between rays into mm
LEAST_TRUST = 1e-3  # below, a measurement says nothing anyway


@dataclass(frozen=True)
class TableKriging:
    """Settings of the Gaussian process, chosen on 3 degree maps of training skulls and on validation holes.

    Args:
        deviation_mm: of a table's error from zero, far from any measurement.
        range_mm: of the correlation, a Matern function of order 3/2 of the distance along the vault.
        between_tables: correlation of the outer and the inner table's error on the same ray.
        noise_mm: of one ray's outer and inner table: relief and diploe, which the bone beside does not tell.
        robust_mm: a measurement this far from the field counts a quarter: a wall of the hole that a ray grazes.
        near_deg: every ray that is measured within this of the hole counts.
        far_deg: of the rays further away every other one along both axes, up to this.
    """

    deviation_mm: float = 2.0
    range_mm: float = 60.0
    between_tables: float = 0.8
    noise_mm: tuple[float, float] = (0.3, 0.5)
    robust_mm: float = 1.0
    near_deg: float = 8.0
    far_deg: float = 25.0

    def between(
        self,
        errors: np.ndarray,
        measured: np.ndarray,
        hole: np.ndarray,
        rays: VaultRays,
        trust: np.ndarray | None = None,
    ) -> Kriged:
        """The regression from a case's measurements to its hole.

        Args:
            errors: (2, N, N) mm, outer and inner table, finite where measured; they tell outliers.
            measured: (N, N) bool.
            hole: (N, N) bool, not empty, rays to carry errors to.
            rays: of the entries.
            trust: (2, N, N) 0 to 1, in each measurement before they are compared here; None trusts all alike.
        """
        directions, tables = rays.plane.directions().reshape(-1, 3), self._tables()
        inside = directions[hole.ravel()]
        chord = np.full(hole.size, np.inf)  # to the hole's nearest ray, on the unit sphere
        chord[measured.ravel()], _ = cKDTree(inside).query(directions[measured.ravel()])
        near, far = (chord < 2 * np.sin(np.deg2rad(angle) / 2) for angle in (self.near_deg, self.far_deg))
        every_other = np.zeros(hole.shape, bool)
        first_of_them = hole.shape[0] // 2 % 2  # the vertex is one of them, so that both sides of the head are alike
        every_other[first_of_them::2, first_of_them::2] = True
        known = np.flatnonzero(near | (far & every_other.ravel()))
        if not len(known):  # nothing is known of such a hole
            return Kriged(known, tables, np.zeros((len(inside), 0)), (np.zeros((0, 0)), False))
        prior = np.kron(tables, self._correlation(directions[known], directions[known]))
        noise = np.repeat(np.square(self.noise_mm), len(known))
        if trust is not None:
            noise = noise / np.maximum(trust.reshape(2, -1)[:, known].ravel(), LEAST_TRUST)
        values = errors.reshape(2, -1)[:, known].ravel()
        first = linalg.solve(_noisy(prior, noise), values, assume_a="pos", overwrite_a=True, check_finite=False)
        off = (values - prior @ first) / self.robust_mm
        noise = noise * np.square(1 + np.square(off))
        factors = linalg.cho_factor(_noisy(prior, noise), overwrite_a=True, check_finite=False)
        return Kriged(known, tables, self._correlation(inside, directions[known]), factors)

    def _tables(self) -> np.ndarray:
        """Covariance (2, 2) mm2 of the two tables' errors on one ray."""
        return self.deviation_mm**2 * np.array([[1.0, self.between_tables], [self.between_tables, 1.0]])

    def _correlation(self, some: np.ndarray, others: np.ndarray) -> np.ndarray:
        """Matern correlation (P, Q) of the errors along unit directions (P, 3) and (Q, 3)."""
        scaled = np.sqrt(3.0) * VAULT_RADIUS_MM / self.range_mm * np.arccos(np.clip(some @ others.T, -1.0, 1.0))
        return np.asarray((1.0 + scaled) * np.exp(-scaled))


@dataclass(frozen=True)
class Kriged:
    """A case's regression, for any values on its measured rays.

    Args:
        known: (K,) flat indices of the measured rays that count.
        tables: (2, 2) mm2.
        correlation: (H, K) of the hole's rays with them.
        factors: of the measurements' covariance.
    """

    known: np.ndarray
    tables: np.ndarray
    correlation: np.ndarray
    factors: tuple[np.ndarray, bool]

    def __call__(self, errors: np.ndarray) -> np.ndarray:
        """The most probable errors on the hole's rays (2, H) mm, of errors (2, N, N) on the measured ones."""
        values = errors.reshape(2, -1)[:, self.known].ravel()
        weights = linalg.cho_solve(self.factors, values, check_finite=False).reshape(2, -1)
        return np.asarray(self.tables @ weights @ self.correlation.T)


def _noisy(prior: np.ndarray, noise: np.ndarray) -> np.ndarray:
    covariance = prior.copy()
    covariance[np.diag_indices(len(noise))] += noise
    return covariance
