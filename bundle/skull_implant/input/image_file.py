"""One NIfTI, NRRD or MetaImage file: first its header, then its voxels, with the damage found that ITK passes over."""

from __future__ import annotations

import gzip
import logging
import os
import re
import sys
import threading
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
import SimpleITK as sitk

from bundle.skull_implant.errors import InputError
from bundle.skull_implant.volume import Grid, Volume

logger = logging.getLogger(__name__)

EXTENSIONS = {
    ".nii.gz": "NIfTI",
    ".nii": "NIfTI",
    ".nrrd": "NRRD",
    ".nhdr": "NRRD",
    ".mha": "MetaImage",
    ".mhd": "MetaImage",
}
STDERR = threading.Lock()  # of the process, not of a thread


class DataLocation(NamedTuple):
    """Where the voxels of a file are: the byte at which they begin, and whether gzip or zlib packed them."""

    path: Path
    offset: int
    packed: bool


@dataclass(frozen=True)
class ImageHeader:
    """What a file says of its voxels before any is read.

    Args:
        path: the file.
        format: `NIfTI`, `NRRD` or `MetaImage`.
        grid: of the 3-D image; a fourth axis of length 1 is left out.
        stored_bytes: of all voxels, uncompressed, as stored.
        voxel_offset: NIfTI's byte offset of the first voxel, else 0.
        float_type: numpy's name, without byte order, of NIfTI voxels stored as floating point; else empty.
        data: where the voxels are; None for rare layouts (bzip2, text, skipped bytes), whose length ITK does check.
        doubt: what is doubtful of its orientation, a sentence; empty if nothing is.
    """

    path: Path
    format: str
    grid: Grid
    stored_bytes: int
    voxel_offset: int
    float_type: str
    data: DataLocation | None
    doubt: str = ""


def image_extension(path: Path) -> str | None:
    """The part of a file's name that says its format, `.nii.gz` as one; None if it is not a format that is read."""
    return next((extension for extension in EXTENSIONS if path.name.lower().endswith(extension)), None)


def read_header(path: Path) -> ImageHeader:
    """Read the header of an image file.

    Args:
        path: `.nii.gz`, `.nii`, `.nrrd`, `.nhdr`, `.mha` or `.mhd`.

    Raises:
        InputError: not one of these formats, unreadable, not 3-D, more than one value per voxel, or a sheared NIfTI.
    """
    kind = EXTENSIONS[_checked_extension(path)]
    data = _data_location(path, kind)  # first, because ITK opens the data file with the header, even if it is a pipe
    sitk.ProcessObject.GlobalWarningDisplayOff()  # ITK's own lines on stderr would stand beside our one
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    try:
        with _stderr_silenced():
            reader.ReadImageInformation()
    except RuntimeError as error:
        raise InputError(f"{path.name}: not readable as {kind} ({_reason(error, path)}); export it again") from error
    _check_is_one_volume(path, reader)
    itemsize = sitk.Image([1, 1, 1], reader.GetPixelID()).GetSizeOfPixelComponent()
    doubt = ""
    if kind == "NIfTI":
        itemsize = _metadata(reader, "bitpix") // 8  # the pixel type is that after the header's slope and intercept
        doubt = _doubt_of_forms(path, reader)
    if doubt:
        logger.warning("%s: %s", path.name, doubt)
    stored_bytes = itemsize * int(np.prod(reader.GetSize(), dtype=object))
    offset = _metadata(reader, "vox_offset")
    float_type = {16: "f4", 64: "f8"}.get(_metadata(reader, "datatype"), "") if kind == "NIfTI" else ""
    return ImageHeader(path, kind, _grid_of_first_three_axes(reader), stored_bytes, offset, float_type, data, doubt)


