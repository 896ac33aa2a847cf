"""The DICOM Segmentation holds the masks' very voxels where the scan's slices lie, and the scan's patient and study."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import highdicom as hd
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian

from bundle.skull_implant.errors import InputError
from bundle.skull_implant.input.dicom_series import read_dicom_folder
from bundle.skull_implant.input.reading import Case
from bundle.skull_implant.output.dicom_capture import write_secondary_capture
from bundle.skull_implant.output.dicom_derived import Creator
from bundle.skull_implant.output.dicom_results import write_dicom_results
from bundle.skull_implant.output.dicom_seg import write_segmentation
from bundle.skull_implant.output.dicom_source import SourceSeries, unchecked_values
from bundle.skull_implant.output.writing import CaseWriter
from bundle.skull_implant.steps.options import Options
from bundle.skull_implant.volume import Volume, write_volume
from tests.dicom_files import head_voxels, rotation, tilted, without_preamble, write_enhanced, write_series

STUDY, FRAME_OF_REFERENCE = "2.25.1001", "2.25.1002"
CREATOR = Creator("1.2.3", "0123456789abcdef" * 4)
# The columns are the LPS directions of i, j and k; each is a rotation.
POSES = {
    "axial": np.eye(3),
    "reversed": np.diag([1.0, -1.0, -1.0]),
    "coronal": np.array([[1.0, 0, 0], [0, 0, 1.0], [0, -1.0, 0]]),
    "oblique": rotation(17.0, -31.0),
}
Edit = Callable[[Dataset, int], None]


@dataclass(frozen=True)
class Result:
    """A series, masks on its grid, and what was written of them."""

    files: list[Path]
    skull: Volume
    implant: Volume
    path: Path
    lost: list[str]

    @property
    def dataset(self) -> pydicom.FileDataset:
        with unchecked_values():
            return pydicom.dcmread(self.path)

    def write_masks(self, folder: Path) -> list[Path]:
        """As a case has them, in the order of the segments."""
        paths = []
        for name in ("skull", "implant"):
            paths.append(folder / f"{name}.nii.gz")
            write_volume(paths[-1], getattr(self, name))
        return paths


def complete_header(dataset: Dataset, k: int) -> None:
    """What a CT slice must have, and write_series leaves out."""
    dataset.StudyInstanceUID, dataset.FrameOfReferenceUID = STUDY, FRAME_OF_REFERENCE
    dataset.StudyDate, dataset.StudyTime, dataset.StudyID, dataset.AccessionNumber = "20200229", "101112", "S1", "A1"
    dataset.PatientSex, dataset.ReferringPhysicianName, dataset.PositionReferenceIndicator = "F", "House^Gregory", ""
    dataset.SliceThickness = "1.5"


def unchanged(dataset: Dataset, k: int) -> None:
    """A series without fault."""


def made(folder: Path, pose: str = "oblique", edit: Edit = unchanged, implant: bool = True) -> Result:
    """Random masks: the skull in slices 1 to 6 of 8, the implant in slices 4 and 5."""

    def completed(dataset: Dataset, k: int) -> None:
        complete_header(dataset, k)
        edit(dataset, k)

    write_series(folder / "ct", head_voxels(), direction=POSES[pose], edit=completed)
    volume, info = read_dicom_folder(folder / "ct")
    voxels = np.random.default_rng(0).integers(0, 3, volume.grid.size)
    slices = np.arange(8)
    skull = Volume((voxels == 1) & (slices > 0) & (slices < 7), volume.grid)
    filled = Volume((voxels == 2) & ((slices == 4) | (slices == 5)) & implant, volume.grid)
    files = info["reference_files"]
    lost = write_segmentation(folder / "seg.dcm", skull, filled, SourceSeries.read(files), CREATOR)
    return Result(files, skull, filled, folder / "seg.dcm", lost)


@pytest.fixture(scope="module", params=POSES)
def result(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Result:
    return made(tmp_path_factory.mktemp(request.param), request.param)


def test_every_frame_is_the_slice_of_the_nifti_mask_that_lies_there(result: Result, tmp_path: Path) -> None:
    masks = [sitk.ReadImage(str(path)) for path in result.write_masks(tmp_path)]
    dataset = result.dataset
    shared = dataset.SharedFunctionalGroupsSequence[0]
    across, down = np.reshape(shared.PlaneOrientationSequence[0].ImageOrientationPatient, (2, 3)).astype(float)
    row_mm, column_mm = map(float, shared.PixelMeasuresSequence[0].PixelSpacing)
    left = [sitk.GetArrayFromImage(mask) for mask in masks]

    for group, frame in zip(dataset.PerFrameFunctionalGroupsSequence, dataset.pixel_array, strict=True):
        number = group.SegmentIdentificationSequence[0].ReferencedSegmentNumber
        corner = np.array(group.PlanePositionSequence[0].ImagePositionPatient, float)
        end = corner + across * column_mm * (dataset.Columns - 1) + down * row_mm * (dataset.Rows - 1)
        places = [masks[number - 1].TransformPhysicalPointToContinuousIndex(point.tolist()) for point in (corner, end)]
        k = round(places[0][2])
        np.testing.assert_allclose(places, [(0, 0, k), (dataset.Columns - 1, dataset.Rows - 1, k)], atol=1e-4)
        np.testing.assert_array_equal(frame, left[number - 1][k])
        left[number - 1][k] = 0  # so that a frame that is missing, or there twice, shows

    assert not any(voxels.any() for voxels in left)


def test_only_frames_with_voxels_are_there(result: Result) -> None:
    dataset = result.dataset

    assert dataset.NumberOfFrames == len(dataset.PerFrameFunctionalGroupsSequence) == 6 + 2
    assert all(frame.any() for frame in dataset.pixel_array)


def test_highdicom_reads_the_masks_slice_by_slice(result: Result) -> None:
    uids = [pydicom.dcmread(path).SOPInstanceUID for path in result.files]

    voxels = hd.seg.segread(result.path).get_pixels_by_source_instance(uids, assert_missing_frames_are_empty=True)

    np.testing.assert_array_equal(voxels[..., 0].T, result.skull.voxels)
    np.testing.assert_array_equal(voxels[..., 1].T, result.implant.voxels)


def test_frames_lie_exactly_where_their_source_slices_say_and_refer_to_them(result: Result) -> None:
    slices = {one.SOPInstanceUID: one for one in map(pydicom.dcmread, result.files)}
    dataset = result.dataset

    assert (dataset.StudyInstanceUID, dataset.FrameOfReferenceUID) == (STUDY, FRAME_OF_REFERENCE)
    (series,) = dataset.ReferencedSeriesSequence
    assert series.SeriesInstanceUID == next(iter(slices.values())).SeriesInstanceUID != dataset.SeriesInstanceUID
    assert {item.ReferencedSOPInstanceUID for item in series.ReferencedInstanceSequence} == set(slices)
    for group in dataset.PerFrameFunctionalGroupsSequence:
        (reference,) = group.DerivationImageSequence[0].SourceImageSequence
        source = slices[reference.ReferencedSOPInstanceUID]
        assert reference.ReferencedSOPClassUID == source.SOPClassUID
        assert group.PlanePositionSequence[0].ImagePositionPatient == source.ImagePositionPatient
    shared = dataset.SharedFunctionalGroupsSequence[0]
    measures = shared.PixelMeasuresSequence[0]
    assert shared.PlaneOrientationSequence[0].ImageOrientationPatient == source.ImageOrientationPatient
    assert (measures.PixelSpacing, measures.SliceThickness) == (source.PixelSpacing, 1.5)
    assert measures.SpacingBetweenSlices == pytest.approx(1.25)


def code(sequence: pydicom.Sequence) -> tuple[str, str, str]:
    (item,) = sequence
    return item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning


def test_segments_are_coded_colored_and_say_what_made_them(tmp_path: Path) -> None:
    dataset = made(tmp_path).dataset
    skull, implant = dataset.SegmentSequence

    assert (skull.SegmentNumber, skull.SegmentLabel) == (1, "Skull")
    assert code(skull.SegmentedPropertyCategoryCodeSequence) == ("91723000", "SCT", "Anatomical Structure")
    assert code(skull.SegmentedPropertyTypeCodeSequence) == ("89546000", "SCT", "Skull")
    assert (implant.SegmentNumber, implant.SegmentLabel) == (2, "Implant")
    assert code(implant.SegmentedPropertyCategoryCodeSequence) == ("260787004", "SCT", "Physical object")
    assert code(implant.SegmentedPropertyTypeCodeSequence) == ("40388003", "SCT", "Implant")
    assert code(implant.AnatomicRegionSequence) == ("89546000", "SCT", "Skull")
    colors = [
        hd.color.CIELabColor.from_dicom_value(one.RecommendedDisplayCIELabValue).to_rgb() for one in (skull, implant)
    ]
    np.testing.assert_allclose(colors, [(237, 227, 204), (15, 158, 199)], atol=2)  # the preview's
    for segment in (skull, implant):
        (algorithm,) = segment.SegmentationAlgorithmIdentificationSequence
        assert (segment.SegmentAlgorithmType, algorithm.AlgorithmVersion) == ("AUTOMATIC", "1.2.3")
        assert segment.SegmentAlgorithmName == algorithm.AlgorithmName
        assert algorithm.AlgorithmName.startswith("Skull implant bundle")
    assert (dataset.SegmentationType, dataset.SegmentsOverlap) == ("BINARY", "NO")
    assert (dataset.ContentLabel, str(dataset.ContentCreatorName)) == ("SKULL_IMPLANT", "Skull implant bundle^")
    assert dataset.ContentDescription
    assert (dataset.SoftwareVersions, dataset.DeviceSerialNumber) == ("1.2.3", CREATOR.weights_sha256)
    assert dataset.InstanceCreatorUID == CREATOR.uid


def test_two_objects_of_one_series_have_uids_of_their_own(tmp_path: Path) -> None:
    result = made(tmp_path)
    first = result.dataset
    write_segmentation(result.path, result.skull, result.implant, SourceSeries.read(result.files), CREATOR)
    second = result.dataset

    assert first.SOPInstanceUID != second.SOPInstanceUID
    assert first.SeriesInstanceUID != second.SeriesInstanceUID


# The patient


def test_patient_and_study_are_the_sources(tmp_path: Path) -> None:
    def edit(dataset: Dataset, k: int) -> None:
        dataset.PatientAge, dataset.PatientWeight, dataset.EthnicGroup = "042Y", "71.5", "none"
        other = Dataset()
        other.PatientID, other.IssuerOfPatientID, other.TypeOfPatientID = "other-id", "elsewhere", "TEXT"
        dataset.OtherPatientIDsSequence, dataset.PregnancyStatus = [other], 4
        dataset.add_new(0x00110010, "LO", "PRIVATE")
        dataset.StudyDescription, dataset.OperatorsName = "Head", "Not^Study"

    result = made(tmp_path, edit=edit)
    source, dataset = pydicom.dcmread(result.files[0]), result.dataset

    assert result.lost == []
    patient = ["Name", "ID", "BirthDate", "Sex", "Age", "Weight"]
    study = ["InstanceUID", "Date", "Time", "ID", "Description"]
    others = ["EthnicGroup", "PregnancyStatus", "OtherPatientIDsSequence", "AccessionNumber", "ReferringPhysicianName"]
    for keyword in (*(f"Patient{one}" for one in patient), *(f"Study{one}" for one in study), *others):
        assert dataset[keyword] == source[keyword], keyword
    assert 0x00110010 not in dataset
    assert "OperatorsName" not in dataset


@pytest.mark.parametrize(
    ("character_set", "name"),
    [
        ("ISO_IR 100", "Müller^Jörg".encode("latin-1")),
        ("ISO_IR 192", "山田^太郎=やまだ^たろう".encode()),
        (["", "ISO 2022 IR 87"], b"Yamada^Tarou=\x1b$B;3ED\x1b(B^\x1b$BB@O:\x1b(B"),
        (None, "Müller^Jörg".encode()),  # not declared at all
        ("ISO_IR 192", "Müller^Jörg".encode("latin-1")),  # declared wrongly
        ("ISO_IR 999", "Müller^Jörg".encode("latin-1")),  # declared as something that is not there
    ],
)
def test_a_name_keeps_its_bytes_whatever_its_character_set(
    tmp_path: Path, character_set: str | list[str] | None, name: bytes
) -> None:
    mark = b"X" * (len(name) + len(name) % 2)

    def edit(dataset: Dataset, k: int) -> None:
        dataset.PatientName = mark.decode()

    result = made(tmp_path, edit=edit)
    declared = "\\".join([character_set] if isinstance(character_set, str) else character_set or []).encode()
    for path in result.files:
        dataset = pydicom.dcmread(path)
        if declared:
            dataset.add_new("SpecificCharacterSet", "CS", declared.decode())
        with unchecked_values():
            dataset.save_as(path)
        path.write_bytes(path.read_bytes().replace(mark, name.ljust(len(mark))))

    lost = write_segmentation(result.path, result.skull, result.implant, SourceSeries.read(result.files), CREATOR)

    dataset = result.dataset
    assert lost == []
    assert dataset.get_item("PatientName").value.rstrip() == name
    stored = dataset.get("SpecificCharacterSet", "")
    assert (stored if isinstance(stored, str) else "\\".join(stored)).encode() == declared


def test_a_source_without_optional_tags_gives_empty_ones(tmp_path: Path) -> None:
    missing = ["StudyID", "StudyDate", "StudyTime", "AccessionNumber", "ReferringPhysicianName"]
    missing += ["PatientSex", "PatientBirthDate"]

    def edit(dataset: Dataset, k: int) -> None:
        for keyword in (*missing, "SliceThickness", "PositionReferenceIndicator"):
            del dataset[keyword]

    dataset = made(tmp_path, edit=edit).dataset

    assert all(keyword in dataset and not dataset[keyword].value for keyword in missing)
    assert dataset.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].SliceThickness == pytest.approx(1.25)


def test_odd_values_are_taken_as_they_are(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    odd = {
        "PatientSex": "female",
        "PatientBirthDate": "1st of May",
        "PatientID": "x" * 80,
        "StudyDate": "yesterday",
        "PatientWeight": "heavy",
        "PatientName": "A^B^C^D^E^F=G=H=I",
    }

    def edit(dataset: Dataset, k: int) -> None:
        with pydicom.config.disable_value_validation():
            for keyword, value in odd.items():
                dataset[keyword] = pydicom.DataElement(keyword, "LO", value)  # hardly one's own representation

    result = made(tmp_path, edit=edit)

    assert result.lost == []
    dataset = result.dataset
    assert {keyword: dataset.get_item(keyword).value.decode().rstrip() for keyword in odd} == odd
    assert dataset.get_item("PatientBirthDate").VR == "DA"
    assert not recwarn.list


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRLittleEndian])
def test_a_damaged_attribute_is_left_out_and_named(tmp_path: Path, syntax: str) -> None:
    def edit(dataset: Dataset, k: int) -> None:
        dataset.file_meta.TransferSyntaxUID = syntax
        dataset.PregnancyStatus, dataset.PatientAge = 4, "042Y"

    result = made(tmp_path, edit=edit)
    two_bytes = b"US\x02\x00" if syntax == ExplicitVRLittleEndian else b"\x02\x00\x00\x00"
    whole = b"\x10\x00\xc0\x21" + two_bytes + b"\x04\x00"
    cut = whole.replace(b"\x02\x00", b"\x01\x00")[:-1]
    for path in result.files:
        content = path.read_bytes()
        assert content.count(whole) == 1
        path.write_bytes(content.replace(whole, cut))

    warnings = write_dicom_results(tmp_path, result.skull, result.implant, result.files, CREATOR)

    assert warnings == ["segmentation.dcm was written without PregnancyStatus, damaged in the series"]
    dataset = pydicom.dcmread(tmp_path / "segmentation.dcm")
    assert "PregnancyStatus" not in dataset
    assert dataset.PatientAge == "042Y"


# What stops it


@pytest.mark.parametrize("keyword", ["StudyInstanceUID", "FrameOfReferenceUID", "SOPInstanceUID"])
def test_a_series_that_nothing_can_refer_to_gives_a_warning_and_no_file(tmp_path: Path, keyword: str) -> None:
    result = made(tmp_path)
    dataset = pydicom.dcmread(result.files[3])
    del dataset[keyword]
    dataset.save_as(result.files[3])

    warnings = write_dicom_results(tmp_path, result.skull, result.implant, result.files, CREATOR)

    rule = f"slice 4 must have a {keyword}, none arrived; export the series again"
    assert warnings == [f"segmentation.dcm was not written: {rule}"]
    assert not (tmp_path / "segmentation.dcm").exists()


def test_slices_of_two_studies_are_named_as_the_reason(tmp_path: Path) -> None:
    result = made(tmp_path)
    dataset = pydicom.dcmread(result.files[5])
    dataset.StudyInstanceUID = "2.25.5"
    dataset.save_as(result.files[5])

    with pytest.raises(InputError, match="StudyInstanceUID must be the same in all slices, 2 different ones arrived"):
        SourceSeries.read(result.files)


def test_a_slice_that_went_away_gives_a_warning_without_its_name(tmp_path: Path) -> None:
    result = made(tmp_path)
    result.files[7].unlink()

    (warning,) = write_dicom_results(tmp_path, result.skull, result.implant, result.files, CREATOR)

    assert "slice 8 must still be in its place" in warning
    assert result.files[7].name not in warning


@pytest.mark.parametrize("keep_meta", [True, False])
@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
def test_a_series_without_preambles_gives_the_same_objects(tmp_path: Path, keep_meta: bool, syntax: str) -> None:
    def edit(dataset: Dataset, k: int) -> None:
        dataset.file_meta.TransferSyntaxUID = syntax

    result = made(tmp_path, edit=edit)
    picture(tmp_path / "preview.png")
    source = pydicom.dcmread(result.files[0])
    for path in result.files:
        without_preamble(path, keep_meta)

    png = tmp_path / "preview.png"
    assert write_dicom_results(tmp_path, result.skull, result.implant, result.files, CREATOR, picture=png) == []

    whole, again = result.dataset, pydicom.dcmread(tmp_path / "segmentation.dcm")
    np.testing.assert_array_equal(again.pixel_array, whole.pixel_array)
    for dataset in (again, pydicom.dcmread(tmp_path / "preview.dcm")):
        for keyword in ("StudyInstanceUID", "PatientName", "PatientID", "PatientBirthDate", "AccessionNumber"):
            assert dataset[keyword].value == source[keyword].value, keyword


def test_a_file_that_became_something_else_gives_a_warning(tmp_path: Path) -> None:
    result = made(tmp_path)
    result.files[2].write_bytes(b"no DICOM at all " * 50)

    (warning,) = write_dicom_results(tmp_path, result.skull, result.implant, result.files, CREATOR)

    assert warning.startswith("segmentation.dcm was not written: slice 3 must")


def test_what_highdicom_refuses_is_a_reason_without_the_value(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    result = made(tmp_path)

    def refuse(*_: object, **__: object) -> None:
        raise ValueError("Secret^Name is odd")

    monkeypatch.setattr(hd.seg, "Segmentation", refuse)
    result.path.unlink()
    (warning,) = write_dicom_results(tmp_path, result.skull, result.implant, result.files, CREATOR)

    assert "ValueError arrived" in warning
    assert "Secret" not in warning


def test_a_missing_highdicom_gives_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("bundle.skull_implant.output.dicom_")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "highdicom", None)

    (warning,) = CaseWriter(tmp_path, [], "model.pt", "cpu")._write_dicom({}, tmp_path)

    assert warning.startswith("segmentation.dcm was not written: highdicom must be installed")


def test_a_full_disk_is_no_warning_and_leaves_no_half_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    result = made(tmp_path)
    before = result.path.read_bytes()

    def full(self: Dataset, path: Path, **_: object) -> None:
        path.write_bytes(b"half")
        raise OSError("no space left on device")

    monkeypatch.setattr(hd.seg.Segmentation, "save_as", full)
    with pytest.raises(OSError, match="no space left"):
        write_segmentation(result.path, result.skull, result.implant, SourceSeries.read(result.files), CREATOR)

    assert result.path.read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ct", "seg.dcm"]


# Without an implant


def test_an_empty_implant_stays_as_a_segment_without_frames(tmp_path: Path) -> None:
    dataset = made(tmp_path, implant=False).dataset

    assert [segment.SegmentLabel for segment in dataset.SegmentSequence] == ["Skull", "Implant"]
    numbers = {
        group.SegmentIdentificationSequence[0].ReferencedSegmentNumber
        for group in dataset.PerFrameFunctionalGroupsSequence
    }
    assert numbers == {1}
    assert dataset.NumberOfFrames == 6


# The preview


def picture(path: Path) -> np.ndarray:
    """A small RGB picture, different in every pixel."""
    pixels = np.random.default_rng(0).integers(0, 256, (12, 20, 3), dtype=np.uint8)
    sitk.WriteImage(sitk.GetImageFromArray(pixels, isVector=True), str(path))
    return pixels


def test_the_preview_is_a_secondary_capture_of_the_study(tmp_path: Path) -> None:
    result = made(tmp_path)
    pixels = picture(tmp_path / "preview.png")

    warnings = write_dicom_results(
        tmp_path, result.skull, result.implant, result.files, CREATOR, picture=tmp_path / "preview.png"
    )

    dataset, source = pydicom.dcmread(tmp_path / "preview.dcm"), pydicom.dcmread(result.files[0])
    assert warnings == []
    assert dataset.SOPClassUID == pydicom.uid.SecondaryCaptureImageStorage
    np.testing.assert_array_equal(dataset.pixel_array, pixels)
    for keyword in ("StudyInstanceUID", "PatientName", "PatientID", "PatientBirthDate", "StudyID", "AccessionNumber"):
        assert dataset[keyword] == source[keyword], keyword
    assert dataset.SeriesInstanceUID not in (source.SeriesInstanceUID, result.dataset.SeriesInstanceUID)
    assert dataset.BurnedInAnnotation == "NO"


def test_without_a_picture_there_is_no_secondary_capture(tmp_path: Path) -> None:
    result = made(tmp_path)
    write_dicom_results(tmp_path, result.skull, result.implant, result.files, CREATOR)

    assert {path.name for path in tmp_path.iterdir()} == {"ct", "seg.dcm", "segmentation.dcm"}


def read_and_written(folder: Path, tmp_path: Path, capture: bool) -> list[str]:
    """What CaseWriter warns of once it wrote what goes back to the archive, into `tmp_path`."""
    volume, info = read_dicom_folder(folder)
    files, frames = tuple(info["reference_files"]), tuple(info["reference_frames"])
    case = Case("head", volume, False, {}, files, info.get("tilt"), frames)
    mask, nothing = Volume(volume.voxels > 0, volume.grid), Volume(volume.voxels > 9999, volume.grid)
    picture(tmp_path / "preview.png")
    (tmp_path / "model.pt").write_bytes(b"weights")
    writer = CaseWriter(tmp_path, [], tmp_path / "model.pt", "cpu", Options(secondary_capture=capture))
    data = {"case": case, "skull": mask, "implant": nothing, "defect_class": "cranial"}
    return writer._write_dicom(data, tmp_path)


@pytest.mark.parametrize("capture", [False, True])
def test_a_corrected_gantry_tilt_gives_a_warning_and_the_preview_alone(tmp_path: Path, capture: bool) -> None:
    def edit(dataset: Dataset, k: int) -> None:
        complete_header(dataset, k)
        tilted(15.0)(dataset, k)

    write_series(tmp_path / "ct", head_voxels(), edit=edit)

    assert read_and_written(tmp_path / "ct", tmp_path, capture) == [
        "segmentation.dcm was not written: the gantry tilt of 15.0 degrees was corrected, so the results' slices are "
        "not the source's"
    ]
    assert not (tmp_path / "segmentation.dcm").exists()
    assert (tmp_path / "preview.dcm").exists() == capture
    if capture:
        assert pydicom.dcmread(tmp_path / "preview.dcm").StudyInstanceUID == STUDY


# Enhanced files


def enhanced(folder: Path, pose: str = "oblique", edit: Callable[[Dataset], None] = lambda dataset: None) -> Result:
    """Random masks on the slices of an enhanced file, whose frames are shuffled: as :func:`made` has them."""

    def completed(dataset: Dataset) -> None:
        complete_header(dataset, 0)
        edit(dataset)

    write_enhanced(folder / "ct" / "file", head_voxels(), direction=POSES[pose], edit=completed)
    return of_frames(folder)


def of_frames(folder: Path) -> Result:
    volume, info = read_dicom_folder(folder / "ct")
    voxels, slices = np.random.default_rng(0).integers(0, 3, volume.grid.size), np.arange(volume.grid.size[2])
    skull = Volume((voxels == 1) & (slices > 0) & (slices < 7), volume.grid)
    filled = Volume((voxels == 2) & ((slices == 4) | (slices == 5)), volume.grid)
    source = SourceSeries.read(info["reference_files"], info["reference_frames"])
    lost = write_segmentation(folder / "seg.dcm", skull, filled, source, CREATOR)
    return Result(info["reference_files"], skull, filled, folder / "seg.dcm", lost)


def assert_frames_refer_to_frames_at_their_place(result: Result) -> None:
    """Every frame of the segmentation lies where the source's frame that it refers to says."""
    sources = {one.SOPInstanceUID: one for one in map(pydicom.dcmread, dict.fromkeys(result.files))}
    dataset = result.dataset
    (series,) = dataset.ReferencedSeriesSequence
    assert series.SeriesInstanceUID == next(iter(sources.values())).SeriesInstanceUID
    listed = {(each.ReferencedSOPClassUID, each.ReferencedSOPInstanceUID) for each in series.ReferencedInstanceSequence}
    assert listed == {(one.SOPClassUID, uid) for uid, one in sources.items()}
    assert len(series.ReferencedInstanceSequence) == len(dataset.SourceImageSequence) == len(sources)
    for group in dataset.PerFrameFunctionalGroupsSequence:
        (item,) = group.DerivationImageSequence[0].SourceImageSequence
        source = sources[item.ReferencedSOPInstanceUID]
        assert item.ReferencedSOPClassUID == source.SOPClassUID
        if "PerFrameFunctionalGroupsSequence" in source:
            source = source.PerFrameFunctionalGroupsSequence[item.ReferencedFrameNumber - 1].PlanePositionSequence[0]
        else:
            assert "ReferencedFrameNumber" not in item
        assert group.PlanePositionSequence[0].ImagePositionPatient == source.ImagePositionPatient


