"""What may be set for one case, made numbers of: from a config, a command line, or MONAI Label's table of options."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from bundle.skull_implant.errors import InputError
from bundle.skull_implant.model.inferers import CompletionInferer

BOOLEANS = {"true": True, "1": True, "false": False, "0": False, "": False, "yes": True, "no": False}


@dataclass(frozen=True)
class Options:
    """Checked options of a case.

    Args:
        gamma: 0 reconstructs the input, 1 completes it, more thickens.
        defect_class: auto, cranial or facial.
        threshold_hu: bone is at least this.
        fit_steps: of gradient descent that fit the code to the patient's bone.
        rim_fit: fit the decoded skull to the bone around the defect.
        candidates: implants to choose from, the recommended one included.
        keep_agreement: make the agreement map.
        keep_decoded: also write the decoder's own skull.
        secondary_capture: also write the preview as DICOM.
        overwrite: replace an earlier result.
        series_number: of a DICOM folder's CT series to read; None takes the one with the most slices.
        problem: what was wrong; the other fields are then the defaults, and nothing may be computed from them.
    """

    gamma: float = 1.0
    defect_class: str = "auto"
    threshold_hu: float = 300.0
    fit_steps: int = 30
    rim_fit: bool = True
    candidates: int = 1
    keep_agreement: bool = False
    keep_decoded: bool = False
    secondary_capture: bool = False
    overwrite: bool = False
    series_number: int | None = None
    problem: InputError | None = None


def read_options(
    gamma: Any,
    defect_class: Any,
    threshold_hu: Any,
    fit_steps: Any,
    rim_fit: Any,
    candidates: Any = 1,
    keep_agreement: Any = False,
    keep_decoded: Any = False,
    secondary_capture: Any = False,
    overwrite: Any = False,
    series_number: Any = None,
) -> Options:
    """Make options of what arrives, and keep what is wrong with it in `problem`.

    Nothing is raised here, because MONAI Label builds the workflow's parts for each request and answers an exception
    with HTTP 500 and no reason. Its table sends text for numbers, and the whole list of choices where none was made.

    Args:
        gamma: a number or its text, -10 to 10.
        defect_class: auto, cranial or facial; of a list, the first.
        threshold_hu: a number or its text, HU.
        fit_steps: a whole number or its text, 0 to 1000.
        rim_fit: a Boolean or its text.
        candidates: a whole number or its text, 1 to 20.
        keep_agreement: a Boolean or its text, as fire leaves `false` and `no`.
        keep_decoded: a Boolean or its text.
        secondary_capture: a Boolean or its text.
        overwrite: a Boolean or its text.
        series_number: a whole number or its text, or None.
    """
    chosen = defect_class[0] if isinstance(defect_class, list | tuple) and defect_class else defect_class
    try:
        return Options(
            CompletionInferer(gamma, chosen).gamma,
            chosen,
            _number("threshold_hu", threshold_hu, -32768.0, 65535.0),
            _whole("fit_steps", fit_steps, 0, 1000),
            _boolean("rim_fit", rim_fit),
            _whole("candidates", candidates, 1, 20),
            _boolean("keep_agreement", keep_agreement),
            _boolean("keep_decoded", keep_decoded),
            _boolean("secondary_capture", secondary_capture),
            _boolean("overwrite", overwrite),
            None if series_number is None else _whole("series_number", series_number, -(2**31), 2**31 - 1),
        )
    except InputError as error:
        return Options(problem=error)


def _number(name: str, value: Any, low: float, high: float) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError) as error:
        raise InputError(f"{name} must be a number, got {value!r}; see the table of options") from error
    if not (math.isfinite(number) and low <= number <= high):
        raise InputError(f"{name} must lie between {low:g} and {high:g}, got {number:g}")
    return number


def _whole(name: str, value: Any, low: int, high: int) -> int:
    number = _number(name, value, low, high)
    if number != int(number):
        raise InputError(f"{name} must be a whole number, got {number:g}")
    return int(number)


def _boolean(name: str, value: Any) -> bool:
    found = BOOLEANS.get(str(value).lower())
    if found is None:
        raise InputError(f"{name} must be true or false, got {value!r}")
    return found
