"""The implant is the plate that is missing, and nothing else: a spherical skull with a hole, on unlike grids."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
import pytest
from scipy import ndimage
from scipy.spatial.transform import Rotation

from bundle.skull_implant.design.implant import ImplantRules, design_implant, find_holes, vault_shell
from bundle.skull_implant.design.metrics import dice
from bundle.skull_implant.frame.canonical_frame import CanonicalFrame
from bundle.skull_implant.frame.canonical_grid import CanonicalBox, to_canonical
from bundle.skull_implant.mask_morphology import far_from_bone
from bundle.skull_implant.volume import Grid, Volume
from tests.made_up_skulls import ball, canonical_points, pose, scan_grid, shell, sphere_template

SPHERE = sphere_template(80.0)  # vault's center 80 mm below the vertex
BOX = CanonicalBox((88, 112, 80))  # voxels of 2 mm
TILT = pose((10.0, -7.0, 5.0), vertex=(20.0, -30.0, 400.0))
OBLIQUE = Rotation.from_euler("xyz", [12.0, -8.0, 20.0], degrees=True).as_matrix()
TEMPLE, VERTEX, FOREHEAD = (65.0, 10.0, -40.0), (0.0, 0.0, -4.0), (0.0, 72.0, -50.0)


@dataclass
class Case:
    """A vault of 7 mm on a scan's grid, and what a perfect network would decode."""

    frame: CanonicalFrame
    grid: Grid
    points: np.ndarray
    whole: np.ndarray
    decoded: np.ndarray

    def implant(
        self, skull: np.ndarray, decoded: np.ndarray | None = None, cranial: bool = True, **rules: float
    ) -> np.ndarray:
        """The implant of a skull; checks what must hold for every implant."""
        bone = Volume(skull, self.grid)
        found = design_implant(
            self.decoded if decoded is None else decoded,
            to_canonical(bone, self.frame, BOX),
            bone,
            self.frame,
            BOX,
            SPHERE,
            cranial=cranial,
            rules=ImplantRules(**rules),
        )
        assert found.grid is self.grid
        assert found.voxels.dtype == bool
        assert not (found.voxels & skull).any()
        return found.voxels

    def ml(self, mask: np.ndarray) -> float:
        return float(mask.sum()) * self.grid.voxel_ml

    def canonical(self, mask: np.ndarray) -> np.ndarray:
        return to_canonical(Volume(mask, self.grid), self.frame, BOX)


@functools.cache
def _case(name: str) -> Case:
    frame, spacing, direction = {
        "fine": (pose(), (1.5, 1.5, 1.5), np.eye(3)),
        "thick slices": (TILT, (1.0, 1.0, 3.0), np.eye(3)),
        "oblique": (TILT, (1.3, 2.0, 1.6), OBLIQUE @ np.diag([1.0, -1.0, 1.0])),
    }[name]
    grid = scan_grid(frame, spacing, (185.0, 185.0, 175.0), direction)
    points = canonical_points(grid, frame)
    whole = shell(points, frame, SPHERE)
    return Case(frame, grid, points, whole, to_canonical(Volume(whole, grid), frame, BOX))


@pytest.fixture(params=["fine", "thick slices", "oblique"])
def any_case(request: pytest.FixtureRequest) -> Case:
    return _case(request.param)


@pytest.fixture
def case() -> Case:
    return _case("fine")


@pytest.mark.parametrize("center", [TEMPLE, VERTEX, FOREHEAD], ids=["temple", "vertex", "forehead"])
def test_the_implant_is_the_piece_that_was_cut_out(any_case: Case, center: tuple[float, float, float]) -> None:
    truth = any_case.whole & ball(any_case.points, center, 30.0)

    implant = any_case.implant(any_case.whole & ~truth)

    assert dice(implant, truth) > 0.93
    assert any_case.ml(implant) == pytest.approx(any_case.ml(truth), rel=0.08)


def test_an_undamaged_skull_has_no_implant(any_case: Case) -> None:
    assert not any_case.implant(any_case.whole).any()


