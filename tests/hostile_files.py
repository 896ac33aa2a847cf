"""Hostile input made from small good files, for the tests: cut, bent, absurd, lying and pointing elsewhere."""

from __future__ import annotations

import gzip
import os
import struct
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from pydicom.dataset import Dataset
from pydicom.uid import CTImageStorage, DeflatedExplicitVRLittleEndian, JPEG2000Lossless, RLELossless

from bundle.skull_implant.volume import Grid, Volume, write_volume
from tests.dicom_files import head_voxels, write_enhanced, write_series

SIZE, SPACING = (24, 22, 28), (3.0, 3.0, 3.0)
IDENTITY = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)


@dataclass(frozen=True)
class Hostile:
    """One case of the corpus.

    Args:
        name: says what is wrong with it.
        make: writes it into an empty folder, and returns the path that a user would give.
    """

    name: str
    make: Callable[[Path], Path]


@cache
def good_file(extension: str) -> bytes:
    """A small CT as a file of one format."""
    with TemporaryDirectory() as folder:
        path = Path(folder, f"ct{extension}")
        write_volume(path, Volume(head_voxels(SIZE), Grid(SIZE, SPACING, (0.0, 0.0, 0.0), IDENTITY)))
        return path.read_bytes()


@cache
def good_slices() -> tuple[tuple[str, bytes], ...]:
    """A small series, as names and bytes."""
    with TemporaryDirectory() as folder:
        files = write_series(Path(folder), head_voxels(SIZE), spacing=SPACING)
        return tuple((path.name, path.read_bytes()) for path in files)


def as_file(name: str, content: bytes) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        (folder / name).write_bytes(content)
        return folder / name

    return make


def as_series(spoil: Callable[[bytes], bytes], which: int = 7) -> Callable[[Path], Path]:
    """A series with one slice spoiled."""

    def make(folder: Path) -> Path:
        (folder / "series").mkdir()
        for index, (name, content) in enumerate(good_slices()):
            (folder / "series" / name).write_bytes(spoil(content) if index == which else content)
        return folder / "series"

    return make


def corpus() -> list[Hostile]:
    """All cases, each with a name of its own."""
    parts = (truncated(), bent(), absurd_nifti(), absurd_nrrd(), absurd_metaimage(), tagged(), pointing(), lying())
    return [case for part in parts for case in part]


