"""Holes and slabs take away what their numbers say, in millimeters and on the right side."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from bundle.skull_implant.synthetic.defects import (
    CRANIAL_SITES,
    CranialHole,
    FacialSlab,
    draw_cranial_hole,
    draw_facial_slab,
)

UP, RIGHT, FRONT = np.array([0.0, 0.0, 1.0]), np.array([1.0, 0.0, 0.0]), np.array([0.0, 1.0, 0.0])


def _hole(axis: np.ndarray = UP, half_axes_mm: tuple[float, float] = (30.0, 30.0), **changes: object) -> CranialHole:
    plain = CranialHole(axis, half_axes_mm, turn_rad=0.0, exponent=2.0, waves=np.zeros((4, 2)))
    return dataclasses.replace(plain, **changes)


def _on_sphere(hole: CranialHole, arc_mm: float, towards: np.ndarray, radius_mm: float | None = None) -> torch.Tensor:
    """Canonical point (3,) `arc_mm` away from the hole's middle along the sphere, in a tangent direction."""
    angle = arc_mm / hole.radius_mm
    direction = np.cos(angle) * hole.axis + np.sin(angle) * towards / np.linalg.norm(towards)
    return torch.tensor((radius_mm or hole.radius_mm) * direction + hole.center_mm, dtype=torch.float32)


@pytest.mark.parametrize("towards", [RIGHT, -RIGHT, FRONT, -FRONT, RIGHT + FRONT])
def test_a_round_hole_ends_at_its_radius_along_the_vault(towards: np.ndarray) -> None:
    assert _hole().contains(_on_sphere(_hole(), 29.5, towards))
    assert not _hole().contains(_on_sphere(_hole(), 30.5, towards))


def test_a_hole_is_cut_through_to_its_depth_and_spares_the_base() -> None:
    hole = _hole(depth_mm=48.0)

    for radius_mm, cut in ((95.0, True), (80.0, True), (48.5, True), (47.5, False), (1.0, False)):
        assert bool(hole.contains(_on_sphere(hole, 10.0, RIGHT, radius_mm))) is cut, radius_mm


@pytest.mark.parametrize("axis", [RIGHT, -RIGHT])
def test_the_first_half_axis_lies_along_the_parallel_and_the_second_along_the_meridian(axis: np.ndarray) -> None:
    hole = _hole(axis, (40.0, 20.0))

    assert hole.contains(_on_sphere(hole, 38.0, FRONT))
    assert not hole.contains(_on_sphere(hole, 22.0, UP))


def test_a_quarter_turn_exchanges_the_half_axes() -> None:
    hole = _hole(RIGHT, (40.0, 20.0), turn_rad=np.pi / 2)

    assert hole.contains(_on_sphere(hole, 38.0, UP))
    assert not hole.contains(_on_sphere(hole, 22.0, FRONT))


def test_a_larger_exponent_fills_the_corners_and_keeps_the_half_axes() -> None:
    corner = RIGHT + FRONT
    ellipse, box = _hole(exponent=2.0), _hole(exponent=8.0)

    assert not ellipse.contains(_on_sphere(ellipse, 36.0, corner))
    assert box.contains(_on_sphere(box, 36.0, corner))
    assert not box.contains(_on_sphere(box, 30.5, RIGHT))


def test_the_first_wave_makes_the_outline_longer_one_way_and_shorter_the_other() -> None:
    hole = _hole(waves=np.array([[0.2, 0.0]]))  # second harmonic: 36 mm to both sides, 24 mm forwards and backwards

    for towards, edge_mm in ((RIGHT, 36.0), (-RIGHT, 36.0), (FRONT, 24.0), (-FRONT, 24.0)):
        assert hole.contains(_on_sphere(hole, edge_mm - 0.5, towards))
        assert not hole.contains(_on_sphere(hole, edge_mm + 0.5, towards))


def test_a_hole_in_one_side_leaves_the_other_alone() -> None:
    hole = _hole(RIGHT)
    opposite = torch.tensor([-80.0, 0.0, -78.0])

    assert not hole.contains(opposite)


def test_points_may_come_in_any_shape_and_give_the_same_answers() -> None:
    points = 160 * torch.rand(3, 4, 5, 6, generator=torch.Generator().manual_seed(0)) - 100
    hole = draw_cranial_hole(np.random.default_rng(1), "vertex")

    gone = hole.contains(points)

    assert 0 < gone.sum() < gone.numel()
    torch.testing.assert_close(gone.flatten(), hole.contains(points.flatten(1)))


def test_a_slab_takes_everything_in_front_of_it_between_its_ends() -> None:
    slab = FacialSlab(front_mm=40.0, left_mm=-20.0, right_mm=10.0)
    points = torch.tensor([[-5, 41, 5], [-5, 200, -150], [-5, 39, 0], [11, 50, 0], [-21, 50, 0]], dtype=torch.float32)

    assert slab.contains(points.T).tolist() == [True, True, False, False, False]


