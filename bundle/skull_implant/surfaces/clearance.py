"""Room between a printed implant and the bone: cut off on a distance field, not voxel by voxel."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from bundle.skull_implant.surfaces.bone_gap import BoneSurface
from bundle.skull_implant.surfaces.crumbs import without_crumbs


@dataclass(frozen=True)
class Clearance:
    """Keeps a solid at a distance from bone.

    Args:
        bone: around the solid.
        distance_mm: to keep.
        step_mm: coarser axes of the solid's grid are divided, so that the cut is not as coarse as thick slices are.
        crumb_ml: what the cut leaves of a thin edge comes off when it is smaller than this.
    """

    bone: BoneSurface
    distance_mm: float
    step_mm: float = 0.6
    crumb_ml: float = 0.05

    def carve(self, field: np.ndarray, to_lps: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
        """The solid's field without what is nearer to the bone.

        Args:
            field: (X, Y, Z) occupancy, the solid's surface at one half.
            to_lps: (4, 4) from its index to LPS mm.

        Returns:
            The same on a grid of at most `step_mm`, (U, V, W), its map, and the share of the volume that is left.
        """
        spacing = np.linalg.norm(to_lps[:3, :3], axis=0)
        parts: np.ndarray = np.ceil(spacing / self.step_mm - 1e-3).clip(1).astype(int)
        shape = tuple(int((size - 1) * count + 1) for size, count in zip(field.shape, parts, strict=True))
        fine = ndimage.affine_transform(field, 1.0 / parts, output_shape=shape, order=1, mode="nearest")
        affine = to_lps @ np.diag([*(1.0 / parts), 1.0])
        before = int(np.count_nonzero(fine > 0.5))
        index = np.argwhere(fine > 0.05)
        distance, _ = self.bone.nearest(index @ affine[:3, :3].T + affine[:3, 3], self.distance_mm + 2 * self.step_mm)
        # One half at the clearance; as steep as a blurred mask's own edge, so that smoothing treats both alike.
        slope = 0.5 / float(np.mean(spacing / parts))
        kept = np.clip(0.5 + slope * (distance - self.distance_mm), 0.0, 1.0)
        fine[tuple(index.T)] = np.minimum(fine[tuple(index.T)], kept)
        voxel_ml = abs(float(np.linalg.det(affine[:3, :3]))) / 1000.0
        fine = without_crumbs(fine, voxel_ml, self.crumb_ml, keep_largest=False)
        return fine, affine, float(np.count_nonzero(fine > 0.5)) / max(1, before)

    def push_out(self, vertices: np.ndarray, faces: np.ndarray, rounds: int = 5) -> np.ndarray:
        """A surface whose vertices and triangles' centers keep the distance: those too near move away from the bone.

        Args:
            vertices: (N, 3) LPS mm.
            faces: (M, 3).
            rounds: at most; one does but where bone bulges towards a triangle.
        """
        distance, _ = self.bone.nearest(vertices[faces].mean(axis=1), self.distance_mm + 0.5)
        faces = faces[distance < self.distance_mm + 0.5]  # the others are never near, and are most
        rim, corners = np.unique(faces, return_inverse=True)
        corners = corners.reshape(-1, 3)
        moved = vertices[rim]
        for _ in range(rounds):
            moved += self._way_out(moved)
            center = self._way_out(moved[corners].mean(axis=1))
            near = np.flatnonzero(np.linalg.norm(center, axis=1) > 0.01)
            if not len(near):
                break
            count = np.bincount(corners[near].ravel(), minlength=len(moved))
            for corner in corners[near].T:
                np.add.at(moved, corner, center[near] / count[corner][:, None])
        result = np.array(vertices)
        result[rim] = moved
        return result

    def _way_out(self, points: np.ndarray) -> np.ndarray:
        """The shortest moves (N, 3) mm to the distance from bone; none for those that keep it."""
        distance, closest = self.bone.nearest(points, self.distance_mm)
        near = np.flatnonzero((distance < self.distance_mm) & (np.abs(distance) > 1e-6))
        way = np.zeros_like(points)
        outward = (points[near] - closest[near]) / distance[near, None]  # the sign turns it outward inside bone, too
        way[near] = outward * (self.distance_mm - distance[near, None])
        return way
