"""Smooth fields over the rays: a plate that bends as little as it can and stays close to what is measured."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy import sparse
from scipy.sparse import linalg

Solver = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class ThinPlate:
    """Least squares of distance from the measurements, slope and curvature, between neighbors of a square map.

    Args:
        stiffness: weight of the field's curvature against its distance from a measurement, on 1.5 degree rays.
        tension: weight of its slope; keeps it from overshooting in large holes.
    """

    stiffness: float = 2.0
    tension: float = 0.05

    def smooth(self, tables: np.ndarray, weights: np.ndarray) -> np.ndarray:
        """Tables (2, N, N) close to where they are measured, carried on smoothly where they are not.

        Args:
            tables: finite everywhere.
            weights: (2, N, N) of each entry's measurement; 0 where there is none.
        """
        return self.smoother(weights)(tables)

    def smoother(self, weights: np.ndarray) -> Solver:
        """The same for several tables of the same weights, most of whose work is done here."""
        slopes = slopes_of(weights.shape[1])
        slope = sparse.csc_matrix(slopes.T @ slopes)
        roughness = self.tension * slope + self.stiffness * slope @ slope
        solvers: list[Solver] = []
        for number, weight in enumerate(weights):
            if number and np.array_equal(weight, weights[number - 1]):
                solvers.append(solvers[-1])
            else:  # 1e-6 for none
                solvers.append(solver_of(sparse.csc_matrix(sparse.diags(weight.ravel() + 1e-6) + roughness)))

        def smooth(tables: np.ndarray) -> np.ndarray:
            weighted = zip(solvers, weights * tables, strict=True)
            return np.stack([solve(table.ravel()).reshape(table.shape) for solve, table in weighted])

        return smooth

    def root_of_precision(self, count: int) -> sparse.csc_matrix:
        """A root (R, N * N) of the precision of a map (N, N), as a Gaussian prior that knows slope and curvature."""
        slopes = slopes_of(count)
        return sparse.csc_matrix(
            sparse.vstack([np.sqrt(self.tension) * slopes, np.sqrt(self.stiffness) * slopes.T @ slopes])
        )


def slopes_of(count: int) -> sparse.csr_matrix:
    """Differences between neighbors of a map (N, N), along both axes: (2 * N * (N - 1), N * N)."""
    difference = sparse.diags([-1.0, 1.0], [0, 1], shape=(count - 1, count))
    one = sparse.identity(count)
    return sparse.csr_matrix(sparse.vstack([sparse.kron(difference, one), sparse.kron(one, difference)]))


def solver_of(system: sparse.csc_matrix) -> Solver:
    """Solves a symmetric positive definite sparse system (N, N)."""
    factors = linalg.splu(system, permc_spec="MMD_AT_PLUS_A", diag_pivot_thresh=0.0, options={"SymmetricMode": True})
    solve: Solver = factors.solve
    return solve
