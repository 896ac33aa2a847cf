"""Options arrive as numbers, as text or as a list of choices, and what is wrong with them is kept, not raised."""

from __future__ import annotations

from typing import Any

import pytest

from bundle.skull_implant.steps.options import Options, read_options

RIGHT: dict[str, Any] = {"gamma": 1.0, "defect_class": "auto", "threshold_hu": 300.0, "fit_steps": 30, "rim_fit": True}


def test_the_defaults_of_the_class_are_those_of_the_config() -> None:
    assert read_options(**RIGHT) == Options()


def test_text_from_a_table_counts_as_the_numbers_it_shows() -> None:
    options = read_options("1.5", "facial", "250", "0", "false", "5", "true", series_number="4")

    assert options == Options(1.5, "facial", 250.0, 0, False, 5, True, series_number=4)
    assert (type(options.threshold_hu), type(options.fit_steps)) == (float, int)


@pytest.mark.parametrize("key", ["keep_agreement", "keep_decoded", "secondary_capture", "overwrite"])
@pytest.mark.parametrize(
    ("value", "meant"), [("false", False), ("no", False), (0, False), ("True", True), ("yes", True)]
)
def test_a_boolean_may_be_the_text_that_a_command_line_leaves(key: str, value: Any, meant: bool) -> None:
    """The text `false` is true to Python: an earlier result was replaced for it."""
    assert getattr(read_options(**RIGHT, **{key: value}), key) is meant


def test_of_a_list_of_choices_the_first_counts() -> None:
    assert read_options(**{**RIGHT, "defect_class": ["cranial", "auto", "facial"]}).defect_class == "cranial"


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("gamma", "much", "gamma must be a number, got 'much'"),
        ("gamma", 11, "gamma must lie between -10 and 10, got 11"),
        ("defect_class", "nasal", "defect_class must be auto, cranial or facial, got 'nasal'"),
        ("defect_class", [], "defect_class must be auto"),
        ("threshold_hu", "", "threshold_hu must be a number, got ''"),
        ("threshold_hu", "nan", "threshold_hu must lie between"),
        ("threshold_hu", 1e9, "threshold_hu must lie between"),
        ("fit_steps", 1.5, "fit_steps must be a whole number, got 1.5"),
        ("fit_steps", -1, "fit_steps must lie between 0 and 1000, got -1"),
        ("rim_fit", "perhaps", "rim_fit must be true or false, got 'perhaps'"),
        ("candidates", 0, "candidates must lie between 1 and 20, got 0"),
        ("candidates", -1, "candidates must lie between 1 and 20, got -1"),
        ("candidates", 2.5, "candidates must be a whole number, got 2.5"),
        ("candidates", "abc", "candidates must be a number, got 'abc'"),
        ("candidates", 1000, "candidates must lie between 1 and 20, got 1000"),
        ("keep_agreement", "perhaps", "keep_agreement must be true or false, got 'perhaps'"),
        ("series_number", "CT", "series_number must be a number, got 'CT'"),
    ],
)
def test_a_wrong_option_is_kept_as_one_line_and_the_others_fall_back(key: str, value: Any, message: str) -> None:
    options = read_options(**{**RIGHT, "gamma": 2.0, key: value})

    assert message in str(options.problem)
    assert "\n" not in str(options.problem)
    assert (options.gamma, options.fit_steps) == (1.0, 30)
