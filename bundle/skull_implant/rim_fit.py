"""Moves the decoded vault onto the patient's bone around the hole, so that both tables of the implant meet the rim.

A decoded skull is a millimeter or so off, and so would be the implant's edge. The vault is a shell around its center,
so its error is measured where there is bone, along rays from the center and for the outer and the inner table apart,
carried smoothly across the hole, and taken back.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage, sparse
from scipy.sparse import linalg

from bundle.skull_implant.canonical_frame import CanonicalFrame
from bundle.skull_implant.canonical_grid import CanonicalBox, to_canonical
from bundle.skull_implant.vault_template import VaultTemplate
from bundle.skull_implant.volume import Volume


@dataclass(frozen=True)
class RimFit:
    """Radial correction of a decoded vault (our choice; Wodzinski and others refine implants with a second network).

    Args:
        step_deg: between neighboring rays.
        lowest_deg: polar angle from the vertex down to which rays are cast.
        inside_mm: depth below the fitted outer vault at which rays begin.
        outside_mm: height above it at which they end.
        step_mm: along a ray.
        match_mm: a larger distance between decoded and real table is no error but a hole, a strap or another bone.
        rim_deg: bone nearer to missing bone is not measured, because its edge may be beveled.
        stiffness: weight of the field's curvature against its distance from a measurement.
        tension: weight of its slope; keeps it from overshooting in large holes.
        fine_mm: axes with larger voxels are doubled for the corrected grid.
        bridge_share: of a hole's rays that must meet decoded bone, so that the others are bridged: a decoder that
            doubts leaves openings where its probability falls below one half.
        bridge_deg: polar angle down to which openings are bridged; below are the orbits and the ears.
        doubt_deg: decoded bone nearer to an opening is doubtful too.
    """

    step_deg: float = 3.0
    lowest_deg: float = 120.0
    inside_mm: float = 24.0
    outside_mm: float = 10.0
    step_mm: float = 0.5
    match_mm: float = 5.0
    rim_deg: float = 3.0
    stiffness: float = 2.0
    tension: float = 0.2
    fine_mm: float = 1.5
    bridge_share: float = 0.3
    bridge_deg: float = 95.0
    doubt_deg: float = 6.0

    def refine(
        self, probability: np.ndarray, skull: Volume, frame: CanonicalFrame, box: CanonicalBox, template: VaultTemplate
    ) -> tuple[np.ndarray, np.ndarray, CanonicalBox]:
        """Corrected probability and share of bone on a grid of twice the voxels along coarse axes, and its box.

        Args:
            probability: (X, Y, Z) decoded, on the network's grid.
            skull: the patient's bone, on the scan's grid.
            frame: of this case.
            box: the network's canonical box.
            template: mean vault.
        """
        # An axis that is fine already stays as it is: a doubled grid of the paper's size would take 8 GB.
        x, y, z = (
            2 * count if spacing > self.fine_mm else count
            for count, spacing in zip(box.spatial_size, box.spacing_mm, strict=True)
        )
        fine = CanonicalBox((x, y, z), box.size_mm, box.top_mm)
        bone = to_canonical(skull, frame, fine)
        return self(probability, bone, frame, box, fine, template), bone, fine

    def __call__(
        self,
        probability: np.ndarray,
        bone_share: np.ndarray,
        frame: CanonicalFrame,
        box: CanonicalBox,
        fine: CanonicalBox,
        template: VaultTemplate,
    ) -> np.ndarray:
        """The corrected probability of skull on a finer grid.

        Args:
            probability: (X, Y, Z) decoded, on the network's grid.
            bone_share: (U, V, W) share of the patient's bone, on the finer grid.
            frame: of this case.
            box: the network's canonical box.
            fine: the same box at a finer grid.
            template: mean vault.

        Returns:
            (U, V, W) float32.
        """
        half = int(self.lowest_deg // self.step_deg) + 1
        rays = VaultTemplate(np.ones((2 * half + 1, 2 * half + 1)), self.step_deg)
        directions = rays.directions().reshape(-1, 3)
        center = np.array([0.0, 0.0, -template.vertex_mm * frame.scales[2]])
        height = np.arange(-self.inside_mm, self.outside_mm + self.step_mm, self.step_mm)
        length = vault_radius(directions, frame, template)[:, None] + height  # (D, H) mm from the center
        points = center + directions[:, None] * length[..., None]
        shape = rays.radii_mm.shape
        decoded = [table.reshape(shape) for table in _tables(sample_box(probability, box, points), height)]
        bone = sample_box(bone_share, fine, points)
        real = [table.reshape(shape) for table in _tables(bone, height)]
        bare = ~(bone > 0.4).any(1).reshape(shape) & (
            directions[:, 2].reshape(shape) > np.cos(np.deg2rad(self.bridge_deg))
        )
        bridged, decoded = self._bridged(bare, decoded)
        tables = [*map(_filled_in, decoded), *self._errors(decoded, real)]

        points = fine.coordinates().numpy().reshape(3, -1).T.astype(np.float64) - center
        index, theta = rays.plane_index(points)
        near = np.flatnonzero(theta < self.lowest_deg)
        direction = points[near] / np.maximum(np.linalg.norm(points[near], axis=1), 1e-6)[:, None]
        above = np.linalg.norm(points[near], axis=1) - vault_radius(direction, frame, template)
        close = (above > -self.inside_mm) & (above < self.outside_mm)
        near, direction, above = near[close], direction[close], above[close]
        outer, inner, outer_error, inner_error = (
            ndimage.map_coordinates(table, index[:, near], order=1, mode="nearest") for table in tables
        )
        thickness = np.maximum(outer + outer_error - inner - inner_error, 1.0)
        share = np.clip((above - inner - inner_error) / thickness, 0.0, 1.0)  # 0 at the inner table, 1 at the outer one
        fade = np.clip((self.lowest_deg - theta[near]) / 10.0, 0.0, 1.0)
        shift = fade * (inner_error + (outer_error - inner_error) * share)
        result = sample_box(probability, box, points + center)
        result[near] = sample_box(probability, box, points[near] - direction * shift[:, None] + center)
        if bridged.any():
            over = ndimage.map_coordinates(bridged.astype(np.float32), index[:, near], order=1, mode="nearest") > 0.5
            depth = np.minimum(outer + outer_error - above, above - inner - inner_error)  # mm inside the plate
            result[near] = np.maximum(result[near], over * np.clip(0.5 + depth, 0.0, 1.0))
        return result.reshape(fine.spatial_size)

    def _errors(self, decoded: Sequence[np.ndarray], real: Sequence[np.ndarray]) -> list[np.ndarray]:
        """How far the real outer and inner tables lie outside the decoded ones, smooth and everywhere, (N, N) mm."""
        errors = [there - here for here, there in zip(decoded, real, strict=True)]
        bone = np.all([np.abs(error) <= self.match_mm for error in errors], axis=0)  # NaN compares as False
        cells = max(1, round(self.rim_deg / self.step_deg))
        measured = ndimage.binary_erosion(bone, ndimage.generate_binary_structure(2, 2), iterations=cells)
        return self._smooth(errors, measured)

    def _bridged(self, bare: np.ndarray, decoded: list[np.ndarray]) -> tuple[np.ndarray, list[np.ndarray]]:
        """Rays of a hole (N, N) that the decoder left open, and tables (N, N) that run on smoothly over them.

        Args:
            bare: (N, N), rays that meet no bone of the patient.
            decoded: outer and inner table.
        """
        solid = ~np.isnan(decoded[0])
        holes, count = ndimage.label(bare)
        filled = ndimage.mean(solid, holes, range(1, count + 1)) if count else []
        open_rays = np.isin(holes, 1 + np.flatnonzero(np.asarray(filled) >= self.bridge_share)) & ~solid
        if not open_rays.any():
            return open_rays, decoded
        cells = round(self.doubt_deg / self.step_deg)
        doubtful = ndimage.binary_dilation(open_rays, ndimage.generate_binary_structure(2, 2), iterations=cells) & bare
        trusted = solid & ~doubtful
        smooth = self._smooth(decoded, trusted)
        return doubtful, [np.where(doubtful, over, table) for over, table in zip(smooth, decoded, strict=True)]

    def _smooth(self, tables: Sequence[np.ndarray], measured: np.ndarray) -> list[np.ndarray]:
        """Tables (N, N) where they are measured, carried on smoothly where they are not."""
        count = measured.shape[0]
        difference = sparse.diags([-1.0, 1.0], [0, 1], shape=(count - 1, count))
        slope = sparse.kronsum(difference.T @ difference, difference.T @ difference)
        # The least squares of distance from the measurements, slope and curvature; the last term is for none measured.
        system = sparse.diags(measured.ravel() + 1e-6) + self.tension * slope + self.stiffness * slope @ slope
        solve = linalg.factorized(sparse.csc_matrix(system))
        return [solve(np.where(measured, table, 0.0).ravel()).reshape(measured.shape) for table in tables]


def vault_radius(directions: np.ndarray, frame: CanonicalFrame, template: VaultTemplate) -> np.ndarray:
    """Radius of the fitted outer vault in mm (P,) along unit directions (P, 3)."""
    scaled = directions / frame.scales
    radius, _ = template.radius(scaled)
    return np.asarray(radius / np.linalg.norm(scaled, axis=1))


def sample_box(values: np.ndarray, box: CanonicalBox, points: np.ndarray) -> np.ndarray:
    """Linear interpolation at canonical mm (..., 3); 0 outside the box."""
    affine = box.affine
    index = [(points[..., axis] - affine[axis, 3]) / affine[axis, axis] for axis in range(3)]
    sampled = ndimage.map_coordinates(values, index, order=1, mode="constant", cval=0.0, output=np.float32)
    return np.asarray(sampled)


def _tables(profile: np.ndarray, height: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Outer and inner table on rays (D, H), each (D,) mm above the fitted vault; NaN where a ray has none.

    The outer table is the outermost crossing of one half, the inner one the next crossing below it.
    """
    solid = profile > 0.5
    count = len(height)
    rank = np.arange(count)
    last = np.where(solid.any(1), count - 1 - np.argmax(solid[:, ::-1], axis=1), -1)
    first = np.where(~solid & (rank[None] < last[:, None]), rank, -1).max(1)  # the last empty sample below
    outer = np.full(len(profile), np.nan)
    inner = np.full(len(profile), np.nan)
    rows = np.flatnonzero((last >= 0) & (last < count - 1) & (first >= 0))
    step = height[1] - height[0]

    def crossing(row: np.ndarray, below: np.ndarray) -> np.ndarray:
        low, high = profile[row, below], profile[row, below + 1]
        return height[below] + step * (0.5 - low) / (high - low)

    outer[rows] = crossing(rows, last[rows])
    inner[rows] = crossing(rows, first[rows])
    return outer, inner


def _filled_in(table: np.ndarray) -> np.ndarray:
    """NaN replaced by the nearest value."""
    missing = np.isnan(table)
    if missing.all():
        return np.zeros_like(table)
    nearest = ndimage.distance_transform_edt(missing, return_distances=False, return_indices=True)
    return np.asarray(table[tuple(nearest)])
