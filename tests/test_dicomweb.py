"""MONAI Label's server between Slicer and an archive: Orthanc on loopback, asked and answered through DICOMweb.

Runs in the environment of `make label`, by `make test-label`; needs Debian's orthanc and orthanc-dicomweb.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.end_to_end import ROOT, read
from tests.label_servers import (
    AS_SLICER_ASKS,
    MODEL,
    NOT_INSTALLED,
    Server,
    by_command,
    own_python,
    running_server,
)
from tests.local_servers import running_archive

pytestmark = [
    pytest.mark.label,
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # pydicom 2
]
requests = pytest.importorskip("requests", reason=NOT_INSTALLED)
pytest.importorskip("monailabel", reason=NOT_INSTALLED)
WRITE_SERIES = """
import sys
from pathlib import Path
from bundle.skull_implant.output.dicom_writing import write_ct_series
from tests.end_to_end import small_head
write_ct_series(Path(sys.argv[1]), small_head(0).hu)
"""


@pytest.fixture(scope="module")
def series(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A made-up head as a DICOM series."""
    if not (ROOT / ".venv" / "bin" / "python").exists():
        pytest.skip("a DICOM series is written with pydicom 3, in the environment that `make demo` makes")
    folder = tmp_path_factory.mktemp("series") / "ct"
    subprocess.run([own_python(), "-c", WRITE_SERIES, str(folder)], cwd=ROOT, check=True)
    return folder


@pytest.fixture(scope="module")
def archive(series: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of an archive that holds the series."""
    with running_archive(tmp_path_factory.mktemp("orthanc")) as address:
        for path in series.iterdir():
            requests.post(f"{address}/instances", data=path.read_bytes(), timeout=60).raise_for_status()
        yield address


@pytest.fixture(scope="module")
def server(archive: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running_server(tmp_path_factory.mktemp("label"), f"{archive}/dicom-web") as server:
        yield server


@pytest.fixture(scope="module")
def sample(server: Server) -> dict[str, Any]:
    return dict(server.client.next_sample("first", {}))


def test_a_series_is_listed_and_done_with_the_voxels_of_the_command_line(
    server: Server, sample: dict[str, Any], series: Path, tmp_path: Path
) -> None:
    masks, _ = by_command(series, tmp_path)

    labels, result = server.infer(sample["id"])

    assert sample["id"] == sample["SeriesInstanceUID"]
    assert result["status"] in ("ok", "review")
    assert labels.grid.size == masks["skull"].grid.size
    np.testing.assert_allclose(labels.grid.affine, masks["skull"].grid.affine, rtol=0, atol=1e-4)
    np.testing.assert_array_equal(labels.voxels == 1, masks["skull"].voxels > 0)
    np.testing.assert_array_equal(labels.voxels == 2, masks["implant"].voxels > 0)


def test_a_dicom_segmentation_holds_both_segments_of_the_series(
    server: Server, sample: dict[str, Any], tmp_path: Path
) -> None:
    import pydicom

    labels, _ = server.infer(sample["id"], fit_steps=0)
    info = [{"name": "skull", "model_name": MODEL}, {"name": "implant", "model_name": MODEL}]
    answer = requests.post(
        f"{server.address}/infer/{MODEL}",
        params={"image": sample["id"], "output": "dicom_seg"},
        data={"params": json.dumps({"fit_steps": 0, "label_info": info})},
        timeout=300,
    )

    assert answer.status_code == 200
    (tmp_path / "seg.dcm").write_bytes(answer.content)
    dataset = pydicom.dcmread(tmp_path / "seg.dcm")
    assert dataset.Modality == "SEG"
    assert dataset.StudyInstanceUID == sample["StudyInstanceUID"]
    assert [each.SegmentLabel for each in dataset.SegmentSequence] == ["skull", "implant"]
    numbers = [
        frame.SegmentIdentificationSequence[0].ReferencedSegmentNumber
        for frame in dataset.PerFrameFunctionalGroupsSequence
    ]
    for number in (1, 2):
        frames = dataset.pixel_array[[index for index, each in enumerate(numbers) if each == number]]
        assert np.count_nonzero(frames) == np.count_nonzero(labels.voxels == number)


def test_a_submitted_label_goes_back_to_the_archive(server: Server, sample: dict[str, Any], archive: str) -> None:
    file, _ = server.client.infer(MODEL, sample["id"], {**AS_SLICER_ASKS, "fit_steps": 0})
    assert read(Path(file)).voxels.any()

    server.client.save_label(
        sample["id"], file, params={"label_info": [{"name": "skull", "idx": 1}, {"name": "implant", "idx": 2}]}
    )

    found = requests.get(f"{archive}/dicom-web/series", params={"Modality": "SEG"}, timeout=60).json()
    (stored,) = [each["0020000D"]["Value"][0] for each in found]
    assert stored == sample["StudyInstanceUID"]
