"""Tables measured along rays are those of the vault that the voxels were made from."""

from __future__ import annotations

import numpy as np
import pytest

from bundle.skull_implant.frame.canonical_grid import CanonicalBox
from bundle.skull_implant.frame.vault_rays import VaultRays
from tests.made_up_skulls import ball, egg_template, pose, shell

EGG = egg_template()
BOX = CanonicalBox((88, 112, 80))
RAYS = VaultRays(step_deg=6.0)
HEAD = pose(scales=(1.0, 1.02, 0.98))


def _profile(wall_mm: float, grown_mm: float = 0.0) -> np.ndarray:
    wall = shell(BOX.coordinates().numpy(), HEAD, EGG, wall_mm=wall_mm, grown_mm=grown_mm).astype(np.float32)
    return RAYS.sample(wall, BOX, HEAD.scales, EGG)


def test_the_outer_table_lies_on_the_fitted_vault_and_the_inner_one_below_it() -> None:
    outer, inner = RAYS.tables(_profile(wall_mm=8.0))

    upper = RAYS.polar_deg < 90.0
    assert np.abs(outer[upper]).mean() < 0.5
    assert np.abs(inner[upper] + 8.0).mean() < 0.5


def test_a_vault_that_is_larger_has_higher_tables() -> None:
    outer, inner = RAYS.tables(_profile(wall_mm=6.0, grown_mm=2.0))

    upper = RAYS.polar_deg < 90.0
    assert np.abs(outer[upper] - 2.0).mean() < 0.5
    assert np.abs(inner[upper] + 8.0).mean() < 0.5


def test_a_ray_that_meets_no_bone_has_no_tables() -> None:
    wall = shell(BOX.coordinates().numpy(), HEAD, EGG, wall_mm=8.0)
    vertex_open = wall & ~ball(BOX.coordinates().numpy(), (0.0, 0.0, -4.0), 30.0)

    tables = RAYS.tables(RAYS.sample(vertex_open.astype(np.float32), BOX, HEAD.scales, EGG))

    assert np.isnan(tables[:, RAYS.polar_deg < 12.0]).all()
    assert np.isfinite(tables[:, (RAYS.polar_deg > 40.0) & (RAYS.polar_deg < 90.0)]).all()


@pytest.mark.parametrize(("film_mm", "gap_mm", "outer_mm"), [(1.0, 3.0, 0.0), (3.0, 3.0, 6.0), (1.0, 0.0, 1.0)])
def test_a_film_outside_of_the_bone_is_no_outer_table(film_mm: float, gap_mm: float, outer_mm: float) -> None:
    rays = VaultRays(6.0)
    height = rays.heights_mm
    film = (height > gap_mm) & (height <= gap_mm + film_mm)
    profile = ((height > -6.0) & (height <= 0.0)) | film

    outer, inner = rays.tables(np.tile(profile.astype(np.float32), (np.prod(rays.shape), 1)))

    np.testing.assert_allclose(outer, outer_mm, atol=rays.step_mm)
    np.testing.assert_allclose(inner, gap_mm if film_mm > 2.0 else -6.0, atol=rays.step_mm)