def assert_voxels_lie_where_the_masks_do(result: Result) -> None:
    """By the places that the frames give, not by their order."""
    for number, mask in enumerate((result.skull, result.implant), 1):
        left = np.array(mask.voxels)
        dataset = result.dataset
        for group, frame in zip(dataset.PerFrameFunctionalGroupsSequence, dataset.pixel_array, strict=True):
            if group.SegmentIdentificationSequence[0].ReferencedSegmentNumber == number:
                corner = [*map(float, group.PlanePositionSequence[0].ImagePositionPatient), 1.0]
                i, j, k = (mask.grid.inverse_affine @ corner)[:3]
                np.testing.assert_allclose((i, j, k - round(k)), 0.0, atol=1e-4)
                np.testing.assert_array_equal(frame.T, left[:, :, round(k)])
                left[:, :, round(k)] = False
        assert not left.any()


@pytest.mark.parametrize("pose", POSES)
def test_the_segmentation_of_an_enhanced_file_refers_to_its_frames(pose: str, tmp_path: Path) -> None:
    result = enhanced(tmp_path, pose)

    assert_frames_refer_to_frames_at_their_place(result)
    assert_voxels_lie_where_the_masks_do(result)
    dataset, source = result.dataset, pydicom.dcmread(result.files[0])
    assert result.lost == []
    for keyword in ("StudyInstanceUID", "FrameOfReferenceUID", "PatientName", "PatientID"):
        assert dataset[keyword].value == source[keyword].value


