"""When a case is marked for review: what the report's rules make of a designed implant."""

from __future__ import annotations

from dataclasses import replace
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


PRINTED = {
    "holes": 1,
    "cleared_ml": 0.0,
    "watertight": True,
    "pieces": 1,
    "openings": 0,
    "triangles": 1000,
    "surface_volume_error": 0.0,
    "gap_mm": {"min": 0.0},
    "thinner_than_minimum": 0.0,
}


def _case(source: dict[str, Any]) -> Case:
    return Case("head", Volume(np.zeros(GRID.size, bool), GRID), True, source)


def _report(filled: bool = True, printed: dict[str, Any] | None = None, **found: Any) -> dict[str, Any]:
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
    return describe(data | found, printed or {}, PrintSettings(), {}, ReviewRules())


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


@pytest.mark.parametrize(
    ("name", "fine", "beyond", "reason"),
    [
        ("scales", (0.85, 1.0, 1.2), (0.84, 1.0, 1.0), "the head is 0.84 x 1.00 x 1.00 of the mean one, the model"),
        ("scales", (1.0, 1.0, 1.2), (1.0, 1.0, 1.21), "the head is 1.00 x 1.00 x 1.21 of the mean one, the model"),
        ("residual_mm", 2.2, 2.3, "bone lies 2.3 mm from the mean vault, more than 2.2; see that the scan's"),
        ("tilt_deg", 30.0, 30.1, "head tilted by 30.1 degrees, more than 30"),
        ("coverage", 0.6, 0.59, "bone on 59% of the vault, less than 60%"),
    ],
)
def test_a_head_that_the_model_does_not_know_is_for_review(name: str, fine: Any, beyond: Any, reason: str) -> None:
    known, unknown = (replace(pose(), **{name: np.array(v) if name == "scales" else v}) for v in (fine, beyond))

    assert _report(frame=known)["reasons"] == []
    (found,) = _report(frame=unknown)["reasons"]
    assert found.startswith(reason)


@pytest.mark.parametrize(
    ("fine", "beyond", "reason"),
    [
        ({"agreement": 0.6}, {"agreement": 0.59}, "decoded skull and bone agree by DSC 0.59, less than 0.6"),
        (
            {"class_probability": [0.0, 0.61, 0.39]},
            {"class_probability": [0.5, 0.295, 0.205]},
            "a cranial defect is the likelier class by 0.59 only, less than 0.6",
        ),
        (
            {"below_vault_ml": 0.5},
            {"below_vault_ml": 0.61},
            "the hole goes on towards the skull base, 0.6 ml of it; the implant ends at the vault's end",
        ),
        (
            {"printed": PRINTED},
            {"printed": {**PRINTED, "holes": 2, "pieces": 2}},
            "2 holes found, each with a piece of its own; see that all are holes",
        ),
        ({"printed": PRINTED}, {"printed": {**PRINTED, "openings": 1}}, "the implant leaves 1 openings in itself"),
        (
            {"case": _case({"name": "head", "acquisitions": 1})},
            {"case": _case({"name": "head", "acquisitions": 2})},
            "the slices are of 2 acquisitions that overlap; see that the head did not move between them",
        ),
    ],
)
def test_an_implant_that_is_in_doubt_is_for_review(fine: dict[str, Any], beyond: dict[str, Any], reason: str) -> None:
    assert _report(**fine)["reasons"] == []
    assert _report(**beyond)["reasons"] == [reason]


def test_a_class_that_the_bone_decided_needs_no_probability() -> None:
    assert _report(class_probability=[0.5, 0.25, 0.25], class_decided=True)["reasons"] == []


def test_a_facial_implant_is_for_review_and_an_empty_one_is_not_called_coarse() -> None:
    facial = {"defect_class": "facial", "class_probability": [0.0, 0.1, 0.9]}

    (coarse,) = _report(**facial)["reasons"]
    assert coarse.startswith("a facial implant is coarse")
    assert not any("coarse" in reason for reason in _report(filled=False, **facial)["reasons"])


def test_a_doubtful_orientation_is_for_review() -> None:
    case = _case({"name": "head.nii", "orientation": "no orientation in the header"})

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
