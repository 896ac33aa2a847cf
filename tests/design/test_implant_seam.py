"""The edge of an implant, voxel by voxel: tunnels are filled, rings around bone are opened, all else stays."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage
from skimage.measure import euler_number

from bundle.skull_implant.design.implant_seam import with_seam, without_tunnels


def _openings(mask: np.ndarray) -> int:
    """Through-holes of a single part without cavities."""
    assert ndimage.label(mask)[1] == 1
    return 1 - int(euler_number(mask, connectivity=1))


@pytest.fixture
def plate() -> np.ndarray:
    """24 x 24 voxels, 6 thick, with air around."""
    mask = np.zeros((30, 30, 12), bool)
    mask[3:27, 3:27, 3:9] = True
    return mask


def test_a_tunnel_of_a_voxel_is_filled(plate: np.ndarray) -> None:
    pierced = plate.copy()
    pierced[3:6, 14, 5] = False  # from the side
    pierced[4, 14, 5:9] = False  # to the top

    found = without_tunnels(pierced, np.zeros_like(plate), np.zeros_like(plate))

    assert (_openings(pierced), _openings(found)) == (1, 0)
    assert not (found & ~plate).any()


def test_a_hole_that_could_be_seen_stays(plate: np.ndarray) -> None:
    pierced = plate.copy()
    pierced[12:18, 12:18] = False

    np.testing.assert_array_equal(without_tunnels(pierced, np.zeros_like(plate), np.zeros_like(plate)), pierced)


def test_a_dent_stays(plate: np.ndarray) -> None:
    dented = plate.copy()
    dented[3:5, 14, 5] = False

    np.testing.assert_array_equal(without_tunnels(dented, np.zeros_like(plate), np.zeros_like(plate)), dented)


def test_a_ring_around_a_spur_of_bone_is_opened_at_the_seam(plate: np.ndarray) -> None:
    bone = np.zeros_like(plate)
    bone[4, 14] = True  # a bristle through the plate, a voxel from its edge
    core = plate.copy()
    core[:5] = False
    ringed = plate & ~bone

    found = without_tunnels(ringed, core & ~bone, bone)

    assert (_openings(ringed), _openings(found)) == (1, 0)
    assert not (found & bone).any()
    assert not (core & ~bone & ~found).any()  # of the piece itself nothing is taken
    assert np.count_nonzero(ringed & ~found) <= 2 * 5 * 6


def test_a_spur_in_the_piece_itself_stays_in_its_ring(plate: np.ndarray) -> None:
    bone = np.zeros_like(plate)
    bone[14, 14] = True
    ringed = plate & ~bone

    np.testing.assert_array_equal(without_tunnels(ringed, ringed, bone), ringed)


def test_a_chip_of_bone_inside_is_no_tunnel(plate: np.ndarray) -> None:
    bone = np.zeros_like(plate)
    bone[14, 14, 6] = True

    np.testing.assert_array_equal(without_tunnels(plate & ~bone, np.zeros_like(plate), bone), plate & ~bone)


def test_an_empty_piece_has_no_seam(plate: np.ndarray) -> None:
    nothing = np.zeros_like(plate)

    assert not without_tunnels(nothing, nothing, plate).any()
    assert not with_seam(nothing, plate, nothing, (1.0, 1.0, 1.0), 2.0).any()


def test_what_comes_back_at_the_seam_has_no_tunnels(plate: np.ndarray) -> None:
    bone = np.zeros_like(plate)
    bone[:3], bone[27:], bone[:, :3], bone[:, 27:] = True, True, True, True
    piece = plate & (ndimage.distance_transform_edt(plate) > 2.0)
    decoded = plate.copy()
    decoded[3:6, 14, 6] = decoded[4, 14, 6:9] = False

    seamed = with_seam(piece & decoded, decoded, bone, (1.0, 1.0, 1.0), 3.0)

    assert np.count_nonzero(seamed) > np.count_nonzero(piece)
    assert _openings(seamed) == 0
