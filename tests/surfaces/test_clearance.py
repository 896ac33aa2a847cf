"""A disc that fills a hole in a plate exactly, and the room that a clearance leaves around it."""

from __future__ import annotations

import numpy as np
import pytest
import trimesh

from bundle.skull_implant.surfaces.bone_gap import BoneSurface, rim_gap_mm
from bundle.skull_implant.surfaces.clearance import Clearance
from bundle.skull_implant.surfaces.solid import solid
from bundle.skull_implant.surfaces.surface import implant_surface, surface_report
from bundle.skull_implant.surfaces.thickness import plate_chords_mm, thickness_mm
from bundle.skull_implant.volume import Volume
from tests.made_up_plates import IDENTITY, OBLIQUE, drawn

CENTER = np.array([30.0, -20.0, 400.0])
HOLE_MM, THICK_MM = 15.0, 6.0
GRIDS = pytest.mark.parametrize(
    ("direction", "spacing"),
    [
        (IDENTITY, (0.5, 0.5, 0.5)),
        (OBLIQUE, (0.6, 0.5, 0.8)),
        (OBLIQUE @ np.diag([1.0, -1.0, 1.0]), (0.5, 0.5, 2.0)),
    ],
    ids=["straight", "oblique", "thick slices"],
)


def disc_and_plate(direction: np.ndarray, spacing: tuple[float, float, float], gap_mm: float = 0.0) -> list[Volume]:
    """An implant, and the bone around it whose hole is `gap_mm` wider all around."""
    return [
        drawn(inside, CENTER, 25.0, direction, spacing)
        for inside in (
            lambda p: (np.hypot(p[..., 0], p[..., 1]) < HOLE_MM) & (np.abs(p[..., 2]) < THICK_MM / 2),
            lambda p: (np.hypot(p[..., 0], p[..., 1]) >= HOLE_MM + gap_mm) & (np.abs(p[..., 2]) < THICK_MM / 2),
        )
    ]


def radius_mm(mesh: trimesh.Trimesh) -> np.ndarray:
    """Of the vertices in the middle of the disc's rim, which no edge rounds."""
    points = mesh.vertices - CENTER
    radius = np.hypot(points[:, 0], points[:, 1])
    return radius[(np.abs(points[:, 2]) < 1.0) & (radius > 5.0)]


@GRIDS
@pytest.mark.parametrize("clearance_mm", [0.3, 1.0, 2.5])
def test_the_surface_keeps_the_clearance_and_no_more(
    direction: np.ndarray, spacing: tuple[float, float, float], clearance_mm: float
) -> None:
    implant, skull = disc_and_plate(direction, spacing)
    bone = BoneSurface(skull, implant)

    shape = solid(implant, clearance=Clearance(bone, clearance_mm))
    mesh = implant_surface(shape)

    distance, _ = bone.nearest(mesh.triangles_center, reach_mm=8.0)
    assert distance.min() > clearance_mm - 0.05
    assert np.median(radius_mm(mesh)) == pytest.approx(HOLE_MM - clearance_mm, abs=0.15)
    report = surface_report(mesh)
    assert report["watertight"]
    assert report["pieces"] == 1
    mask_mm3 = implant.voxels.sum() * implant.grid.voxel_ml * 1000.0
    assert mesh.volume == pytest.approx(mask_mm3 * (1.0 - clearance_mm / HOLE_MM) ** 2, rel=0.05)
    assert mesh.volume == pytest.approx(shape.volume_mm3, rel=0.02)


@GRIDS
def test_without_a_clearance_the_rim_touches_the_bone(
    direction: np.ndarray, spacing: tuple[float, float, float]
) -> None:
    implant, skull = disc_and_plate(direction, spacing)

    gap = rim_gap_mm(implant_surface(solid(implant)), BoneSurface(skull, implant))

    assert gap["median"] == pytest.approx(0.0, abs=0.1)
    assert gap["p95"] < 0.5


@GRIDS
@pytest.mark.parametrize("made_mm", [0.7, 2.0])
def test_the_gap_is_as_wide_as_made(direction: np.ndarray, spacing: tuple[float, float, float], made_mm: float) -> None:
    implant, skull = disc_and_plate(direction, spacing, made_mm)

    gap = rim_gap_mm(implant_surface(solid(implant)), BoneSurface(skull, implant))

    assert gap["median"] == pytest.approx(made_mm, abs=0.12)
    assert made_mm - 0.5 < gap["min"] <= gap["median"] <= gap["p95"] < made_mm + 0.8


def test_an_implant_far_from_all_bone_has_no_gap() -> None:
    implant, skull = disc_and_plate(IDENTITY, (1.0, 1.0, 1.0), 6.0)

    assert rim_gap_mm(implant_surface(solid(implant)), BoneSurface(skull, implant)) == {}


def test_the_distance_is_negative_inside_bone() -> None:
    implant, skull = disc_and_plate(IDENTITY, (0.5, 0.5, 0.5))

    offsets = np.array([[HOLE_MM + 1.0, 0, 0], [HOLE_MM - 2.0, 0, 0], [0, 0, 0]])

    distance, closest = BoneSurface(skull, implant).nearest(CENTER + offsets, reach_mm=4.0)

    assert distance == pytest.approx([-1.0, 2.0, np.inf], abs=0.3)  # half a voxel
    on_rim = CENTER + np.array([HOLE_MM, 0, 0])
    assert closest[:2] == pytest.approx(np.tile(on_rim, (2, 1)), abs=0.3)


def test_a_plate_that_bone_lies_beneath_gets_thinner() -> None:
    implant, skull = disc_and_plate(IDENTITY, (0.5, 0.5, 0.5))
    below = skull.grid.affine[2, 3] + skull.grid.spacing[2] * np.arange(skull.grid.size[2]) - CENTER[2] <= -THICK_MM / 2
    bone = BoneSurface(Volume(skull.voxels | below.astype(np.uint8), skull.grid), implant)

    chords = plate_chords_mm(implant, clearance=Clearance(bone, 2.0))

    assert thickness_mm(plate_chords_mm(implant))["median"] == pytest.approx(THICK_MM, abs=0.6)
    assert thickness_mm(chords)["median"] == pytest.approx(
        thickness_mm(plate_chords_mm(implant))["median"] - 2.0, abs=0.2
    )


def test_a_clearance_wider_than_the_hole_leaves_nothing() -> None:
    implant, skull = disc_and_plate(IDENTITY, (1.0, 1.0, 1.0))
    small = Volume(implant.voxels & (np.indices(implant.voxels.shape)[0] > 37).astype(np.uint8), implant.grid)
    rest = Volume(skull.voxels | (implant.voxels & ~small.voxels), skull.grid)
    clearance = Clearance(BoneSurface(rest, small), 5.0)

    shape = solid(small, clearance=clearance)

    assert shape.volume_mm3 == 0
    assert len(implant_surface(shape).faces) == 0
    assert plate_chords_mm(small, clearance=clearance).shape == (0,)