def test_highdicom_reads_the_masks_of_an_enhanced_file_frame_by_frame(tmp_path: Path) -> None:
    result = enhanced(tmp_path)
    _, info = read_dicom_folder(tmp_path / "ct")

    voxels = hd.seg.segread(result.path).get_pixels_by_source_frame(
        pydicom.dcmread(result.files[0]).SOPInstanceUID,
        [frame + 1 for frame in info["reference_frames"]],
        assert_missing_frames_are_empty=True,
    )

    np.testing.assert_array_equal(voxels[..., 0].T, result.skull.voxels)
    np.testing.assert_array_equal(voxels[..., 1].T, result.implant.voxels)


def with_localizer_and_own_orientations(dataset: Dataset) -> None:
    """A first frame that is a localizer, and an orientation in each frame's group instead of the shared one."""
    shared = dataset.SharedFunctionalGroupsSequence[0]
    for group in dataset.PerFrameFunctionalGroupsSequence:
        group.PlaneOrientationSequence = shared.PlaneOrientationSequence
    del shared.PlaneOrientationSequence
    pixels = len(dataset.PixelData) // len(dataset.PerFrameFunctionalGroupsSequence)
    localizer = Dataset()
    localizer.update(dataset.PerFrameFunctionalGroupsSequence[0])
    kind = Dataset()
    kind.FrameType = ["ORIGINAL", "PRIMARY", "LOCALIZER", "NONE"]
    localizer.CTImageFrameTypeSequence = [kind]
    dataset.PerFrameFunctionalGroupsSequence.insert(0, localizer)
    dataset.NumberOfFrames += 1
    dataset.PixelData = bytes(pixels) + dataset.PixelData