def test_a_decoded_skull_that_is_1_mm_too_large_everywhere_is_no_implant(any_case: Case) -> None:
    thick = shell(any_case.points, any_case.frame, SPHERE, grown_mm=1.0)

    assert any_case.ml(thick & ~any_case.whole) > 100  # the film that subtraction alone would give
    assert not any_case.implant(any_case.whole, any_case.canonical(thick)).any()


def test_a_film_around_the_skull_stays_out_of_the_implant(any_case: Case) -> None:
    hole = ball(any_case.points, TEMPLE, 30.0)
    thick = shell(any_case.points, any_case.frame, SPHERE, grown_mm=1.0)

    implant = any_case.implant(any_case.whole & ~hole, any_case.canonical(thick))

    assert not (implant & ~ball(any_case.points, TEMPLE, 33.0)).any()
    assert dice(implant, thick & hole) > 0.9


def test_no_decoded_bone_gives_no_implant(case: Case) -> None:
    skull = case.whole & ~ball(case.points, TEMPLE, 30.0)

    assert not case.implant(skull, np.zeros(BOX.spatial_size, np.float32)).any()


def test_each_of_two_holes_gets_a_piece_of_its_own(any_case: Case) -> None:
    large, small = ball(any_case.points, TEMPLE, 30.0), ball(any_case.points, (-65.0, 0.0, -40.0), 15.0)

    implant = any_case.implant(any_case.whole & ~large & ~small)

    assert ndimage.label(implant)[1] == 2
    assert dice(implant & large, any_case.whole & large) > 0.93
    assert dice(implant & small, any_case.whole & small) > 0.9
    around = ball(any_case.points, TEMPLE, 33.0) | ball(any_case.points, (-65.0, 0.0, -40.0), 18.0)
    assert not (implant & ~around).any()


def test_a_second_hole_that_is_decoded_in_part_still_gets_that_part(case: Case) -> None:
    large, small = ball(case.points, TEMPLE, 30.0), ball(case.points, (-65.0, 0.0, -40.0), 22.0)
    half = small & (case.points[1] > 0)

    implant = case.implant(case.whole & ~large & ~small, case.canonical(case.whole & ~(small & ~half)))

    assert dice(implant & small, case.whole & half) > 0.8


def test_a_second_hole_of_less_than_the_minimum_is_left_open(case: Case) -> None:
    large, small = ball(case.points, TEMPLE, 30.0), ball(case.points, (-65.0, 0.0, -40.0), 15.0)
    skull = case.whole & ~large & ~small

    implant = case.implant(skull, minimum_ml=1.2 * case.ml(case.whole & small))

    assert ndimage.label(implant)[1] == 1
    assert not (implant & small).any()


def test_bone_decoded_too_thick_is_no_second_hole(case: Case) -> None:
    hole, lump = ball(case.points, TEMPLE, 30.0), ball(case.points, (-62.0, 0.0, -40.0), 12.0)

    implant = case.implant(case.whole & ~hole, case.canonical(case.whole | lump))

    assert (far_from_bone(case.canonical(lump) > 0.5, case.canonical(case.whole), BOX.spacing_mm, 4.0)).any()
    assert not (implant & lump).any()
    assert dice(implant, case.whole & hole) > 0.93


def test_a_part_of_the_face_without_a_closed_rim_is_no_second_hole(case: Case) -> None:
    right, anterior, superior = case.points
    brow = (np.abs(right) < 25) & (anterior > 0) & (superior < -88) & (superior > -125)  # open towards the orbits
    hole = ball(case.points, TEMPLE, 25.0)

    implant = case.implant(case.whole & ~hole & ~brow)

    assert not (implant & brow).any()
    assert dice(implant, case.whole & hole) > 0.9


def test_two_patches_of_bone_decoded_in_one_hole_are_no_two_holes(case: Case) -> None:
    hole = ball(case.points, VERTEX, 45.0)
    gap = np.abs(case.points[0]) < 5

    implant = case.implant(case.whole & ~hole, case.canonical(case.whole & ~(hole & gap)))

    assert ndimage.label(implant)[1] == 1


