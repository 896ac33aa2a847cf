"""The frame's cost is measured as said: shifts between frames, a perfect network's score, and the worst of each."""

from __future__ import annotations

import csv
import logging
from pathlib import Path

import numpy as np
import pytest

from bundle.skull_implant.errors import InputError
from bundle.skull_implant.frame.canonical_frame import CanonicalFrame
from bundle.skull_implant.frame.canonical_grid import CanonicalBox
from bundle.skull_implant.scores.frame_check import (
    FrameCheck,
    Measurement,
    ceiling,
    check_case,
    check_frames,
    frame_difference,
    summary_table,
)
from bundle.skull_implant.train.preparing import Source, find_sources
from bundle.skull_implant.volume import Volume, write_volume
from tests.made_up_skulls import ball, canonical_points, egg_template, pose, scan_grid, skull

EGG = egg_template()
BOX = CanonicalBox((44, 56, 40))
CHECK = FrameCheck(EGG, (BOX,))
POSE = pose((8.0, -5.0, 4.0), vertex=(10.0, 20.0, -30.0))


@pytest.fixture(scope="module")
def source_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two skulls in the SkullFix layout: 007 with an implant of the right temple, 008 without one."""
    folder = tmp_path_factory.mktemp("source")
    (folder / "complete_skull").mkdir()
    (folder / "implant").mkdir()
    whole = skull(scan_grid(POSE, (2.5, 2.0, 3.0)), POSE, EGG)
    piece = whole.voxels & ball(canonical_points(whole.grid, POSE), (62.0, 10.0, -40.0), 35.0)
    for name in ("007", "008"):
        write_volume(folder / "complete_skull" / f"{name}.nrrd", Volume(whole.voxels.astype(np.uint8), whole.grid))
    write_volume(folder / "implant" / "007.nrrd", Volume(piece.astype(np.uint8), whole.grid))
    return folder


@pytest.fixture(scope="module")
def sources(source_dir: Path) -> list[Source]:
    return find_sources(source_dir)


@pytest.fixture(scope="module")
def measured(sources: list[Source]) -> list[Measurement]:
    return check_case(sources[0], CHECK)


def test_the_difference_of_two_frames_is_their_angle_and_the_distance_of_their_vertices() -> None:
    first = pose((10.0, 0.0, 0.0), vertex=(0.0, 0.0, 0.0))
    second = pose((-2.5, 0.0, 0.0), vertex=(1.0, 2.0, 2.0), scales=(1.1, 1.0, 0.9))

    assert frame_difference(first, second) == pytest.approx((12.5, 3.0))
    assert frame_difference(second, first) == pytest.approx((12.5, 3.0))


def test_every_defect_is_measured_and_the_ceiling_on_the_official_one(measured: list[Measurement]) -> None:
    found = {(each.defect, each.quantity): each for each in measured}

    assert [*found] == [
        ("none", "distance from the mean vault"),
        ("official", "rotation"),
        ("official", "vertex"),
        ("official", "implant DSC at 44 x 56 x 40"),
        ("facial", "rotation"),
        ("facial", "vertex"),
        ("hemicraniectomy", "rotation"),
        ("hemicraniectomy", "vertex"),
    ]
    assert {each.case for each in found.values()} == {"007"}
    assert found["none", "distance from the mean vault"].value < 0.6
    assert 0.0 < found["official", "rotation"].value < 1.0
    assert 0.0 < found["hemicraniectomy", "vertex"].value < 2.0
    assert 0.8 < found["official", "implant DSC at 44 x 56 x 40"].value < 1.0


def test_a_finer_grid_has_a_higher_ceiling(sources: list[Source]) -> None:
    whole, implant = sources[0].read_skull(300.0), sources[0].read_implant()
    assert implant is not None
    complete = Volume(whole.voxels > 0, whole.grid)
    scores = [
        ceiling(complete, implant.voxels > 0, POSE, CanonicalBox(size), EGG) for size in [(32, 40, 28), (88, 112, 80)]
    ]

    assert scores[0] < scores[1] - 0.02
    assert scores[1] > 0.95


def test_a_skull_that_is_refused_has_no_value_and_the_log_says_why(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    whole = skull(scan_grid(POSE, (2.5, 2.0, 3.0)), POSE, EGG)
    half = whole.voxels & (canonical_points(whole.grid, POSE)[1] > 35)
    write_volume(tmp_path / "009.nrrd", Volume(half.astype(np.uint8), whole.grid))

    with caplog.at_level(logging.WARNING):
        found = check_case(Source("009", tmp_path / "009.nrrd"), CHECK)

    assert [each.defect for each in found] == ["none"]
    assert np.isnan(found[0].value)
    assert "009: refused with defect none: " in caplog.text
    assert "at least 35% of the vault must be bone" in caplog.text


def test_the_table_shows_the_largest_shift_and_the_lowest_score_and_whose_they_are() -> None:
    found = [Measurement(f"{n:03d}", "official", "vertex", "mm", float(n)) for n in range(1, 11)]
    found += [Measurement(f"{n:03d}", "official", "implant DSC at 8 x 8 x 8", "", n / 10) for n in range(1, 11)]

    rows = summary_table(found).splitlines()[2:]

    assert rows == [
        "| official | vertex, mm | 10 | 0 | 5.50 | 9.55 | 10.00 | 010 |",
        "| official | implant DSC at 8 x 8 x 8 | 10 | 0 | 0.550 | 0.145 | 0.100 | 001 |",
    ]


def test_refused_cases_are_counted_and_left_out_of_the_means() -> None:
    values = (1.0, float("nan"), 3.0)
    found = [Measurement(str(n), "facial", "rotation", "degrees", value) for n, value in enumerate(values)]
    found += [Measurement("5", "none", "distance from the mean vault", "mm", float("nan"))]

    rows = summary_table(found).splitlines()[2:]

    assert rows[0] == "| facial | rotation, degrees | 3 | 1 | 2.00 | 2.90 | 3.00 | 2 |"
    assert rows[1] == "| none | distance from the mean vault, mm | 1 | 1 | - | - | - | - |"


def test_the_files_hold_every_case_measured_as_it_is_by_itself(
    source_dir: Path, measured: list[Measurement], tmp_path: Path
) -> None:
    table = check_frames(str(source_dir), str(tmp_path / "out"), CHECK, cases=0, workers=2)

    assert (tmp_path / "out" / "frame.md").read_text() == table + "\n"
    with (tmp_path / "out" / "frame.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["case"] for row in rows] == ["007"] * 8 + ["008"] * 5  # 008 has no official implant
    for row, each in zip(rows, measured, strict=False):
        assert (row["defect"], row["quantity"]) == (each.defect, each.quantity)
        assert float(row["value"]) == pytest.approx(each.value, abs=1e-6)


def test_only_as_many_cases_are_drawn_as_asked(source_dir: Path, tmp_path: Path) -> None:
    table = check_frames(str(source_dir), str(tmp_path), CHECK, cases=1, workers=1)

    assert "| none | distance from the mean vault, mm | 1 | 0 |" in table


def test_a_folder_without_skulls_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="SOURCE must hold volume files"):
        check_frames(str(tmp_path), str(tmp_path / "out"), CHECK)


def test_frames_that_are_equal_differ_by_nothing() -> None:
    same = CanonicalFrame(POSE.rotation, POSE.vertex, POSE.scales)

    assert frame_difference(POSE, same) == pytest.approx((0.0, 0.0), abs=1e-5)
