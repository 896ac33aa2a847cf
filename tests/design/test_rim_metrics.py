"""Gap and step of implants whose misfit is known, on grids that are isotropic, anisotropic and oblique."""

from __future__ import annotations

from dataclasses import astuple

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from bundle.skull_implant.design.rim_metrics import RimRules, measure_rim, rim_gap_and_step
from bundle.skull_implant.frame.canonical_frame import CanonicalFrame
from bundle.skull_implant.frame.vault_rays import vault_center, vault_radius
from bundle.skull_implant.volume import Grid, Volume
from tests.made_up_skulls import canonical_points, egg_template

EGG = egg_template()
TURNED = Rotation.from_euler("xzy", (12.0, -20.0, 8.0), degrees=True).as_matrix()
HEAD = CanonicalFrame(TURNED, np.array([10.0, -5.0, 40.0]), np.array([1.0, 1.03, 0.97]))
GRIDS = {
    "fine": ((0.6, 0.6, 0.6), np.eye(3)),
    "anisotropic": ((0.45, 0.45, 1.0), np.eye(3)),
    "oblique": ((0.45, 0.45, 1.0), Rotation.from_euler("xyz", (15.0, 10.0, -25.0), degrees=True).as_matrix()),
}
WALL_MM, RADIUS_MM = 7.0, 24.0


class _Plate:
    """A part of the vault with a round hole: where each voxel lies in the wall, and how far from the hole's middle."""

    def __init__(self, spacing: tuple[float, float, float], direction: np.ndarray) -> None:
        center, way = vault_center(HEAD.scales, EGG), np.array([0.75, 0.25, 0.61])
        way /= np.linalg.norm(way)
        middle = center + way * (vault_radius(way[None], HEAD.scales, EGG)[0] - WALL_MM / 2)
        size = [round(96.0 / step) for step in spacing]
        corner = HEAD.affine[:3, :3] @ middle + HEAD.affine[:3, 3] - direction @ (np.array(size) / 2 * spacing)
        self.grid = Grid((size[0], size[1], size[2]), spacing, tuple(corner), tuple(direction.ravel()))
        points = canonical_points(self.grid, HEAD).reshape(3, -1).T
        length = np.linalg.norm(points - center, axis=1)
        self.depth = (vault_radius((points - center) / length[:, None], HEAD.scales, EGG) - length).reshape(size)
        self.away = np.linalg.norm(points - middle, axis=1).reshape(size)
        self.head = points.T.reshape(3, *size)

    def wall(self, outward_mm: float = 0.0, inward_mm: float = 0.0) -> np.ndarray:
        """The wall, both of its tables moved outward, or its inner one inward."""
        return (self.depth > -outward_mm) & (self.depth < WALL_MM - outward_mm + inward_mm)

    def bone(self) -> Volume:
        return Volume(self.wall() & (self.away >= RADIUS_MM), self.grid)


@pytest.fixture(scope="module", params=list(GRIDS))
def plate(request: pytest.FixtureRequest) -> _Plate:
    return _Plate(*GRIDS[request.param])


def _score(plate: _Plate, implant: np.ndarray) -> tuple[float, ...]:
    """Outer gap, inner gap, outer step, inner step."""
    return astuple(rim_gap_and_step(implant, plate.bone(), HEAD, EGG))


def test_the_piece_itself_has_no_gap_and_no_step(plate: _Plate) -> None:
    assert _score(plate, plate.wall() & (plate.away < RADIUS_MM)) == pytest.approx((0, 0, 0, 0), abs=0.08)


def test_a_piece_smaller_all_round_leaves_a_gap(plate: _Plate) -> None:
    smaller = plate.wall() & (plate.away < RADIUS_MM - 1.5)

    assert _score(plate, smaller) == pytest.approx((1.5, 1.5, 0, 0), abs=0.15)


def test_a_piece_that_stands_out_is_a_step_at_both_tables(plate: _Plate) -> None:
    raised = plate.wall(outward_mm=2.0) & (plate.away < RADIUS_MM) & ~plate.bone().voxels

    rim = measure_rim(raised, plate.bone(), HEAD, EGG)

    assert (rim.score().step_outer_mm, rim.score().step_inner_mm) == pytest.approx((2, 2), abs=0.15)
    assert np.median(rim.step_mm[0]) > 0
    assert np.median(rim.step_mm[1]) > 0  # outward is positive at the inner table too


def test_a_piece_too_thick_inside_is_a_step_at_the_inner_table_alone(plate: _Plate) -> None:
    thick = plate.wall(inward_mm=1.5) & (plate.away < RADIUS_MM)

    assert _score(plate, thick) == pytest.approx((0, 0, 0, 1.5), abs=0.15)


@pytest.fixture(scope="module")
def coarse() -> _Plate:
    return _Plate((0.9, 0.9, 0.9), np.eye(3))


def test_a_gap_on_one_side_is_in_the_percentiles_and_not_in_the_median(coarse: _Plate) -> None:
    piece = coarse.wall() & (coarse.away < RADIUS_MM)
    short = piece & ~((coarse.away > RADIUS_MM - 3.0) & (coarse.head[1] > np.quantile(coarse.head[1][piece], 0.85)))

    rim = measure_rim(short, coarse.bone(), HEAD, EGG)

    assert rim.score().gap_outer_mm < 0.2
    assert rim.score(95).gap_outer_mm == pytest.approx(3.0, abs=0.5)


def test_where_the_hole_has_no_bone_around_there_is_no_rim(coarse: _Plate) -> None:
    bone = coarse.bone()
    half = Volume(bone.voxels & (coarse.head[2] > np.median(coarse.head[2][bone.voxels])), coarse.grid)
    smaller = coarse.wall() & (coarse.away < RADIUS_MM - 1.5)

    whole_rim, half_rim = (measure_rim(smaller, skull, HEAD, EGG, RimRules(reach_mm=5.0)) for skull in (bone, half))

    assert len(half_rim.gap_mm[0]) < 0.7 * len(whole_rim.gap_mm[0])
    assert half_rim.score().gap_outer_mm == pytest.approx(whole_rim.score().gap_outer_mm, abs=0.3)


def test_bone_far_below_the_implant_is_no_rim(coarse: _Plate) -> None:
    deep = Volume((coarse.depth > 17.0) & (coarse.depth < 22.0), coarse.grid)

    assert np.isnan(astuple(rim_gap_and_step(coarse.wall() & (coarse.away < RADIUS_MM), deep, HEAD, EGG))).all()


def test_an_opening_in_the_implant_is_no_gap(coarse: _Plate) -> None:
    piece = coarse.wall() & (coarse.away < RADIUS_MM)

    assert _score(coarse, piece & (coarse.away > 17.0)) == pytest.approx(_score(coarse, piece), abs=0.1)


def test_without_an_implant_there_is_nothing_to_measure(coarse: _Plate) -> None:
    assert np.isnan(_score(coarse, np.zeros_like(coarse.away, bool))).all()


def test_masks_of_two_grids_are_refused(coarse: _Plate) -> None:
    with pytest.raises(ValueError, match="must share a grid"):
        rim_gap_and_step(np.ones((3, 3, 3), bool), coarse.bone(), HEAD, EGG)
