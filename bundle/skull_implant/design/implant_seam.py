"""The implant's edge: as thick as the decoded bone where it meets the patient's, without pinholes, around no bony spur.

An opening takes splinters, and with them the sharp edge along the bone; what it took at the seam comes back. There the
masks are rough by a voxel, so that what comes back may leave tunnels of a voxel, and close as a ring around a spur of
bone, over which no hand could put it.
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage
from skimage.measure import euler_number

from bundle.skull_implant.bounding_box import bounding_box
from bundle.skull_implant.mask_morphology import distance_mm

AROUND = np.ones((3, 3, 3), bool)


def with_seam(
    piece: np.ndarray, decoded: np.ndarray, bone: np.ndarray, spacing: tuple[float, ...], radius_mm: float
) -> np.ndarray:
    """A piece and, within a radius of it, what is decoded in the groove between it and the bone, where no ball fits.

    Args:
        piece: (X, Y, Z) bool, opened.
        decoded: (X, Y, Z) bool, of which it is a part.
        bone: (X, Y, Z) bool.
        spacing: of the voxels, mm.
        radius_mm: of the ball; 0 leaves the piece as it is.
    """
    if not piece.any() or radius_mm <= 0:
        return piece
    solid = piece | bone
    outside = distance_mm(solid, spacing) > radius_mm  # where the ball's middle may be
    groove = decoded & ~solid & (distance_mm(outside, spacing) > radius_mm)
    near = groove & (distance_mm(piece, spacing) <= radius_mm)
    seamed = ndimage.binary_propagation(piece, mask=piece | near)
    return np.asarray(ndimage.binary_propagation(piece, mask=without_tunnels(seamed, piece, bone)))


def without_tunnels(seamed: np.ndarray, piece: np.ndarray, bone: np.ndarray) -> np.ndarray:
    """A piece with its seam, tunnels of a voxel or two filled, and rings around spurs of bone opened.

    Args:
        seamed: (X, Y, Z) bool.
        piece: (X, Y, Z) bool, without the seam; of it nothing is taken.
        bone: (X, Y, Z) bool.
    """
    window = bounding_box(seamed, margin=(3, 3, 3))
    if window is None:
        return seamed
    result, core, hard = seamed.copy(), piece[window], bone[window]
    part = result[window]
    between, _ = ndimage.label(ndimage.binary_closing(part, AROUND) & ~part, AROUND)
    for number, place in enumerate(ndimage.find_objects(between), start=1):
        near = tuple(slice(max(each.start - 3, 0), each.stop + 3) for each in place)
        filling, here = between[near] == number, part[near]
        # What a set of voxels does to the topology is seen on the voxels around it.
        if euler_number(here | filling, connectivity=1) <= euler_number(here, connectivity=1):
            continue
        spur = filling & hard[near]
        if spur.any():
            here &= core[near] | ~ndimage.binary_dilation(spur, AROUND, iterations=2)
        else:
            here |= filling
    return result