def truncated() -> Iterator[Hostile]:
    """Files that end too early."""
    for extension in (".nii.gz", ".nii", ".nrrd", ".mha"):
        content = good_file(extension)
        for length in (0, 1, 2, 4, 10, 40, 100, 200, 347, 352, len(content) // 3, len(content) // 2, len(content) - 1):
            yield Hostile(f"{extension} cut to {length}", as_file(f"cut{extension}", content[:length]))
    length = len(good_slices()[7][1])
    cuts = {f"to {cut}": cut for cut in (0, 1, 100, 131, 132, 140, 200, 260, 300, 400, 500, 600)}
    cuts |= {"to half": length // 2, "by 100": length - 100, "by 1": length - 1}  # random UIDs are not all as long
    for name, cut in cuts.items():
        yield Hostile(f"DICOM cut {name}", as_series(lambda content, cut=cut: content[:cut]))


def bent() -> Iterator[Hostile]:
    """Files with bytes of their headers changed."""
    rng = np.random.default_rng(0)
    for extension, header in ((".nii", 352), (".nii.gz", 60), (".nrrd", 400), (".mha", 350)):
        for number in range(24):
            content = bytearray(good_file(extension))
            for _ in range(1 + number % 4):
                content[int(rng.integers(0, header))] = int(rng.integers(0, 256))
            yield Hostile(f"{extension} bent {number}", as_file(f"bent{extension}", bytes(content)))
    for number in range(40):
        places = [(int(rng.integers(128, 900)), int(rng.integers(0, 256))) for _ in range(1 + number % 4)]

        def spoil(content: bytes, places: list[tuple[int, int]] = places) -> bytes:
            changed = bytearray(content)
            for place, value in places:
                changed[place] = value
            return bytes(changed)

        yield Hostile(f"DICOM bent {number}", as_series(spoil))
    for extension in (".nii", ".nrrd", ".mha", ".nii.gz", ".mhd", ".nhdr"):
        yield Hostile(f"noise {extension}", as_file(f"noise{extension}", rng.bytes(3000)))


def absurd_nifti() -> Iterator[Hostile]:
    """NIfTI headers with impossible numbers."""
    patches: dict[str, tuple[int, str, tuple[float, ...]]] = {
        "header of 0 bytes": (0, "<i", (0,)),
        "another header length": (0, "<i", (1543569408,)),
        "no axes": (40, "<h", (0,)),
        "negative axes": (40, "<h", (-3,)),
        "nine axes": (40, "<h", (9,)),
        "size 0": (42, "<3h", (0, 22, 28)),
        "negative size": (42, "<3h", (-24, 22, 28)),
        "32767 to the third": (42, "<3h", (32767,) * 3),
        "16 GB": (42, "<3h", (2048, 2048, 2048)),
        "large fourth axis": (40, "<5h", (4, 24, 22, 28, 32767)),
        "no such type": (70, "<hh", (9999, 16)),
        "type without bits": (70, "<hh", (4, 0)),
        "complex numbers": (70, "<hh", (32, 64)),
        "spacing 0": (80, "<3f", (0.0, 0.0, 0.0)),
        "negative spacing": (80, "<3f", (-3.0, 3.0, 3)),
        "spacing not a number": (80, "<3f", (float("nan"),) * 3),
        "infinite spacing": (80, "<3f", (float("inf"),) * 3),
        "spacing 1e30": (80, "<3f", (1e30, 3.0, 3)),
        "data before the header": (108, "<f", (-100.0,)),
        "data beyond the end": (108, "<f", (1e9,)),
        "data nowhere": (108, "<f", (float("nan"),)),
        "slope not a number": (112, "<ff", (float("nan"), 0.0)),
        "slope 1e38": (112, "<ff", (1e38, 1e38)),
        "slope infinite": (112, "<ff", (float("inf"), 0.0)),
        "no magic": (344, "<4B", (0, 0, 0, 0)),
        "quaternion of 7": (256, "<3f", (7.0, 7.0, 7.0)),
        "quaternion not a number": (256, "<3f", (float("nan"),) * 3),
        "origin not a number": (268, "<3f", (float("nan"),) * 3),
        "origin infinite": (268, "<3f", (float("inf"),) * 3),
        "extension of 2 GB": (348, "<B3xii", (1, 2**31 - 16, 4)),
    }
    for name, (offset, layout, values) in patches.items():
        content = bytearray(good_file(".nii"))
        struct.pack_into(layout, content, offset, *values)
        yield Hostile(f"NIfTI {name}", as_file("odd.nii", bytes(content)))
        yield Hostile(f"NIfTI {name}, packed", as_file("odd.nii.gz", gzip.compress(bytes(content), 1)))
    for name, rows in MATRICES.items():
        content = bytearray(good_file(".nii"))
        struct.pack_into("<hh", content, 252, 0, 1)  # the matrix alone counts
        struct.pack_into("<12f", content, 280, *(value for row in rows for value in (*(3.0 * x for x in row), 0.0)))
        yield Hostile(f"NIfTI {name}", as_file("matrix.nii", bytes(content)))


NAN = float("nan")
MATRICES = {
    "all zeros": ((0.0,) * 3,) * 3,
    "two equal axes": ((1.0, 1.0, 0.0), (0.0, 0.0, 0.0), (0.0, 0.0, 1.0)),
    "mirrored": ((-1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)),
    "sheared": ((1.0, 0.5, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)),
    "nearly flat": ((1.0, 0.0, 0.0), (0.0, 1e-12, 0.0), (0.0, 0.0, 1.0)),
    "not numbers": ((NAN,) * 3,) * 3,
    "infinite": ((float("inf"), 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)),
}


def absurd_nrrd() -> Iterator[Hostile]:
    """NRRD headers with impossible fields; the data is that of a good file."""
    fields = {
        "type": "short", "dimension": "3", "sizes": "24 22 28", "encoding": "raw", "endian": "little",
        "space": "left-posterior-superior", "space directions": "(3,0,0) (0,3,0) (0,0,3)", "space origin": "(0,0,0)",
    }  # fmt: skip
    odd = {
        "type": ["", "quux", "block", "double", "unsigned char", "short\0short", "*" * 400],
        "dimension": ["0", "-1", "2", "4", "16", "17", "99999999999", "three", ""],
        "sizes": ["0 0 0", "-24 22 28", "24 22", "24 22 28 1", "1 1 1", "2048 2048 2048", "9999999999 9 9", "x y", ""],
        "encoding": ["gzip", "bzip2", "hex", "text", "zrl", "../raw", "", "raw\nencoding: gzip"],
        "endian": ["big", "middle", ""],
        "space": ["scanner-xyz", "nowhere", "right-anterior-superior-time", ""],
        "space directions": [
            "(0,0,0) (0,0,0) (0,0,0)", "(3,0,0) (3,0,0) (0,0,3)", "(nan,0,0) (0,nan,0) (0,0,nan)", "none none none",
            "(inf,0,0) (0,3,0) (0,0,3)", "(1e300,0,0) (0,1e300,0) (0,0,1)", "(-3,0,0) (0,3,0) (0,0,3)", "(3,0) (0,3)",
            "((((", "(1e-320,0,0) (0,3,0) (0,0,3)", "",
        ],
        "space origin": ["(nan,0,0)", "(inf,0,0)", "(1e308,1e308,1e308)", "(0,0)", "origin", ""],
        "data file": ["/etc/passwd", "../../x", "/dev/zero", "LIST", "a\0b", "http://x", "%d 1 99999999 1", "."],
        "byte skip": ["-1", "999999999999", "-99", "1e9", "x"],
        "line skip": ["-1", "999999999"],
        "kinds": ["domain domain", "vector domain domain", "x" * 450],
        "thicknesses": ["nan nan nan", "1"],
        "spacings": ["0 0 0", "-1 -1 -1", "nan 1 1"],
        "measurement frame": ["(0,0,0) (0,0,0) (0,0,0)", "("],
    }  # fmt: skip
    data = head_voxels(SIZE).T.tobytes()
    for field, values in odd.items():
        for value in values:
            lines = "".join(f"{key}: {text}\n" for key, text in {**fields, field: value}.items())
            content = b"NRRD0005\n" + lines.encode() + b"\n" + data
            yield Hostile(f"NRRD {field} {value[:40]!a}", as_file("odd.nrrd", content))
    for name, head in (("no magic", b"NRRX0004\n"), ("version 9999", b"NRRD9999\n"), ("magic only", b"NRRD0004")):
        yield Hostile(f"NRRD {name}", as_file("odd.nrrd", head + good_file(".nrrd")[9:] * (name != "magic only")))


def absurd_metaimage() -> Iterator[Hostile]:
    """MetaImage headers with impossible fields."""
    fields = {
        "ObjectType": "Image", "NDims": "3", "BinaryData": "True", "BinaryDataByteOrderMSB": "False",
        "CompressedData": "False", "TransformMatrix": "1 0 0 0 1 0 0 0 1", "Offset": "0 0 0",
        "ElementSpacing": "3 3 3", "DimSize": "24 22 28", "ElementType": "MET_SHORT",
    }  # fmt: skip
    odd = {
        "ObjectType": ["Tube", "", "Image" * 200],
        "NDims": ["0", "-3", "12", "2", "999999", "x"],
        "BinaryData": ["False", "maybe"],
        "CompressedData": ["True", "maybe"],
        "CompressedDataSize": ["-1", "99999999999999"],
        "TransformMatrix": ["0 0 0 0 0 0 0 0 0", "1 1 1 1 1 1 1 1 1", "nan " * 9, "-1 0 0 0 1 0 0 0 1", "1", "1 " * 99],
        "Offset": ["nan nan nan", "inf 0 0", "1e308 0 0", "0"],
        "ElementSpacing": ["0 0 0", "-3 3 3", "nan nan nan", "1e300 1 1", "1e-300 1 1", "3", ""],
        "DimSize": ["0 0 0", "-24 22 28", "2048 2048 2048", "99999999 99999999 99999999", "24 22", "x", ""],
        "ElementType": ["MET_QUUX", "MET_DOUBLE", "MET_STRING", "MET_SHORT_ARRAY", ""],
        "ElementNumberOfChannels": ["0", "-1", "3", "99999999"],
        "HeaderSize": ["-1", "99999999", "-5", "x"],
    }  # fmt: skip
    data = head_voxels(SIZE).T.tobytes()
    for field, values in odd.items():
        for value in values:
            lines = "".join(f"{key} = {text}\n" for key, text in {**fields, field: value}.items())
            content = lines.encode() + b"ElementDataFile = LOCAL\n" + data
            yield Hostile(f"MetaImage {field} {value[:40]!a}", as_file("odd.mha", content))
    for target in (
        "/etc/passwd",
        "../../x",
        "/dev/zero",
        "LIST",
        "a\0b",
        "slice%d.raw 1 9999999 1",
        ".",
        "odd.mhd",
        "",
    ):
        lines = "".join(f"{key} = {text}\n" for key, text in fields.items())
        yield Hostile(
            f"MetaImage data in {target!a}", as_file("odd.mhd", f"{lines}ElementDataFile = {target}\n".encode())
        )


REQUIRED = (
    "Rows Columns SamplesPerPixel PhotometricInterpretation BitsStored HighBit PixelRepresentation PixelData "
    "PixelSpacing ImageOrientationPatient ImagePositionPatient RescaleSlope RescaleIntercept SOPClassUID Modality "
    "SeriesInstanceUID ImageType InstanceNumber SeriesNumber"
)


def tagged() -> Iterator[Hostile]:
    """DICOM series whose tags are missing or absurd, in one slice or in all."""
    for tag in REQUIRED.split():
        yield Hostile(f"one slice without {tag}", edited(lambda dataset, tag=tag: delattr(dataset, tag), 7))
        yield Hostile(f"all slices without {tag}", edited(lambda dataset, tag=tag: delattr(dataset, tag)))
    odd = {
        "Rows": [0, 65535], "Columns": [0, 65535], "SamplesPerPixel": [0, 3, 65535],
        "NumberOfFrames": ["0", "-1", "2147483647"],
        "BitsAllocated": [0, 1, 8, 12, 32, 64, 65535], "BitsStored": [0, 1, 17, 65535], "HighBit": [0, 65535],
        "PixelRepresentation": [2, 65535], "PhotometricInterpretation": ["RGB", "PALETTE COLOR", "../x"],
        "PixelSpacing": [[0, 0], [-1, 1], ["1e30", "1e30"], ["1e-30", "1"]], "RescaleSlope": ["0", "1e38", "-1"],
        "RescaleIntercept": ["1e38", "-99999999"], "ImagePositionPatient": [[0, 0, 0], ["1e30", "0", "0"]],
        "ImageOrientationPatient": [[1, 0, 0, 0, 0, 1], [1, 0, 0, -1, 0, 0], ["1e30"] * 6],
        "SeriesNumber": ["-2147483648"], "SeriesInstanceUID": ["../../../x", "/etc/passwd", ""], "ImageType": [""],
    }  # fmt: skip
    for tag, values in odd.items():
        for value in values:
            yield Hostile(
                f"all slices with {tag} {value!a}", edited(lambda d, tag=tag, value=value: setattr(d, tag, value))
            )
    renamed = as_series(lambda content: content.replace(b"\x28\x00\x00\x01US", b"\x28\x00\x99\x01US"))
    yield Hostile("one slice without BitsAllocated", renamed)
    for syntax in (RLELossless, JPEG2000Lossless, DeflatedExplicitVRLittleEndian, "1.2.3.4", "../../x"):
        yield Hostile(f"plain pixels said to be {syntax}", relabeled(str(syntax)))
    for number in range(6):
        yield Hostile(f"enhanced, spoiled {number}", enhanced(number))


def edited(edit: Callable[[Dataset], None], only: int | None = None) -> Callable[[Path], Path]:
    def apply(dataset: Dataset, k: int) -> None:
        dataset.file_meta.MediaStorageSOPClassUID = CTImageStorage
        if only in (None, k):
            edit(dataset)

    def make(folder: Path) -> Path:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # pydicom's, of what it is told to write
            write_series(folder / "series", head_voxels(SIZE), spacing=SPACING, edit=apply)
        return folder / "series"

    return make


def relabeled(syntax: str) -> Callable[[Path], Path]:
    """Pixels that are not what the transfer syntax says, written past pydicom, which would refuse."""
    name = syntax.encode() + b"\0" * (len(syntax) % 2)
    plain = b"\x02\x00\x10\x00UI\x14\x001.2.840.10008.1.2.1\0"
    group = b"\x02\x00\x00\x00UL\x04\x00"

    def spoil(content: bytes) -> bytes:
        at = content.index(group) + len(group)
        length = struct.unpack_from("<I", content, at)[0] + len(name) - 20
        content = content[:at] + struct.pack("<I", length) + content[at + 4 :]
        return content.replace(plain, b"\x02\x00\x10\x00UI" + struct.pack("<H", len(name)) + name)

    return as_series(spoil)


def enhanced(number: int) -> Callable[[Path], Path]:
    def edit(dataset: Dataset) -> None:
        frames = dataset.PerFrameFunctionalGroupsSequence
        if number == 0:
            dataset.NumberOfFrames = 2**31 - 1
        elif number == 1:
            del dataset.SharedFunctionalGroupsSequence
        elif number == 2:
            del frames[3].PlanePositionSequence
        elif number == 3:
            frames[3].PlanePositionSequence = []
        elif number == 4:
            dataset.PixelData = dataset.PixelData[:1000]
        else:
            dataset.PerFrameFunctionalGroupsSequence = []

    def make(folder: Path) -> Path:
        write_enhanced(folder / "series" / "file", head_voxels(SIZE), spacing=SPACING, edit=edit)
        return folder / "series"

    return make


def pointing() -> Iterator[Hostile]:
    """Names and links that lead elsewhere."""

    def loop(folder: Path) -> Path:
        (folder / "a").symlink_to(folder / "b")
        (folder / "b").symlink_to(folder / "a")
        return folder / "a"

    def folder_loop(folder: Path) -> Path:
        (folder / "series" / "deep").mkdir(parents=True)
        (folder / "series" / "deep" / "up").symlink_to(folder / "series", target_is_directory=True)
        return folder / "series"

    def dangling(folder: Path) -> Path:
        (folder / "gone.nii.gz").symlink_to(folder / "nowhere")
        return folder / "gone.nii.gz"

    def device(folder: Path) -> Path:
        (folder / "zero.nii").symlink_to("/dev/zero")
        return folder / "zero.nii"

    def devices(folder: Path) -> Path:
        (folder / "series").mkdir()
        (folder / "series" / "zero").symlink_to("/dev/zero")
        os.mkfifo(folder / "series" / "pipe")
        return folder / "series"

    def folder_named_as_file(folder: Path) -> Path:
        (folder / "ct.nii.gz").mkdir()
        return folder / "ct.nii.gz"

    def dicomdir(folder: Path) -> Path:
        (folder / "DICOMDIR").write_bytes(bytes(128) + b"DICM" + b"\x04\x00\x00\x15CS\x0c\x00../../../etc")
        return folder / "DICOMDIR"

    for make in (loop, folder_loop, dangling, device, devices, folder_named_as_file, dicomdir):
        yield Hostile(make.__name__.replace("_", " "), make)
    for name in (
        "..",
        "../../../etc/passwd",
        "/proc/self/mem",
        "/dev/null",
        "/",
        "a\0b",
        "x" * 5000,
        "\n",
        "~root",
        "-rf",
    ):
        yield Hostile(f"path {name[:30]!a}", lambda folder, name=name: folder / "in" / name)


def lying() -> Iterator[Hostile]:
    """Small files that claim gigabytes or unpack to them."""
    directions = "space: left-posterior-superior\nspace directions: (1,0,0) (0,1,0) (0,0,1)\nspace origin: (0,0,0)\n"
    for sizes in ("2048 2048 2048", "1000 1000 1000", "900 1000 1000", "20 20 2500000"):
        for encoding in ("raw", "gzip"):
            text = f"NRRD0004\ntype: double\ndimension: 3\nsizes: {sizes}\nencoding: {encoding}\nendian: little\n"
            text += f"{directions}\n"
            body = gzip.compress(bytes(1000)) if encoding == "gzip" else bytes(600)
            yield Hostile(f"NRRD of {sizes}, {encoding}", as_file("huge.nrrd", text.encode() + body))
    bomb = gzip.compress(bytes(60_000_000), 9)
    yield Hostile("NIfTI that unpacks to 60 MB of nothing", as_file("bomb.nii.gz", bomb))
    small = bytearray(good_file(".nii"))
    yield Hostile("NIfTI followed by 60 MB", as_file("long.nii.gz", gzip.compress(bytes(small)) + bomb))
    for size in ((2000, 2000, 250), (1000, 1000, 999)):
        struct.pack_into("<3h", small, 42, *size)
        yield Hostile(f"NIfTI of {size}", as_file("claim.nii.gz", gzip.compress(bytes(small))))

    def rows(dataset: Dataset) -> None:
        dataset.Rows, dataset.Columns = 6000, 7000

    yield Hostile("DICOM of 42 million pixels a slice", edited(rows))

    def undefined(content: bytes) -> bytes:
        at = content.index(b"\xe0\x7f\x10\x00OW\x00\x00") + 8
        return content[:at] + struct.pack("<I", 0xFFFFFFFE) + content[at + 4 :]

    yield Hostile("DICOM pixels of 4 GB", as_series(undefined))
