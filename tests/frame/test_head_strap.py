"""A strap around the head that reaches the mask is noticed; a head without one, holes and bulges are not."""

from __future__ import annotations

from functools import cache
from types import SimpleNamespace

import numpy as np
import pytest
from scipy import ndimage

from bundle.skull_implant.frame.canonical_frame import estimate_frame
from bundle.skull_implant.frame.fitness import FitnessRules
from bundle.skull_implant.frame.head_strap import strap_ml
from bundle.skull_implant.frame.vault_template import VaultTemplate
from bundle.skull_implant.input.reading import Case
from bundle.skull_implant.model.network import SkullCompleter
from bundle.skull_implant.steps.transforms import CheckVaultd
from bundle.skull_implant.volume import Volume
from tests.end_to_end import ROOT, small_head


@cache
def skull() -> Volume:
    return small_head(0).complete_skull


@cache
def template() -> VaultTemplate:
    """The shipped mean vault; an ellipsoid would let the head tip."""
    if not (ROOT / "models" / "model.pt").is_file():
        pytest.skip("no weights: models/model.pt is not there yet")
    return SkullCompleter.from_file(ROOT / "models" / "model.pt").template


def around(inner_mm: float, outer_mm: float, width_mm: float = 24.0) -> np.ndarray:
    """A band around the head between two distances from the bone, 30 mm below its top."""
    bone = skull().voxels > 0
    outside = ~ndimage.binary_fill_holes(ndimage.binary_closing(np.pad(bone, 12), iterations=10))[
        12:-12, 12:-12, 12:-12
    ]
    away = ndimage.distance_transform_edt(outside, sampling=skull().grid.spacing)
    top = np.flatnonzero(bone.any(axis=(0, 1)))[-1]
    below_mm = (top - np.arange(bone.shape[2])) * skull().grid.spacing[2]
    return (away >= inner_mm) & (away < outer_mm) & (np.abs(below_mm - 30.0) < width_mm / 2) & ~bone


def measured(voxels: np.ndarray) -> float:
    volume = Volume(voxels, skull().grid)
    return strap_ml(volume, estimate_frame(voxels, volume.grid, template()), template())


def test_a_head_without_a_strap_has_next_to_nothing_around_it() -> None:
    assert measured(skull().voxels > 0) < 1.0


@pytest.mark.parametrize(("inner_mm", "outer_mm"), [(5.0, 8.0), (8.0, 12.0)])
def test_a_strap_on_the_scalp_is_measured(inner_mm: float, outer_mm: float) -> None:
    strap = around(inner_mm, outer_mm)
    assert measured((skull().voxels > 0) | strap) == pytest.approx(strap.sum() * skull().grid.voxel_ml, rel=0.35)


def test_neither_a_hole_nor_bone_that_bulges_is_a_strap() -> None:
    bone = skull().voxels > 0
    assert measured(bone & ~(small_head(0).implant.voxels > 0)) < 1.0
    assert (
        measured(bone | ndimage.binary_closing(bone | around(0.0, 8.0), iterations=2)) < FitnessRules().review_strap_ml
    )


def test_a_mask_with_a_strap_is_a_case_for_review() -> None:
    step = CheckVaultd(SimpleNamespace(template=template()))
    for strap in (False, True):
        mask = Volume((skull().voxels > 0) | (around(5.0, 8.0) & strap), skull().grid)
        frame = estimate_frame(mask.voxels, mask.grid, template())
        data = step({"case": Case("head", mask, True, {}), "skull": mask, "frame": frame})
        assert ["ml of what was taken for bone lies around the vault" in each for each in data["remarks"]] == [
            True
        ] * strap