def read_voxels(header: ImageHeader) -> Volume:
    """Read the voxels of a file whose header was read, scaled by NIfTI's slope and intercept.

    The data is measured, and unpacked once without keeping it, before ITK allocates anything: ITK fills up a NIfTI file
    that was cut off, and decodes a damaged NRRD or MetaImage file to noise, both in silence.

    Raises:
        InputError: less data than the header says, a wrong check sum, a data file that is not beside its header, or
            NaN or infinity in a NIfTI file.
    """
    _check_data(header)
    if header.float_type:
        _check_finite(header)
    try:
        with _stderr_silenced():
            image = sitk.ReadImage(str(header.path))
    except RuntimeError as error:
        raise InputError(f"{header.path.name}: unreadable ({_reason(error, header.path)}); export it again") from error
    array = sitk.GetArrayFromImage(image)
    return Volume(array.reshape(array.shape[-3:]).transpose(2, 1, 0), header.grid)  # (1, Z, Y, X) -> (X, Y, Z)


def _checked_extension(path: Path) -> str:
    extension = image_extension(path)
    if extension is None and (path.suffix.lower() in (".dcm", ".ima") or _first_bytes(path, 132)[128:] == b"DICM"):
        raise InputError(f"{path.name}: one DICOM file is one slice; give the folder that holds the series")
    if extension is None:
        raise InputError(f"{path.name}: unknown format; give a DICOM folder or one of {', '.join(EXTENSIONS)}")
    capitals = extension.upper() if EXTENSIONS[extension] != "MetaImage" else extension
    if not path.name.endswith((extension, capitals)):
        raise InputError(f"{path.name}: ITK does not know the extension in this case; rename it to end in {extension}")
    if not _first_bytes(path, 1):
        raise InputError(f"{path.name}: the file is empty; export the volume again")
    return extension


def _first_bytes(path: Path, count: int) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(count)
    except OSError as error:
        raise InputError(f"{path.name}: cannot be read ({error.strerror}); check its permissions") from error


def _check_is_one_volume(path: Path, reader: sitk.ImageFileReader) -> None:
    size, components = reader.GetSize(), reader.GetNumberOfComponents()
    if len(size) < 3 or any(length != 1 for length in size[3:]):
        found = " x ".join(str(length) for length in size)
        raise InputError(f"{path.name}: must be one 3-D volume, {len(size)}-D arrived ({found}); export one volume")
    if components != 1:
        raise InputError(f"{path.name}: must have one value per voxel, {components} arrived; export gray values")


def _grid_of_first_three_axes(reader: sitk.ImageFileReader) -> Grid:
    direction = np.reshape(reader.GetDirection(), (reader.GetDimension(), -1))[:3, :3]
    axes = tuple(direction.ravel().tolist())
    return Grid(reader.GetSize()[:3], reader.GetSpacing()[:3], reader.GetOrigin()[:3], axes)


def _doubt_of_forms(path: Path, reader: sitk.ImageFileReader, largest_shear_deg: float = 0.25) -> str:
    """What is doubtful of a NIfTI file's orientation; empty if nothing is.

    Of the two forms ITK takes the rigid one and is silent on the other, which alone can hold a gantry's tilt.
    """
    if _metadata(reader, "qform_code") == _metadata(reader, "sform_code") == 0:
        return "no orientation in the header (qform, sform codes 0); axes taken as LPS"
    if _metadata(reader, "sform_code") <= 0:
        return ""
    rows = [[float(number) for number in reader.GetMetaData(f"srow_{axis}").split()] for axis in "xyz"]
    mm = {1: 1000.0, 3: 0.001}.get(_metadata(reader, "xyzt_units") & 7, 1.0)  # of a meter, of a micron
    sform = np.diag([-mm, -mm, mm]) @ np.array(rows)  # RAS to LPS
    axes = sform[:, :3] / np.maximum(np.linalg.norm(sform[:, :3], axis=0), 1e-12)
    off = np.abs(axes.T @ axes - np.eye(3)).max()
    if off > np.sin(np.radians(largest_shear_deg)):
        found = f"an sform sheared by {np.degrees(np.arcsin(min(off, 1.0))):.3g} degrees arrived"
        raise InputError(f"{path.name}: axes must be perpendicular, {found}; give the DICOM folder")
    grid = _grid_of_first_three_axes(reader)
    corners = np.array(np.meshgrid(*[(0, length - 1) for length in grid.size])).reshape(3, -1)
    taken = grid.affine[:3, :3] @ corners + grid.affine[:3, 3:]
    apart = float(np.linalg.norm(sform[:, :3] @ corners + sform[:, 3:] - taken, axis=0).max())
    if apart <= max(0.1, 0.1 * min(grid.spacing)):
        return ""
    found = f"qform and sform lie up to {apart:.3g} mm apart; the qform is taken"
    if np.min(np.sum(axes * np.reshape(grid.direction, (3, 3)), axis=0)) < np.cos(np.radians(45.0)):
        return found
    logger.warning("%s: %s", path.name, found)  # as programs for the brain leave it, which move it to an atlas
    return ""


