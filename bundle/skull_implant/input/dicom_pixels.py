"""Hounsfield units of the frames of one DICOM file."""

from __future__ import annotations

import itertools
import struct
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pydicom
import SimpleITK as sitk
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.encaps import encapsulate, generate_frames
from pydicom.pixels import get_decoder
from pydicom.uid import UID, CTImageStorage, ExplicitVRBigEndian, ExplicitVRLittleEndian, RLELossless, generate_uid

from bundle.skull_implant.errors import NOT_WRITABLE, InputError
from bundle.skull_implant.input.dicom_frames import Frame

_TAGS = (
    "NumberOfFrames Rows Columns SamplesPerPixel PhotometricInterpretation PlanarConfiguration BitsAllocated "
    "BitsStored HighBit PixelRepresentation PixelPaddingValue PixelPaddingRangeLimit PixelData"
)


def hounsfield_of_file(
    path: Path, frames: Sequence[Frame], label: str, *, air_hu: float = -1024.0
) -> Iterator[tuple[Frame, np.ndarray]]:
    """Pixels of some frames of one file in HU, one after the other.

    Args:
        path: a DICOM file.
        frames: which of its frames.
        label: what messages call the series.
        air_hu: value for what the scanner marked as padding, outside its round field of view, and for everything below,
            because nothing is thinner than air: scanners write -2000 there without saying so in a tag.

    Yields:
        A frame, and float32 `(rows, columns)`.

    Raises:
        InputError: pixels that cannot be decoded or have another shape.
    """
    try:
        dataset = pydicom.dcmread(path, specific_tags=_TAGS.split(), force=True)
        padding = _stored_padding(dataset)
        for frame, stored in zip(frames, _stored(dataset, frames), strict=True):
            if stored.shape != frame.shape:
                raise ValueError(f"pixels must be {frame.shape}, {stored.shape} arrived")
            hounsfield = _without_spare_bits(stored, dataset) * np.float32(frame.slope) + np.float32(frame.intercept)
            if padding:
                raw = stored.astype(np.int32, copy=False)
                low, high = min(padding), max(padding)
                hounsfield[(raw >= low) & (raw <= high)] = air_hu
            yield frame, np.maximum(hounsfield, np.float32(air_hu), out=hounsfield)
    except InputError:
        raise
    except Exception as error:  # pydicom and GDCM raise whatever damaged pixels lead them to
        if isinstance(error, OSError) and error.errno in NOT_WRITABLE:
            rule = "the folder for temporary files must have room"
            raise InputError(f"{label}: {rule}, got: {error.strerror}; free space or set TMPDIR") from error
        text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)  # the rest is the path
        reason = (text.splitlines() or [type(error).__name__])[-1].replace(str(path), "it").replace(path.name, "it")
        advice = "copy it again, or export the series uncompressed (gdcmconv --raw)"
        raise InputError(
            f"{label}, {frames[0].name}: its pixels cannot be decoded ({reason[:160]}); {advice}"
        ) from error


def _stored(dataset: pydicom.Dataset, frames: Sequence[Frame]) -> Iterator[np.ndarray]:
    """Stored values of frames, `(rows, columns)`."""
    syntax = _transfer_syntax(dataset)
    if not syntax.is_compressed or syntax == RLELossless:
        indices = [frame.index for frame in frames]
        # Spare bits are kept here, because a padding value may use them.
        decoded = get_decoder(syntax).iter_array(dataset, indices=indices, raw=True, correct_unused_bits=False)
        yield from (array for array, _ in decoded)
        return
    _check_fragments(dataset.PixelData)
    total = int(dataset.get("NumberOfFrames") or 1)
    wanted, packed = iter(frames), generate_frames(dataset.PixelData, number_of_frames=total)
    position = 0
    for frame in wanted:
        data = next(itertools.islice(packed, frame.index - position, None))
        position = frame.index + 1
        _check_frame(data, frame.shape)
        yield _decoded_by_gdcm(data, dataset, frame.shape, syntax)


def _transfer_syntax(dataset: pydicom.Dataset) -> UID:
    """The tag's, or of a file that came without its preamble, what pydicom found its header to be."""
    named = dataset.file_meta.get("TransferSyntaxUID")
    if named is not None:
        return UID(str(named))
    _, little_endian = dataset.original_encoding
    return ExplicitVRLittleEndian if little_endian else ExplicitVRBigEndian


