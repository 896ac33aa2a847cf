"""An implant mask as a printable surface, and what a surface is like: closed or not, how much, how thick."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import trimesh
from scipy import ndimage, sparse
from scipy.sparse import csgraph
from scipy.spatial import cKDTree
from skimage.measure import marching_cubes

from bundle.skull_implant.bounding_box import bounding_box
from bundle.skull_implant.volume import Volume


def implant_surface(
    mask: Volume,
    *,
    smoothing_voxels: float = 0.6,
    taubin_iterations: int = 10,
    maximum_triangles: int = 200_000,
) -> trimesh.Trimesh:
    """The closed, outward oriented surface of a binary mask.

    Marching cubes on a lightly blurred mask, then Taubin's smoothing against voxel steps, then one small offset along
    the normals so that the surface encloses the mask's own volume (within 2 %; our choice, because the printed piece
    must match the reported milliliters).

    Args:
        mask: nonzero inside, on any grid: anisotropic, oblique or mirrored.
        smoothing_voxels: standard deviation of the blur. 0.6 is the most that keeps a plate of one voxel.
        taubin_iterations: pairs of a shrinking and an inflating step; 0 for none.
        maximum_triangles: a finer surface is sampled again on a coarser grid, which stays closed;
            flakes thinner than that grid may come off.

    Returns:
        Vertices in LPS mm.

    Raises:
        ValueError: the mask is empty.
    """
    field, to_lps = _blurred_field(mask, smoothing_voxels)
    spacing = np.linalg.norm(to_lps[:3, :3], axis=0)
    vertices, faces = _level_set(field)
    coarse_mm = float(spacing.min())
    while len(faces) > maximum_triangles:
        # Triangles go with the inverse square of the grid step; 5 % more so that one round nearly always does.
        coarse_mm *= 1.05 * float(np.sqrt(len(faces) / maximum_triangles))
        zoom = np.maximum(coarse_mm / spacing, 1.0)
        vertices, faces = _level_set(_coarser(field, zoom))
        vertices = vertices * zoom
    vertices = vertices @ to_lps[:3, :3].T + to_lps[:3, 3]
    if _signed_volume(vertices, faces) < 0:  # mirrored grids, and whichever way marching cubes winds
        faces = faces[:, ::-1]
    vertices = _taubin(vertices, faces, taubin_iterations)
    target_mm3 = np.count_nonzero(mask.voxels) * mask.grid.voxel_ml * 1000.0
    vertices = _offset_to_volume(vertices, faces, target_mm3)
    return trimesh.Trimesh(vertices, faces, process=False)


def write_surface(path: Path, mesh: trimesh.Trimesh) -> None:
    """Write a surface file, whole or not at all.

    Args:
        path: target; its suffix chooses the format: `.stl` (binary), `.ply` or `.obj`.
        mesh: vertices in LPS mm, which is how Slicer reads these formats by default.

    Raises:
        ValueError: another suffix.
    """
    suffix = path.suffix.lower()
    if suffix not in {".stl", ".ply", ".obj"}:
        raise ValueError(f"{path.name}: a surface is written as .stl, .ply or .obj, not {suffix or 'without a suffix'}")
    partial = path.with_name(f".partial.{path.name}")
    try:
        mesh.export(partial, file_type=suffix[1:])
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def surface_report(mesh: trimesh.Trimesh) -> dict[str, bool | float | int]:
    """What a printer's operator asks of a surface.

    Returns:
        `watertight` (closed, and wound consistently), `volume_ml`, `pieces` (separate bodies; a closed cavity inside
        one is no piece), `openings` (through-holes, by the surface's Euler characteristic) and `triangles`.
    """
    edges = mesh.edges_unique
    links = sparse.coo_matrix((np.ones(len(edges)), edges.T), shape=(len(mesh.vertices),) * 2)
    _, label = csgraph.connected_components(links, directed=False)
    solids = np.bincount(label[mesh.faces[:, 0]], weights=_tetrahedra(np.asarray(mesh.vertices), mesh.faces))
    return {
        "watertight": bool(mesh.is_watertight and mesh.is_winding_consistent),
        "volume_ml": float(mesh.volume) / 1000.0,
        "pieces": int(np.count_nonzero(solids > 0)),
        "openings": round(len(solids[solids != 0]) - mesh.euler_number / 2),
        "triangles": len(mesh.faces),
    }


def thickness_mm(mask: Volume, *, maximum_samples: int = 20_000) -> dict[str, float]:
    """How thick a plate is, measured across its middle surface.

    Samples are voxels half-way between two faces: there the distance map is flat, its gradient at most one half (two
    middle layers), against 0.7 where the ridges run into the corners of a rim and 1 elsewhere. From each, the line
    through the nearest surface point is followed to the opposite face; the chord is the thickness, if its sample halves
    it (within a voxel). Finer than twice the distance map, which is a voxel short where a plate is an even number of
    voxels thick. Within 2 % on flat plates of any number of voxels.

    Args:
        mask: nonzero inside, on any grid.
        maximum_samples: evenly thinned to about this many.

    Returns:
        `min`, `p05` (5th percentile: unlike the minimum not at the mercy of a single loose voxel), `median`, `max` in
        mm. Chords below one voxel are not resolved and count as the finest spacing.

    Raises:
        ValueError: the mask is empty.
    """
    field, to_lps = _blurred_field(mask, smoothing_voxels=0.45)  # more widens thin plates, less leaves voxel steps
    spacing = np.linalg.norm(to_lps[:3, :3], axis=0)  # a thickness does not depend on where the grid points
    middle = _middle_voxels(field, spacing)
    middle = middle[:: 1 + len(middle) // maximum_samples]
    surface = _level_set(field)[0] * spacing
    near_mm, nearest = cKDTree(surface).query(middle * spacing)
    across = (middle * spacing - surface[nearest]) / np.maximum(near_mm, 1e-9)[:, None]
    far_mm = _exit_distance(field, middle, across / spacing, near_mm + 1.2 * spacing.max())
    halved = np.abs(far_mm - near_mm) <= 1.1 * spacing.max()  # two middle layers lie one voxel apart, plus rounding
    chord = np.maximum((near_mm + far_mm)[halved] if halved.any() else 2.0 * near_mm, spacing.min())
    low, fifth, half, high = np.percentile(chord, [0, 5, 50, 100])
    return {"min": float(low), "p05": float(fifth), "median": float(half), "max": float(high)}


def _blurred_field(mask: Volume, smoothing_voxels: float) -> tuple[np.ndarray, np.ndarray]:
    """The mask's bounding box, padded with zeros and blurred, and its (4, 4) map from index to LPS mm."""
    inside = np.asarray(mask.voxels) != 0
    box = bounding_box(inside)
    if box is None:
        raise ValueError("the mask is empty: there is no surface to build")
    padding = 2 + int(np.ceil(3 * smoothing_voxels))
    field = ndimage.gaussian_filter(np.pad(inside[box], padding).astype(np.float32), smoothing_voxels)
    to_lps = mask.grid.affine.copy()
    to_lps[:3, 3] = (to_lps @ [*(side.start - padding for side in box), 1.0])[:3]
    return field, to_lps


def _coarser(field: np.ndarray, zoom: np.ndarray) -> np.ndarray:
    """The field sampled every `zoom` voxels, blurred to what that grid can show, with background all around."""
    blurred = ndimage.gaussian_filter(field, np.where(zoom > 1.0, 0.4 * zoom, 0.0))
    shape = tuple(int(np.ceil((size - 1) / step)) + 2 for size, step in zip(field.shape, zoom, strict=True))
    coarse = ndimage.affine_transform(blurred, zoom, output_shape=shape, order=1)
    return np.asarray(coarse)


def _level_set(field: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Vertices (N, 3) in index units, float64, and triangles (M, 3) of the half-way surface."""
    level = min(0.5, 0.5 * float(field.max()))  # below one half only where nothing is thicker than a voxel
    vertices, faces, _, _ = marching_cubes(field, level, allow_degenerate=False)
    return vertices.astype(np.float64), faces.astype(np.int64)


def _taubin(vertices: np.ndarray, faces: np.ndarray, iterations: int) -> np.ndarray:
    """Taubin's lambda-mu smoothing (1995) with umbrella weights; pass band 0.1."""
    shrink, inflate = 0.5, -0.5 / (1.0 - 0.1 * 0.5)
    ends = np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])
    links = sparse.coo_matrix((np.ones(len(ends)), ends.T), shape=(len(vertices),) * 2).tocsr()
    links = links + links.T
    mean = sparse.diags(1.0 / np.asarray(links.sum(axis=1)).ravel()) @ links
    for _ in range(iterations):
        for factor in (shrink, inflate):
            vertices = vertices + factor * (mean @ vertices - vertices)
    return vertices


