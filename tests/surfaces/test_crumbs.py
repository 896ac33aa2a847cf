"""Loose crumbs and closed bubbles of a solid are no bodies of its surface."""

from __future__ import annotations

import numpy as np
import pytest

from bundle.skull_implant.surfaces.crumbs import without_bubbles, without_crumbs
from bundle.skull_implant.surfaces.solid import solid
from bundle.skull_implant.surfaces.surface import implant_surface, surface_report
from bundle.skull_implant.volume import Grid, Volume


def plate() -> np.ndarray:
    """A plate of 30 x 30 x 8 voxels in empty space, occupancy."""
    field = np.zeros((44, 44, 24), np.float32)
    field[5:35, 5:35, 8:16] = 1.0
    return field


def test_a_crumb_comes_off_and_a_second_piece_stays() -> None:
    field = plate()
    field[40, 40, 4] = 0.6
    field[38:42, 10:30, 8:16] = 1.0

    cleaned = without_crumbs(field.copy(), voxel_ml=0.001, crumb_ml=0.01)

    assert cleaned[40, 40, 4] == 0.0
    field[40, 40, 4] = 0.0
    np.testing.assert_array_equal(cleaned, field)


@pytest.mark.parametrize("keep", [True, False])
def test_the_largest_part_stays_however_small_if_it_is_to(keep: bool) -> None:
    field = np.zeros((8, 8, 8), np.float32)
    field[4, 4, 4] = 1.0

    assert without_crumbs(field, voxel_ml=0.001, crumb_ml=0.01, keep_largest=keep).any() == keep


def test_a_bubble_is_filled_and_a_cavity_and_an_opening_stay() -> None:
    field = plate()
    field[10:20, 10:20, 10:14] = 0.0  # 0.4 ml
    field[30, 30, :] = 0.0  # open to both sides
    bubbly = field.copy()
    bubbly[25, 25, 12] = 0.4

    np.testing.assert_array_equal(without_bubbles(bubbly, voxel_ml=0.001, bubble_ml=0.01), field)


def test_specks_of_a_mask_are_no_bodies_of_its_surface() -> None:
    voxels = plate().astype(np.uint8)
    voxels[25, 25, 12] = 0
    voxels[35, 35, 16] = 1  # touches the plate by a corner
    mask = Volume(voxels, Grid((44, 44, 24), (0.5, 0.5, 0.6), (0.0, 0.0, 0.0), (1.0, 0, 0, 0, 1.0, 0, 0, 0, 1.0)))

    rough, smooth = (surface_report(implant_surface(solid(mask, 0.4, crumb_ml=limit))) for limit in (0.0, 0.01))

    assert rough["pieces"] == 2
    assert (smooth["pieces"], smooth["openings"], smooth["watertight"]) == (1, 0, True)
