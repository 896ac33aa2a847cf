"""A thin plate through measurements on a map: smooth, close to them, and the precision that belongs to it."""

from __future__ import annotations

import numpy as np

from bundle.skull_implant.fit.thin_plate import ThinPlate, slopes_of, solver_of


def test_a_slope_goes_on_over_a_hole_where_only_curvature_costs() -> None:
    row, column = np.mgrid[:15, :15].astype(float)
    slope = 0.3 * row - 0.2 * column
    weights = np.ones((2, 15, 15))
    weights[:, 5:9, 6:10] = 0.0

    smooth = ThinPlate(tension=0.0).smooth(np.where(weights > 0, slope, 99.0), weights)

    np.testing.assert_allclose(smooth[:, 6:8, 7:9], np.stack([slope, slope])[:, 6:8, 7:9], atol=0.05)


def test_tables_with_other_weights_are_carried_on_apart() -> None:
    tables = np.stack([np.zeros((9, 9)), np.ones((9, 9))])
    weights = np.ones((2, 9, 9))
    weights[1, :4] = 0.0

    together = ThinPlate().smooth(tables, weights)

    alone = [ThinPlate().smooth(tables[i : i + 1], weights[i : i + 1])[0] for i in (0, 1)]
    np.testing.assert_allclose(together, alone, atol=1e-9)


def test_the_root_of_the_precision_has_the_cost_of_slope_and_curvature() -> None:
    plate = ThinPlate(stiffness=1.3, tension=0.2)
    change = np.random.default_rng(0).standard_normal(49)
    slope = slopes_of(7) @ change

    cost = np.square(plate.root_of_precision(7) @ change).sum()

    curvature = slopes_of(7).T @ slope
    np.testing.assert_allclose(cost, 0.2 * (slope @ slope) + 1.3 * (curvature @ curvature))


def test_differences_are_those_of_neighbors() -> None:
    values = np.array([[0.0, 1.0, 3.0], [10.0, 20.0, 40.0], [0.0, 0.0, 0.0]])

    found = slopes_of(3) @ values.ravel()

    expected = np.concatenate([np.diff(values, axis=0).ravel(), np.diff(values, axis=1).ravel()])
    np.testing.assert_allclose(sorted(found), sorted(expected))


def test_a_system_is_solved() -> None:
    slopes = slopes_of(4)
    system = (slopes.T @ slopes).tocsc()
    system.setdiag(system.diagonal() + 1.0)
    wanted = np.arange(16.0)

    np.testing.assert_allclose(solver_of(system)(system @ wanted), wanted)
