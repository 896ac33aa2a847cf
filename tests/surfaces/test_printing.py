"""What is written for a printer, what the report says of it, and what makes it a case for review."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import trimesh

from bundle.skull_implant.steps.report import ReviewRules, print_reasons
from bundle.skull_implant.surfaces.print_settings import PrintSettings
from bundle.skull_implant.surfaces.printing import print_implant
from bundle.skull_implant.volume import Volume
from tests.made_up_plates import OBLIQUE, drawn

HOLE_MM, SPACING = 12.0, (0.8, 0.7, 0.9)


def plate(place: float = 0.0, thick_mm: float = 5.0, hole_mm: float = HOLE_MM) -> list[Volume]:
    """An implant and the bone around it, at a place in LPS mm along all axes."""
    center = np.full(3, place)
    return [
        drawn(inside, center, 20.0, OBLIQUE, SPACING)
        for inside in (
            lambda p: (np.hypot(p[..., 0], p[..., 1]) < hole_mm) & (np.abs(p[..., 2]) < thick_mm / 2),
            lambda p: (np.hypot(p[..., 0], p[..., 1]) >= hole_mm) & (np.abs(p[..., 2]) < thick_mm / 2),
        )
    ]


def report(tmp_path: Path, settings: PrintSettings, **shape: float) -> dict[str, Any]:
    implant, skull = plate(**shape)
    return {"implant": print_implant(tmp_path, skull, implant, settings)}


def test_the_default_is_one_closed_stl_with_the_masks_volume(tmp_path: Path) -> None:
    implant, skull = plate(place=60.0)
    mask_ml = implant.voxels.sum() * implant.grid.voxel_ml

    found = print_implant(tmp_path, skull, implant, PrintSettings())

    assert [path.name for path in tmp_path.iterdir()] == ["implant.stl"]
    mesh = trimesh.load_mesh(tmp_path / "implant.stl")
    assert mesh.is_watertight
    assert mesh.center_mass == pytest.approx([60.0, 60.0, 60.0], abs=0.2)
    assert mesh.volume / 1000 == pytest.approx(mask_ml, rel=0.02)
    assert json.loads(json.dumps(found)) == found
    assert found["watertight"] is True
    assert (found["holes"], found["pieces"], found["openings"], found["cleared_ml"]) == (1, 1, 0, 0.0)
    assert found["triangles"] == len(mesh.faces)
    assert found["surface_volume_ml"] == pytest.approx(mesh.volume / 1000, abs=0.0051)
    assert abs(found["surface_volume_error"]) < 0.02
    assert found["thickness_mm"]["median"] == pytest.approx(5.0, abs=0.5)
    assert found["gap_mm"]["median"] == pytest.approx(0.0, abs=0.1)
    assert print_reasons({"implant": found}, PrintSettings(), ReviewRules()) == []


def test_every_format_holds_the_same_surface_in_the_same_place(tmp_path: Path) -> None:
    implant, skull = plate(place=-35.0)

    print_implant(tmp_path, skull, implant, PrintSettings("stl,ply,obj"))

    stl, ply, obj = (trimesh.load_mesh(tmp_path / f"implant.{name}") for name in ("stl", "ply", "obj"))
    assert stl.is_watertight
    assert ply.is_watertight
    assert obj.is_watertight
    assert ply.bounds == pytest.approx(stl.bounds, abs=1e-3)
    assert obj.bounds == pytest.approx(stl.bounds, abs=1e-3)


def test_a_budget_of_triangles_is_kept_with_the_volume(tmp_path: Path) -> None:
    settings = PrintSettings(triangles=1500)

    found = report(tmp_path, settings)

    assert found["implant"]["triangles"] <= 1500
    assert found["implant"]["watertight"] is True
    assert abs(found["implant"]["surface_volume_error"]) < 0.02


def test_a_jagged_rim_gets_the_triangles_that_keep_it_out_of_the_bone_and_a_review(tmp_path: Path) -> None:
    def star(points: np.ndarray) -> np.ndarray:
        around = np.arctan2(points[..., 1], points[..., 0])
        return np.hypot(points[..., 0], points[..., 1]) - 22.0 * (1 + 0.3 * np.sin(9 * around))

    implant, skull = (
        drawn(
            lambda p, sign=sign: (sign * star(p) >= 0) & (np.abs(p[..., 2]) < 3), np.zeros(3), 34.0, OBLIQUE, (1, 1, 1)
        )
        for sign in (-1, 1)
    )
    settings = PrintSettings(triangles=1000)

    loose = print_implant(tmp_path, skull, implant, settings, maximum_overlap_mm=99.0)
    found = print_implant(tmp_path, skull, implant, settings)

    assert loose["triangles"] <= 1000
    assert loose["gap_mm"]["min"] < -0.5
    assert found["gap_mm"]["min"] >= -0.5
    assert 1000 < found["triangles"] < 30_000
    (reason,) = print_reasons({"implant": found}, settings, ReviewRules())
    assert "triangles, more than 1000, with which it would reach into bone" in reason


def test_a_clearance_makes_the_surface_smaller_and_is_told(tmp_path: Path) -> None:
    settings = PrintSettings(clearance_mm=1.0)

    found = report(tmp_path, settings)

    implant, _ = plate()
    mask_ml = implant.voxels.sum() * implant.grid.voxel_ml
    assert found["implant"]["gap_mm"]["min"] >= 0.95
    assert found["implant"]["gap_mm"]["median"] == pytest.approx(1.0, abs=0.1)
    assert found["implant"]["cleared_ml"] == pytest.approx(mask_ml * (1 - (1 - 1.0 / HOLE_MM) ** 2), rel=0.2)
    assert found["implant"]["surface_volume_ml"] == pytest.approx(mask_ml - found["implant"]["cleared_ml"], rel=0.02)
    assert print_reasons(found, settings, ReviewRules()) == []


def test_a_clearance_that_leaves_nothing_is_a_review_and_no_file(tmp_path: Path) -> None:
    settings = PrintSettings(clearance_mm=5.0)

    found = report(tmp_path, settings, hole_mm=5.0)

    assert not list(tmp_path.iterdir())
    assert print_reasons(found, settings, ReviewRules()) == [
        "a clearance of 5 mm leaves nothing of the implant that could be printed, no surface was written"
    ]


def test_a_thin_plate_is_told_and_reviewed(tmp_path: Path) -> None:
    settings = PrintSettings(minimum_thickness_mm=4.0)

    found = report(tmp_path, settings, thick_mm=3.0)

    assert found["implant"]["thinner_than_minimum"] > 0.9
    assert "of the implant is thinner than 4 mm" in " ".join(print_reasons(found, settings, ReviewRules()))
    found = report(tmp_path, PrintSettings(), thick_mm=3.0)
    assert print_reasons(found, PrintSettings(), ReviewRules()) == []


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ({"watertight": False}, "the implant's surface is not watertight"),
        ({"surface_volume_error": -0.031}, "the surface's volume is -3.1% off the mask's, more than 2%"),
        ({"pieces": 3}, "the surface has 3 pieces, the implant's mask 1"),
        (
            {"triangles": 300_000},
            "the surface has 300000 triangles, more than 200000, with which it would reach into bone",
        ),
        ({"gap_mm": {"min": -0.8}}, "the surface reaches 0.80 mm into bone, at most 0.5; allow more triangles"),
    ],
)
def test_a_fault_of_the_surface_is_never_silent(tmp_path: Path, fault: dict[str, Any], reason: str) -> None:
    found = report(tmp_path, PrintSettings())

    assert print_reasons({"implant": found["implant"] | fault}, PrintSettings(), ReviewRules()) == [reason]


def test_a_surface_nearer_than_its_clearance_is_reviewed(tmp_path: Path) -> None:
    settings = PrintSettings(clearance_mm=1.0)
    found = report(tmp_path, settings)

    found["implant"]["gap_mm"]["min"] = 0.8

    assert print_reasons(found, settings, ReviewRules()) == [
        "the surface comes within 0.80 mm of the bone, the clearance is 1 mm"
    ]


def test_no_implant_is_no_fault_of_its_surface() -> None:
    assert print_reasons({"implant": {"volume_ml": 0.0}}, PrintSettings(), ReviewRules()) == []
