"""Moves the decoded vault onto the patient's bone around the hole, so that both tables of the implant meet the rim.

A decoded skull is a millimeter or so off, and so would be the implant's edge. The vault is a shell around its center,
so its error is measured where there is bone, along rays from the center and for the outer and the inner table apart,
carried smoothly across the hole, and taken back. What the decoder says is first averaged with what the shape model of
the tables says of this patient: their errors are different ones. At the brow and the temples, where a vault is no pair
of smooth tables, two networks have most of the say.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from scipy import ndimage

from bundle.skull_implant.fit.hole_completion import HoleCompletion, UnrolledBone
from bundle.skull_implant.fit.table_errors import TableErrors
from bundle.skull_implant.fit.table_model import TableModel, nearest_filled
from bundle.skull_implant.fit.vault_points import VaultPoints
from bundle.skull_implant.frame.canonical_frame import CanonicalFrame
from bundle.skull_implant.frame.canonical_grid import CanonicalBox, scanned, to_canonical
from bundle.skull_implant.frame.vault_rays import VaultRays, sample_box
from bundle.skull_implant.frame.vault_template import VaultTemplate
from bundle.skull_implant.model.facial_network import FINE_MM, THIN_BONE, FacialNetwork, missing_in
from bundle.skull_implant.model.network import SkullCompleter
from bundle.skull_implant.volume import Grid, Volume


class Refined(NamedTuple):
    """A decoded skull on the bone around its hole.

    Args:
        probability: (U, V, W) float32, of skull, on a grid of twice the voxels along coarse axes.
        bone_share: (U, V, W), share of the patient's bone on that grid.
        box: of that grid.
        expected_dsc: of the implant, by the hole network's own probabilities; NaN without a hole or without network.
    """

    probability: np.ndarray
    bone_share: np.ndarray
    box: CanonicalBox
    expected_dsc: float = float("nan")


class FittedVault(NamedTuple):
    """The vault along rays, on the patient's bone.

    Args:
        decoded: (2, N, N) mm, the decoder's outer and inner table, bridged.
        errors: (2, N, N) mm, to be added to them.
        measured: (N, N) bool, rays on which that was measured.
        in_hole: (N, N) bool, rays through the hole.
        bridged: (N, N) bool, rays on which the decoder gave no table to be trusted.
    """

    decoded: np.ndarray
    errors: np.ndarray
    measured: np.ndarray
    in_hole: np.ndarray
    bridged: np.ndarray

    @property
    def tables(self) -> np.ndarray:
        """Outer and inner table (2, N, N) mm."""
        return self.decoded + self.errors


@dataclass(frozen=True)
class RimFit:
    """Radial correction of a decoded vault (our choice; Wodzinski and others refine implants with a second network).

    Args:
        tables: shape model of the vault's tables; None for the decoder alone.
        holes: hole network; None for the decoder and the shape model alone.
        facial: facial network, which learned the forehead and the temples too and is asked beside the hole network;
            None for the hole network alone.
        learned_share: of the networks' say where rays meet no bone, at the brow and the temples. There a vault is no
            pair of smooth tables. Further up and at the back it is, and the hole network made it worse (validation).
        facial_share: of the facial network in that say. Along rays an orbit's roof is a streak, in voxels it is a roof.
        learned_deg: polar angles from and down to which they have one.
        roof_deg: polar angle from which on, in front, bone that the facial network is sure of is bone, whatever the
            others say: the orbits' roofs and the frontal sinus are thin, and their shares add up to no bone.
        deep_deg: the same, for what lies well inside the vault: roofs that rise high, a large sinus's posterior wall.
        deep_mm: inside the inner table from which on that is.
        roof_front: cosine of the angle to straight ahead within which both are.
        rays: along which the vault is measured.
        errors: measures the expected tables' errors on bone and carries them into the hole.
        mean_share: of the mean vault in what is expected, but for the brow and the temples: decoder and shape model are
            too sure of what the bone of this patient says.
        fine_mm: axes with larger voxels are doubled for the corrected grid.
        bridge_share: of a hole's rays that must meet decoded bone, so that the others are bridged: a decoder that
            doubts leaves openings where its probability falls below one half.
        bridge_deg: polar angle down to which openings are bridged; below are the orbits and the ears.
        doubt_deg: decoded bone nearer to an opening is doubtful too.
        shown_mm: from there to there above the fitted outer vault the scan must show a ray that may lie in a hole.
    """

    tables: TableModel | None = None
    holes: HoleCompletion | None = None
    facial: FacialNetwork | None = None
    learned_share: float = 0.75
    facial_share: float = 0.5
    learned_deg: tuple[float, float] = (50.0, 117.0)
    roof_deg: float = 75.0
    deep_deg: float = 55.0
    deep_mm: float = 5.0
    roof_front: float = 0.5
    rays: VaultRays = field(default_factory=VaultRays)
    errors: TableErrors = field(default_factory=TableErrors)
    mean_share: float = 0.5
    fine_mm: float = FINE_MM
    bridge_share: float = 0.3
    bridge_deg: float = 95.0
    doubt_deg: float = 6.0
    shown_mm: tuple[float, float] = (-8.0, 2.0)

    @classmethod
    def of(cls, completer: SkullCompleter) -> RimFit:
        """With the shape model and the networks of a completer, where it has them."""
        return cls(TableModel.of(completer), HoleCompletion.of(completer), completer.facial_network)

    def refine(
        self,
        probability: np.ndarray,
        skull: Volume,
        frame: CanonicalFrame,
        box: CanonicalBox,
        template: VaultTemplate,
        gamma: float = 1.0,
    ) -> Refined:
        """Corrected probability and share of bone on a grid of twice the voxels along coarse axes.

        The correction closes the hole whatever was decoded there, so below a gamma of 1 it is made by that share only:
        at 0 the decoder's own skull is left.

        Args:
            probability: (X, Y, Z) decoded, on the network's grid.
            skull: the patient's bone, on the scan's grid.
            frame: of this case.
            box: the network's canonical box.
            template: mean vault.
            gamma: that it was decoded with.
        """
        fine = box.finer(self.fine_mm)
        bone = to_canonical(skull, frame, fine)
        shown = self._shown(skull.grid, frame, fine, template)
        corrected, expected_dsc = self.correct(probability, bone, frame, box, fine, template, shown)
        if gamma < 1.0:
            decoded = _on_grid(probability, box, fine).reshape(fine.spatial_size)
            corrected = decoded + np.float32(max(gamma, 0.0)) * (corrected - decoded)
        return Refined(corrected, bone, fine, expected_dsc)

    def correct(
        self,
        probability: np.ndarray,
        bone_share: np.ndarray,
        frame: CanonicalFrame,
        box: CanonicalBox,
        fine: CanonicalBox,
        template: VaultTemplate,
        shown: np.ndarray | None = None,
    ) -> tuple[np.ndarray, float]:
        """The corrected probability of skull (U, V, W) float32 on a finer grid, and the implant's expected DSC.

        Args:
            probability: (X, Y, Z) decoded, on the network's grid.
            bone_share: (U, V, W) share of the patient's bone, on the finer grid.
            frame: of this case.
            box: the network's canonical box.
            fine: the same box at a finer grid.
            template: mean vault.
            shown: (N, N) bool, rays that the scan shows; None for all. Where it ends there is no hole.
        """
        rays, scales = self.rays, frame.scales
        bone = rays.sample(bone_share, fine, scales, template)
        vault = self._fitted(
            rays.tables(rays.sample(probability, box, scales, template)),
            bone,
            np.ones(rays.shape, bool) if shown is None else shown,
        )
        points = VaultPoints.of(fine, rays, scales, template)
        result = _on_grid(probability, box, fine)
        result[points.voxels] = self._moved(probability, box, points, vault)
        if self.holes is None:
            return result.reshape(fine.spatial_size), float("nan")
        learned = self.holes(bone, vault.tables, vault.measured, rays)
        shares = points.at(self._learned(vault.in_hole))
        there = np.flatnonzero(shares > 0.0)
        if len(there):
            said, surely = self._said(points.only(there), vault, learned, bone_share, probability)
            moved = result[points.voxels[there]]
            result[points.voxels[there]] = np.maximum(moved + shares[there] * (said - moved), surely)
        nearest = learned.rays.nearest_in(rays)
        return result.reshape(fine.spatial_size), learned.expected_dsc(vault.in_hole[nearest][:, nearest])

    def _shown(self, grid: Grid, frame: CanonicalFrame, box: CanonicalBox, template: VaultTemplate) -> np.ndarray:
        """Rays (N, N) bool whose part near the outer vault lies in the scan and in the box."""
        ends = self.rays.points(np.asarray(self.shown_mm), frame.scales, template)  # (N * N, 2, 3), of a convex scan
        middle = box.affine[:3, 3] + (np.asarray(box.spatial_size) - 1) * box.spacing_mm / 2
        in_box = np.all(np.abs(ends - middle) < np.asarray(box.size_mm) / 2, axis=-1)
        return np.asarray(
            np.all(in_box & scanned(np.moveaxis(ends, -1, 0), grid, frame), axis=1).reshape(self.rays.shape)
        )

    def _fitted(self, decoded: np.ndarray, bone: np.ndarray, shown: np.ndarray) -> FittedVault:
        """The decoder's tables (2, N, N) mm and what they are wrong by.

        Args:
            decoded: NaN where there are none.
            bone: (N * N, H), share of the patient's bone along the rays.
            shown: (N, N) bool, rays that the scan shows.
        """
        real = self.rays.tables(bone)
        bare = np.logical_not((bone > 0.4).any(1)).reshape(self.rays.shape)
        usual = None if self.tables is None else self.tables.complete_plates(real, self.rays)
        in_hole = self._in_hole(bare, decoded) & shown
        bridged, decoded = self._bridged(bare & (self.rays.polar_deg < self.bridge_deg), decoded, usual)
        decoded = np.stack([nearest_filled(table) for table in decoded])
        expected = self._expected(decoded, usual)
        errors, measured = self.errors.carried(expected, real, in_hole, 1.0 - self._low_in_front(), self.rays)
        return FittedVault(decoded, errors + (expected - decoded), measured, in_hole, bridged)

    def _moved(self, probability: np.ndarray, box: CanonicalBox, points: VaultPoints, vault: FittedVault) -> np.ndarray:
        """The decoded probability (P,) with its tables moved onto the fitted ones, and plates over bridged rays."""
        outer, inner, outer_error, inner_error = (points.at(table) for table in (*vault.decoded, *vault.errors))
        thickness = np.maximum(outer + outer_error - inner - inner_error, 1.0)
        above = points.heights_mm
        share = np.clip((above - inner - inner_error) / thickness, 0.0, 1.0)  # 0 at the inner table, 1 at the outer one
        fade = np.clip((self.rays.lowest_deg - points.polar_deg) / 10.0, 0.0, 1.0)
        moved = points.moved(probability, box, fade * (inner_error + (outer_error - inner_error) * share))
        if not vault.bridged.any():
            return moved
        over = points.at(vault.bridged.astype(np.float32)) > 0.5
        depth = np.minimum(outer + outer_error - above, above - inner - inner_error)  # mm inside the plate
        return np.asarray(np.maximum(moved, over * np.clip(0.5 + depth, 0.0, 1.0)))

    def _said(
        self,
        points: VaultPoints,
        vault: FittedVault,
        learned: UnrolledBone,
        bone_share: np.ndarray,
        probability: np.ndarray,
    ) -> tuple[np.ndarray, np.ndarray]:
        """What both networks say (P,) of bone at points, and what the facial one is so sure of that it stays (P,)."""
        outer, inner, outer_error, inner_error = (points.at(table) for table in (*vault.decoded, *vault.errors))
        height, outside, inside = points.heights_mm, outer + outer_error, inner + inner_error
        said = 1.0 / (1.0 + np.exp(-learned.logits_at(points.offsets, height, outside, inside)))
        if self.facial is None:
            return said, np.zeros_like(said)
        missing = missing_in(self.facial, bone_share, probability).ravel()[points.voxels]
        bone = bone_share.ravel()[points.voxels]
        said += self.facial_share * (np.minimum(bone + missing, 1.0) - said)
        low = points.polar_deg > np.where(height < inside - self.deep_mm, self.deep_deg, self.roof_deg)
        roof = low & (points.directions[:, 1] > self.roof_front)
        return said, roof * np.minimum(bone + THIN_BONE * missing, 1.0)

    def _expected(self, decoded: np.ndarray, usual: np.ndarray | None) -> np.ndarray:
        """The tables (2, N, N) from which errors are measured: the decoder's, the shape model's and the mean vault's.

        Args:
            decoded: of the decoder.
            usual: what the shape model expects of this patient; None without one.
        """
        if self.tables is None or usual is None:
            return decoded
        both = (decoded + usual) / 2
        return np.asarray(
            both + self.mean_share * (1.0 - self._low_in_front()) * (self.tables.mean_at(self.rays) - both)
        )

    def _in_hole(self, bare: np.ndarray, decoded: np.ndarray) -> np.ndarray:
        """Rays (N, N) without bone that meet decoded bone or are near such rays, and not through an orbit.

        Args:
            bare: (N, N), rays that meet no bone of the patient.
            decoded: (2, N, N), tables, NaN where there are none.
        """
        cells = round(self.doubt_deg / self.rays.step_deg)
        solid = bare & ~np.isnan(decoded[0])
        around = ndimage.binary_dilation(solid, ndimage.generate_binary_structure(2, 2), iterations=cells)
        return np.asarray(bare & around & (self.rays.polar_deg < self.learned_deg[1]))

    def _learned(self, in_hole: np.ndarray) -> np.ndarray:
        """Share (N, N) float32 of the hole network's say on each ray."""
        return np.asarray(self.learned_share * self._low_in_front() * in_hole, np.float32)

    def _low_in_front(self) -> np.ndarray:
        """Each ray (N, N) from 0, at the vault's top and back, to 1, at the brow and the temples."""
        low = np.clip((self.rays.polar_deg - self.learned_deg[0]) / 20.0, 0.0, 1.0)
        front = np.clip(1.0 + 4.0 * self.rays.plane.directions()[..., 1], 0.0, 1.0)  # 0 from 14 degrees behind the ears
        return np.asarray(low * front)

    def _bridged(
        self, bare: np.ndarray, decoded: np.ndarray, usual: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Rays of a hole (N, N) that the decoder left open, and tables (2, N, N) that run on smoothly over them.

        Args:
            bare: (N, N), rays that meet no bone of the patient.
            decoded: outer and inner table.
            usual: what the shape model expects.
        """
        solid = ~np.isnan(decoded[0])
        holes, count = ndimage.label(bare)
        filled = ndimage.mean(solid, holes, range(1, count + 1)) if count else []
        open_rays = np.isin(holes, 1 + np.flatnonzero(np.asarray(filled) >= self.bridge_share)) & ~solid
        if not open_rays.any():
            return open_rays, decoded
        cells = round(self.doubt_deg / self.rays.step_deg)
        doubtful = ndimage.binary_dilation(open_rays, ndimage.generate_binary_structure(2, 2), iterations=cells) & bare
        trusted = solid & ~doubtful
        base = np.zeros_like(decoded) if usual is None else usual
        deviation = np.where(trusted, decoded - base, 0.0)
        smooth = base + self.errors.plate.smooth(deviation, np.broadcast_to(trusted, decoded.shape).astype(float))
        return doubtful, np.where(doubtful, smooth, decoded)


def _on_grid(values: np.ndarray, box: CanonicalBox, fine: CanonicalBox) -> np.ndarray:
    """Values (X, Y, Z) of a box at the voxels of a finer grid of it, (N,)."""
    return sample_box(values, box, fine.coordinates().numpy().reshape(3, -1).T.astype(np.float64))
