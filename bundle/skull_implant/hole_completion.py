"""The hole network at work: the bone under a patient's hole, from the bone and the expected tables around it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy import ndimage
from torch import nn

from bundle.skull_implant.network import SkullCompleter
from bundle.skull_implant.table_model import TableModel, plates
from bundle.skull_implant.unrolled_vault import (
    HEIGHTS_MM,
    LARGEST_LOGIT,
    SLOPE_PER_MM,
    expected_tables,
    hole_features,
    plate_logits,
)
from bundle.skull_implant.vault_rays import BONE_SHARE, VaultRays


@dataclass(frozen=True)
class UnrolledBone:
    """Bone along rays, counted from the expected outer table.

    Args:
        tables: (2, N, N) mm, expected outer and inner table.
        correction: (C, N, N), what the network adds to that plate's logits at :data:`HEIGHTS_MM` above its outer one.
        rays: of the N x N entries.
    """

    tables: np.ndarray
    correction: np.ndarray
    rays: VaultRays

    def logits_at(self, directions: np.ndarray, above_mm: np.ndarray) -> np.ndarray:
        """Of bone (P,) float32, at points: those of the expected plate there, corrected.

        Args:
            directions: (P, 3), of the points from the vault's center.
            above_mm: (P,), heights above the fitted vault.
        """
        index, _ = self.rays.plane.plane_index(directions)
        outer_mm, inner_mm = (ndimage.map_coordinates(each, index, order=1, mode="nearest") for each in self.tables)
        height = above_mm - outer_mm
        depth = np.minimum(-height, above_mm - inner_mm)  # mm inside the plate
        plate = np.clip(SLOPE_PER_MM * depth, -LARGEST_LOGIT, LARGEST_LOGIT)
        place = [height - HEIGHTS_MM[0], *index]
        added = ndimage.map_coordinates(self.correction, place, order=1, mode="nearest", output=np.float32)
        return np.asarray(plate + added)

    def expected_dsc(self, in_hole: np.ndarray) -> float:
        """DSC that the probabilities promise on rays (N, N) bool, if they are true; NaN where there are no rays."""
        plate = plate_logits(torch.from_numpy(self.tables)[None])[0].numpy()
        logits = (plate + self.correction)[:, in_hole]
        probability, solid = 1.0 / (1.0 + np.exp(-logits)), logits > 0
        total = float(probability.sum() + solid.sum())
        return 2.0 * float(probability[solid].sum()) / total if total else float("nan")


@dataclass(frozen=True)
class HoleCompletion:
    """What the hole network says of a patient, averaged with what it says of the mirror image.

    Args:
        network: from :func:`hole_features` to a correction of :func:`plate_logits`.
        tables: shape model.
    """

    network: nn.Module
    tables: TableModel

    @classmethod
    def of(cls, completer: SkullCompleter) -> HoleCompletion | None:
        """The hole network in a completer, with its shape model; None where it has none."""
        tables = TableModel.of(completer)
        if completer.hole_network is None or tables is None:
            return None
        return cls(completer.hole_network.eval(), tables)

    @torch.no_grad()
    def __call__(self, bone: np.ndarray, trusted: np.ndarray, rays: VaultRays) -> UnrolledBone:
        """The bone on every ray; of interest where the patient has none.

        Args:
            bone: (M * M, H), share of the patient's bone along the rays.
            trusted: (M, M) bool; what lies on other rays, such as a strap, is no measurement of a table.
            rays: of the M x M entries, at least as dense as the network's.
        """
        own = VaultRays(self.tables.step_deg)
        nearest = own.nearest_in(rays)
        profiles = bone.reshape(*rays.shape, -1)[nearest][:, nearest]
        tables = plates(profiles.reshape(-1, profiles.shape[-1]), own)
        bare = ~(profiles > BONE_SHARE).any(2)
        known = np.isfinite(tables).all(0) & ~ndimage.binary_dilation(bare, np.ones((3, 3)))
        known &= trusted[nearest][:, nearest]
        usual = self.tables.complete(np.where(known, tables, np.nan), own)

        mean = torch.from_numpy(self.tables.mean).to(next(self.network.parameters()))
        given = [
            torch.from_numpy(np.ascontiguousarray(each, dtype=np.float32)).to(mean)[None]
            for each in (usual, np.nan_to_num(tables), known)
        ]
        expected, seen = expected_tables(*given), given[2]
        shares = torch.from_numpy(np.ascontiguousarray(profiles)).to(mean)[None]
        features = [
            hole_features(each[0], each[1], each[2], mean, own)
            for each in ((shares, expected, seen), (shares.flip(1), expected.flip(2), seen.flip(1)))
        ]
        straight, mirrored = self.network(torch.cat(features)).float()
        added = (straight + mirrored.flip(1)) / 2
        return UnrolledBone(expected[0].cpu().numpy(), added.cpu().numpy(), own)