@pytest.mark.parametrize(
    ("center", "reaches"), [((0.0, -60.0, -95.0), True), ((0.0, -70.0, -40.0), False)], ids=["low", "high"]
)
def test_a_hole_that_goes_on_below_the_vault_is_told(
    case: Case, center: tuple[float, float, float], reaches: bool
) -> None:
    skull = Volume(case.whole & ~ball(case.points, center, 30.0), case.grid)

    holes = find_holes(
        case.decoded,
        case.canonical(skull.voxels),
        case.grid,
        case.frame,
        BOX,
        SPHERE,
        cranial=True,
        rules=ImplantRules(),
    )

    assert len(holes.cores) == 1
    assert (holes.below_ml > 0.5) is reaches
    assert reaches or holes.below_ml == 0


def test_a_hole_narrower_than_twice_the_core_distance_is_left_alone(case: Case) -> None:
    skull = case.whole & ~ball(case.points, TEMPLE, 6.0)

    assert case.implant(skull, core_mm=4.0).any()
    assert not case.implant(skull, core_mm=7.0).any()


def test_a_smaller_piece_than_the_minimum_is_no_implant(case: Case) -> None:
    truth = case.whole & ball(case.points, TEMPLE, 20.0)
    skull = case.whole & ~truth

    assert case.implant(skull, minimum_ml=0.8 * case.ml(truth)).any()
    assert not case.implant(skull, minimum_ml=1.2 * case.ml(truth)).any()


@pytest.fixture(scope="module")
def cropped() -> Case:
    """A scan that ends 15 mm below the vertex."""
    full = _case("fine")
    top = int(np.nonzero(full.whole.any((0, 1)))[0][-1]) - 10
    grid = Grid((*full.grid.size[:2], top), full.grid.spacing, full.grid.origin, full.grid.direction)
    return Case(full.frame, grid, full.points[..., :top], full.whole[..., :top], full.decoded)


@pytest.mark.parametrize(
    ("center", "radius_mm", "filled"),
    [
        ((0.0, 79.0, -84.0), 8.0, False),
        ((0.0, 79.0, -84.0), 20.0, True),
        ((79.0, 0.0, -84.0), 8.0, True),
        ((0.0, 75.0, -107.0), 15.0, False),
        ((50.0, 62.0, -107.0), 15.0, False),
        ((75.0, 0.0, -107.0), 15.0, True),
    ],
    ids=[
        "small at the nose's root",
        "large there",
        "small at the temple",
        "in the nose's cavity",
        "at the cheek",
        "low at the side",
    ],
)
def test_openings_of_the_face_are_no_holes(
    case: Case, center: tuple[float, float, float], radius_mm: float, filled: bool
) -> None:
    hole = case.whole & ball(case.points, center, radius_mm)

    assert case.implant(case.whole & ~hole).any() == filled


def test_bone_above_the_top_slice_is_missing_scan_and_no_hole(cropped: Case) -> None:
    assert cropped.decoded.sum() > 1.03 * cropped.canonical(cropped.whole).sum()
    assert not cropped.implant(cropped.whole).any()


def test_missing_scan_does_not_draw_the_implant_away_from_a_smaller_hole(cropped: Case) -> None:
    hole = ball(cropped.points, TEMPLE, 20.0)

    assert dice(cropped.implant(cropped.whole & ~hole), cropped.whole & hole) > 0.9


def test_a_chip_of_bone_enclosed_in_the_plate_stays_bone(case: Case) -> None:
    hole, chip = ball(case.points, TEMPLE, 30.0), ball(case.points, (64.0, 8.0, -45.0), 3.5)
    thick = shell(case.points, case.frame, SPHERE, wall_mm=14.0)

    implant = case.implant(thick & (~hole | chip), case.canonical(thick))

    assert (chip & thick).any()
    assert not (implant & chip).any()
    assert dice(implant, thick & hole) > 0.85


def test_a_cranial_implant_is_sought_in_the_vault_only_and_a_facial_one_everywhere(case: Case) -> None:
    jaw = ball(case.points, (0.0, 60.0, -130.0), 14.0)
    decoded = case.canonical(case.whole | jaw)

    assert not case.implant(case.whole, decoded, cranial=True).any()
    assert dice(case.implant(case.whole, decoded, cranial=False), jaw) > 0.9


