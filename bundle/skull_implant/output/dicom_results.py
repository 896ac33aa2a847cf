"""A case's results as DICOM objects of the source's study; what cannot be written becomes a warning, not a lost case.

Needs pydicom 3, so nothing that runs inside MONAI Label may import it at its start.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from bundle.skull_implant.errors import InputError
from bundle.skull_implant.output.dicom_capture import write_secondary_capture
from bundle.skull_implant.output.dicom_derived import Creator
from bundle.skull_implant.output.dicom_seg import write_segmentation
from bundle.skull_implant.output.dicom_source import SourceSeries
from bundle.skull_implant.volume import Volume


def write_dicom_results(
    folder: Path,
    skull: Volume,
    implant: Volume,
    files: Sequence[Path],
    creator: Creator,
    *,
    frames: Sequence[int] = (),
    parameters: Mapping[str, str] | None = None,
    picture: Path | None = None,
    tilt_degrees: float = 0.0,
) -> list[str]:
    """Write `segmentation.dcm`, and `preview.dcm` if there is a picture for it.

    A segmentation refers to the source slice by slice, so there is none where the masks' slices are not the source's.

    Args:
        folder: gets the files.
        skull: the bone mask, voxels `(X, Y, Z)`.
        implant: on the same grid.
        files: the series' slices from k = 0 up.
        creator: what computed the masks.
        frames: of each slice, its place among the frames of its file, from 0; not needed for classic files.
        parameters: names and values of the settings that the implant was computed with.
        picture: the preview, a PNG file; None writes no `preview.dcm`.
        tilt_degrees: gantry tilt that was corrected, so that the masks' slices are not the source's; else 0.

    Returns:
        One line, without patient data, on each file that could not be written or lacks something.

    Raises:
        OSError: the disk is full or cannot be written.
    """
    wanted: dict[str, Callable[[Path, SourceSeries], list[str]]] = {
        "segmentation.dcm": lambda path, source: write_segmentation(
            path, skull, implant, source, creator, parameters=parameters
        )
    }
    if picture is not None:
        wanted["preview.dcm"] = lambda path, source: write_secondary_capture(path, picture, source, creator)
    warnings = []
    if tilt_degrees:
        del wanted["segmentation.dcm"]
        found = f"the gantry tilt of {tilt_degrees:.1f} degrees was corrected"
        warnings.append(f"segmentation.dcm was not written: {found}, so the results' slices are not the source's")
    if not wanted:
        return warnings
    try:
        source = SourceSeries.read(files, frames)
    except InputError as error:
        return warnings + [f"{name} was not written: {error}" for name in wanted]
    for name, write in wanted.items():
        try:
            lost = write(folder / name, source)
        except InputError as error:
            warnings.append(f"{name} was not written: {error}")
        else:
            warnings += [f"{name} was written without {', '.join(lost)}, damaged in the series"] * bool(lost)
    return warnings
