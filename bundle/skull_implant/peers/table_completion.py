"""A vault out of the tables' shape model alone: the classic peer of a learned completion."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from bundle.skull_implant.fit.table_model import TableModel
from bundle.skull_implant.fit.vault_points import VaultPoints
from bundle.skull_implant.frame.canonical_frame import CanonicalFrame
from bundle.skull_implant.frame.canonical_grid import CanonicalBox
from bundle.skull_implant.frame.vault_rays import VaultRays
from bundle.skull_implant.frame.vault_template import VaultTemplate


@dataclass(frozen=True)
class TableCompletion:
    """The most probable tables of a patient's vault, and the plate between them.

    Args:
        model: of the tables.
        rays: along which the patient's tables are measured.
        edge_mm: the probability falls from 1 to 0 over this length across a table.
        fine_mm: axes with larger voxels are doubled, because a plate may be thinner than they are.
    """

    model: TableModel
    rays: VaultRays = field(default_factory=VaultRays)
    edge_mm: float = 2.0
    fine_mm: float = 1.5

    def fine_box(self, box: CanonicalBox) -> CanonicalBox:
        """A canonical box of twice the voxels along coarse axes."""
        return box.finer(self.fine_mm)

    def __call__(
        self, bone: np.ndarray, frame: CanonicalFrame, box: CanonicalBox, template: VaultTemplate
    ) -> np.ndarray:
        """Probability of the vault, (X, Y, Z) float32; 0 below the rays.

        Args:
            bone: (X, Y, Z) share of the patient's bone, canonical.
            frame: of this case.
            box: of the bone.
            template: mean vault.
        """
        rays, scales = self.rays, frame.scales
        tables = rays.tables(rays.sample(bone, box, scales, template))
        outer, inner = self.model.complete_plates(tables, rays)
        points = VaultPoints.of(box, rays, scales, template)
        # mm inside the plate, negative outside
        depth = np.minimum(points.at(outer) - points.heights_mm, points.heights_mm - points.at(inner))
        probability = np.zeros(box.spatial_size, np.float32)
        probability.reshape(-1)[points.voxels] = np.clip(0.5 + depth / self.edge_mm, 0.0, 1.0)
        return probability