def test_a_larger_loss_in_the_face_does_not_draw_the_cranial_implant_away(case: Case) -> None:
    jaw, hole = ball(case.points, (0.0, 60.0, -130.0), 20.0), ball(case.points, TEMPLE, 25.0)
    decoded = case.canonical(case.whole | jaw)

    assert dice(case.implant(case.whole & ~hole, decoded), case.whole & hole) > 0.92


def test_a_cavity_in_the_decoded_bone_is_filled(case: Case) -> None:
    hole = ball(case.points, TEMPLE, 30.0)
    thick = shell(case.points, case.frame, SPHERE, wall_mm=14.0)
    skull, hollow = thick & ~hole, thick & ~ball(case.points, (64.0, 8.0, -45.0), 3.5)

    implant = case.implant(skull, case.canonical(hollow))

    assert (thick & ~hollow & ~implant).sum() == 0
    assert dice(implant, thick & hole) > 0.9


def test_a_splinter_on_the_plate_is_opened_away(case: Case) -> None:
    hole = ball(case.points, VERTEX, 30.0)
    right, anterior, superior = case.points
    splinter = (np.hypot(right, anterior) < 1.6) & (superior < -6) & (superior > -22)
    decoded = case.canonical(case.whole | splinter)

    plain, cleaned = (case.implant(case.whole & ~hole, decoded, opening_mm=mm) for mm in (0.1, 2.0))

    tip = splinter & (superior < -12)
    assert (plain & tip).any()
    assert not (cleaned & tip).any()


def test_the_opening_leaves_no_groove_along_the_rim(case: Case) -> None:
    hole = ball(case.points, TEMPLE, 30.0)
    skull, missing = case.whole & ~hole, case.whole & hole
    edge = missing & (ndimage.distance_transform_edt(~skull, sampling=case.grid.spacing) < 2.5)

    grooved, closed = (case.implant(skull, opening_mm=2.0, seam_mm=mm) for mm in (0.0, 2.5))

    print(f"{case.ml(edge & ~grooved):.2f} and {case.ml(edge & ~closed):.2f} of {case.ml(edge):.2f} ml open")
    assert case.ml(edge & ~closed) < 0.7 * case.ml(edge & ~grooved)
    assert (grooved & ~closed).sum() == 0


def test_a_closed_seam_is_no_film_over_the_bone(case: Case) -> None:
    hole = ball(case.points, VERTEX, 30.0)
    swollen = shell(case.points, case.frame, sphere_template(81.5), wall_mm=9.0)
    decoded = case.canonical(swollen)

    grooved, closed = (case.implant(case.whole & ~hole, decoded, seam_mm=mm) for mm in (0.0, 2.0))

    over = ~ball(case.points, VERTEX, 33.0)
    print(f"{case.ml(grooved & over):.2f} and {case.ml(closed & over):.2f} ml over the bone")
    assert case.ml(closed & over) <= case.ml(grooved & over) + 0.02


def test_the_drill_holes_at_the_corners_of_a_hole_are_filled(any_case: Case) -> None:
    right, anterior, superior = any_case.points
    along_rays = 80.0 / np.maximum(superior + 80.0, 20.0)
    right, anterior = np.abs(right * along_rays), np.abs(anterior * along_rays)
    bone_flap = np.maximum(right, anterior) < 25.0
    drilled = np.hypot(right - 28.0, anterior - 28.0) < 5.0
    missing = any_case.whole & (superior > -60) & (bone_flap | drilled)

    short, implant = (any_case.implant(any_case.whole & ~missing, corner_mm=mm) for mm in (0.0, 12.0))

    ends = missing & (np.hypot(right, anterior) > 41.0)
    print(f"{any_case.ml(ends & ~short):.2f} and {any_case.ml(ends & ~implant):.2f} of {any_case.ml(ends):.2f} ml open")
    assert any_case.ml(ends & ~short) > 0.7 * any_case.ml(ends)
    assert any_case.ml(ends & ~implant) < 0.6 * any_case.ml(ends & ~short)
    assert dice(implant, missing) > dice(short, missing) + 0.005
    grazed = any_case.implant(any_case.whole & ~missing, corner_mm=12.0, grazed_mm=0.0)
    print(f"{any_case.ml(ends & ~grazed):.3f} ml open without the rays that graze bone")
    assert any_case.ml(ends & ~implant) < any_case.ml(ends & ~grazed)