def _metadata(reader: sitk.ImageFileReader, key: str) -> int:
    return int(float(reader.GetMetaData(key))) if reader.HasMetaDataKey(key) else 0


def _check_data(header: ImageHeader) -> None:
    name, advice = header.path.name, "copy or export it again"
    skipped = header.voxel_offset
    expected = skipped + header.stored_bytes
    if header.data is None:
        return
    try:
        with header.data.path.open("rb") as file:
            stored = file.seek(0, os.SEEK_END) - header.data.offset
            file.seek(header.data.offset)
            arrived = _unpacked_bytes(file, expected) if header.data.packed else stored
    except zlib.error as error:
        raise InputError(f"{name}: the compressed data is damaged ({error}); {advice}") from error
    except OSError as error:
        raise InputError(f"{name}: its data cannot be read ({error.strerror}); {advice}") from error
    if arrived < expected:
        amounts = f"its header says {header.stored_bytes} bytes of voxels, {max(arrived - skipped, 0)} arrived"
        raise InputError(f"{name}: the file is cut off: {amounts}; {advice}")


def _check_finite(header: ImageHeader, chunk_bytes: int = 1 << 24) -> None:
    """Refuse NaN and infinity in NIfTI voxels, which ITK's library turns into 0, so air into tissue, in silence."""
    name, left = header.path.name, header.stored_bytes
    packed = header.data is not None and header.data.packed
    try:
        with gzip.open(header.path) if packed else header.path.open("rb") as file:
            little = file.read(4) in (b"\x5c\x01\0\0", b"\x1c\x02\0\0")  # the header's length, 348 or 540
            kind = np.dtype(("<" if little else ">") + header.float_type)
            file.seek(header.voxel_offset)
            while left > 0 and (chunk := file.read(min(left, chunk_bytes))):
                if not np.isfinite(np.frombuffer(chunk, kind)).all():
                    rule = "voxels must be finite numbers, NaN or infinity arrived"
                    raise InputError(f"{name}: {rule}; replace them by air (-1000)")
                left -= len(chunk)
    except (OSError, zlib.error) as error:
        raise InputError(f"{name}: its data cannot be read ({error}); copy or export it again") from error


def _data_location(path: Path, kind: str) -> DataLocation | None:
    if kind == "NIfTI":
        return DataLocation(path, 0, _first_bytes(path, 2) == b"\x1f\x8b")
    text, length = _text_header(path, kind)
    _check_text_header(text, path, kind)
    if kind == "NRRD":
        target, encoding = _field(text, r"data ?file:"), (_field(text, "encoding:") or "raw").lower()
        packed, raw = encoding in ("gzip", "gz"), encoding == "raw"
    else:
        target = _field(text, "ElementDataFile *=") or ""
        target = None if target.lower() == "local" else target
        packed = (_field(text, "CompressedData *=") or "").lower() in ("true", "1")
        raw = not packed and (_field(text, "BinaryData *=") or "true").lower() in ("true", "1")
    data = path if target is None else _beside(path, target)
    skips = re.search(r"^(?:(?:byte|line) ?skip:|HeaderSize *=)", text, re.IGNORECASE | re.MULTILINE)
    if skips or not (packed or raw):
        return None
    return DataLocation(data, length if target is None else 0, packed)


def _text_header(path: Path, kind: str, limit: int = 1 << 22) -> tuple[str, int]:
    """Text of an NRRD or MetaImage header, and its length in bytes."""
    head = _first_bytes(path, limit)
    match = re.search(rb"\r?\n\r?\n" if kind == "NRRD" else rb"ElementDataFile[^\n]*(\n|$)", head)
    if match is None and len(head) == limit:
        raise InputError(f"{path.name}: its header does not end within {limit} bytes; export the volume again")
    length = match.end() if match else len(head)
    return head[:length].decode("latin-1"), length


