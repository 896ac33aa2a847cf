"""What the bone leaves open about a plate in a hole: how much rounder, flatter, thicker or thinner it may have been.

The rim fit carries the tables' errors smoothly across a hole. Its least squares are those of a Gaussian prior that
knows slope and curvature, and so have a posterior in closed form: nothing is open where there is bone, and the more
the farther from the rim.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from scipy import ndimage, sparse

from bundle.skull_implant.fit.table_model import nearest_filled
from bundle.skull_implant.fit.thin_plate import Solver, ThinPlate, solver_of
from bundle.skull_implant.fit.vault_points import VaultPoints
from bundle.skull_implant.frame.canonical_frame import CanonicalFrame
from bundle.skull_implant.frame.canonical_grid import CanonicalBox
from bundle.skull_implant.frame.vault_rays import VaultRays
from bundle.skull_implant.frame.vault_template import VaultTemplate

# What happens to the outer and to the inner table.
LIMITS = {"thicker": (1.0, -1.0), "thinner": (-1.0, 1.0), "rounder": (1.0, 1.0), "flatter": (-1.0, -1.0)}


@dataclass(frozen=True)
class PlatePosterior:
    """Normal distribution of what to add to the tables of a completed vault.

    Args:
        hole: (N, N) bool, rays without bone; elsewhere nothing is added.
        plate: (N, N) bool, those of them that the implant lies on.
        bending: what a change costs, as in the rim fit.
        deviation_mm: scales the standard deviations; 1 is as large as the real errors were.
        correlation: of the outer with the inner table's change, of one ray; a wrong bulge moves both.
    """

    hole: np.ndarray
    plate: np.ndarray
    bending: ThinPlate = field(default_factory=ThinPlate)
    deviation_mm: float = 1.0
    correlation: float = 0.5

    def limit(self, which: str, deviations: float) -> np.ndarray:
        """The most probable change (2, N, N) mm among those of a mean thickness or bulge over the plate.

        Args:
            which: "thicker", "thinner", "rounder" or "flatter"; the other mean does not change.
            deviations: by how many standard deviations of that mean.
        """
        solve, _ = self._system
        covered = self.plate[self.hole].astype(float)
        shape = solve(covered)  # covariance of every ray with the sum over the plate, in squares of deviation_mm
        outer, inner = LIMITS[which]
        # Sum and difference of the two are independent, with variances of 1 + and 1 - the correlation for each table.
        spread = np.sqrt((1.0 + outer * inner * self.correlation) / 2.0)
        each = deviations * self.deviation_mm * spread * shape / np.sqrt(max(covered @ shape, 1e-12))
        return self._maps(np.stack([outer * each, inner * each]))

    def sample(self, random: np.random.Generator) -> np.ndarray:
        """A random change (2, N, N) mm."""
        solve, root = self._system
        # Noise through a root of the precision, then through its inverse, has the inverse as its covariance.
        both, *single = [solve(root.T @ random.standard_normal(root.shape[0])) for _ in range(3)]
        drawn = np.sqrt(self.correlation) * both + np.sqrt(1.0 - self.correlation) * np.stack(single)
        return self._maps(self.deviation_mm * drawn)

    @cached_property
    def _system(self) -> tuple[Solver, sparse.csr_matrix]:
        """Solves with the precision of one table's rays in the hole, and a root of it (R, C)."""
        root = self.bending.root_of_precision(self.hole.shape[0])
        root = sparse.csr_matrix(root[:, np.flatnonzero(self.hole)])  # nothing changes where there is bone
        return solver_of(sparse.csc_matrix(root.T @ root)), root

    def _maps(self, values: np.ndarray) -> np.ndarray:
        maps = np.zeros((2, *self.hole.shape))
        maps[:, self.hole] = values
        return maps


class Plate:
    """The part of a completed vault that fills its holes, to be moved table by table.

    Args:
        probability: (X, Y, Z) of skull, completed, canonical.
        bone_share: (X, Y, Z) share of the patient's bone.
        cores: (X, Y, Z) bool each: where the holes are, of :func:`find_holes`.
        frame: of this case.
        box: canonical box.
        template: mean vault.
        rays: along which the plate is measured.
        around_mm: beyond its cores the implant goes on as far.
        minimum_mm: a plate is never made thinner than this; what is thinner already stays as thick.
    """

    def __init__(
        self,
        probability: np.ndarray,
        bone_share: np.ndarray,
        cores: list[np.ndarray],
        frame: CanonicalFrame,
        box: CanonicalBox,
        template: VaultTemplate,
        rays: VaultRays | None = None,
        around_mm: float = 4.0,
        minimum_mm: float = 2.5,
    ) -> None:
        self.probability, self.box, self.minimum_mm = probability, box, minimum_mm
        rays, scales = rays or VaultRays(), frame.scales
        tables = rays.tables(rays.sample(probability, box, scales, template))
        bare = ~(rays.sample(bone_share, box, scales, template) > 0.4).any(1).reshape(rays.shape)
        bare &= rays.polar_deg < rays.lowest_deg
        core = np.any(cores, axis=0).astype(np.float32) if cores else np.zeros(box.spatial_size, np.float32)
        footprint = (rays.sample(core, box, scales, template) > 0.3).any(1).reshape(rays.shape) & bare
        openings, _ = ndimage.label(bare)
        self.hole = np.isin(openings, np.setdiff1d(openings[footprint], 0))
        cells = round(around_mm / (np.deg2rad(rays.step_deg) * template.vertex_mm))
        around = ndimage.binary_dilation(footprint, ndimage.generate_binary_structure(2, 2), iterations=max(1, cells))
        self.covered = around & self.hole & np.isfinite(tables[0])

        reached = ndimage.binary_dilation(self.hole)  # changes are interpolated between rays
        self.points = VaultPoints.of(box, rays, scales, template, reached)
        self.outer, self.inner = (self.points.at(nearest_filled(table)) for table in tables)

    def changed(self, change: np.ndarray) -> np.ndarray:
        """The completed vault (X, Y, Z) with its tables moved outwards by a change (2, N, N) mm."""
        outer_change, inner_change = (self.points.at(table) for table in change)
        inner = self.inner + inner_change
        thickness = self.outer + outer_change - inner
        least = np.maximum(np.minimum(self.outer - self.inner, self.minimum_mm), 1.0)
        short = np.maximum(least - thickness, 0.0) / 2
        inner, outer_change, inner_change = inner - short, outer_change + short, inner_change - short
        share = np.clip((self.points.heights_mm - inner) / (thickness + 2 * short), 0.0, 1.0)  # 0 inner, 1 outer table
        shift = inner_change + (outer_change - inner_change) * share
        result = self.probability.copy()
        result.reshape(-1)[self.points.voxels] = self.points.moved(self.probability, self.box, shift)
        return result
