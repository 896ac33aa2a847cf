"""A made-up skull's pose is found again, whatever is missing from it and whatever else is in the scan."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from bundle.skull_implant.errors import CaseRefused
from bundle.skull_implant.frame.canonical_frame import (
    CanonicalFrame,
    align,
    bone_points,
    estimate_frame,
    outermost,
    to_template,
    vault_center,
)
from bundle.skull_implant.volume import Grid, Volume
from tests.made_up_skulls import ball, canonical_points, egg_template, pose, scan_grid, shell, skull

EGG = egg_template()
COARSE = (2.5, 2.5, 2.5)  # spacing, mm
OBLIQUE = Rotation.from_euler("xyz", [12.0, -8.0, 20.0], degrees=True).as_matrix()


def _off(found: CanonicalFrame, truth: CanonicalFrame) -> tuple[float, float]:
    """Rotation in degrees and vertex in mm between two frames."""
    turn = Rotation.from_matrix(found.rotation.T @ truth.rotation)
    return float(np.rad2deg(turn.magnitude())), float(np.linalg.norm(found.vertex - truth.vertex))


def _assert_recovered(mask: Volume, truth: CanonicalFrame, deg: float = 2.0, mm: float = 2.0) -> CanonicalFrame:
    found = estimate_frame(mask.voxels, mask.grid, EGG)
    turn_deg, vertex_mm = _off(found, truth)
    assert turn_deg < deg
    assert vertex_mm < mm
    return found


@pytest.mark.parametrize("tilt", [(0, 0, 0), (30, 0, 0), (-30, 0, 0), (0, 30, 0), (0, 0, -30), (-17, 17, 17)], ids=str)
def test_a_head_tilted_by_up_to_30_degrees_is_found(tilt: tuple[float, float, float]) -> None:
    truth = pose(tilt, vertex=(12.0, -31.0, 640.0))
    found = _assert_recovered(skull(scan_grid(truth, COARSE), truth, EGG), truth)

    assert found.tilt_deg == pytest.approx(np.linalg.norm(tilt), abs=2.5)  # near enough for small angles about axes


def test_a_head_bent_by_60_degrees_is_found_from_the_nearest_of_the_starts() -> None:
    truth = pose((-60.0, 0.0, 0.0))
    bent = skull(scan_grid(truth, COARSE), truth, EGG)

    _assert_recovered(bent, truth)
    from_upright_alone = estimate_frame(bent.voxels, bent.grid, EGG, start_pitch_deg=(0.0,))
    assert _off(from_upright_alone, truth)[0] > 20.0


@pytest.mark.parametrize(
    ("spacing", "direction"),
    [
        ((1.2, 1.2, 3.0), np.eye(3)),
        ((2.0, 1.5, 3.0), OBLIQUE),
        ((1.5, 3.0, 2.0), OBLIQUE @ np.diag([-1.0, 1.0, -1.0])),
        ((2.0, 3.0, 2.0), np.array([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0], [0.0, -1.0, 0.0]])),
    ],
    ids=["thick slices", "oblique", "flipped", "coronal"],
)
def test_the_grid_of_the_scan_does_not_matter(spacing: tuple[float, float, float], direction: np.ndarray) -> None:
    truth = pose((15.0, -8.0, 6.0), vertex=(-20.0, 5.0, -300.0))

    _assert_recovered(skull(scan_grid(truth, spacing, (210, 240, 230), direction), truth, EGG), truth)


@pytest.fixture(scope="module")
def whole_and_frame() -> tuple[Volume, CanonicalFrame]:
    truth = pose((-14.0, 9.0, 5.0), vertex=(3.0, 4.0, 5.0))
    whole = skull(scan_grid(truth, COARSE), truth, EGG)
    return whole, _assert_recovered(whole, truth)


@pytest.mark.parametrize(
    ("center", "radius_mm"),
    [((60, 20, -30), 45), ((0, 85, -45), 45), ((35, -55, -10), 45), ((0, 0, 0), 40), ((0, -95, -70), 40)],
    ids=["temporal", "frontal", "parietooccipital", "vertex", "occipital"],
)
def test_a_hole_does_not_move_the_frame(
    whole_and_frame: tuple[Volume, CanonicalFrame], center: tuple[float, float, float], radius_mm: float
) -> None:
    whole, frame = whole_and_frame
    hole = whole.voxels & ball(canonical_points(whole.grid, frame), center, radius_mm)
    assert hole.sum() * whole.grid.voxel_ml > 25.0

    _assert_recovered(Volume(whole.voxels & ~hole, whole.grid), frame, deg=1.5, mm=1.5)


def test_a_scan_that_ends_above_the_orbits_has_the_same_frame() -> None:
    truth = pose((10.0, 5.0, -5.0))
    whole = skull(scan_grid(truth, COARSE), truth, EGG)
    superior = canonical_points(whole.grid, truth)[2]

    _assert_recovered(Volume(whole.voxels & (superior > -85.0), whole.grid), truth)


def test_a_face_and_a_spine_down_to_the_shoulders_do_not_move_the_frame() -> None:
    truth = pose((10.0, 5.0, -5.0))
    long_scan = scan_grid(pose((10.0, 5.0, -5.0), vertex=(0.0, 0.0, -45.0)), COARSE, (220, 250, 300))

    _assert_recovered(skull(long_scan, truth, EGG), truth)


def test_a_strap_around_the_head_does_not_move_the_frame() -> None:
    truth = pose((10.0, 5.0, -5.0))
    whole = skull(scan_grid(truth, COARSE), truth, EGG)
    right, anterior, superior = canonical_points(whole.grid, truth)
    around = (right / 78) ** 2 + (anterior / 98) ** 2
    strap = (np.abs(superior + 80) < 12) & (around > 1.0) & (around < 1.12)

    _assert_recovered(Volume(whole.voxels | strap, whole.grid), truth)


def test_the_size_of_the_head_is_found_and_does_not_stretch_the_frame() -> None:
    truth = pose((8.0, -4.0, 2.0), scales=(1.03, 0.97, 1.02))
    found = _assert_recovered(skull(scan_grid(truth, COARSE), truth, EGG), truth)

    np.testing.assert_allclose(found.scales, truth.scales, atol=0.02)
    np.testing.assert_allclose(found.rotation @ found.rotation.T, np.eye(3), atol=1e-9)
    assert np.linalg.det(found.rotation) == pytest.approx(1.0)


@pytest.mark.parametrize("scale", [0.95, 1.05])
def test_a_head_5_percent_off_in_size_is_off_by_little_more(scale: float) -> None:
    truth = pose((8.0, -4.0, 2.0), scales=(scale, scale, scale))

    # The prior on size draws the height, which is seen on one side only, to the mean, and pitch gives way to it.
    _assert_recovered(skull(scan_grid(truth, COARSE), truth, EGG), truth, deg=3.0, mm=4.0)


def test_the_mean_vault_itself_fits_to_half_a_voxel() -> None:
    truth = pose()
    found = _assert_recovered(skull(scan_grid(truth, COARSE), truth, EGG), truth, deg=1.0, mm=1.25)

    assert found.residual_mm < 0.6
    assert found.coverage > 0.95


def test_a_mirrored_head_has_the_mirrored_frame() -> None:
    truth = pose((10.0, 15.0, -6.0))
    one = skull(scan_grid(truth, COARSE), truth, EGG)
    grid = one.grid
    mirrored = Volume(
        one.voxels[::-1],
        Grid(
            grid.size,
            grid.spacing,
            (-(grid.origin[0] + (grid.size[0] - 1) * grid.spacing[0]), *grid.origin[1:]),
            grid.direction,
        ),
    )
    first, second = (estimate_frame(each.voxels, each.grid, EGG) for each in (one, mirrored))

    flip = np.diag([-1.0, 1.0, 1.0])
    np.testing.assert_allclose(second.rotation, flip @ first.rotation @ flip, atol=np.deg2rad(0.5))
    np.testing.assert_allclose(second.vertex, flip @ first.vertex, atol=0.5)


def test_canonical_axes_are_ras_and_the_patients_are_lps() -> None:
    frame = CanonicalFrame(np.eye(3), np.array([1.0, 2.0, 3.0]), np.ones(3))

    np.testing.assert_allclose(frame.affine @ [10.0, 20.0, 30.0, 1.0], [-11.0, -22.0, 33.0, 1.0])


def test_the_tilt_is_measured_from_how_the_training_heads_lie() -> None:
    truth = pose((20.0, 0.0, 0.0))
    head = skull(scan_grid(truth, COARSE), truth, EGG)

    frame = estimate_frame(head.voxels, head.grid, replace(EGG, usual_rotation=pose((8.0, 0.0, 0.0)).rotation))

    assert frame.tilt_deg == pytest.approx(12.0, abs=2.0)


def test_bone_points_are_in_ras_and_about_a_step_apart() -> None:
    mask = np.zeros((4, 4, 4), bool)
    mask[2, 0, 1] = mask[1, 0, 0] = True  # an odd index along i is skipped at 0.6 mm spacing
    grid = Grid((4, 4, 4), (0.6, 2.0, 2.0), (10.0, 20.0, 30.0), (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0))

    np.testing.assert_allclose(bone_points(mask, grid, step_mm=1.2), [[-11.2, -20.0, 32.0]])


def test_the_first_guess_is_the_middle_of_the_upper_part_80_mm_below_the_top() -> None:
    corners = np.array(np.meshgrid([-70.0, 70.0], [-100.0, 80.0], np.linspace(0.0, 140.0, 1000))).reshape(3, -1).T
    neck = np.array([[500.0, 500.0, -100.0]])

    np.testing.assert_allclose(vault_center(np.concatenate([corners, neck])), [0.0, -10.0, 60.0], atol=0.5)


def test_the_outermost_points_are_the_farthest_in_each_direction() -> None:
    directions = EGG.directions()[[20, 34, 40], [34, 34, 30]]
    center = np.array([5.0, 6.0, 7.0])
    points = np.concatenate([center + radius * directions for radius in (60.0, 75.0, 70.0)])

    found = outermost(points, center, EGG)

    np.testing.assert_allclose(np.linalg.norm(found - center, axis=1), 75.0)
    assert len(found) == 3


def test_aligned_outer_points_lie_on_the_template() -> None:
    truth = pose((10.0, 0.0, 4.0), scales=(1.03, 1.0, 0.97))
    whole = skull(scan_grid(truth, COARSE), truth, EGG)
    parameters, surface = align(bone_points(whole.voxels, whole.grid), EGG)

    local = to_template(surface, parameters)
    radius, theta = EGG.radius(local)
    off = np.abs(np.linalg.norm(local, axis=1) - radius)[theta < 100.0]
    assert np.median(off) < 1.0


@pytest.fixture
def still_air() -> Volume:
    grid = scan_grid(pose(), (3.0, 3.0, 3.0))
    return Volume(np.zeros(grid.size, bool), grid)


def test_a_scan_without_bone_is_refused(still_air: Volume) -> None:
    with pytest.raises(CaseRefused, match=r"scan7: refused: a skull must have a vault, found 0 bone points") as caught:
        estimate_frame(still_air.voxels, still_air.grid, EGG, case="scan7")
    assert len(caught.value.reasons) == 1


def test_a_block_of_bone_is_refused(still_air: Volume) -> None:
    still_air.voxels[10:60, 10:70, 10:15] = True
    with pytest.raises(CaseRefused, match=r"give a head CT|scan the whole vault"):
        estimate_frame(still_air.voxels, still_air.grid, EGG)


def test_a_solid_egg_is_refused_because_a_vault_is_hollow(still_air: Volume) -> None:
    solid = shell(canonical_points(still_air.grid, pose()), pose(), EGG, wall_mm=200.0)
    with pytest.raises(CaseRefused, match=r"a vault must be hollow, at most 5% of its bone deep inside, got \d+%"):
        estimate_frame(solid, still_air.grid, EGG)


def test_two_rods_are_refused(still_air: Volume) -> None:
    still_air.voxels[20:25, 30:36] = True
    still_air.voxels[45:50, 30:36] = True
    with pytest.raises(CaseRefused):
        estimate_frame(still_air.voxels, still_air.grid, EGG)


def test_a_quarter_of_a_vault_is_refused_with_its_coverage() -> None:
    truth = pose()
    whole = skull(scan_grid(truth, COARSE), truth, EGG)
    right, anterior, _ = canonical_points(whole.grid, truth)
    with pytest.raises(CaseRefused, match=r"at least 35% of the vault must be bone, got \d+%; scan the whole vault"):
        estimate_frame(whole.voxels & (right > 0) & (anterior > 20), whole.grid, EGG)


def test_the_limits_are_arguments() -> None:
    truth = pose()
    whole = skull(scan_grid(truth, (3.0, 3.0, 3.0)), truth, EGG)

    with pytest.raises(CaseRefused, match=r"at least 101% of the vault"):
        estimate_frame(whole.voxels, whole.grid, EGG, minimum_coverage=1.01)
    with pytest.raises(CaseRefused, match=r"median distance <= 0.01 mm"):
        estimate_frame(whole.voxels, whole.grid, EGG, maximum_residual_mm=0.01)
