"""The result as a DICOM Segmentation, which archives and viewers lay over the CT series that it was computed from.

Needs pydicom 3, so nothing that runs inside MONAI Label may import it.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path

import highdicom as hd
import numpy as np
from pydicom import Dataset
from pydicom.sr.codedict import codes
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid
from pydicom.valuerep import format_number_as_ds

from bundle.skull_implant.output.dicom_derived import Creator, write_derived
from bundle.skull_implant.output.dicom_source import ALWAYS_PRESENT, SourceSeries
from bundle.skull_implant.volume import Volume

Color = tuple[float, float, float]


def write_segmentation(
    path: Path,
    skull: Volume,
    implant: Volume,
    source: SourceSeries,
    creator: Creator,
    *,
    parameters: Mapping[str, str] | None = None,
    series_number: int = 9001,
    bone_color: Color = (0.93, 0.89, 0.80),
    implant_color: Color = (0.06, 0.62, 0.78),
) -> list[str]:
    """Write a binary DICOM Segmentation with two segments, whole or not at all.

    A frame lies exactly where its source slice says, and refers to it. Frames without a voxel are left out; an empty
    implant stays, as a segment without frames, so that readers always find the same two segments.

    Args:
        path: target, `.dcm`.
        skull: segment 1, nonzero inside, voxels `(X, Y, Z)` as they were read from the series; not empty.
        implant: segment 2, on the same grid, outside the skull.
        source: the series' slices from k = 0 up.
        creator: what computed the segments.
        parameters: names and values of the settings that the implant was computed with.
        series_number: of the new series; high, so that viewers list it after the scanner's.
        bone_color: recommended for display, RGB in 0..1; the default is the preview's.
        implant_color: the same.

    Returns:
        Keywords of the source's patient and study attributes that are damaged and were left out.

    Raises:
        InputError: the series' headers are too odd for the object to be made.
        OSError: the file cannot be written.
    """
    step_mm = skull.grid.spacing[2]
    stand_ins = [generate_uid() if number else None for number in source.frame_numbers]

    def make() -> hd.seg.Segmentation:
        image = hd.seg.Segmentation(
            source_images=_source_images(source, stand_ins, step_mm),
            pixel_array=_labels(skull, implant),
            segmentation_type=hd.seg.SegmentationTypeValues.BINARY,
            segment_descriptions=_segments(creator, parameters or {}, bone_color, implant_color),
            series_instance_uid=generate_uid(),
            series_number=series_number,
            series_description="Skull and implant, research only",
            sop_instance_uid=generate_uid(),
            instance_number=1,
            transfer_syntax_uid=ExplicitVRLittleEndian,
            content_label="SKULL_IMPLANT",
            content_description="Skull with its hole, and the implant that fills it",
            content_creator_name=f"{creator.name}^",
            omit_empty_frames=True,
            **creator.equipment(),
        )
        # highdicom leaves it out where positions are rounded, and readers would take the thickness for it.
        (measures,) = image.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence
        measures.SpacingBetweenSlices = format_number_as_ds(float(step_mm))
        if any(source.frame_numbers):
            _refer_to_frames(image, source, stand_ins)
        return image

    return write_derived(path, make, source, creator)


def _source_images(source: SourceSeries, stand_ins: Sequence[str | None], step_mm: float) -> list[Dataset]:
    """The slices as highdicom wants them.

    They get a thickness, one orientation to the last digit (the reader has seen that they are parallel, and places them
    by the first one's), and nothing in the attributes of patient and study that would be checked. A frame of an
    enhanced file becomes a classic slice with a UID that stands in for the file's, because highdicom takes whole files
    only, without repeated places, with all frames in one orientation's group.
    """
    images = []
    for slice_, stand_in in zip(source.slices, stand_ins, strict=True):
        image = Dataset()
        image.update(slice_)
        if stand_in:
            image.add_new("SOPClassUID", "UI", CTImageStorage)  # setting it would change the slice's own element
            image.add_new("SOPInstanceUID", "UI", stand_in)
        image.setdefault("SliceThickness", step_mm)
        image["ImageOrientationPatient"] = source.slices[0]["ImageOrientationPatient"]
        for keyword in ALWAYS_PRESENT:
            setattr(image, keyword, "")
        images.append(image)
    return images


def _refer_to_frames(image: Dataset, source: SourceSeries, stand_ins: Sequence[str | None]) -> None:
    """Replace the UIDs that stood in for frames of enhanced files by references to these frames."""
    meant = dict(zip(stand_ins, zip(source.slices, source.frame_numbers, strict=True), strict=True))

    def turned(item: Dataset, with_frame: bool = False) -> Dataset:
        result = copy.deepcopy(item)  # highdicom puts one item into several sequences
        slice_, number = meant.get(item.ReferencedSOPInstanceUID, (None, None))
        if slice_ is not None:  # else a classic slice of the same series
            result.ReferencedSOPClassUID, result.ReferencedSOPInstanceUID = slice_.SOPClassUID, slice_.SOPInstanceUID
            if with_frame:
                result.ReferencedFrameNumber = number
        return result

    def files(items: Sequence[Dataset]) -> list[Dataset]:
        return list({each.ReferencedSOPInstanceUID: each for each in map(turned, items)}.values())

    for group in image.PerFrameFunctionalGroupsSequence:
        for derivation in group.DerivationImageSequence:
            derivation.SourceImageSequence = [turned(item, True) for item in derivation.SourceImageSequence]
    image.SourceImageSequence = files(image.SourceImageSequence)
    (series,) = image.ReferencedSeriesSequence
    series.ReferencedInstanceSequence = files(series.ReferencedInstanceSequence)


def _labels(skull: Volume, implant: Volume) -> np.ndarray:
    """Segment numbers uint8 `(slices, rows, columns)`, 0 outside both."""
    labels = np.zeros(skull.grid.size[::-1], np.uint8)
    for number, mask in enumerate((skull, implant), 1):
        np.copyto(labels, number, where=mask.voxels.T.astype(bool, copy=False))  # (X, Y, Z) -> (slices, rows, columns)
    return labels


def _segments(
    creator: Creator, parameters: Mapping[str, str], bone_color: Color, implant_color: Color
) -> list[hd.seg.SegmentDescription]:
    """What the segments are, in SNOMED CT: context groups 7150 (category), 7192 (anatomy) and 7193 (objects)."""

    def algorithm(part: str, family: object) -> hd.AlgorithmIdentificationSequence:
        name = f"{creator.name}: {part}"
        return hd.AlgorithmIdentificationSequence(name, family, creator.version, parameters=dict(parameters) or None)

    skull = hd.seg.SegmentDescription(
        segment_number=1,
        segment_label="Skull",
        segmented_property_category=codes.SCT.AnatomicalStructure,
        segmented_property_type=codes.SCT.Skull,
        algorithm_type=hd.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
        # HU threshold, then connected components: of context group 7162 the nearest
        algorithm_identification=algorithm("bone", codes.cid7162.MorphologicalOperations),
        display_color=_lab(bone_color),
    )
    implant = hd.seg.SegmentDescription(
        segment_number=2,
        segment_label="Implant",
        segmented_property_category=codes.SCT.PhysicalObject,
        segmented_property_type=codes.SCT.Implant,
        algorithm_type=hd.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
        algorithm_identification=algorithm("implant", codes.cid7162.ArtificialIntelligence),
        anatomic_regions=[codes.SCT.Skull],
        display_color=_lab(implant_color),
    )
    return [skull, implant]


def _lab(color: Color) -> hd.color.CIELabColor:
    return hd.color.CIELabColor.from_rgb(*(255.0 * part for part in color))
