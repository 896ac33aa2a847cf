"""The hole network at work: the bone under a patient's hole, from the bone and the expected tables around it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy import ndimage
from torch import nn

from bundle.skull_implant.frame.vault_rays import VaultRays
from bundle.skull_implant.model.network import SkullCompleter
from bundle.skull_implant.model.unrolled_vault import (
    HEIGHTS_MM,
    LARGEST_LOGIT,
    SLOPE_PER_MM,
    STEP_DEG,
    hole_features,
    plate_logits,
)


@dataclass(frozen=True)
class UnrolledBone:
    """Bone along rays, counted from the expected outer table.

    Args:
        plate: (C, N, N), logits of the expected plate at :data:`HEIGHTS_MM` above it.
        correction: (C, N, N), what the network adds to them.
        rays: of the N x N entries.
    """

    plate: np.ndarray
    correction: np.ndarray
    rays: VaultRays

    def logits_at(
        self, directions: np.ndarray, above_mm: np.ndarray, outer_mm: np.ndarray, inner_mm: np.ndarray
    ) -> np.ndarray:
        """Of bone (P,) float32, at points: those of the plate there, corrected.

        Args:
            directions: (P, 3), of the points from the vault's center.
            above_mm: (P,), heights above the fitted vault.
            outer_mm: (P,), expected outer table there.
            inner_mm: (P,), expected inner table there.
        """
        index, _ = self.rays.plane.plane_index(directions)
        height = above_mm - outer_mm
        depth = np.minimum(-height, height + np.maximum(outer_mm - inner_mm, 1.0))  # mm inside the plate
        plate = np.clip(SLOPE_PER_MM * depth, -LARGEST_LOGIT, LARGEST_LOGIT)
        place = [height - HEIGHTS_MM[0], *index]
        added = ndimage.map_coordinates(self.correction, place, order=1, mode="nearest", output=np.float32)
        return np.asarray(plate + added)

    def expected_dsc(self, in_hole: np.ndarray) -> float:
        """DSC that the probabilities promise on rays (N, N) bool, if they are true; NaN where there are no rays."""
        logits = (self.plate + self.correction)[:, in_hole]
        probability, solid = 1.0 / (1.0 + np.exp(-logits)), logits > 0
        total = float(probability.sum() + solid.sum())
        return 2.0 * float(probability[solid].sum()) / total if total else float("nan")


@dataclass(frozen=True)
class HoleCompletion:
    """What the hole network says of a patient, averaged with what it says of the mirror image.

    Args:
        network: from :func:`hole_features` to a correction of :func:`plate_logits`.
        mean: (2, N, N) mm, of the shape model of the tables.
        step_deg: between neighboring entries.
    """

    network: nn.Module
    mean: torch.Tensor
    step_deg: float = STEP_DEG

    @classmethod
    def of(cls, completer: SkullCompleter) -> HoleCompletion | None:
        """The hole network in a completer; None where it has none."""
        if completer.hole_network is None:
            return None
        return cls(completer.hole_network.eval(), completer.table_mean)

    @torch.no_grad()
    def __call__(self, bone: np.ndarray, tables: np.ndarray, measured: np.ndarray, rays: VaultRays) -> UnrolledBone:
        """The bone on every ray; of interest where the patient has none.

        Args:
            bone: (M * M, H), share of the patient's bone along the rays.
            tables: (2, M, M) mm, expected outer and inner table, everywhere.
            measured: (M, M) bool, where the tables were measured.
            rays: of the M x M entries, at least as dense as the network's.
        """
        own = VaultRays(self.step_deg)
        nearest = own.nearest_in(rays)
        known = ndimage.binary_erosion(measured, np.ones((3, 3)))
        mean = self.mean.to(next(self.network.parameters()).device)
        profiles, expected, seen = (
            torch.from_numpy(np.ascontiguousarray(each, dtype=np.float32)).to(mean)
            for each in (
                bone.reshape(*rays.shape, -1)[nearest][:, nearest],
                tables[:, nearest][:, :, nearest],
                known[nearest][:, nearest],
            )
        )
        expected[1] = torch.minimum(expected[1], expected[0] - 1.0)
        profiles, expected, seen = (
            torch.stack([each, each.flip(axis)]) for each, axis in ((profiles, 0), (expected, 1), (seen, 0))
        )
        features = hole_features(profiles, expected, seen, mean, own)
        added = self.network(features).float()
        added = (added[0] + added[1].flip(1)) / 2
        return UnrolledBone(plate_logits(expected)[0].cpu().numpy(), added.cpu().numpy(), own)
