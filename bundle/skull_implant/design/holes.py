"""Which parts of a decoded skull fill a hole of their own: no bone along their rays, bone all around them.

A vault is a shell around its center, so a hole shows on a map of directions: rays that meet no bone, and around them
rays that do. Bone that is decoded too thick, which is what else may lie far from the patient's bone, has bone on its
rays; a missing face or a foramen has no closed rim.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from bundle.skull_implant.frame.canonical_frame import CanonicalFrame
from bundle.skull_implant.frame.canonical_grid import CanonicalBox
from bundle.skull_implant.frame.vault_rays import VaultRays, vault_center
from bundle.skull_implant.frame.vault_template import VaultTemplate


@dataclass(frozen=True)
class HoleRules:
    """When a core beside the largest one is a hole as well (our choice, strict: a film must never become a piece).

    Of 66 SkullFix skulls with one hole none got a second one; of five skulls with two holes cut, both were found.

    Args:
        minimum_core_ml: smaller cores are not looked at.
        open_share: of a core's rays that meet no bone.
        rim_share: of the rays around it that meet bone; less where the model fills a part of the hole only, and then
            the rays without bone around the core must not reach the end of the map: the hole is closed.
        rim_mm: from here to there beyond the core lies its rim; bone begins `ImplantRules.core_mm` away.
        lowest_deg: polar angle from the vertex down to which rays are cast.
        step_deg: between neighboring rays; 1.5 degrees are 2 mm.
        shell_mm: how far inside and outside the fitted outer vault bone is looked for.
    """

    minimum_core_ml: float = 0.05
    open_share: float = 0.9
    rim_share: float = 0.9
    rim_mm: tuple[float, float] = (5.0, 9.0)
    lowest_deg: float = 120.0
    step_deg: float = 1.5
    shell_mm: tuple[float, float] = (20.0, 8.0)


def open_parts(
    core: np.ndarray,
    bone_share: np.ndarray,
    frame: CanonicalFrame,
    box: CanonicalBox,
    template: VaultTemplate,
    wall_mm: float,
    open_share: float = 0.5,
    step_mm: float = 1.0,
) -> np.ndarray:
    """Parts of a mask that lie in a hole through the vault: rays from its center pass them without meeting bone.

    Voxels with bone on both sides go, and then connected parts of which most voxels have bone on either side, whole:
    at its edge the rays of a hole may well meet the skull base.

    Args:
        core: (X, Y, Z) bool.
        bone_share: (X, Y, Z) share of the patient's bone.
        frame: of this case.
        box: canonical box.
        template: mean vault.
        wall_mm: how far to look for bone in either direction.
        open_share: of a part's voxels that must see no bone.
        step_mm: along the ray.
    """
    walls = np.full(core.shape, 2)
    walls[core] = np.count_nonzero(bone_beside_mm(core, bone_share, frame, box, template, wall_mm, step_mm), axis=0)
    labels, count = ndimage.label(core & (walls < 2))
    shares = ndimage.mean(walls == 0, labels, range(1, count + 1)) if count else []
    return np.isin(labels, 1 + np.flatnonzero(np.asarray(shares) >= open_share))


def bone_beside_mm(
    mask: np.ndarray,
    bone_share: np.ndarray,
    frame: CanonicalFrame,
    box: CanonicalBox,
    template: VaultTemplate,
    wall_mm: float,
    step_mm: float = 1.0,
) -> np.ndarray:
    """How much bone rays from the vault's center meet outwards and inwards of a mask's P voxels, (2, P) mm.

    Voxels are in the order of `np.argwhere(mask)`; arguments as for :func:`open_parts`.
    """
    index = np.argwhere(mask)
    points = index * box.spacing_mm + box.affine[:3, 3] - vault_center(frame.scales, template)
    direction = points / np.maximum(np.linalg.norm(points, axis=1, keepdims=True), 1e-6) / box.spacing_mm
    solid = (bone_share > 0.4).astype(np.uint8)
    way = np.arange(step_mm, wall_mm + step_mm, step_mm)
    met = np.zeros((2, len(index)))
    for bone_mm, side in zip(met, (1.0, -1.0), strict=True):
        samples = index[:, :, None] + side * direction[:, :, None] * way  # (P, 3, S) voxel indices
        along = ndimage.map_coordinates(solid, samples.transpose(1, 0, 2), order=0, mode="constant")
        bone_mm[:] = along.sum(axis=1) * step_mm
    return met


def further_holes(
    cores: Sequence[np.ndarray],
    bone_share: np.ndarray,
    frame: CanonicalFrame,
    box: CanonicalBox,
    template: VaultTemplate,
    rules: HoleRules | None = None,
) -> list[np.ndarray]:
    """Those cores beside the first that fill a hole of their own.

    Args:
        cores: (X, Y, Z) bool each, canonical; the first is the largest and taken for a hole.
        bone_share: (X, Y, Z) share of the patient's bone.
        frame: of this case.
        box: canonical box.
        template: mean vault.
        rules: what is a hole.

    Returns:
        A part of `cores[1:]`, in their order. Of several cores in one hole only the first is kept.
    """
    rules = rules or HoleRules()
    minimum = rules.minimum_core_ml * 1000.0 / float(np.prod(box.spacing_mm))
    candidates = [core for core in cores[1:] if core.sum() >= minimum]
    if not candidates:
        return []
    rays = VaultRays(rules.step_deg, rules.lowest_deg, *rules.shell_mm, step_mm=1.0)
    bone = np.any(rays.sample(bone_share, box, frame.scales, template) >= 0.4, axis=1).reshape(rays.shape)
    seen = np.asarray(rays.polar_deg <= rules.lowest_deg)
    opening, _ = ndimage.label(~bone & seen)
    endless = _openings_below(opening, seen & ~ndimage.binary_erosion(seen))
    cell_mm = np.deg2rad(rules.step_deg) * template.vertex_mm
    taken = _openings_below(opening, _footprint(cores[0], rays.plane, frame, box, template))
    found = []
    for core in candidates:
        footprint = _footprint(core, rays.plane, frame, box, template) & seen
        away_mm = ndimage.distance_transform_edt(~footprint) * cell_mm
        rim = (away_mm > rules.rim_mm[0]) & (away_mm <= rules.rim_mm[1])
        openings = _openings_below(opening, footprint)
        is_open = footprint.any() and np.mean(~bone[footprint]) >= rules.open_share
        is_closed = np.mean(bone[rim]) >= rules.rim_share or not openings & endless
        if is_open and is_closed and not openings & taken:
            found.append(core)
            taken |= openings
    return found


def _footprint(
    core: np.ndarray, rays: VaultTemplate, frame: CanonicalFrame, box: CanonicalBox, template: VaultTemplate
) -> np.ndarray:
    """Rays that a core lies on, (N, N) bool."""
    affine = box.affine
    points = np.argwhere(core) * np.diag(affine)[:3] + affine[:3, 3]
    points[:, 2] += template.vertex_mm * frame.scales[2]
    cells = np.rint(rays.plane_index(points)[0]).astype(int)  # (2, P)
    footprint = np.zeros(rays.radii_mm.shape, bool)
    footprint[tuple(np.clip(cells, 0, len(footprint) - 1))] = True
    return footprint


def _openings_below(opening: np.ndarray, footprint: np.ndarray) -> set[int]:
    """Numbers of the openings of a map that a footprint lies on."""
    return set(np.unique(opening[footprint]).tolist()) - {0}
