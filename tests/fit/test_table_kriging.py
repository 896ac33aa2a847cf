"""What is measured of the tables on bone, carried into a hole by Gaussian process regression."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from bundle.skull_implant.fit.table_kriging import VAULT_RADIUS_MM, TableKriging
from bundle.skull_implant.frame.vault_rays import VaultRays

RAYS = VaultRays(6.0)
DIRECTIONS = RAYS.plane.directions()
MEASURED = RAYS.polar_deg < 80.0
HOLE = np.degrees(np.arccos(np.clip(DIRECTIONS @ np.array([0.6, 0.0, 0.8]), -1.0, 1.0))) < 20.0
KNOWN = MEASURED & ~HOLE
EVERYWHERE = TableKriging(near_deg=180.0, robust_mm=1e6)


def _waves() -> np.ndarray:
    """Errors (2, N, N) mm that bend as much as a vault's do."""
    outer = 0.5 + DIRECTIONS[..., 0] + 0.4 * np.sin(4 * DIRECTIONS[..., 1])
    return np.stack([outer, 0.7 * outer + 0.3 * DIRECTIONS[..., 1]])


def test_it_is_the_expectation_given_the_measurements() -> None:
    rays = VaultRays(20.0)
    directions = rays.plane.directions().reshape(-1, 3)
    hole = np.zeros(rays.shape, bool)
    hole[4, 5] = hole[5, 5] = True
    known = (rays.polar_deg < 90.0) & ~hole
    errors = np.random.default_rng(0).normal(size=(2, *rays.shape))

    found = EVERYWHERE.between(errors, known, hole, rays)(errors)

    # Every pair of entries for itself, then the joint normal distribution's conditional mean.
    entries = [(table, ray) for chosen in (known, hole) for table in (0, 1) for ray in np.flatnonzero(chosen)]
    covariance = np.zeros((len(entries), len(entries)))
    for row, (table, ray) in enumerate(entries):
        for column, (other_table, other) in enumerate(entries):
            mm = VAULT_RADIUS_MM * np.arccos(min(1.0, directions[ray] @ directions[other]))
            matern = (1 + np.sqrt(3) * mm / 60.0) * np.exp(-np.sqrt(3) * mm / 60.0)
            covariance[row, column] = 4.0 * (1.0 if table == other_table else 0.8) * matern
    count = 2 * known.sum()
    noise = np.diag([(0.3, 0.5)[table] ** 2 for table, _ in entries[:count]])
    values = np.array([errors[table].ravel()[ray] for table, ray in entries[:count]])
    expected = covariance[count:, :count] @ np.linalg.solve(covariance[:count, :count] + noise, values)
    np.testing.assert_allclose(found.ravel(), expected, atol=1e-5)


def test_a_smooth_error_goes_on_into_the_hole() -> None:
    errors = _waves()

    carried = TableKriging().between(errors, KNOWN, HOLE, RAYS)(errors)

    off = np.abs(carried - errors[:, HOLE])
    print(f"off by {off.mean():.3f} mm, at most {off.max():.3f}, of {np.abs(errors[:, HOLE]).mean():.3f}")
    assert off.mean() < 0.1
    assert off.max() < 0.3


def test_what_lies_far_from_the_others_hardly_counts() -> None:
    errors = _waves()
    wrong = errors.copy()
    wrong[:, np.roll(HOLE, 2, axis=1) & KNOWN & (np.arange(len(HOLE)) % 4 == 0)[:, None]] -= 4.0
    assert (wrong != errors).any()

    moved = [
        np.abs(kriging.between(wrong, KNOWN, HOLE, RAYS)(wrong) - kriging.between(errors, KNOWN, HOLE, RAYS)(errors))
        for kriging in (TableKriging(), replace(TableKriging(), robust_mm=1e6))
    ]

    print(f"moved by {moved[0].mean():.3f} mm, {moved[1].mean():.3f} when all count alike")
    assert moved[0].mean() < 0.5 * moved[1].mean()


def test_what_is_not_trusted_counts_for_nothing() -> None:
    errors, trust = _waves(), np.ones((2, *RAYS.shape))
    some = np.zeros_like(HOLE)
    some[::2] = True
    wrong = np.where(some, errors + 3.0, errors)
    trust[:, some] = 0.0

    trusted, without = (
        EVERYWHERE.between(each, known, HOLE, RAYS, weights)(each)
        for each, known, weights in ((wrong, KNOWN, trust), (errors, KNOWN & ~some, None))
    )

    np.testing.assert_allclose(trusted, without, atol=0.05)


def test_what_is_far_away_counts_by_every_other_ray() -> None:
    errors = _waves()
    few = TableKriging(near_deg=12.0, far_deg=40.0).between(errors, KNOWN, HOLE, RAYS)
    all_of_them = TableKriging(near_deg=40.0).between(errors, KNOWN, HOLE, RAYS)

    assert len(few.known) < 0.6 * len(all_of_them.known)
    assert set(few.known) < set(all_of_them.known)
    np.testing.assert_allclose(few(errors), all_of_them(errors), atol=0.1)


def test_far_from_all_measurements_no_error_is_expected() -> None:
    errors = np.ones((2, *RAYS.shape))
    known = RAYS.polar_deg > 100.0
    top = RAYS.polar_deg < 20.0

    assert not TableKriging().between(errors, known, top, RAYS)(errors).any()
    assert 0.1 < EVERYWHERE.between(errors, known, top, RAYS)(errors).mean() < 0.9


@pytest.mark.parametrize("axis", [1, 2])
def test_a_mirrored_head_gives_the_mirrored_answer(axis: int) -> None:
    errors = _waves()
    answer, mirrored = np.zeros_like(errors), np.zeros_like(errors)
    answer[:, HOLE] = TableKriging().between(errors, KNOWN, HOLE, RAYS)(errors)

    flipped, known, hole = (np.flip(each, axis - 3) for each in (errors, KNOWN, HOLE))
    mirrored[:, hole] = TableKriging().between(flipped, known, hole, RAYS)(flipped)

    np.testing.assert_allclose(np.flip(mirrored, axis), answer, atol=1e-6)