def _offset_to_volume(vertices: np.ndarray, faces: np.ndarray, target_mm3: float) -> np.ndarray:
    """Vertices moved along their normals, all by the same few hundredths of a mm, until the volume is the target's."""
    size_mm = np.cbrt(target_mm3)
    for _ in range(20):  # two rounds for an implant; a speck of a few voxels needs more
        missing_mm3 = target_mm3 - _signed_volume(vertices, faces)
        if abs(missing_mm3) < 1e-3 * target_mm3:
            break
        mesh = trimesh.Trimesh(vertices, faces, process=False)
        step_mm = np.clip(missing_mm3 / mesh.area, -0.2 * size_mm, 0.2 * size_mm)
        vertices = vertices + mesh.vertex_normals * step_mm
    return vertices


def _middle_voxels(field: np.ndarray, spacing: np.ndarray) -> np.ndarray:
    """Voxels (N, 3) half-way between two faces; the best there are where nothing has a middle."""
    inside = field > 0.5
    depth = ndimage.distance_transform_edt(inside, sampling=spacing)
    slope = np.sqrt(sum(along**2 for along in np.gradient(depth, *spacing)))
    middle = np.argwhere(inside & (slope < 0.6))
    return middle if len(middle) else np.argwhere(field == field.max())


def _exit_distance(field: np.ndarray, start: np.ndarray, step: np.ndarray, limit_mm: np.ndarray) -> np.ndarray:
    """How far lines from inside run before the field falls below one half, mm; infinite beyond the limit.

    `start` is in voxels, `step` in voxels per mm, both (N, 3); `limit_mm` is (N,).
    """
    fractions = np.linspace(0.0, 1.0, 33)
    along_mm = limit_mm[:, None] * fractions  # (N, 33)
    points = start[:, None, :] + along_mm[..., None] * step[:, None, :]  # (N, 33, 3)
    values = ndimage.map_coordinates(field, points.transpose(2, 0, 1), order=1)
    outside = values < 0.5
    first = np.maximum(outside.argmax(axis=1), 1)
    rows = np.arange(len(start))
    before, after = values[rows, first - 1], values[rows, first]
    share = (before - 0.5) / np.maximum(before - after, 1e-9)
    distance = along_mm[rows, first - 1] + share * (along_mm[rows, first] - along_mm[rows, first - 1])
    return np.where(outside.any(axis=1), distance, np.inf)


def _signed_volume(vertices: np.ndarray, faces: np.ndarray) -> float:
    """Enclosed volume, mm3; negative when the triangles wind inward."""
    return float(_tetrahedra(vertices, faces).sum())


def _tetrahedra(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """Signed volumes between each triangle and the vertices' center, (M,) mm3."""
    a, b, c = (vertices[faces[:, corner]] - vertices.mean(axis=0) for corner in range(3))
    return np.asarray(np.einsum("ij,ij->i", a, np.cross(b, c)) / 6.0)
