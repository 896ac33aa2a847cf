"""A vault out of the tables' shape model alone: the classic peer of a learned completion."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from scipy import ndimage

from bundle.skull_implant.canonical_frame import CanonicalFrame
from bundle.skull_implant.canonical_grid import CanonicalBox
from bundle.skull_implant.table_model import PLATE_MM, TableModel
from bundle.skull_implant.vault_rays import VaultRays, vault_center, vault_radius
from bundle.skull_implant.vault_template import VaultTemplate


@dataclass(frozen=True)
class TableCompletion:
    """The most probable tables of a patient's vault, and the plate between them.

    Args:
        model: of the tables.
        rays: along which the patient's tables are measured.
        rim_deg: bone nearer to missing bone is not measured, because its edge may be beveled.
        edge_mm: the probability falls from 1 to 0 over this length across a table.
        fine_mm: axes with larger voxels are doubled, because a plate may be thinner than they are.
    """

    model: TableModel
    rays: VaultRays = field(default_factory=VaultRays)
    rim_deg: float = 3.0
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
        outer, inner = self.model.complete(np.where(self._measured(tables), tables, np.nan), rays)
        center = vault_center(scales, template)
        points = box.coordinates().numpy().reshape(3, -1).T.astype(np.float64) - center
        index, polar = rays.plane.plane_index(points)
        length = np.linalg.norm(points, axis=1)
        near = np.flatnonzero((polar < rays.lowest_deg) & (length > 1.0))
        height = length[near] - vault_radius(points[near] / length[near, None], scales, template)
        top, bottom = (
            ndimage.map_coordinates(each, index[:, near], order=1, mode="nearest") for each in (outer, inner)
        )
        depth = np.minimum(top - height, height - bottom)  # mm inside the plate, negative outside
        probability = np.zeros(len(points), np.float32)
        probability[near] = np.clip(0.5 + depth / self.edge_mm, 0.0, 1.0)
        return probability.reshape(box.spatial_size)

    def _measured(self, tables: np.ndarray) -> np.ndarray:
        """Rays (N, N) that meet a plate and no rim."""
        thickness = tables[0] - tables[1]
        plate = (thickness > PLATE_MM[0]) & (thickness < PLATE_MM[1])  # NaN compares as False
        cells = max(1, round(self.rim_deg / self.rays.step_deg))
        return ndimage.binary_erosion(plate, ndimage.generate_binary_structure(2, 2), iterations=cells)