def test_a_cut_of_the_saw_beyond_the_corner_gets_no_tongue(case: Case) -> None:
    right, anterior, superior = case.points
    hole = ball(case.points, VERTEX, 30.0)
    kerf = (np.abs(right) < 1.6) & (anterior > 0) & (anterior < 45.0) & (superior > -60)

    implant = case.implant(case.whole & ~hole & ~kerf)

    tongue = implant & (anterior > 33.0)
    assert (case.whole & kerf & (anterior > 33.0)).any()
    assert not tongue.any()


def test_the_level_decides_how_thick_the_plate_is(case: Case) -> None:
    skull = case.whole & ~ball(case.points, TEMPLE, 30.0)
    volumes = [case.ml(case.implant(skull, level=level)) for level in (0.25, 0.5, 0.75)]

    assert volumes[0] > 1.1 * volumes[1] > 1.1 * 1.1 * volumes[2]


def test_the_vaults_shell_is_as_thick_as_asked_and_ends_below_the_equator() -> None:
    scales = (1.1, 1.0, 0.9)
    near = vault_shell(pose(scales=scales), BOX, SPHERE, (20.0, 8.0))
    right, anterior, superior = BOX.coordinates().numpy()
    center = superior + 72.0  # the vault is 72 mm high

    on_axis = near & (np.hypot(right - 1.0, anterior - 1.0) < 0.1) & (center > 0)
    assert sorted({*center[on_axis]}) == [*np.arange(53.0, 79.0, 2.0)]  # to the end of the box, 6 mm above
    level = near & (np.abs(center - 1.0) < 0.1) & (np.abs(anterior - 1.0) < 0.1) & (right > 0)
    np.testing.assert_allclose([right[level].min(), right[level].max()], [69.0, 87.0])  # 88 - 20, and the box's end
    side = np.stack([right / scales[0], anterior, center / scales[2]])
    theta = np.rad2deg(np.arctan2(np.hypot(side[0], side[1]), side[2]))
    assert theta[near].max() < 115.0
    assert theta[near].max() > 113.0


def test_bone_outside_and_inside_of_it_makes_an_air_cell_of_a_gap_and_no_hole(case: Case) -> None:
    diploe = shell(case.points, case.frame, sphere_template(77.0), wall_mm=20.0)
    thick = shell(case.points, case.frame, SPHERE, wall_mm=26.0) & (case.points[1] > 0)
    cell = thick & diploe & ball(case.points, FOREHEAD, 25.0)
    decoded = to_canonical(Volume(case.whole | thick, case.grid), case.frame, BOX)

    assert case.ml(cell) > 5.0
    assert not case.implant((case.whole | thick) & ~cell, decoded).any()


def test_a_groove_that_does_not_go_through_the_bone_is_no_hole(case: Case) -> None:
    thick = case.whole | (shell(case.points, case.frame, SPHERE, wall_mm=20.0) & (case.points[1] > 0))
    groove = ball(case.points, FOREHEAD, 14.0) & thick & ~shell(case.points, case.frame, SPHERE, wall_mm=4.0)
    decoded = to_canonical(Volume(thick, case.grid), case.frame, BOX)

    assert case.ml(groove) > 1.0
    assert not case.implant(thick & ~groove, decoded).any()


def test_the_open_part_of_a_mask_is_kept_whole_though_its_edge_faces_bone(case: Case) -> None:
    hole = case.whole & ball(case.points, VERTEX, 30.0)
    shelf = ball(case.points, (18.0, 0.0, -36.0), 16.0)  # under a part of the hole, as the orbital roof lies
    filled = case.implant((case.whole & ~hole) | shelf)

    assert dice(filled, hole & ~shelf) > 0.95