@pytest.mark.parametrize("site", CRANIAL_SITES)
def test_a_drawn_hole_lies_at_its_site_and_has_its_size(site: str) -> None:
    azimuth, elevation, half_a, half_b = CRANIAL_SITES[site]
    for seed in range(20):
        hole = draw_cranial_hole(np.random.default_rng(seed), site)
        right, anterior, superior = hole.axis
        phi = np.rad2deg(np.arctan2(anterior, abs(right) if site == "hemicraniectomy" else right))

        assert np.linalg.norm(hole.axis) == pytest.approx(1.0)
        assert elevation[0] <= np.rad2deg(np.arcsin(superior)) <= elevation[1]
        assert (phi - azimuth[0]) % 360 <= azimuth[1] - azimuth[0]
        assert half_a[0] <= hole.half_axes_mm[0] <= half_a[1]
        assert half_b[0] <= hole.half_axes_mm[1] <= half_b[1]


@pytest.mark.parametrize(("site", "sign"), [("temporal_right", 1), ("temporal_left", -1), ("frontal_left", -1)])
def test_right_sites_are_on_the_patients_right_which_is_positive_x(site: str, sign: int) -> None:
    drawn = [draw_cranial_hole(np.random.default_rng(seed), site).axis[0] for seed in range(10)]

    assert all(sign * x > 0 for x in drawn)


def test_half_of_the_hemicraniectomies_are_on_either_side() -> None:
    generator = np.random.default_rng(0)
    right = np.mean([draw_cranial_hole(generator, "hemicraniectomy").axis[0] > 0 for _ in range(400)])

    assert 0.42 < right < 0.58


def test_without_a_site_every_site_is_drawn() -> None:
    generator = np.random.default_rng(0)
    drawn = np.array([draw_cranial_hole(generator).axis for _ in range(300)])

    for name, (azimuth, elevation, _, _) in CRANIAL_SITES.items():
        phi, theta = np.deg2rad(np.mean(azimuth)), np.deg2rad(np.mean(elevation))
        middle = [np.cos(theta) * np.cos(phi), np.cos(theta) * np.sin(phi), np.sin(theta)]
        assert (drawn @ middle).max() > np.cos(np.deg2rad(15)), name


def test_the_same_seed_draws_the_same_hole_and_another_seed_another() -> None:
    first, again, other = (draw_cranial_hole(np.random.default_rng(seed)) for seed in (5, 5, 6))

    np.testing.assert_array_equal(first.waves, again.waves)
    np.testing.assert_array_equal(first.axis, again.axis)
    assert not np.allclose(first.axis, other.axis)


def test_every_drawn_hole_takes_away_a_believable_piece_of_the_vault() -> None:
    generator = np.random.default_rng(0)
    count, golden = 4000, np.pi * (1 + 5**0.5)
    z = 1 - (2 * np.arange(count) + 1) / count
    around = golden * np.arange(count)
    sphere = np.stack([np.sqrt(1 - z**2) * np.cos(around), np.sqrt(1 - z**2) * np.sin(around), z])
    points = torch.tensor(80 * sphere + [[0.0], [0.0], [-78.0]], dtype=torch.float32)
    cm2_each = 4 * np.pi * 8.0**2 / count

    for site in CRANIAL_SITES:
        for _ in range(20):
            hole = draw_cranial_hole(generator, site)
            cm2 = float(hole.contains(points).sum()) * cm2_each
            half_a, half_b = np.array(hole.half_axes_mm) / 10
            assert 0.6 * np.pi * half_a * half_b < cm2 < 1.6 * 4 * half_a * half_b


def test_a_drawn_slab_lies_within_the_skull_and_has_the_papers_depth() -> None:
    generator = np.random.default_rng(0)
    slabs = [draw_facial_slab(generator, front_mm=95.0, right_mm=70.0, left_mm=-66.0) for _ in range(300)]
    widths = np.array([slab.right_mm - slab.left_mm for slab in slabs])

    assert all(95.0 - 48.0 <= slab.front_mm <= 95.0 - 40.0 for slab in slabs)
    assert all(slab.left_mm >= -66.0 and slab.right_mm <= 70.0 + 1e-9 for slab in slabs)
    assert widths.min() >= 0.3 * 136.0
    assert widths.max() <= 136.0 + 1e-9
    assert np.ptp(widths) > 0.6 * 136.0


def test_a_slab_over_the_full_width_takes_both_sides() -> None:
    slab = draw_facial_slab(np.random.default_rng(0), 95.0, 70.0, -66.0, share=(1.0, 1.0))

    assert (slab.left_mm, slab.right_mm) == (-66.0, pytest.approx(70.0))