def _check_text_header(text: str, path: Path, kind: str, longest_line: int = 500) -> None:
    """Refuse what makes ITK's parsers write past their arrays, which ends the process."""
    first, *lines = text.rstrip("\n").split("\n")
    if kind == "NRRD":  # 1000 characters end it; comments and key:=value may be as long as they like
        fields = [first, *(line for line in lines if not re.match("#|[^:]*:=", line))]
        if not first.startswith("NRRD") or max(map(len, fields)) > longest_line:
            raise InputError(f"{path.name}: not an NRRD header, or damaged; export the volume again")
        encodings = {line.partition(":")[2].strip().lower() for line in fields if line.lower().startswith("encoding")}
        if not encodings <= {"raw", "gzip", "gz", "bzip2", "bz2"}:  # as text, bytes that are none end the process
            found = f"{min(encodings)!a:.30} arrived"
            raise InputError(f"{path.name}: encoding must be raw, gzip or bzip2, {found}; save it as one of these")
        return
    if not lines or not re.match("ElementDataFile *[=:]", lines[-1]):
        raise InputError(f"{path.name}: not a MetaImage, or cut off in its header; copy or export it again")
    axes = re.findall(r"NDims[=: \t]*([^\n]*)", text)
    if [axis.strip() for axis in axes] not in (["2"], ["3"], ["4"]):  # 11 axes are past the arrays
        raise InputError(f"{path.name}: must be one 3-D volume, NDims {axes!a:.30} arrived; export one volume")


def _field(text: str, key: str) -> str | None:
    match = re.search(rf"^{key}[ \t]*(.*?)\s*$", text, re.IGNORECASE | re.MULTILINE)
    return match.group(1) if match else None


def _beside(path: Path, target: str) -> Path:
    """The data file of a header, in the same folder, so that a header cannot point at a device or a pipe."""
    data = Path(os.path.normpath(path.parent / target))
    try:
        found = data.parent == Path(os.path.normpath(path.parent)) and data.is_file()
    except (OSError, ValueError):  # a name too long, or with a zero byte
        found = False
    if not found:
        raise InputError(f"{path.name}: its data file {target!a:.90} is not beside it; copy it there or save as .nrrd")
    return data


def _unpacked_bytes(file: BinaryIO, limit: int, chunk_bytes: int = 1 << 20) -> int:
    """Bytes in a gzip or zlib stream, check sums tested, none kept; stops at its end or cut, or past the limit."""
    total, inflate = 0, zlib.decompressobj(zlib.MAX_WBITS | 32)  # | 32: gzip or zlib, as its header says
    while total <= limit and (chunk := file.read(chunk_bytes)):
        while chunk and total <= limit:
            total += len(inflate.decompress(chunk, 16 * chunk_bytes))
            chunk = inflate.unconsumed_tail
            if inflate.eof:
                chunk = inflate.unused_data + (file.read(2) if len(inflate.unused_data) < 2 else b"")
                if not chunk.startswith(b"\x1f\x8b"):  # gzip members may follow one another
                    return total
                inflate = zlib.decompressobj(zlib.MAX_WBITS | 32)
    return total


def _reason(error: RuntimeError, path: Path) -> str:
    """ITK's reason, without its source file, object address, line breaks and folders."""
    if "Unable to determine ImageIO reader" in str(error):
        return "of another format, or damaged"
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return re.sub(r"^.*(?:ERROR|\(0x[0-9a-f]+\)): *", "", lines[-1]).replace(str(path), "it")[:160]


@contextmanager
def _stderr_silenced() -> Iterator[None]:
    """Keep what ITK's libraries for NIfTI and MetaImage print on stderr, past Python, from standing beside our line."""
    with STDERR:
        sys.stderr.flush()
        kept, nothing = os.dup(2), os.open(os.devnull, os.O_WRONLY)
        try:
            os.dup2(nothing, 2)
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)
            os.close(nothing)
