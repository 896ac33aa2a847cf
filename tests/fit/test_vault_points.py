"""Voxels near the vault and their rays."""

from __future__ import annotations

import numpy as np

from bundle.skull_implant.fit.vault_points import VaultPoints
from bundle.skull_implant.frame.canonical_grid import CanonicalBox
from bundle.skull_implant.frame.vault_rays import VaultRays, vault_center
from tests.made_up_skulls import egg_template

BOX = CanonicalBox((44, 56, 40))
RAYS = VaultRays(step_deg=3.0, inside_mm=12.0, outside_mm=8.0)
EGG = egg_template()
SCALES = np.array([1.0, 1.1, 0.9])


def test_points_are_the_voxels_that_the_rays_heights_reach() -> None:
    points = VaultPoints.of(BOX, RAYS, SCALES, EGG)

    places = BOX.coordinates().numpy().reshape(3, -1).T[points.voxels]
    np.testing.assert_allclose(points.offsets + vault_center(SCALES, EGG), places, atol=1e-4)
    np.testing.assert_allclose(np.linalg.norm(points.directions, axis=1), 1.0)
    assert points.heights_mm.min() > -12.0
    assert points.heights_mm.max() < 8.0
    assert points.polar_deg.max() < RAYS.lowest_deg
    assert 1000 < len(points.voxels) < np.prod(BOX.spatial_size) / 2


def test_a_map_is_read_where_its_rays_pass() -> None:
    points = VaultPoints.of(BOX, RAYS, SCALES, EGG)

    forward = points.at(RAYS.plane.directions()[..., 1])

    np.testing.assert_allclose(forward, points.directions[:, 1], atol=0.01)


def test_wanted_rays_are_those_whose_voxels_are_kept() -> None:
    right = RAYS.plane.directions()[..., 0] > 0.3

    points = VaultPoints.of(BOX, RAYS, SCALES, EGG, reached=right)

    assert len(points.voxels) > 100
    assert points.directions[:, 0].min() > 0.25
    some = points.only(np.array([3, 5]))
    np.testing.assert_array_equal(some.voxels, points.voxels[[3, 5]])
    np.testing.assert_array_equal(some.index, points.index[:, [3, 5]])


def test_values_move_outwards() -> None:
    points = VaultPoints.of(BOX, RAYS, SCALES, EGG)
    distance = np.linalg.norm(
        BOX.coordinates().numpy() - vault_center(SCALES, EGG)[:, None, None, None], axis=0
    ).astype(np.float32)

    moved = points.moved(distance, BOX, np.full(len(points.voxels), 2.0))

    inside = np.isin(points.voxels, np.flatnonzero(np.pad(np.ones((36, 48, 32), bool), 4)))  # away from the box's faces
    expected = np.linalg.norm(points.offsets, axis=1) - 2.0
    np.testing.assert_allclose(moved[inside], expected[inside], atol=0.3)
