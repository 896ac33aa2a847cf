"""Connected parts, distances and openings of masks, in mm."""

from __future__ import annotations

import numpy as np

from bundle.skull_implant.mask_morphology import distance_mm, large_components, opened


def test_the_largest_part_is_kept_and_corners_do_not_connect() -> None:
    mask = np.zeros((6, 6, 6), bool)
    mask[0, 0, :3] = True
    mask[1, 1, 2:4] = True
    mask[4, :5, 5] = True
    expected = np.zeros_like(mask)
    expected[4, :5, 5] = True

    np.testing.assert_array_equal(large_components(mask), expected)
    assert not large_components(np.zeros((2, 2, 2), bool)).any()


def test_pieces_of_a_share_of_the_largest_are_kept() -> None:
    mask = np.zeros((20, 3, 3), bool)
    mask[:10], mask[12:14], mask[16, 0, 0] = True, True, True

    np.testing.assert_array_equal(
        large_components(mask, 0.1)[:, 0, 0], [*[True] * 10, False, False, True, True, *[False] * 6]
    )


def test_distances_are_in_mm_and_infinite_from_nothing() -> None:
    mask = np.zeros((5, 5, 5), bool)
    mask[2, 2, 2] = True

    away = distance_mm(mask, (0.5, 1.0, 3.0))

    assert (away[2, 2, 2], away[4, 2, 2], away[2, 4, 2], away[2, 2, 4]) == (0.0, 1.0, 2.0, 6.0)
    assert np.isinf(distance_mm(np.zeros_like(mask), (1.0, 1.0, 1.0))).all()


def test_an_opening_takes_what_no_ball_fits_in_whatever_the_voxels() -> None:
    mask = np.zeros((40, 40, 14), bool)
    mask[5:25, 5:35, 3:11] = True  # 10 x 15 x 16 mm
    mask[25:35, 19:21, 6:8] = True  # a splinter of 1 mm

    found = opened(mask, (0.5, 0.5, 2.0), 2.0)

    assert not found[26:].any()
    assert not (found & ~mask).any()
    assert found[9:21, 9:31, 4:10].all()
    assert not opened(np.zeros_like(mask), (0.5, 0.5, 2.0), 2.0).any()