def test_frames_that_are_no_slices_and_orientations_of_their_own_change_nothing(tmp_path: Path) -> None:
    result = enhanced(tmp_path, edit=with_localizer_and_own_orientations)

    assert_frames_refer_to_frames_at_their_place(result)
    assert_voxels_lie_where_the_masks_do(result)


def test_a_series_of_two_enhanced_files_and_classic_slices_is_referred_to_each_in_its_way(tmp_path: Path) -> None:
    voxels = head_voxels((12, 10, 9))
    uids: dict[str, str] = {}

    def same_series(dataset: Dataset, k: int = 0) -> None:
        complete_header(dataset, k)
        dataset.SeriesInstanceUID = uids.setdefault("series", dataset.SeriesInstanceUID)

    for number in range(2):
        origin = (-11.0, 23.0, -37.0 + 1.25 * 3 * number)
        part = voxels[:, :, 3 * number : 3 * number + 3]
        write_enhanced(tmp_path / "ct" / f"file{number}", part, origin=origin, edit=same_series)
    write_series(tmp_path / "ct", voxels[:, :, 6:], origin=(-11.0, 23.0, -37.0 + 7.5), edit=same_series)

    result = of_frames(tmp_path)

    assert len(set(result.files)) == 2 + 3
    assert_frames_refer_to_frames_at_their_place(result)
    assert_voxels_lie_where_the_masks_do(result)


