"""A result goes back to the archive that its scan came from: Orthanc on loopback, through DICOMweb, as a PACS is used.

Needs Debian's orthanc and orthanc-dicomweb.
"""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Iterator
from email import message_from_bytes
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest

from bundle.skull_implant.output.dicom_writing import write_ct_series
from tests.end_to_end import ROOT, read, run_module, small_head, without_preview
from tests.local_servers import open_directly, running_archive

BOUNDARY = "one-object-and-the-next"


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of an empty archive."""
    with running_archive(tmp_path_factory.mktemp("orthanc")) as address:
        yield f"{address}/dicom-web"


def ask(address: str, data: bytes | None = None, **headers: str) -> bytes:
    """What an address answers; never through a proxy."""
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    with open_directly(urllib.request.Request(address, data, names)) as answer:
        content_type = answer.headers["Content-Type"] or ""
        return f"Content-Type: {content_type}\r\n\r\n".encode() + answer.read()


def store(archive: str, paths: list[Path]) -> None:
    """STOW-RS."""
    parts = [
        f"--{BOUNDARY}\r\nContent-Type: application/dicom\r\n\r\n".encode() + path.read_bytes() + b"\r\n"
        for path in paths
    ]
    kind = f'multipart/related; type="application/dicom"; boundary={BOUNDARY}'
    data = b"".join(parts) + f"--{BOUNDARY}--".encode()
    ask(f"{archive}/studies", data, Content_Type=kind, Accept="application/dicom+json")


def find(archive: str, what: str) -> list[dict[str, Any]]:
    """QIDO-RS: values by tag, the first of each."""
    answer = ask(f"{archive}/{what}", Accept="application/dicom+json").partition(b"\r\n\r\n")[2]
    return [{tag: (each.get("Value") or [None])[0] for tag, each in one.items()} for one in json.loads(answer)]


def fetch(archive: str, what: str, folder: Path) -> list[Path]:
    """WADO-RS."""
    answer = message_from_bytes(ask(f"{archive}/{what}", Accept='multipart/related; type="application/dicom"'))
    paths = []
    for number, part in enumerate(answer.get_payload()):
        paths.append(folder / f"fetched{number}.dcm")
        paths[-1].write_bytes(part.get_payload(decode=True))
    return paths


def test_a_segmentation_is_found_in_the_archive_with_its_study_and_comes_back_voxel_for_voxel(
    archive: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not (ROOT / "models" / "model.pt").is_file():
        pytest.skip("no weights: models/model.pt is not there yet")
    without_preview(monkeypatch)
    originals = write_ct_series(tmp_path / "original", small_head(0).hu, uid_seed="archive", patient_id="QX-77")
    other = write_ct_series(tmp_path / "other", small_head(0).hu, uid_seed="another patient", patient_id="QX-88")
    store(archive, [*originals, *other])
    source = pydicom.dcmread(originals[0], stop_before_pixels=True)
    series = f"studies/{source.StudyInstanceUID}/series/{source.SeriesInstanceUID}"
    (tmp_path / "ct").mkdir()
    assert len(fetch(archive, series, tmp_path / "ct")) == len(originals)

    outcome = run_module("scripts.complete", tmp_path / "ct", tmp_path / "out", "--device", "cpu")
    assert (outcome.status, outcome.stderr) == (0, "")
    store(archive, [tmp_path / "out" / "ct" / "segmentation.dcm"])

    (found,) = find(archive, "series?Modality=SEG&includefield=all")
    assert found["0020000D"] == source.StudyInstanceUID
    studies = {each["0020000D"]: each for each in find(archive, "studies?includefield=all")}
    assert len(studies) == 2
    assert studies[source.StudyInstanceUID]["00100020"] == "QX-77"
    in_study = find(archive, f"studies/{source.StudyInstanceUID}/series")
    assert {each["0020000E"] for each in in_study} == {source.SeriesInstanceUID, found["0020000E"]}
    (path,) = fetch(archive, f"studies/{source.StudyInstanceUID}/series/{found['0020000E']}", tmp_path)
    dataset = pydicom.dcmread(path)
    assert dataset.ReferencedSeriesSequence[0].SeriesInstanceUID == source.SeriesInstanceUID
    for number, name in enumerate(("skull", "implant"), 1):
        assert_same_voxels(dataset, number, tmp_path / "out" / "ct" / f"{name}.nii.gz")


def assert_same_voxels(dataset: pydicom.Dataset, number: int, mask_file: Path) -> None:
    """A segment against a NIfTI mask, by the places that the frames give."""
    mask = read(mask_file)
    left = mask.voxels.copy()
    for group, frame in zip(dataset.PerFrameFunctionalGroupsSequence, dataset.pixel_array, strict=True):
        if group.SegmentIdentificationSequence[0].ReferencedSegmentNumber == number:
            corner = [*map(float, group.PlanePositionSequence[0].ImagePositionPatient), 1.0]
            i, j, k = (mask.grid.inverse_affine @ corner)[:3]
            np.testing.assert_allclose((i, j, k - round(k)), 0.0, atol=1e-3)
            np.testing.assert_array_equal(frame.T, left[:, :, round(k)])
            left[:, :, round(k)] = 0
    assert mask.voxels.any()
    assert not left.any()
