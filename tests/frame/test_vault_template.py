"""The mean vault is a map of directions that says the right radius, and is the middle of the skulls it is made of."""

from __future__ import annotations

import numpy as np
import pytest

from bundle.skull_implant.frame.vault_template import VaultTemplate, average_template
from tests.made_up_skulls import egg_template


def test_the_middle_of_the_map_is_the_vertex() -> None:
    template = VaultTemplate.ellipsoid((70.0, 90.0, 80.0))

    np.testing.assert_allclose(template.directions()[34, 34], [0.0, 0.0, 1.0])
    assert template.vertex_mm == pytest.approx(80.0)


def test_the_first_axis_of_the_map_runs_right_and_the_second_anterior() -> None:
    directions = VaultTemplate.ellipsoid().directions()

    ten_cells = np.deg2rad(40.0)
    np.testing.assert_allclose(directions[44, 34], [np.sin(ten_cells), 0.0, np.cos(ten_cells)], atol=1e-12)
    np.testing.assert_allclose(directions[34, 24], [0.0, -np.sin(ten_cells), np.cos(ten_cells)], atol=1e-12)


def test_every_direction_of_the_map_is_a_unit_vector() -> None:
    directions = VaultTemplate(np.ones((9, 9)), step_deg=20.0).directions()

    np.testing.assert_allclose(np.linalg.norm(directions, axis=-1), 1.0)


def test_an_ellipsoid_has_its_semi_axes_as_radii() -> None:
    points = np.array([[5.0, 0.0, 0.0], [-5.0, 0.0, 0.0], [0.0, 5.0, 0.0], [0.0, -5.0, 0.0], [0.0, 0.0, 5.0]])
    radius, theta = VaultTemplate.ellipsoid((70.0, 90.0, 80.0)).radius(points)

    np.testing.assert_allclose(radius, [70.0, 70.0, 90.0, 90.0, 80.0], atol=0.15)  # between two cells of 4 degrees
    np.testing.assert_allclose(theta, [90.0, 90.0, 90.0, 90.0, 0.0])


def test_a_point_is_found_in_the_cell_of_its_direction() -> None:
    template = VaultTemplate.ellipsoid()
    rows, columns = np.mgrid[4:65:5, 4:65:5].reshape(2, -1)
    points = 123.0 * template.directions()[rows, columns]
    points = points[reached := np.hypot(rows - 34, columns - 34) * 4.0 < 179.0]

    index, theta = template.plane_index(points)

    np.testing.assert_allclose(index, np.stack([rows, columns])[:, reached], atol=1e-9)
    np.testing.assert_allclose(theta, 4.0 * np.hypot(rows - 34, columns - 34)[reached], atol=1e-9)


def test_the_radius_depends_on_the_direction_alone() -> None:
    points = np.random.default_rng(0).normal(size=(50, 3))
    near, _ = egg_template().radius(points)
    far, _ = egg_template().radius(250.0 * points)

    np.testing.assert_allclose(near, far)


def test_below_the_map_the_nearest_radius_holds() -> None:
    small = VaultTemplate(np.full((5, 5), 60.0), step_deg=4.0)
    radius, theta = small.radius(np.array([[1.0, 0.0, -3.0]]))

    np.testing.assert_allclose(radius, 60.0)
    assert theta[0] == pytest.approx(180.0 - np.rad2deg(np.arctan2(1.0, 3.0)))


def _outline(template: VaultTemplate, stretch: float = 1.0) -> np.ndarray:
    """A point in every cell of the map, on the template's surface."""
    upper = np.hypot(*np.mgrid[-34:35, -34:35]) * template.step_deg < 130.0
    return (stretch * template.radii_mm[..., None] * template.directions())[upper]


def test_the_average_of_one_shape_is_that_shape() -> None:
    egg = egg_template()
    average = average_template([_outline(egg)] * 3, VaultTemplate.ellipsoid())

    vault = np.hypot(*np.mgrid[-34:35, -34:35]) * 4.0 < 120.0
    np.testing.assert_allclose(average.radii_mm[vault], egg.radii_mm[vault], atol=0.7)  # it is smoothed by one cell


def test_one_odd_skull_among_five_does_not_move_the_average() -> None:
    shapes = [_outline(egg_template())] * 4
    usual = average_template(shapes, VaultTemplate.ellipsoid())
    with_odd = average_template([*shapes, _outline(egg_template(), stretch=1.5)], VaultTemplate.ellipsoid())

    np.testing.assert_allclose(with_odd.radii_mm, usual.radii_mm)


def test_the_average_of_lopsided_skulls_is_symmetric() -> None:
    egg = egg_template()
    right = egg.directions()[..., 0]
    lopsided = VaultTemplate(egg.radii_mm * (1.0 + 0.1 * right))
    average = average_template([_outline(lopsided)] * 3, VaultTemplate.ellipsoid())

    np.testing.assert_allclose(average.radii_mm, average.radii_mm[::-1])
    assert average.radii_mm[34 + 20, 34] == pytest.approx(egg.radii_mm[34 + 20, 34], abs=1.0)


def test_directions_that_no_skull_reaches_take_the_nearest_radius() -> None:
    outline = _outline(VaultTemplate(np.full((69, 69), 75.0)))
    average = average_template([outline[outline[:, 2] > 0]] * 2, VaultTemplate.ellipsoid())

    np.testing.assert_allclose(average.radii_mm, 75.0)
