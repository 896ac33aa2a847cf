"""How much of its hole an implant closes, on a made-up vault whose holes are known."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from bundle.skull_implant.design.hole_cover import HoleCover, hole_cover
from bundle.skull_implant.frame.canonical_frame import CanonicalFrame
from bundle.skull_implant.frame.canonical_grid import CanonicalBox, to_canonical
from bundle.skull_implant.volume import Volume
from tests.made_up_skulls import ball, canonical_points, pose, scan_grid, shell, sphere_template

SPHERE = sphere_template(80.0)
BOX = CanonicalBox((88, 112, 80))  # voxels of 2 mm
TEMPLE, OTHER_TEMPLE = (65.0, 10.0, -40.0), (-65.0, 10.0, -40.0)
POSES = {
    "upright": (pose(), (1.5, 1.5, 1.5), np.eye(3)),
    "oblique": (
        pose((10.0, -7.0, 5.0), vertex=(20.0, -30.0, 400.0)),
        (1.3, 2.0, 1.6),
        Rotation.from_euler("xyz", [12.0, -8.0, 20.0], degrees=True).as_matrix(),
    ),
}


class _Head:
    def __init__(self, frame: CanonicalFrame, spacing: tuple[float, float, float], direction: np.ndarray) -> None:
        self.frame, self.grid = frame, scan_grid(frame, spacing, (185.0, 185.0, 175.0), direction)
        self.points = canonical_points(self.grid, frame)
        self.whole = shell(self.points, frame, SPHERE)

    def cover(self, hole: np.ndarray, implant: np.ndarray) -> float:
        return self.closed(hole, implant).share

    def closed(self, hole: np.ndarray, implant: np.ndarray) -> HoleCover:
        bone = to_canonical(Volume(self.whole & ~hole, self.grid), self.frame, BOX)
        return hole_cover(Volume(implant, self.grid), bone, self.frame, BOX, SPHERE)


@pytest.fixture(scope="module", params=list(POSES))
def head(request: pytest.FixtureRequest) -> _Head:
    return _Head(*POSES[request.param])


def test_the_piece_that_was_cut_out_closes_its_hole(head: _Head) -> None:
    hole = ball(head.points, TEMPLE, 28.0)

    assert head.cover(hole, head.whole & hole) == 1.0


def test_a_gap_all_around_is_no_open_hole(head: _Head) -> None:
    hole = ball(head.points, TEMPLE, 28.0)

    assert head.cover(hole, head.whole & ball(head.points, TEMPLE, 26.0)) == 1.0


def test_an_implant_in_one_half_closes_one_half(head: _Head) -> None:
    hole = ball(head.points, TEMPLE, 28.0)
    half = head.points[1] > TEMPLE[1]

    assert head.cover(hole, head.whole & hole & half) == pytest.approx(0.5, abs=0.06)


def test_an_implant_along_the_rim_alone_closes_nothing(head: _Head) -> None:
    hole = ball(head.points, TEMPLE, 28.0)

    assert head.cover(hole, head.whole & hole & ~ball(head.points, TEMPLE, 26.5)) < 0.01


def test_a_hole_that_has_no_implant_counts_for_nothing(head: _Head) -> None:
    hole, other = ball(head.points, TEMPLE, 28.0), ball(head.points, OTHER_TEMPLE, 20.0)

    assert head.cover(hole | other, head.whole & hole) == 1.0


def test_without_an_implant_or_a_hole_there_is_no_share(head: _Head) -> None:
    hole = ball(head.points, TEMPLE, 28.0)

    assert np.isnan(head.cover(hole, np.zeros_like(hole)))
    assert np.isnan(head.cover(np.zeros_like(hole), head.whole & hole))


def test_a_hole_without_a_piece_is_left_open_by_its_area(head: _Head) -> None:
    hole, other = ball(head.points, TEMPLE, 28.0), ball(head.points, OTHER_TEMPLE, 10.0)
    implant = head.whole & hole

    assert head.closed(hole, implant).left_open_mm2 == 0.0
    assert head.closed(hole | other, implant).left_open_mm2 == pytest.approx(np.pi * 10.0**2, rel=0.2)
    assert head.closed(hole, np.zeros_like(hole)).left_open_mm2 == pytest.approx(np.pi * 28.0**2, rel=0.1)


def test_what_runs_on_below_the_vault_is_not_left_open(head: _Head) -> None:
    below = head.points[2] < -60.0  # 20 mm above the equator

    assert head.closed(below, np.zeros_like(below)).left_open_mm2 == 0.0


def test_an_opening_at_the_orbits_is_the_heads_own(head: _Head) -> None:
    orbit, behind = (ball(head.points, (0.0, ahead, -70.0), 12.0) for ahead in (78.0, -78.0))

    assert head.closed(orbit, np.zeros_like(orbit)).left_open_mm2 < 40.0
    assert head.closed(behind, np.zeros_like(behind)).left_open_mm2 > 300.0


def test_who_closes_a_half_overlaps_by_two_thirds_at_best() -> None:
    assert HoleCover(0.5, 0.0).best_dsc == pytest.approx(2 / 3)
    assert HoleCover(float("nan"), 0.0).best_dsc == 1.0
