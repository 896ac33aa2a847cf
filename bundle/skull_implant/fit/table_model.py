"""A shape model of the vault's two tables: what the bone that is left says of the bone that is missing.

The decoder knows skulls in few numbers and coarse voxels. Along rays (:class:`VaultRays`) a vault is two smooth maps,
whose principal components a few hundred skulls give; the most probable maps of a patient follow in closed form.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from bundle.skull_implant.frame.vault_rays import VaultRays
from bundle.skull_implant.model.network import SkullCompleter

PLATE_MM = (1.0, 20.0)  # a plate of another thickness is a suture, an air cell or another bone


@dataclass(frozen=True)
class TableModel:
    """Mean and principal components of the tables' heights above the fitted vault.

    Args:
        mean: (2, N, N) mm, outer and inner table.
        modes: (K, 2, N, N) mm, each of one standard deviation.
        step_deg: between neighboring entries.
        noise_mm: what a table deviates by from all modes; large, because neighboring rays deviate together.
    """

    mean: np.ndarray
    modes: np.ndarray
    step_deg: float = 3.0
    noise_mm: float = 4.0

    @classmethod
    def of(cls, network: SkullCompleter) -> TableModel | None:
        """The shape model in a completer; None where it has none."""
        if not len(network.table_modes):
            return None
        return cls(network.table_mean.cpu().numpy(), network.table_modes.float().cpu().numpy())

    def complete(self, tables: np.ndarray, rays: VaultRays) -> np.ndarray:
        """The most probable tables (2, M, M) of a vault given those that are measured.

        Args:
            tables: (2, M, M) mm, NaN where nothing is measured.
            rays: of the M x M entries, at least as dense as the model's.
        """
        nearest = VaultRays(self.step_deg).nearest_in(rays)
        measured = tables[:, nearest][:, :, nearest]
        known = np.isfinite(measured)
        modes = self.modes[:, known]
        precision = modes @ modes.T / self.noise_mm**2 + np.eye(len(modes))
        weights = np.linalg.solve(precision, modes @ (measured[known] - self.mean[known]) / self.noise_mm**2)
        return self._at(self.mean + np.tensordot(weights, self.modes, axes=1), rays)

    def complete_plates(self, tables: np.ndarray, rays: VaultRays) -> np.ndarray:
        """The most probable tables (2, M, M) given a patient's, of those what bounds a plate and is not beside a rim.

        Args:
            tables: (2, M, M) mm, NaN where there are none.
            rays: of the M x M entries, at least as dense as the model's.
        """
        thickness = tables[0] - tables[1]
        plate = (thickness > PLATE_MM[0]) & (thickness < PLATE_MM[1])  # NaN compares as False
        return self.complete(np.where(rays.away_from_rim(plate, self.step_deg), tables, np.nan), rays)

    def mean_at(self, rays: VaultRays) -> np.ndarray:
        """The mean tables (2, M, M) at other rays."""
        return self._at(self.mean, rays)

    def _at(self, maps: np.ndarray, rays: VaultRays) -> np.ndarray:
        half, own_half = rays.shape[0] // 2, self.mean.shape[1] // 2
        ratio = self.step_deg / rays.step_deg
        index = (np.mgrid[-half : half + 1, -half : half + 1] / ratio) + own_half
        return np.stack([ndimage.map_coordinates(table, index, order=1, mode="nearest") for table in maps])


def nearest_filled(table: np.ndarray) -> np.ndarray:
    """NaN replaced by the nearest value; 0 where there is none."""
    missing = np.isnan(table)
    if missing.all():
        return np.zeros_like(table)
    nearest = ndimage.distance_transform_edt(missing, return_distances=False, return_indices=True)
    return np.asarray(table[tuple(nearest)])
