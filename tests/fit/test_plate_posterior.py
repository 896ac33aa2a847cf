"""What the bone leaves open: nothing beside the hole, most in its middle, as large as theory says."""

from __future__ import annotations

import copy

import numpy as np
import pytest

from bundle.skull_implant.fit.plate_posterior import Plate, PlatePosterior
from bundle.skull_implant.fit.thin_plate import ThinPlate
from bundle.skull_implant.frame.canonical_grid import CanonicalBox
from bundle.skull_implant.frame.vault_rays import VaultRays
from tests.made_up_skulls import ball, pose, shell, sphere_template

HOLE = np.zeros((15, 17), bool)
HOLE[4:11, 3:12] = True
HOLE[4, 3:6] = False
HOLE = HOLE[:, :15]
PLATE = HOLE.copy()
PLATE[10] = False
POSTERIOR = PlatePosterior(HOLE, PLATE, ThinPlate(stiffness=1.3, tension=0.2), deviation_mm=0.8, correlation=0.3)


def _dense_covariance() -> np.ndarray:
    """Of one table's rays in the hole: the inverse of the energy's second derivatives, ray by ray."""
    energy = np.zeros((HOLE.size, HOLE.size))
    cells = np.arange(HOLE.size).reshape(HOLE.shape)
    for first, second in ((cells[1:], cells[:-1]), (cells[:, 1:], cells[:, :-1])):
        for a, b in zip(first.ravel(), second.ravel(), strict=True):
            energy[[a, b], [a, b]] += 1.0
            energy[[a, b], [b, a]] -= 1.0
    precision = 0.2 * energy + 1.3 * energy @ energy
    inside = HOLE.ravel()
    return np.asarray(0.8**2 * np.linalg.inv(precision[np.ix_(inside, inside)]))


def test_samples_have_the_covariance_of_the_rim_fits_prior_given_no_change_at_the_bone() -> None:
    random = np.random.default_rng(0)
    drawn = np.stack([POSTERIOR.sample(random)[:, HOLE] for _ in range(4000)])
    expected = _dense_covariance()

    assert drawn.shape == (4000, 2, HOLE.sum())
    for table in (0, 1):
        found = np.cov(drawn[:, table].T)
        np.testing.assert_allclose(found, expected, atol=0.1 * expected.max())
    both = np.mean(drawn[:, 0] * drawn[:, 1], axis=0)
    np.testing.assert_allclose(both, 0.3 * np.diag(expected), atol=0.1 * expected.max())


@pytest.mark.parametrize(
    ("which", "thickness", "bulge"), [("thicker", 1, 0), ("thinner", -1, 0), ("rounder", 0, 1), ("flatter", 0, -1)]
)
def test_a_limit_moves_one_mean_by_so_many_standard_deviations_and_not_the_other(
    which: str, thickness: int, bulge: int
) -> None:
    outer, inner = POSTERIOR.limit(which, 2.0)[:, PLATE]
    covered = PLATE[HOLE]
    each = np.sqrt(_dense_covariance()[np.ix_(covered, covered)].mean())  # of the mean of one table

    # Of two means that correlate by 0.3.
    assert np.mean(outer - inner) == pytest.approx(thickness * 2.0 * np.sqrt(2.0 * (1 - 0.3)) * each)
    assert np.mean(outer + inner) / 2 == pytest.approx(bulge * 2.0 * np.sqrt((1 + 0.3) / 2.0) * each)


def test_nothing_changes_where_there_is_bone_and_most_in_the_middle() -> None:
    thicker, sample = POSTERIOR.limit("thicker", 1.0), POSTERIOR.sample(np.random.default_rng(1))

    for change in (thicker, sample):
        assert not change[:, ~HOLE].any()
    assert np.unravel_index(thicker[0].argmax(), HOLE.shape) == (7, 7)


def test_the_same_seed_gives_the_same_sample() -> None:
    first, second, other = (POSTERIOR.sample(np.random.default_rng(seed)) for seed in (3, 3, 4))

    np.testing.assert_array_equal(first, second)
    assert not np.array_equal(first, other)


# A plate of 7 mm in a sphere of 80 mm

SPHERE = sphere_template(80.0)
BOX = CanonicalBox((88, 112, 80))
HEAD = pose()
VERTEX_HOLE = ball(BOX.coordinates().numpy(), (0.0, 10.0, 0.0), 30.0)
RAYS = VaultRays()


@pytest.fixture(scope="module")
def plate() -> Plate:
    points = BOX.coordinates().numpy()
    wall = shell(points, HEAD, SPHERE).astype(np.float32)
    core = (wall > 0) & ball(points, (0.0, 10.0, 0.0), 26.0)
    return Plate(wall, np.where(VERTEX_HOLE, 0.0, wall).astype(np.float32), [core], HEAD, BOX, SPHERE)


def _tables(probability: np.ndarray) -> np.ndarray:
    return RAYS.tables(RAYS.sample(probability, BOX, HEAD.scales, SPHERE))


def test_the_hole_is_where_rays_meet_no_bone(plate: Plate) -> None:
    open_mm = np.rad2deg(30.0 / 80.0)  # the hole's radius as an angle, around a point 10 mm off the vertex
    assert np.sqrt(plate.hole.sum() / np.pi) * RAYS.step_deg == pytest.approx(open_mm, rel=0.1)
    assert not (plate.covered & ~plate.hole).any()
    assert plate.covered.sum() > 0.95 * plate.hole.sum()


def test_tables_move_by_the_change_and_nothing_else_does(plate: Plate) -> None:
    change = np.stack([np.where(plate.hole, 1.5, 0.0), np.where(plate.hole, -1.0, 0.0)])
    inside = np.hypot(*(np.indices(RAYS.shape) - np.reshape([RAYS.shape[0] // 2, RAYS.shape[1] // 2 + 5], (2, 1, 1))))

    moved = plate.changed(change)

    shift = (_tables(moved) - _tables(plate.probability))[:, inside < 8]
    np.testing.assert_allclose(shift[0], 1.5, atol=0.4)
    np.testing.assert_allclose(shift[1], -1.0, atol=0.4)
    far = ~ball(BOX.coordinates().numpy(), (0.0, 10.0, 0.0), 42.0)
    np.testing.assert_array_equal(moved[far], plate.probability[far])


def test_no_change_changes_nothing(plate: Plate) -> None:
    np.testing.assert_allclose(plate.changed(np.zeros((2, *RAYS.shape))), plate.probability, atol=1e-5)


def test_a_plate_is_never_made_thinner_than_its_least_thickness(plate: Plate) -> None:
    change = np.stack([np.where(plate.hole, -1.5, 0.0), np.where(plate.hole, 1.5, 0.0)])
    middle = (slice(None), RAYS.shape[0] // 2, RAYS.shape[1] // 2 + 5)
    thick = copy.copy(plate)
    thick.minimum_mm = 6.0

    before, thinned, kept = (
        np.subtract(*_tables(each)[middle])
        for each in (plate.probability, plate.changed(change), thick.changed(change))
    )

    assert thinned == pytest.approx(before - 3.0, abs=0.6)
    assert kept == pytest.approx(before - 1.0, abs=0.6)  # the plate has 7 mm


def test_without_a_hole_nothing_can_change() -> None:
    wall = shell(BOX.coordinates().numpy(), HEAD, SPHERE).astype(np.float32)

    whole = Plate(wall, wall, [], HEAD, BOX, SPHERE)

    assert not whole.hole.any()
    np.testing.assert_array_equal(whole.changed(np.ones((2, *RAYS.shape))), wall)
