"""The outer and the inner table of bone and implant together, on fine rays from the vault's center around an implant.

On a ray through the wall of the vault lies bone, implant, or one above the other. What the eye and the brain meet are
the ends of that wall, so each table is a height, and an owner: the mask that the wall ends in.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from bundle.skull_implant.bounding_box import bounding_box
from bundle.skull_implant.frame.canonical_frame import CanonicalFrame
from bundle.skull_implant.frame.vault_rays import VaultRays, vault_center, vault_radius
from bundle.skull_implant.frame.vault_template import VaultTemplate
from bundle.skull_implant.volume import Volume

NOTHING, IMPLANT, BONE = 0, 1, 2


@dataclass(frozen=True)
class RimTables:
    """Tables on a part of the rays' plane, (U, V) rays; index 0 is the outer table, 1 the inner one.

    Args:
        owner: (2, U, V) int, of :data:`NOTHING`, :data:`IMPLANT`, :data:`BONE`; also nothing where no ray was cast.
        height_mm: (2, U, V) above the fitted outer vault; NaN without an owner.
        direction: (U, V, 3) unit vectors, canonical RAS.
        radius_mm: (U, V) of the fitted outer vault.
        cast: (U, V) bool, whether there is a ray.
    """

    owner: np.ndarray
    height_mm: np.ndarray
    direction: np.ndarray
    radius_mm: np.ndarray
    cast: np.ndarray

    def points(self, table: int) -> np.ndarray:
        """Of one table, (U, V, 3) canonical RAS mm from the vault's center; NaN without an owner."""
        return np.asarray(self.direction * (self.radius_mm + self.height_mm[table])[..., None])


def rim_tables(
    implant: np.ndarray,
    skull: Volume,
    frame: CanonicalFrame,
    template: VaultTemplate,
    *,
    rays: VaultRays,
    around_mm: float,
    bridge_mm: float,
) -> RimTables | None:
    """Tables of the wall that bone and implant form together, under and around the implant.

    The wall of a ray is what is solid from the outermost crossing inward, over cavities up to `bridge_mm`: the diploe,
    or a slit between implant and bone. Half of a voxel's value is its edge, as in marching cubes.

    Args:
        implant: (X, Y, Z), nonzero inside.
        skull: the patient's bone, on the same grid.
        frame: of this case.
        template: mean vault.
        rays: finer than a voxel.
        around_mm: rays are cast up to this far from the implant.
        bridge_mm: a wider cavity ends the wall.

    Returns:
        None where no ray meets the implant.
    """
    box = bounding_box(implant)
    if box is None:
        return None
    to_index = skull.grid.inverse_affine @ frame.affine
    to_head = np.linalg.inv(to_index)
    inner = ndimage.binary_erosion(implant[box])  # its surface is enough, and is quicker
    voxels = np.argwhere((implant[box] != 0) & ~inner) + [s.start for s in box]
    center = vault_center(frame.scales, template)
    plane, angle = rays.plane.plane_index(voxels @ to_head[:3, :3].T + to_head[:3, 3] - center)
    cell = np.rint(plane[:, angle <= rays.lowest_deg]).astype(int)
    if cell.size == 0:
        return None
    margin = 1 + int(np.ceil(around_mm / (np.deg2rad(rays.step_deg) * np.median(template.radii_mm))))
    low = np.maximum(cell.min(1) - margin, 0)
    high = np.minimum(cell.max(1) + margin + 1, rays.shape)
    footprint = np.zeros(high - low, bool)
    footprint[tuple(cell - low[:, None])] = True
    part = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
    near = ndimage.distance_transform_edt(~footprint) <= margin
    cast = near & (rays.polar_deg[part] <= rays.lowest_deg)

    direction = rays.plane.directions()[part]
    radius = vault_radius(direction.reshape(-1, 3), frame.scales, template).reshape(cast.shape)
    index = _ray_index(direction[cast], radius[cast], rays.heights_mm, center, to_index)
    of_implant, of_bone = sample_mask(implant, index), sample_mask(skull.voxels, index)
    owner = np.zeros((2, *cast.shape), int)
    height = np.full((2, *cast.shape), np.nan)
    owner[:, cast], height[:, cast] = _ends(of_implant, of_bone, rays, max(1, round(bridge_mm / rays.step_mm)))
    return RimTables(owner, height, direction, radius, cast)


def _ray_index(
    direction: np.ndarray, radius: np.ndarray, heights: np.ndarray, center: np.ndarray, to_index: np.ndarray
) -> np.ndarray:
    """Voxel index (3, R, H) of the samples on rays."""
    begin = to_index[:3, :3] @ center + to_index[:3, 3]
    along = (direction @ to_index[:3, :3].T).astype(np.float32)
    length = (radius[:, None] + heights).astype(np.float32)
    return np.stack([along[:, axis, None] * length + np.float32(begin[axis]) for axis in range(3)])


def sample_mask(mask: np.ndarray, index: np.ndarray) -> np.ndarray:
    """Linear interpolation of a mask (X, Y, Z), nonzero inside, at voxel index (3, R, H), float32; 0 outside it."""
    low = np.maximum(np.floor(index.min((1, 2))).astype(int), 0)
    high = np.maximum(np.ceil(index.max((1, 2))).astype(int) + 1, low + 1)
    part = mask[tuple(slice(a, b) for a, b in zip(low, high, strict=True))] != 0
    if part.size == 0:
        return np.zeros(index.shape[1:], np.float32)
    sampled = ndimage.map_coordinates(
        part.view(np.uint8), index - low[:, None, None].astype(np.float32), order=1, output=np.float32
    )
    return np.asarray(sampled)


def _ends(of_implant: np.ndarray, of_bone: np.ndarray, rays: VaultRays, bridge: int) -> tuple[np.ndarray, np.ndarray]:
    """Owner and height of both ends of the wall, (2, R) each, from samples (R, H) and the samples of a cavity."""
    whole = np.minimum(of_implant + of_bone, 1.0)  # where the two touch, both are halves
    solid = whole > 0.5
    count = solid.shape[1]
    last = np.where(solid.any(1), count - 1 - np.argmax(solid[:, ::-1], axis=1), -1)
    # An empty stretch of `bridge` samples below the outer end closes the wall; its top is the sample below the wall.
    filled = np.cumsum(np.pad(solid, ((0, 0), (bridge, 0))), axis=1, dtype=np.int32)
    before = np.pad(filled, ((0, 0), (1, 0)))[:, :count]
    open_below = filled[:, bridge:] - before == 0
    rank = np.arange(count)
    first = np.where(open_below & (rank < last[:, None]), rank, -1).max(1)
    owner, height = np.zeros((2, len(solid)), int), np.full((2, len(solid)), np.nan)
    heights = rays.heights_mm
    for table, (below, known) in enumerate([(last, (last >= 0) & (last < count - 1)), (first, first >= 0)]):
        row = np.flatnonzero(known)
        low, high = whole[row, below[row]], whole[row, below[row] + 1]
        height[table, row] = heights[below[row]] + rays.step_mm * (0.5 - low) / (high - low)
        end = below[row] + table  # the outer end's last solid sample, the inner end's first one
        owner[table, row] = np.where(of_implant[row, end] >= of_bone[row, end], IMPLANT, BONE)
    return owner, height
