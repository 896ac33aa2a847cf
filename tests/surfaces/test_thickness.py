"""Plates of known thickness."""

from __future__ import annotations

import numpy as np
import pytest

from bundle.skull_implant.surfaces.thickness import plate_chords_mm, thickness_mm
from tests.made_up_plates import IDENTITY, OBLIQUE, drawn, shell_cap, volume


@pytest.mark.parametrize("layers", [1, 2, 3, 4, 5, 8])
def test_a_flat_plate_is_as_thick_as_its_layers(layers: int) -> None:
    voxels = np.zeros((50, 40, 12))
    voxels[2:48, 3:37, 2 : 2 + layers] = 1
    thickness = thickness_mm(plate_chords_mm(volume(voxels, (0.5, 0.6, 0.9), OBLIQUE)))
    assert thickness == pytest.approx(dict.fromkeys(("min", "p05", "median", "p95", "max"), layers * 0.9), rel=0.025)


def test_a_curved_plate_across_the_grid_is_as_thick_as_made() -> None:
    thickness = thickness_mm(plate_chords_mm(shell_cap(inner_mm=60.0, outer_mm=65.0)))
    assert thickness["median"] == pytest.approx(5.0, abs=0.25)
    assert thickness["p05"] > 4.0
    assert thickness["max"] < 6.0


def test_thickness_sees_a_step() -> None:
    voxels = np.zeros((60, 40, 14))
    voxels[2:30, 2:38, 2:5] = 1
    voxels[30:58, 2:38, 2:11] = 1
    thickness = thickness_mm(plate_chords_mm(volume(voxels, (1.0, 1.0, 1.0))))
    assert thickness["min"] == pytest.approx(3.0, abs=0.1)
    assert thickness["max"] == pytest.approx(9.0, abs=0.6)


def test_a_voxel_step_of_a_tilted_disc_is_no_thin_place() -> None:
    axis = np.array([np.sin(0.6), 0.0, np.cos(0.6)])

    def inside(points: np.ndarray) -> np.ndarray:
        height = points @ axis
        off = np.linalg.norm(points - height[..., None] * axis, axis=-1)
        return (off < 20.0) & (np.abs(height) < 3.0)

    thickness = thickness_mm(plate_chords_mm(drawn(inside, np.zeros(3), 25.0, IDENTITY, (0.45, 0.45, 1.0))))
    assert thickness["median"] == pytest.approx(6.0, abs=0.2)
    assert thickness["min"] > 4.5
