"""When a case is marked for review: what the report's rules make of a designed implant."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from bundle.skull_implant.design.hole_cover import HoleCover
from bundle.skull_implant.input.reading import Case
from bundle.skull_implant.steps.report import ReviewRules, describe
from bundle.skull_implant.surfaces.print_settings import PrintSettings
from bundle.skull_implant.volume import Grid, Volume
from tests.made_up_skulls import pose

GRID = Grid((20, 20, 20), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0), tuple(np.eye(3).ravel()))


def _report(filled: bool = True, **found: float | HoleCover | Case) -> dict[str, Any]:
    """Of a cranial case without any fault but what is given."""
    skull, implant = np.zeros(GRID.size, bool), np.zeros(GRID.size, bool)
    skull[:10], implant[10:15] = True, filled
    data: dict[str, Any] = {
        "case": Case("head", Volume(skull, GRID), True, {"name": "head"}),
        "skull": Volume(skull, GRID),
        "implant": Volume(implant, GRID),
        "frame": pose(),
        "class_probability": [0.1, 0.9, 0.0],
        "defect_class": "cranial",
        "agreement": 0.9,
        "expected_dsc": 0.93,
    }
    return describe(data | found, {}, PrintSettings(), {}, ReviewRules())


def test_a_case_without_fault_is_ok() -> None:
    report = _report(expected_dsc=0.93, hole_cover=HoleCover(1.0, 3.04))

    assert (report["status"], report["reasons"]) == ("ok", [])
    assert report["implant"]["hole_cover"] == 1.0
    assert report["implant"]["left_open_mm2"] == 3.0


def test_an_implant_in_a_part_of_its_hole_is_for_review() -> None:
    report = _report(expected_dsc=0.93, hole_cover=HoleCover(0.09, 0.0))

    assert report["status"] == "review"
    assert report["reasons"] == ["the implant closes 9% of its hole, less than 90%"]


def test_a_part_of_the_vault_without_bone_and_implant_is_for_review() -> None:
    assert _report(hole_cover=HoleCover(1.0, 131.4))["reasons"] == [
        "131 mm2 of the vault have neither bone nor implant, more than 60; see whether that is a further hole"
    ]


def test_an_implant_of_which_nothing_is_expected_is_for_review() -> None:
    assert _report(expected_dsc=float("nan"))["reasons"] == [
        "how good the implant is cannot be told: the weights have no hole network, or the fit to the rim is off"
    ]
    assert not any("cannot be told" in reason for reason in _report(filled=False, expected_dsc=np.nan)["reasons"])


def test_a_doubtful_orientation_is_for_review() -> None:
    source = {"name": "head.nii", "orientation": "no orientation in the header"}
    case = Case("head", Volume(np.zeros(GRID.size, bool), GRID), True, source)

    assert _report(case=case)["reasons"] == ["no orientation in the header; see that left is left in the preview"]


def test_a_share_of_no_hole_is_not_told() -> None:
    assert "hole_cover" not in _report(hole_cover=HoleCover(float("nan"), 0.0))["implant"]


def test_a_hole_that_the_bone_says_little_about_is_for_review() -> None:
    assert _report(expected_dsc=0.7)["reasons"] == [
        "the implant is expected to overlap the missing bone by DSC 0.70, less than 0.85"
    ]


@pytest.mark.parametrize("expected_dsc", [0.7, 0.95])
def test_of_an_empty_implant_nothing_else_is_told(expected_dsc: float) -> None:
    (reason,) = _report(filled=False, expected_dsc=expected_dsc)["reasons"]

    assert "no hole found" in reason
