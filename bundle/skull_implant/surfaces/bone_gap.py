"""The bone around an implant as a surface: how far points lie from it, and how wide the gap at the rim is."""

from __future__ import annotations

import numpy as np
import trimesh
from scipy import ndimage
from scipy.spatial import cKDTree
from skimage.measure import marching_cubes
from trimesh.triangles import closest_point

from bundle.skull_implant.bounding_box import bounding_box
from bundle.skull_implant.frame.canonical_grid import crop_grid
from bundle.skull_implant.volume import Volume


class BoneSurface:
    """The half-way surface of the patient's bone around an implant: finer than its voxels, as the implant's is.

    Args:
        skull: the patient's bone, nonzero inside, on any grid.
        implant: on the same grid.
        reach_mm: bone further than this from the implant's bounding box is left out.
        smoothing_voxels: standard deviation of the blur; that of :func:`implant_surface`, so that where the masks
            touch the surfaces do.
        longest_edge_mm: longer triangles, of thick slices, are divided, because the nearest is found by its center.

    Raises:
        ValueError: the implant is empty.
    """

    def __init__(
        self,
        skull: Volume,
        implant: Volume,
        *,
        reach_mm: float = 8.0,
        smoothing_voxels: float = 0.6,
        longest_edge_mm: float = 1.5,
    ) -> None:
        x, y, z = (int(np.ceil(reach_mm / step)) + 2 for step in skull.grid.spacing)
        box = bounding_box(implant.voxels != 0, margin=(x, y, z))
        if box is None:
            raise ValueError("the implant is empty: it has no rim")
        window = tuple(slice(s.start, min(s.stop, size)) for s, size in zip(box, skull.grid.size, strict=True))
        part = crop_grid(skull.grid, [s.start for s in window], [s.stop - s.start for s in window])
        self._to_index = part.inverse_affine
        bone = (skull.voxels[window] != 0).astype(np.float32)
        self._field = ndimage.gaussian_filter(bone, smoothing_voxels, truncate=3.0)
        self._triangles = np.zeros((0, 3, 3))
        if self._field.min() < 0.5 < self._field.max():
            vertices, faces, _, _ = marching_cubes(self._field, 0.5, allow_degenerate=False)
            vertices = vertices @ part.affine[:3, :3].T + part.affine[:3, 3]
            if max(part.spacing) > longest_edge_mm:
                vertices, faces = trimesh.remesh.subdivide_to_size(vertices, faces, longest_edge_mm)
            self._triangles = np.asarray(vertices[faces])
        self._tree = cKDTree(self._triangles.mean(axis=1)) if len(self._triangles) else None

    def nearest(self, points: np.ndarray, reach_mm: float) -> tuple[np.ndarray, np.ndarray]:
        """Distance from the bone and nearest point on it.

        Args:
            points: (N, 3) LPS mm.
            reach_mm: further away is infinite, with the point itself as the nearest one.

        Returns:
            (N,) mm, negative inside bone; (N, 3) LPS mm.
        """
        distance, closest = np.full(len(points), np.inf), np.array(points, dtype=np.float64)
        if self._tree is None:
            return distance, closest
        near = np.flatnonzero(np.isfinite(self._tree.query(points, distance_upper_bound=reach_mm + 1.0)[0]))
        if not len(near):
            return distance, closest
        _, candidates = self._tree.query(points[near], k=min(8, len(self._triangles)))
        candidates = candidates.reshape(len(near), -1)  # (N, K); the nearest center need not be the nearest triangle's
        for column in candidates.T:
            on_bone = closest_point(self._triangles[column], points[near])
            away = np.linalg.norm(points[near] - on_bone, axis=1)
            better = away < distance[near]
            distance[near[better]], closest[near[better]] = away[better], on_bone[better]
        index = points[near] @ self._to_index[:3, :3].T + self._to_index[:3, 3]
        inside = ndimage.map_coordinates(self._field, index.T, order=1) > 0.5
        distance[near[inside]] *= -1.0
        return distance, closest


def rim_gap_mm(
    surface: trimesh.Trimesh,
    bone: BoneSurface,
    *,
    rim_mm: float = 3.0,
    facing: float = 0.7,
    maximum_samples: int = 10_000,
) -> dict[str, float]:
    """How wide the gap between an implant's rim and the bone is.

    The rim is the part of the implant's surface that faces bone: from a triangle's center, bone lies within `rim_mm`,
    and the direction to its nearest point is the outward normal's but for 45 degrees. What touches or overlaps bone
    belongs to it whichever way it points.

    Args:
        surface: of the implant, wound outward, LPS mm.
        bone: around it.
        rim_mm: bone further away is across an opening, not across a gap.
        facing: least cosine between the normal and the way to the bone.
        maximum_samples: evenly thinned to about this many triangles.

    Returns:
        `min` of all triangles, rim or not; `median` and `p95` (95th percentile) of the rim; mm, negative for overlap.
        Empty if nothing faces bone.
    """
    chosen = np.arange(0, len(surface.faces), 1 + len(surface.faces) // maximum_samples)
    center = surface.triangles_center[chosen]
    distance, closest = bone.nearest(center, rim_mm)
    way = (closest - center) / np.maximum(np.abs(distance), 1e-9)[:, None]
    towards = np.einsum("ij,ij->i", surface.face_normals[chosen], way) >= facing
    gap = distance[(distance <= rim_mm) & (towards | (distance < 0.05))]
    if not len(gap):
        return {}
    median, wide = np.percentile(gap, [50, 95])
    return {"min": float(distance.min()), "median": float(median), "p95": float(wide)}