def _check_fragments(data: bytes) -> None:
    """ValueError if the parts of encapsulated pixel data do not fit: a decoder would take minutes."""
    position = 0
    while position < len(data) and data[position : position + 4] != b"\xfe\xff\xdd\xe0":  # end of sequence
        tag, length = struct.unpack_from("<4sI", data, position)
        if tag != b"\xfe\xff\x00\xe0" or length > len(data) - position - 8:
            raise ValueError("the parts of the compressed frame do not fit together")
        position += 8 + length


def _check_frame(frame: bytes, shape: tuple[int, int]) -> None:
    """ValueError for a frame of another depth or size than the tags say, over which a decoder may crash."""
    start = frame.find(b"\xff\x4f\xff\x51") if frame[:2] != b"\xff\xd8" else -1
    if start >= 0:  # JPEG 2000, as a stream or as a file
        width, height, left, top = struct.unpack_from(">4I", frame, start + 8)
        components, depth = struct.unpack_from(">HB", frame, start + 40)
        _check_size(height - top, width - left, components, (depth & 0x7F) + 1, shape)
        return
    position = 2
    while frame[:2] == b"\xff\xd8" and position < len(frame):
        marker, length = struct.unpack_from(">HH", frame, position)
        if marker == 0xFFF7 or (0xFFC0 <= marker <= 0xFFCF and marker not in (0xFFC4, 0xFFC8, 0xFFCC)):
            depth, rows, columns, components = struct.unpack_from(">BHHB", frame, position + 4)
            _check_size(rows, columns, components, depth, shape)
            return
        if not 0xFFC0 <= marker <= 0xFFFE or length < 2:
            break
        position += 2 + length
    raise ValueError("the compressed frame has no header")


def _check_size(rows: int, columns: int, components: int, depth: int, shape: tuple[int, int]) -> None:
    if not 2 <= depth <= 16 or (rows, columns) != shape or components != 1:
        raise ValueError(f"the compressed frame is {rows} x {columns} x {components} of {depth} bits")


def _decoded_by_gdcm(frame: bytes, dataset: pydicom.Dataset, shape: tuple[int, int], syntax: UID) -> np.ndarray:
    """Stored values of one compressed frame by the decoders within SimpleITK, which read files alone; pydicom has none.

    The frame is handed over in a file of its own that has no more tags than decoding takes, so that nothing else that
    a file may hold reaches the decoder.
    """
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = CTImageStorage, generate_uid()
    meta.TransferSyntaxUID = syntax
    image = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    image.SOPClassUID, image.SOPInstanceUID = CTImageStorage, meta.MediaStorageSOPInstanceUID
    image.Rows, image.Columns = shape
    image.SamplesPerPixel, image.PhotometricInterpretation = 1, "MONOCHROME2"
    for tag in ("BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation"):
        setattr(image, tag, int(dataset[tag].value))
    image.PixelData = encapsulate([frame if len(frame) % 2 == 0 else frame + b"\0"])
    sitk.ProcessObject.GlobalWarningDisplayOff()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "frame.dcm")
        image.save_as(path, enforce_file_format=True)
        array = sitk.GetArrayFromImage(sitk.ReadImage(str(path), imageIO="GDCMImageIO"))
    return array.reshape(array.shape[-2:])


def _without_spare_bits(stored: np.ndarray, dataset: pydicom.Dataset) -> np.ndarray:
    """Stored values of the bits that count; old scanners put overlays or nothing of sense in the others."""
    bits, allocated = int(dataset.BitsStored), int(dataset.BitsAllocated)
    if bits >= allocated or int(dataset.HighBit) != bits - 1:
        return stored
    low = -(1 << (bits - 1)) if int(dataset.PixelRepresentation) == 1 else 0
    if stored.min() >= low and stored.max() < low + (1 << bits):
        return stored
    return (stored.astype(np.int32) - low) % (1 << bits) + low


def _stored_padding(dataset: pydicom.Dataset) -> list[int]:
    """Stored pixel values that mean "outside", the ends of a range or one; some writers give them the wrong sign."""
    tags = [tag for tag in ("PixelPaddingValue", "PixelPaddingRangeLimit") if dataset.get(tag) is not None]
    if "PixelPaddingValue" not in tags:
        return []
    full = 1 << int(dataset.BitsAllocated)
    values = [int(dataset[tag].value) % full for tag in tags]
    return [value - full if dataset.PixelRepresentation == 1 and value >= full // 2 else value for value in values]
