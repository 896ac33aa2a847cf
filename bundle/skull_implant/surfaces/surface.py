"""An implant mask as a printable surface, and what a surface is like: closed or not, how much, in how many pieces."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import trimesh
from scipy import ndimage, sparse
from scipy.sparse import csgraph

from bundle.skull_implant.surfaces.print_settings import SURFACE_FORMATS
from bundle.skull_implant.surfaces.solid import Solid, level_set
from bundle.skull_implant.whole_files import whole_file


def implant_surface(shape: Solid, *, taubin_iterations: int = 10, maximum_triangles: int = 200_000) -> trimesh.Trimesh:
    """The closed, outward oriented surface of a solid.

    Marching cubes on the blurred mask, then Taubin's smoothing against voxel steps, then one small offset along the
    normals so that the surface encloses the mask's own volume (within 2 %; our choice, because the printed piece must
    match the reported milliliters). Last, what smoothing brought too near to the bone is moved back to its clearance.

    Args:
        shape: of :func:`solid`.
        taubin_iterations: pairs of a shrinking and an inflating step; 0 for none.
        maximum_triangles: a finer surface is sampled again on a coarser grid, which stays closed, while merging edges
            may not; flakes thinner than that grid may come off.

    Returns:
        Vertices in LPS mm; none if a clearance left nothing of the solid.
    """
    if shape.volume_mm3 == 0:
        return trimesh.Trimesh()
    vertices, faces = level_set(shape.field)
    coarse_mm = float(shape.spacing.min())
    while len(faces) > maximum_triangles:
        # Triangles go with the inverse square of the grid step; 5 % more so that one round nearly always does.
        coarse_mm *= 1.05 * float(np.sqrt(len(faces) / maximum_triangles))
        zoom = np.maximum(coarse_mm / shape.spacing, 1.0)
        vertices, faces = level_set(_coarser(shape.field, zoom))
        vertices = vertices * zoom
    vertices = vertices @ shape.to_lps[:3, :3].T + shape.to_lps[:3, 3]
    if _signed_volume(vertices, faces) < 0:  # mirrored grids, and whichever way marching cubes winds
        faces = faces[:, ::-1]
    vertices = _taubin(vertices, faces, taubin_iterations)
    vertices = _offset_to_volume(vertices, faces, shape.volume_mm3)
    if shape.clearance is not None:
        vertices = shape.clearance.push_out(vertices, faces)
    return trimesh.Trimesh(vertices, faces, process=False)


def write_surface(path: Path, mesh: trimesh.Trimesh) -> None:
    """Write a surface file, whole or not at all.

    Args:
        path: target; its suffix chooses the format, one of :data:`SURFACE_FORMATS`: `.stl` (binary), `.ply` or `.obj`.
        mesh: vertices in LPS mm, which is how Slicer reads these formats by default.

    Raises:
        ValueError: another suffix.
    """
    suffix = path.suffix.lower()
    if suffix[1:] not in SURFACE_FORMATS:
        raise ValueError(f"{path.name}: a surface is written as .stl, .ply or .obj, not {suffix or 'without a suffix'}")
    with whole_file(path) as partial:
        mesh.export(partial, file_type=suffix[1:])


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


def _coarser(field: np.ndarray, zoom: np.ndarray) -> np.ndarray:
    """The field sampled every `zoom` voxels, blurred to what that grid can show, with background all around."""
    blurred = ndimage.gaussian_filter(field, np.where(zoom > 1.0, 0.4 * zoom, 0.0))
    shape = tuple(int(np.ceil((size - 1) / step)) + 2 for size, step in zip(field.shape, zoom, strict=True))
    coarse = ndimage.affine_transform(blurred, zoom, output_shape=shape, order=1)
    return np.asarray(coarse)


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


def _signed_volume(vertices: np.ndarray, faces: np.ndarray) -> float:
    """Enclosed volume, mm3; negative when the triangles wind inward."""
    return float(_tetrahedra(vertices, faces).sum())


def _tetrahedra(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """Signed volumes between each triangle and the vertices' center, (M,) mm3."""
    a, b, c = (vertices[faces[:, corner]] - vertices.mean(axis=0) for corner in range(3))
    return np.asarray(np.einsum("ij,ij->i", a, np.cross(b, c)) / 6.0)
