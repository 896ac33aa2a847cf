"""What is measured of the tables on bone, and how it is carried into a hole."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import numpy as np
import pytest

from bundle.skull_implant.fit.table_errors import TableErrors
from bundle.skull_implant.fit.table_kriging import TableKriging
from bundle.skull_implant.frame.vault_rays import VaultRays

RAYS = VaultRays()


def _away_deg(polar_deg: float, azimuth: tuple[float, float] = (0.0, 1.0)) -> np.ndarray:
    """Angle (N, N) of every ray from one."""
    sine, cosine = np.sin(np.deg2rad(polar_deg)), np.cos(np.deg2rad(polar_deg))
    middle = np.array([sine * azimuth[0], sine * azimuth[1], cosine])
    return np.asarray(np.rad2deg(np.arccos(np.clip(RAYS.plane.directions() @ middle, -1.0, 1.0))))


class _OneMillimeter:
    """A regression that carries 1 mm into every hole."""

    def between(self, *given: object) -> Callable[[np.ndarray], np.ndarray]:
        hole = cast(np.ndarray, given[2])
        return lambda errors: np.ones((2, int(hole.sum())))


@pytest.mark.parametrize(("vault", "carried_mm"), [(1.0, 1.0), (0.25, 0.25), (0.0, 0.0)])
def test_the_regression_fills_holes_of_the_vault_and_the_thin_plate_those_of_the_brow(
    vault: float, carried_mm: float
) -> None:
    carrying = TableErrors(kriging=cast(TableKriging, _OneMillimeter()), mirror_share=0.0)
    hole = _away_deg(45.0) < 8.0
    real = np.where(hole, np.nan, 0.0) * np.ones((2, 1, 1))

    errors, measured = carrying.carried(np.zeros_like(real), real, hole, np.full(hole.shape, vault), RAYS)

    np.testing.assert_allclose(errors[:, hole], carried_mm, atol=1e-6)
    np.testing.assert_allclose(errors[:, measured], 0.0, atol=1e-6)


def test_what_is_too_far_from_the_expected_table_or_at_a_rim_is_not_measured() -> None:
    far, hole = _away_deg(40.0) < 8.0, _away_deg(60.0, (1.0, 0.0)) < 8.0
    real = np.where(hole, np.nan, np.where(far, 6.0, 1.0)) * np.ones((2, 1, 1))

    errors, measured = TableErrors(mirror_share=0.0).carried(
        np.zeros_like(real), real, hole, np.zeros(hole.shape), RAYS
    )

    assert not measured[far | hole].any()
    assert not measured[_away_deg(60.0, (1.0, 0.0)) < 9.0].any()
    assert measured[_away_deg(60.0, (-1.0, 0.0)) < 8.0].all()
    np.testing.assert_allclose(errors[:, far | hole], 1.0, atol=1e-3)  # as around them


@pytest.mark.parametrize(("right_deg", "share"), [(45.0, 0.7), (0.0, 0.0)], ids=["one side", "across the midline"])
def test_the_other_side_has_a_share_where_it_has_bone(right_deg: float, share: float) -> None:
    away = _away_deg(right_deg, (1.0, 0.0))
    bone = (away > 25.0) & (RAYS.polar_deg < RAYS.lowest_deg)
    tables = np.where(bone, 0.0, np.nan) * np.ones((2, 1, 1))

    found = TableErrors()._share_of_other_side(bone, tables, RAYS)

    np.testing.assert_allclose(found[away < 15.0], share, atol=0.01)
    np.testing.assert_array_equal(found[bone], 0.0)
