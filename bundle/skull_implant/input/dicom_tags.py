"""Numbers from DICOM tags, which in practice may be missing, empty or no numbers at all."""

from __future__ import annotations

import numpy as np
import pydicom

from bundle.skull_implant.errors import InputError


def tag_numbers(dataset: pydicom.Dataset, tag: str, count: int, label: str) -> np.ndarray:
    """The numbers of a tag that must be there.

    Args:
        dataset: header that may hold the tag.
        tag: its keyword.
        count: how many numbers it must have.
        label: what the message calls the file.

    Returns:
        float64 `(count,)`, all finite.

    Raises:
        InputError: the tag is missing, or not so many finite numbers.
    """
    try:
        numbers = np.array(dataset[tag].value, dtype=np.float64).ravel()
    except Exception:  # missing, empty, or text that pydicom refuses in one of several ways
        numbers = np.empty(0)
    if len(numbers) != count or not np.isfinite(numbers).all():
        expected = "a number" if count == 1 else f"{count} numbers"
        raise InputError(f"{label}: {tag} must be {expected}, none arrived; export the series again")
    return numbers


def tag_integer(dataset: pydicom.Dataset, tag: str) -> int | None:
    """A whole number that only names or orders things; None if it is missing, empty or no number."""
    try:
        return int(dataset[tag].value)
    except Exception:  # pydicom refuses odd text in several ways
        return None


def slice_places(dataset: pydicom.Dataset) -> set[tuple[float, ...] | str]:
    """Where the slices of a file lie, LPS mm to 0.01; one without a position has its instance's UID for a place."""
    try:
        frames = [each.PlanePositionSequence[0] for each in dataset.PerFrameFunctionalGroupsSequence]
    except Exception:  # a classic file, or one that is refused later
        frames = [dataset]
    places: set[tuple[float, ...] | str] = set()
    for frame in frames:
        try:
            places.add(tuple(round(float(each), 2) for each in frame.ImagePositionPatient))
        except Exception:  # missing, or no numbers
            places.add(str(dataset.get("SOPInstanceUID", "")))
    return places
