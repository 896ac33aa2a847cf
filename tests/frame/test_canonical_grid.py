"""What is in a scan arrives at its place in the canonical box, with its mass, and comes back."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from bundle.skull_implant.design.metrics import dice
from bundle.skull_implant.frame.canonical_frame import CanonicalFrame
from bundle.skull_implant.frame.canonical_grid import (
    CanonicalBox,
    crop_grid,
    resample,
    resize,
    scanned,
    to_canonical,
    to_native,
)
from bundle.skull_implant.volume import Grid, Volume
from tests.made_up_skulls import ball, canonical_points, pose, scan_grid

OBLIQUE = Rotation.from_euler("xyz", [12.0, -8.0, 20.0], degrees=True).as_matrix()
BOX = CanonicalBox((44, 56, 40), (176.0, 224.0, 160.0), 6.0)


@pytest.fixture(params=["upright", "tilted", "oblique grid", "flipped axes"])
def scan(request: pytest.FixtureRequest) -> tuple[CanonicalFrame, Grid]:
    """Frames and scan grids in unlike directions, with unequal spacings."""
    tilted = pose((20.0, -12.0, 7.0), vertex=(13.0, -40.0, 871.0))
    return {
        "upright": (pose(), scan_grid(pose(), (1.5, 2.0, 2.5))),
        "tilted": (tilted, scan_grid(tilted, (1.5, 2.0, 2.5))),
        "oblique grid": (tilted, scan_grid(tilted, (2.0, 1.5, 3.0), direction=OBLIQUE)),
        "flipped axes": (tilted, scan_grid(tilted, (2.5, 2.0, 1.5), direction=OBLIQUE @ np.diag([1.0, -1.0, -1.0]))),
    }[request.param]


def test_the_box_reaches_from_corner_to_corner_around_the_vertex() -> None:
    low = BOX.affine @ [-0.5, -0.5, -0.5, 1.0]
    high = BOX.affine @ [43.5, 55.5, 39.5, 1.0]

    np.testing.assert_allclose(low[:3], [-88.0, -112.0, -154.0])
    np.testing.assert_allclose(high[:3], [88.0, 112.0, 6.0])


def test_coordinates_are_where_the_affine_puts_the_voxel_centers() -> None:
    points = BOX.coordinates().numpy()

    assert points.shape == (3, 44, 56, 40)
    for index in [(0, 0, 0), (43, 0, 5), (7, 55, 39)]:
        np.testing.assert_allclose(points[:, *index], (BOX.affine @ [*index, 1.0])[:3], rtol=1e-6)


def test_boxes_of_another_size_cover_the_same_millimeters() -> None:
    for size in [(256, 256, 128), (64, 96, 64), (11, 7, 5)]:
        box = CanonicalBox(size)
        np.testing.assert_allclose((box.affine @ [-0.5, -0.5, -0.5, 1.0])[:3], [-88.0, -112.0, -154.0])
        np.testing.assert_allclose((box.affine @ [*(np.array(size) - 0.5), 1.0])[:3], [88.0, 112.0, 6.0])


def test_the_vertex_of_an_upright_head_is_found_in_lps() -> None:
    grid = BOX.grid(pose(vertex=(10.0, 20.0, 30.0)))
    index = grid.inverse_affine @ [-10.0, -20.0, 30.0, 1.0]  # RAS to LPS

    np.testing.assert_allclose(index[:3], np.linalg.inv(BOX.affine)[:3, 3], atol=1e-9)
    np.testing.assert_allclose(np.reshape(grid.direction, (3, 3)), np.diag([-1.0, -1.0, 1.0]), atol=1e-12)


def test_the_box_in_the_patient_is_a_turned_grid_of_the_same_spacing(scan: tuple[CanonicalFrame, Grid]) -> None:
    frame, _ = scan
    grid = BOX.grid(frame)
    direction = np.reshape(grid.direction, (3, 3))

    assert grid.spacing == (4.0, 4.0, 4.0)
    np.testing.assert_allclose(direction @ direction.T, np.eye(3), atol=1e-12)
    np.testing.assert_allclose(grid.affine, frame.affine @ BOX.affine, atol=1e-9)


def test_a_ball_arrives_at_its_place_with_its_volume(scan: tuple[CanonicalFrame, Grid]) -> None:
    frame, grid = scan
    center = (40.0, -30.0, -50.0)
    mask = ball(canonical_points(grid, frame), center, 25.0)

    share = to_canonical(Volume(mask, grid), frame, BOX)

    found = np.tensordot(BOX.coordinates().numpy(), share, axes=3) / share.sum()
    np.testing.assert_allclose(found, center, atol=0.2)
    assert share.sum() * 64.0 == pytest.approx(mask.sum() * grid.voxel_ml * 1000, rel=0.01)
    assert share.dtype == np.float32
    assert share.min() >= 0.0
    assert share.max() == pytest.approx(1.0, abs=1e-5)


@pytest.mark.parametrize("spacing", [(0.5, 0.5, 1.0), (0.9, 0.7, 0.6)])
def test_a_plate_thinner_than_a_canonical_voxel_keeps_its_mass_and_its_place(
    spacing: tuple[float, float, float],
) -> None:
    frame = pose((4.0, 3.0, -6.0), vertex=(5.0, 6.0, 7.0))
    small = CanonicalBox((16, 16, 16), (64.0, 64.0, 64.0), 6.0)
    grid = scan_grid(frame, spacing, (80.0, 80.0, 70.0))
    grid = Grid(grid.size, grid.spacing, tuple(np.array(grid.origin) + frame.affine[:3, 2] * 54.0), grid.direction)
    right, anterior, superior = canonical_points(grid, frame)
    plate = (np.abs(right - 11.0) < 0.75) & (np.abs(anterior) < 15) & (np.abs(superior + 26) < 15)

    share = to_canonical(Volume(plate, grid), frame, small)

    assert share.max() < 0.5  # 1.5 mm in voxels of 4 mm
    assert share.sum() * 64.0 == pytest.approx(plate.sum() * grid.voxel_ml * 1000, rel=0.03)
    assert (share * small.coordinates()[0].numpy()).sum() / share.sum() == pytest.approx(11.0, abs=0.25)


def test_zeros_and_ones_may_be_of_any_type() -> None:
    frame = pose((5.0, 0.0, 0.0))
    grid = scan_grid(frame, (3.0, 4.0, 5.0))
    mask = ball(canonical_points(grid, frame), (0.0, 0.0, -60.0), 40.0)
    expected = to_canonical(Volume(mask, grid), frame, BOX)

    for dtype in (np.uint8, np.int16, np.float32):
        np.testing.assert_array_equal(to_canonical(Volume(mask.astype(dtype), grid), frame, BOX), expected)
    flipped = np.asfortranarray(mask)
    np.testing.assert_array_equal(to_canonical(Volume(flipped, grid), frame, BOX), expected)


def test_outside_the_scan_is_air() -> None:
    frame = pose()
    grid = scan_grid(frame, (2.0, 2.0, 2.0), (100.0, 100.0, 100.0))
    share = to_canonical(Volume(np.ones(grid.size, bool), grid), frame, BOX)
    right, anterior, superior = BOX.coordinates().numpy()
    inside = (np.abs(right) < 49) & (np.abs(anterior) < 49) & (np.abs(superior + 80) < 49)

    np.testing.assert_allclose(share[inside], 1.0)
    outside = (np.abs(right) > 51) | (np.abs(anterior) > 51) | (np.abs(superior + 80) > 51)
    assert not share[outside].any()


def test_a_linear_field_is_exact_on_the_scans_own_grid_and_zero_outside_the_box(
    scan: tuple[CanonicalFrame, Grid],
) -> None:
    frame, grid = scan
    slope = np.array([0.01, -0.02, 0.03])
    values = 5.0 + np.tensordot(slope, BOX.coordinates().numpy(), axes=1)

    native = to_native(values, frame, BOX, grid)

    points = canonical_points(grid, frame)
    index = np.einsum("ij,j...->i...", np.linalg.inv(BOX.affine)[:3, :3], points - BOX.affine[:3, 3, None, None, None])
    size = np.reshape(BOX.spatial_size, (3, 1, 1, 1))
    inside = np.all((index >= 0) & (index <= size - 1), axis=0)
    outside = np.any((index < -0.51) | (index > size - 0.49), axis=0)
    assert inside.mean() > 0.3
    assert outside.any()
    np.testing.assert_allclose(native[inside], 5.0 + np.tensordot(slope, points, axes=1)[inside], atol=1e-4)
    assert not native[outside].any()
    assert native.dtype == np.float32


def test_a_ball_there_and_back_is_the_same_ball(scan: tuple[CanonicalFrame, Grid]) -> None:
    frame, grid = scan
    mask = ball(canonical_points(grid, frame), (-30.0, 20.0, -70.0), 30.0)
    back = to_native(to_canonical(Volume(mask, grid), frame, BOX), frame, BOX, grid) > 0.5

    assert dice(back, mask) > 0.97


def test_halving_the_grid_averages_blocks() -> None:
    mask = (np.random.default_rng(0).random((8, 8, 8)) > 0.5).astype(np.uint8)
    box = CanonicalBox((8, 8, 8), (80.0, 80.0, 80.0))

    halved = resize(mask, box, (4, 4, 4))

    np.testing.assert_allclose(halved, mask.reshape(4, 2, 4, 2, 4, 2).mean((1, 3, 5)), atol=1e-6)


def test_resizing_to_the_same_size_changes_nothing() -> None:
    mask = (np.random.default_rng(0).random((4, 5, 6)) > 0.5).astype(np.uint8)

    np.testing.assert_array_equal(resize(mask, CanonicalBox((4, 5, 6)), (4, 5, 6)), mask)


@pytest.mark.parametrize("size", [(20, 30, 16), (33, 40, 24), (64, 90, 48)])
def test_resizing_keeps_volume_and_place(size: tuple[int, int, int]) -> None:
    box = CanonicalBox((66, 84, 60))
    mask = ball(box.coordinates().numpy(), (20.0, 30.0, -60.0), 30.0)
    share = resize(mask, box, size)
    resized = CanonicalBox(size)

    assert share.shape == size
    assert share.sum() * np.prod(resized.spacing_mm) == pytest.approx(mask.sum() * np.prod(box.spacing_mm), rel=0.01)
    center = np.tensordot(resized.coordinates().numpy(), share, axes=3) / share.sum()
    np.testing.assert_allclose(center, [20.0, 30.0, -60.0], atol=0.3)


def test_a_cropped_grid_keeps_its_voxels_where_they_were(scan: tuple[CanonicalFrame, Grid]) -> None:
    _, grid = scan
    part = crop_grid(grid, [3, 4, 5], [6, 7, 8])

    assert part.size == (6, 7, 8)
    np.testing.assert_allclose(part.affine @ [1.0, 2.0, 3.0, 1.0], grid.affine @ [4.0, 6.0, 8.0, 1.0], atol=1e-9)


def test_resampling_on_the_same_grid_changes_nothing(scan: tuple[CanonicalFrame, Grid]) -> None:
    grid = crop_grid(scan[1], [0, 0, 0], [5, 6, 7])
    values = np.random.default_rng(0).random((5, 6, 7)).astype(np.float32)

    np.testing.assert_allclose(Volume.from_image(resample(Volume(values, grid), grid)).voxels, values, atol=1e-5)


def test_the_whole_grid_is_scanned_but_for_its_border() -> None:
    frame, box = pose(), CanonicalBox((88, 112, 80))
    grid = scan_grid(frame, (2.0, 2.0, 2.0), (100.0, 100.0, 100.0))
    right, anterior, superior = box.coordinates().numpy()

    seen = scanned(box.coordinates().numpy(), grid, frame, border_mm=4.0)

    middle = np.maximum.reduce([np.abs(right), np.abs(anterior), np.abs(superior + 80)])
    np.testing.assert_array_equal(seen, middle < 46.0)
