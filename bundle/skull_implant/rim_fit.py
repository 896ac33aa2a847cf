"""Moves the decoded vault onto the patient's bone around the hole, so that both tables of the implant meet the rim.

A decoded skull is a millimeter or so off, and so would be the implant's edge. The vault is a shell around its center,
so its error is measured where there is bone, along rays from the center and for the outer and the inner table apart,
carried smoothly across the hole, and taken back. What the decoder says is first averaged with what the shape model of
the tables says of this patient: their errors are different ones. In a hole on one side the other side of the head tells
the detail: its errors, moved smoothly onto those around the hole, are most of what is taken back.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from scipy import ndimage, sparse
from scipy.sparse import linalg

from bundle.skull_implant.canonical_frame import CanonicalFrame
from bundle.skull_implant.canonical_grid import CanonicalBox, to_canonical
from bundle.skull_implant.facial_network import FINE_MM, THIN_BONE, FacialNetwork, missing_in
from bundle.skull_implant.hole_completion import HoleCompletion
from bundle.skull_implant.network import SkullCompleter
from bundle.skull_implant.table_kriging import TableKriging
from bundle.skull_implant.table_model import PLATE_MM, TableModel, nearest_filled
from bundle.skull_implant.vault_rays import VaultRays, sample_box, vault_center, vault_radius
from bundle.skull_implant.vault_template import VaultTemplate
from bundle.skull_implant.volume import Volume

TRUSTED = 0.3  # weight from which on an error is one of the table, not of something else


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
        match_mm: a larger distance between expected and real table is no error but a hole, a strap or another bone.
        rim_deg: bone nearer to missing bone is not measured, because its edge may be beveled.
        stiffness: weight of the field's curvature against its distance from a measurement, on 1.5 degree rays.
        tension: weight of its slope; keeps it from overshooting in large holes.
        robust_mm: a measurement this far from the smooth field counts a quarter: a wall of the hole that a ray grazes.
        kriging: carries the errors that are measured on bone into a hole, but at the brow and the temples.
        mean_share: of the mean vault in what is expected, but for the brow and the temples: decoder and shape model are
            too sure of what the bone of this patient says.
        mirror_share: of what the other side of the head says, where it has bone and the hole's own side has none.
        mirror_deg: distance from the measured bone from which on it has all of that share; at the rim it has none.
        mirror_blur_deg: standard deviation that the other side is blurred with, because no head is symmetric to a ray.
        fine_mm: axes with larger voxels are doubled for the corrected grid.
        bridge_share: of a hole's rays that must meet decoded bone, so that the others are bridged: a decoder that
            doubts leaves openings where its probability falls below one half.
        bridge_deg: polar angle down to which openings are bridged; below are the orbits and the ears.
        doubt_deg: decoded bone nearer to an opening is doubtful too.
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
    match_mm: float = 5.0
    rim_deg: float = 1.5
    stiffness: float = 2.0
    tension: float = 0.05
    robust_mm: float = 0.6
    kriging: TableKriging = field(default_factory=TableKriging)
    mean_share: float = 0.5
    mirror_share: float = 0.7
    mirror_deg: float = 4.5
    mirror_blur_deg: float = 1.0
    fine_mm: float = FINE_MM
    bridge_share: float = 0.3
    bridge_deg: float = 95.0
    doubt_deg: float = 6.0

    @classmethod
    def of(cls, completer: SkullCompleter) -> RimFit:
        """With the shape model and the networks of a completer, where it has them."""
        return cls(TableModel.of(completer), HoleCompletion.of(completer), completer.facial_network)

    def refine(
        self, probability: np.ndarray, skull: Volume, frame: CanonicalFrame, box: CanonicalBox, template: VaultTemplate
    ) -> Refined:
        """Corrected probability and share of bone on a grid of twice the voxels along coarse axes.

        Args:
            probability: (X, Y, Z) decoded, on the network's grid.
            skull: the patient's bone, on the scan's grid.
            frame: of this case.
            box: the network's canonical box.
            template: mean vault.
        """
        fine = box.finer(self.fine_mm)
        bone = to_canonical(skull, frame, fine)
        corrected, expected_dsc = self.correct(probability, bone, frame, box, fine, template)
        return Refined(corrected, bone, fine, expected_dsc)

    def correct(
        self,
        probability: np.ndarray,
        bone_share: np.ndarray,
        frame: CanonicalFrame,
        box: CanonicalBox,
        fine: CanonicalBox,
        template: VaultTemplate,
    ) -> tuple[np.ndarray, float]:
        """The corrected probability of skull (U, V, W) float32 on a finer grid, and the implant's expected DSC.

        Args:
            probability: (X, Y, Z) decoded, on the network's grid.
            bone_share: (U, V, W) share of the patient's bone, on the finer grid.
            frame: of this case.
            box: the network's canonical box.
            fine: the same box at a finer grid.
            template: mean vault.
        """
        rays, scales = self.rays, frame.scales
        decoded = rays.tables(rays.sample(probability, box, scales, template))
        bone = rays.sample(bone_share, fine, scales, template)
        real = rays.tables(bone)
        bare = np.logical_not((bone > 0.4).any(1)).reshape(rays.shape)
        usual = self._usual(real)
        in_hole = self._in_hole(bare, decoded)
        bridged, decoded = self._bridged(bare & (rays.polar_deg < self.bridge_deg), decoded, usual)
        decoded = np.stack([nearest_filled(table) for table in decoded])
        expected = self._expected(decoded, usual)
        errors, measured = self._errors(expected, real, in_hole)
        errors += expected - decoded

        center = vault_center(scales, template)
        points = fine.coordinates().numpy().reshape(3, -1).T.astype(np.float64) - center
        index, theta = rays.plane.plane_index(points)
        near = np.flatnonzero(theta < rays.lowest_deg)
        direction = points[near] / np.maximum(np.linalg.norm(points[near], axis=1), 1e-6)[:, None]
        above = np.linalg.norm(points[near], axis=1) - vault_radius(direction, scales, template)
        close = (above > -rays.inside_mm) & (above < rays.outside_mm)
        near, direction, above = near[close], direction[close], above[close]
        outer, inner, outer_error, inner_error = (
            ndimage.map_coordinates(table, index[:, near], order=1, mode="nearest") for table in (*decoded, *errors)
        )
        thickness = np.maximum(outer + outer_error - inner - inner_error, 1.0)
        share = np.clip((above - inner - inner_error) / thickness, 0.0, 1.0)  # 0 at the inner table, 1 at the outer one
        fade = np.clip((rays.lowest_deg - theta[near]) / 10.0, 0.0, 1.0)
        shift = fade * (inner_error + (outer_error - inner_error) * share)
        result = sample_box(probability, box, points + center)
        result[near] = sample_box(probability, box, points[near] - direction * shift[:, None] + center)
        if bridged.any():
            over = ndimage.map_coordinates(bridged.astype(np.float32), index[:, near], order=1, mode="nearest") > 0.5
            depth = np.minimum(outer + outer_error - above, above - inner - inner_error)  # mm inside the plate
            result[near] = np.maximum(result[near], over * np.clip(0.5 + depth, 0.0, 1.0))
        expected_dsc = float("nan")
        if self.holes is not None:
            learned = self.holes(bone, decoded + errors, measured, rays)
            shares = ndimage.map_coordinates(self._learned(in_hole), index[:, near], order=1, mode="nearest")
            over = shares > 0.0
            there = near[over]
            height, outside, inside = (each[over] for each in (above, outer + outer_error, inner + inner_error))
            said = 1.0 / (1.0 + np.exp(-learned.logits_at(points[there], height, outside, inside)))
            surely = np.zeros_like(said)
            if self.facial is not None and over.any():
                missing = missing_in(self.facial, bone_share, probability)
                said += self.facial_share * (np.minimum(bone_share + missing, 1.0).ravel()[there] - said)
                low = theta[there] > np.where(height < inside - self.deep_mm, self.deep_deg, self.roof_deg)
                roof = low & (direction[over][:, 1] > self.roof_front)
                surely = roof * np.minimum(bone_share + THIN_BONE * missing, 1.0).ravel()[there]
            result[there] = np.maximum(result[there] + shares[over] * (said - result[there]), surely)
            nearest = learned.rays.nearest_in(rays)
            expected_dsc = learned.expected_dsc(in_hole[nearest][:, nearest])
        return result.reshape(fine.spatial_size), expected_dsc

    def _usual(self, real: np.ndarray) -> np.ndarray | None:
        """What the shape model expects (2, N, N) from the bone that is there."""
        if self.tables is None:
            return None
        thickness = real[0] - real[1]
        plate = (thickness > PLATE_MM[0]) & (thickness < PLATE_MM[1])  # NaN compares as False
        return self.tables.complete(np.where(self._away_from_rim(plate, self.tables.step_deg), real, np.nan), self.rays)

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

    def _errors(self, expected: np.ndarray, real: np.ndarray, in_hole: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """How far the real tables lie outside the expected ones, smooth and everywhere, (2, N, N) mm.

        Also the rays (N, N) bool on which that was measured. In a hole at the top and the back of the head errors are
        kriged; at the brow and the temples, where bone comes and goes, a thin plate scored better (validation).
        """
        errors = real - expected
        bone = np.all(np.abs(errors) <= self.match_mm, axis=0)  # NaN compares as False
        away = self._away_from_rim(bone, self.rim_deg)
        measured = np.broadcast_to(away, errors.shape).astype(float)
        errors = np.where(measured > 0, errors, 0.0)
        smooth, weights = self._robustly_smooth(errors, measured)
        share = self._share_of_other_side(away, real)
        other = ndimage.gaussian_filter(
            np.where(weights > TRUSTED, errors, smooth), (0.0, *[self.mirror_blur_deg / self.rays.step_deg] * 2)
        )[:, ::-1]
        smooth = smooth + share * (other + self._robustly_smooth(errors - other, measured)[0] - smooth)
        vault = 1.0 - self._low_in_front()
        hole = ndimage.binary_dilation(in_hole, iterations=2) & ~away & (vault > 0.0)
        if hole.any():
            kriged = self.kriging.between(errors, away, hole, self.rays, weights)
            carried = kriged(errors)
            carried += share[hole] * (other[:, hole] + kriged(errors - other) - carried)
            smooth[:, hole] += vault[hole] * (carried - smooth[:, hole])
        return smooth, away

    def _robustly_smooth(self, errors: np.ndarray, measured: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Errors (2, N, N) mm carried smoothly over all rays, and what each of them weighs in that, from 0 to 1."""
        off = (errors - self._smooth(errors, measured)) / self.robust_mm
        weights = measured / np.square(1 + np.square(off))
        return self._smooth(errors, weights), weights

    def _share_of_other_side(self, measured: np.ndarray, real: np.ndarray) -> np.ndarray:
        """Share (N, N) of what the other side of the head says on each ray.

        Args:
            measured: (N, N) bool.
            real: (2, N, N) mm, tables of the patient, NaN where there is no bone.
        """
        steps = ndimage.distance_transform_edt(~measured) * self.rays.step_deg / self.mirror_deg
        bone = np.isfinite(real).all(0) | (self.rays.polar_deg > self.bridge_deg)
        other = ndimage.gaussian_filter(ndimage.binary_opening(bone, iterations=2)[::-1].astype(float), 1.0)
        return np.asarray(self.mirror_share * np.minimum(steps, 1.0) * other)

    def _away_from_rim(self, bone: np.ndarray, distance_deg: float) -> np.ndarray:
        cells = max(1, round(distance_deg / self.rays.step_deg))
        return ndimage.binary_erosion(bone, ndimage.generate_binary_structure(2, 2), iterations=cells)

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
        smooth = base + self._smooth(deviation, np.broadcast_to(trusted, decoded.shape).astype(float))
        return doubtful, np.where(doubtful, smooth, decoded)

    def _smooth(self, tables: np.ndarray, weights: np.ndarray) -> np.ndarray:
        """Tables (2, N, N) close to where they are measured, carried on smoothly where they are not.

        Args:
            tables: finite everywhere.
            weights: of each entry's measurement; 0 where there is none.
        """
        count = tables.shape[1]
        difference = sparse.diags([-1.0, 1.0], [0, 1], shape=(count - 1, count))
        slope = sparse.csc_matrix(sparse.kronsum(difference.T @ difference, difference.T @ difference))
        roughness = self.tension * slope + self.stiffness * slope @ slope
        smooth = np.empty_like(tables)
        for number, (table, weight) in enumerate(zip(tables, weights, strict=True)):
            if number == 0 or not np.array_equal(weight, weights[number - 1]):
                # The least squares of distance from the measurements, slope and curvature; the last term is for none.
                system = sparse.csc_matrix(sparse.diags(weight.ravel() + 1e-6) + roughness)
                factors = linalg.splu(
                    system, permc_spec="MMD_AT_PLUS_A", diag_pivot_thresh=0.0, options={"SymmetricMode": True}
                )
            smooth[number] = factors.solve((weight * table).ravel()).reshape(table.shape)
        return smooth