@pytest.mark.parametrize("capture", [False, True])
def test_an_enhanced_ct_is_read_once_for_all_its_frames(
    tmp_path: Path, capture: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def count(*words: object, **names: object) -> pydicom.FileDataset:
        reads.append(words)
        return dcmread(*words, **names)

    write_enhanced(tmp_path / "ct" / "file", head_voxels(), edit=lambda dataset: complete_header(dataset, 0))
    reads, dcmread = [], pydicom.dcmread
    monkeypatch.setattr("bundle.skull_implant.output.dicom_source.pydicom.dcmread", count)
    before = read_dicom_folder(tmp_path / "ct") and len(reads)

    assert read_and_written(tmp_path / "ct", tmp_path, capture) == []
    assert len(reads) - 2 * before <= 2  # whatever the number of frames
    assert (tmp_path / "segmentation.dcm").exists()
    assert (tmp_path / "preview.dcm").exists() == capture


# Other programs' word on it


def run_tool(name: str, package: str, *words: object) -> subprocess.CompletedProcess[str]:
    """A program on the path or beside this Python; skips the test where there is none."""
    program = shutil.which(name) or shutil.which(name, path=str(Path(sys.executable).parent))
    if program is None:
        pytest.skip(f"no {name}: install {package}")
    return subprocess.run([program, *map(str, words)], capture_output=True, text=True, check=False, timeout=60)


@pytest.mark.parametrize("implant", [True, False])
def test_a_dicom_validator_finds_no_errors(tmp_path: Path, implant: bool) -> None:
    result = made(tmp_path, implant=implant)
    picture(tmp_path / "preview.png")
    source = SourceSeries.read(result.files)
    write_secondary_capture(tmp_path / "preview.dcm", tmp_path / "preview.png", source, CREATOR)

    of_frames = enhanced(tmp_path / "enhanced").path
    for path, kind in (
        (result.path, "Segmentation"),
        (of_frames, "Segmentation"),
        (tmp_path / "preview.dcm", "SCImage"),
    ):
        said = run_tool("dciodvfy", "Debian's dicom3tools", path)
        assert kind in said.stderr + said.stdout
        assert [line for line in (said.stderr + said.stdout).splitlines() if line.startswith(("Error", "Warn"))] == []


def rounded(dataset: Dataset, k: int) -> None:
    """Positions as some scanners write them, to 0.1 mm, and orientations that differ in a last digit."""
    dataset.ImagePositionPatient = [round(float(value), 1) for value in dataset.ImagePositionPatient]
    dataset.ImageOrientationPatient = [*dataset.ImageOrientationPatient[:5], f"{1e-7 * (k % 2):.9f}"]


@pytest.mark.parametrize(
    ("pose", "implant", "edit"),
    [
        *((pose, True, unchanged) for pose in POSES),
        pytest.param("oblique", False, unchanged, id="no implant"),
        pytest.param("axial", True, rounded, id="rounded positions"),
    ],
)
def test_dcmqi_reads_the_nifti_masks_voxels(tmp_path: Path, pose: str, implant: bool, edit: Edit) -> None:
    assert_dcmqi_reads(made(tmp_path, pose, edit, implant=implant), tmp_path)


def test_dcmqi_reads_the_masks_of_an_enhanced_file(tmp_path: Path) -> None:
    assert_dcmqi_reads(enhanced(tmp_path), tmp_path)


def assert_dcmqi_reads(result: Result, tmp_path: Path) -> None:
    """Both segments, voxel for voxel where they lie."""
    outcome = run_tool(
        *("segimage2itkimage", "the package dcmqi", "--inputDICOM", result.path),
        *("--outputDirectory", tmp_path, "--outputType", "nrrd"),
    )

    assert outcome.returncode == 0, outcome.stderr
    for number, path in enumerate(result.write_masks(tmp_path), 1):
        mask, read = sitk.ReadImage(str(path)), sitk.ReadImage(str(tmp_path / f"{number}.nrrd"))
        # dcmqi cuts empty slices off and may turn the axes, so voxels are compared where they lie
        voxels = sitk.GetArrayFromImage(sitk.Resample(read, mask, sitk.Transform(), sitk.sitkNearestNeighbor))
        np.testing.assert_array_equal(voxels > 0, sitk.GetArrayFromImage(mask) > 0)
        assert np.count_nonzero(sitk.GetArrayFromImage(read)) == np.count_nonzero(voxels)


def test_slicerio_reads_the_nifti_masks_voxels_from_what_dcmqi_gives_slicer(tmp_path: Path) -> None:
    """No DICOM is read by slicerio itself: Slicer's own importer is dcmqi, as here."""
    slicerio = pytest.importorskip("slicerio", reason="no slicerio: pip install slicerio")
    result = made(tmp_path)
    words = ("--inputDICOM", result.path, "--outputDirectory", tmp_path, "--outputType", "nrrd", "--mergeSegments")
    outcome = run_tool("segimage2itkimage", "the package dcmqi", *words)
    assert outcome.returncode == 0, outcome.stderr

    read = slicerio.read_segmentation(str(tmp_path / "1.nrrd"))

    for number, mask in enumerate((result.skull, result.implant), 1):
        index = np.argwhere(read["voxels"] == number)
        places = index @ read["ijkToLPS"][:3, :3].T + read["ijkToLPS"][:3, 3]
        there = places @ mask.grid.inverse_affine[:3, :3].T + mask.grid.inverse_affine[:3, 3]
        np.testing.assert_allclose(there, np.rint(there), atol=1e-3)
        found = np.zeros(mask.grid.size, bool)
        found[tuple(np.rint(there).astype(int).T)] = True
        np.testing.assert_array_equal(found, mask.voxels)
