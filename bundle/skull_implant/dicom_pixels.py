"""Hounsfield units of one DICOM file."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pydicom
import SimpleITK as sitk
from pydicom.uid import RLELossless

from bundle.skull_implant.dicom_tags import tag_numbers
from bundle.skull_implant.errors import InputError


def slice_hounsfield(
    path: Path, shape: tuple[int, int], label: str, *, air_hu: float = -1024.0
) -> tuple[np.ndarray, bool]:
    """Pixels of one file in HU.

    Args:
        path: a DICOM file with one frame.
        shape: rows and columns that it must have.
        label: what messages call the series.
        air_hu: value for what the scanner marked as padding, outside its round field of view.

    Returns:
        float32 `(rows, columns)`, and whether slope and intercept, and so all HU, are whole numbers.

    Raises:
        InputError: no rescale slope or intercept, or pixels that cannot be decoded or have another shape.
    """
    tags = (
        "Rows Columns SamplesPerPixel PhotometricInterpretation BitsAllocated BitsStored HighBit PixelRepresentation "
        "PixelPaddingValue PixelPaddingRangeLimit RescaleSlope RescaleIntercept PixelData"
    )
    where = f"{label}, file {path.name}"
    try:
        dataset = pydicom.dcmread(path, specific_tags=tags.split())
        slope, intercept = (
            float(tag_numbers(dataset, tag, 1, path, label)[0]) for tag in ("RescaleSlope", "RescaleIntercept")
        )
        syntax = dataset.file_meta.TransferSyntaxUID
        if syntax.is_compressed and syntax != RLELossless:
            _check_frame(_frame(dataset.PixelData), shape)
            hounsfield = _decoded_by_gdcm(path)
        else:
            hounsfield = dataset.pixel_array.astype(np.float32) * np.float32(slope) + np.float32(intercept)
        padding = [stored * slope + intercept for stored in _stored_padding(dataset)]
    except InputError:
        raise
    except Exception as error:  # pydicom and GDCM raise whatever damaged pixels lead them to
        reason = (str(error).splitlines() or [type(error).__name__])[-1][:160]
        advice = "copy it again, or export the series uncompressed (gdcmconv --raw)"
        raise InputError(f"{where}: its pixels cannot be decoded ({reason}); {advice}") from error
    if hounsfield.shape != shape:
        raise InputError(f"{where}: pixels must be {shape}, {hounsfield.shape} arrived; export the series again")
    if padding:
        hounsfield[(hounsfield >= min(padding) - 0.01) & (hounsfield <= max(padding) + 0.01)] = air_hu
    return hounsfield, slope.is_integer() and intercept.is_integer()


def _frame(data: bytes) -> bytes:
    """The compressed frame of encapsulated pixel data; ValueError if its parts do not fit: GDCM would take minutes."""
    parts, position = [], 0
    while position < len(data) and data[position : position + 4] != b"\xfe\xff\xdd\xe0":  # end of sequence
        tag, length = struct.unpack_from("<4sI", data, position)
        if tag != b"\xfe\xff\x00\xe0" or length > len(data) - position - 8:
            raise ValueError("the parts of the compressed frame do not fit together")
        parts.append(data[position + 8 : position + 8 + length])
        position += 8 + length
    return b"".join(parts[1:])  # the first is the table of offsets


def _check_frame(frame: bytes, shape: tuple[int, int]) -> None:
    """ValueError for a JPEG or JPEG-LS frame of another depth or size than the tags say, over which GDCM may crash."""
    position = 2
    while frame[:2] == b"\xff\xd8" and position < len(frame):
        marker, length = struct.unpack_from(">HH", frame, position)
        if marker == 0xFFF7 or (0xFFC0 <= marker <= 0xFFCF and marker not in (0xFFC4, 0xFFC8, 0xFFCC)):
            depth, rows, columns, components = struct.unpack_from(">BHHB", frame, position + 4)
            if not 2 <= depth <= 16 or (rows, columns) != shape or components != 1:
                raise ValueError(f"the compressed frame is {rows} x {columns} x {components} of {depth} bits")
            return
        if not 0xFFC0 <= marker <= 0xFFFE or length < 2:
            break
        position += 2 + length
    if frame[:4] != b"\xff\x4f\xff\x51" and frame[4:8] != b"jP  ":  # JPEG 2000, as a stream or as a file
        raise ValueError("the compressed frame has no header")


def _decoded_by_gdcm(path: Path) -> np.ndarray:
    """HU of a compressed file by the decoders within SimpleITK; pydicom alone has none for JPEG."""
    sitk.ProcessObject.GlobalWarningDisplayOff()
    str(path).encode()  # SimpleITK ends the process at a path that is not UTF-8; this raises
    array = sitk.GetArrayFromImage(sitk.ReadImage(str(path), imageIO="GDCMImageIO"))
    return array.reshape(array.shape[-2:]).astype(np.float32)


def _stored_padding(dataset: pydicom.Dataset) -> list[int]:
    """Stored pixel values that mean "outside", the ends of a range or one; some writers give them the wrong sign."""
    tags = [tag for tag in ("PixelPaddingValue", "PixelPaddingRangeLimit") if dataset.get(tag) is not None]
    if "PixelPaddingValue" not in tags:
        return []
    full = 1 << int(dataset.BitsAllocated)
    values = [int(dataset[tag].value) % full for tag in tags]
    return [value - full if dataset.PixelRepresentation == 1 and value >= full // 2 else value for value in values]
