"""A batch finds every CT series and volume file once, and gives each a folder name that is its own and no patient's."""

from __future__ import annotations

import logging
import os
import shutil
from dataclasses import replace
from pathlib import Path, PurePath

import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import DeflatedExplicitVRLittleEndian, MRImageStorage

from bundle.skull_implant.archive.batch_case import CaseRequest, _source
from bundle.skull_implant.archive.batch_inputs import CANDIDATES, BatchInput, find_inputs
from bundle.skull_implant.archive.batch_names import (
    carries_patient,
    distinct_names,
    names_of_file,
    patient_words,
    plain,
)
from bundle.skull_implant.errors import CaseRefused, InputError
from bundle.skull_implant.input.reading import read_case
from bundle.skull_implant.output.candidate_files import FOLDER
from tests.dicom_files import VOXELS, head_voxels, without_preamble, write_disc, write_series

OTHER_DATES = ("03021901", "ct/03.02.1901", "02031901_ct", "02-03-1901")


def touch(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("x")
    return path


def found(root: Path) -> dict[str, BatchInput]:
    inputs = find_inputs(root, root / "results")
    assert len({each.name for each in inputs}) == len(inputs)
    return {each.name: each for each in inputs}


def test_volumes_and_series_are_found_at_any_depth_and_junk_is_not(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("a.nii.gz", "deep/er/b.nrrd", "deep/c.mha"):
        touch(tmp_path / name)
    series = write_series(tmp_path / "st0" / "se1", VOXELS)
    for name in ("notes.txt", "deep/image.raw", ".hidden.nii.gz", ".cache/d.nii.gz"):
        touch(tmp_path / name)
    (tmp_path / "empty").mkdir()
    write_series(tmp_path / "mr", VOXELS, modality="MR", storage=MRImageStorage)
    write_series(tmp_path / "scout", VOXELS, kind=("ORIGINAL", "PRIMARY", "LOCALIZER"))
    (tmp_path / "damaged").write_bytes(bytes(128) + b"DICM" + b"\xff" * 40)
    os.mkfifo(tmp_path / "pipe.nii.gz")
    touch(tmp_path / "results" / "a" / "skull.nii.gz")

    with caplog.at_level(logging.INFO):
        inputs = found(tmp_path)

    assert list(inputs) == ["a", "b", "c", "st0_se1"]
    assert inputs["b"].files == (tmp_path / "deep" / "er" / "b.nrrd",)
    assert inputs["st0_se1"].files == tuple(sorted(series))
    assert [each.is_series for each in inputs.values()] == [False, False, False, True]
    assert "6 DICOM files that are no CT slices" in caplog.text
    assert "1 damaged DICOM files" in caplog.text
    assert "Secret" not in caplog.text
    assert str(tmp_path) not in caplog.text
    assert "2 files that are neither DICOM nor a volume" in caplog.text
    assert "2 hidden files and folders" in caplog.text


def test_earlier_results_are_no_inputs_and_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    touch(tmp_path / "a.nii.gz")
    for name in ("old/a/skull.nii.gz", "mine/b.nii.gz", "list/c.nii.gz", "half/d.nii.gz", "old/a/below/e.nii.gz"):
        touch(tmp_path / name)
    (tmp_path / "old" / "a" / "report.json").write_text('{"status": "ok", "weights": {}}')
    (tmp_path / "mine" / "report.json").write_text('{"status": "ok"}')  # of another program
    (tmp_path / "list" / "report.json").write_text('["status", "weights"]')
    (tmp_path / "half" / "report.json").write_text('{"status": ')

    with caplog.at_level(logging.INFO):
        inputs = found(tmp_path)

    assert list(inputs) == ["a", "b", "c", "d", "e"]
    assert "1 earlier results" in caplog.text


def test_the_candidates_of_an_earlier_result_are_no_inputs(tmp_path: Path) -> None:
    for name in ("old/a/candidates/1_recommended.nii.gz", "old/a/candidates/more/b.nii.gz", "mine/candidates/c.nii.gz"):
        touch(tmp_path / name)
    touch(tmp_path / "old" / "a" / "report.json").write_text('{"status": "ok", "weights": {}}')

    assert list(found(tmp_path)) == ["c"]
    assert CANDIDATES == FOLDER


def test_links_that_lead_in_circles_are_not_followed_and_links_to_files_are(tmp_path: Path) -> None:
    file = touch(tmp_path / "store" / "head.nii.gz")
    tree = tmp_path / "tree"
    (tree / "sub").mkdir(parents=True)
    (tree / "sub" / "up").symlink_to("..")
    (tree / "self").symlink_to("self")
    (tree / "sub" / "b.nrrd").symlink_to(file)
    (tree / "gone.nii.gz").symlink_to("nowhere")
    (tree / "loop.mha").symlink_to("loop.mha")

    assert list(found(tree)) == ["b", "gone", "loop"]  # what leads nowhere is told of, when it is read


def test_inputs_of_one_name_get_distinct_names_and_the_log_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("x/head.nii.gz", "y/head.nii.gz", "y/Head.nrrd", "y/head.mha", "other.nii", "summary.csv.nii.gz"):
        touch(tmp_path / name)
    write_series(tmp_path / "other", VOXELS)

    with caplog.at_level(logging.INFO):
        inputs = found(tmp_path)

    assert inputs["x_head"].files == (tmp_path / "x" / "head.nii.gz",)
    assert inputs["y_head.nii.gz"].files == (tmp_path / "y" / "head.nii.gz",)
    assert inputs["y_Head.nrrd"].files == (tmp_path / "y" / "Head.nrrd",)
    assert inputs["other"].files == (tmp_path / "other.nii",)
    assert "summary.csv" not in inputs
    assert "more than one input is called head: results go to x_head, y_head.mha, y_head.nii.gz" in caplog.text
    assert len(inputs) == 7


def test_two_series_of_one_folder_are_two_cases_named_by_their_uid(tmp_path: Path) -> None:
    first, second = (write_series(tmp_path / "mixed", VOXELS, number=number) for number in (1, 2))

    inputs = found(tmp_path)

    assert sorted(each.files for each in inputs.values()) == sorted((tuple(sorted(first)), tuple(sorted(second))))
    assert all(name.startswith("series_") and len(name) == 19 for name in inputs)
    assert list(inputs) == list(found(tmp_path))  # the same each time


def test_a_series_over_several_folders_is_one_case(tmp_path: Path) -> None:
    files = write_series(tmp_path / "scan" / "part1", VOXELS)
    (tmp_path / "scan" / "part2").mkdir()
    shutil.move(files[0], tmp_path / "scan" / "part2" / files[0].name)

    inputs = found(tmp_path)

    assert list(inputs) == ["scan"]
    assert len(inputs["scan"].files) == 3


def test_the_input_folder_itself_may_hold_the_series(tmp_path: Path) -> None:
    write_series(tmp_path / "ct", VOXELS)
    assert list(found(tmp_path / "ct")) == ["ct"]


@pytest.mark.parametrize(
    "folder", ["name_secret/ct", "SecretName/ct", "x/secret-ID 7", "19010203_ct", "1901-02-03", *OTHER_DATES]
)
def test_a_folder_that_names_the_patient_names_no_case(folder: str, tmp_path: Path) -> None:
    write_series(tmp_path / folder, VOXELS)
    (name,) = found(tmp_path)
    assert name.startswith("series_")
    assert "ecret" not in name


@pytest.mark.parametrize("keep_meta", [True, False])
def test_a_series_without_preambles_is_found_and_its_patient_names_no_case(tmp_path: Path, keep_meta: bool) -> None:
    plain_files = write_series(tmp_path / "scan", VOXELS)
    named_files = write_series(tmp_path / "secret-id", VOXELS, number=2)
    for path in [*plain_files, *named_files]:
        without_preamble(path, keep_meta)

    inputs = found(tmp_path)

    assert inputs.pop("scan").files == tuple(sorted(plain_files))
    ((name, other),) = inputs.items()
    assert name.startswith("series_")
    assert other.files == tuple(sorted(named_files))


def test_a_large_deflated_file_is_not_unpacked(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def edit(dataset: Dataset, k: int) -> None:
        dataset.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian

    files = write_series(tmp_path / "scan", VOXELS, edit=edit)
    files[0].write_bytes(files[0].read_bytes() + bytes(5_000_000))

    with caplog.at_level(logging.INFO):
        assert len(found(tmp_path)["scan"].files) == 2
    assert "1 damaged DICOM files" in caplog.text


def test_short_names_count_as_words_only() -> None:
    patient = patient_words("Li^Wu", "7", "")
    assert carries_patient("scans/li wu", patient)
    assert not carries_patient("clinic/wurm", patient)


def test_what_cannot_be_read_is_reported_and_not_fatal(tmp_path: Path) -> None:
    series = write_series(tmp_path / "scan", VOXELS)
    (tmp_path / "scan" / "slice").symlink_to("/proc/self/mem")  # reading it fails, for root too
    (tmp_path / "alone").mkdir()
    (tmp_path / "alone" / "thing").symlink_to("/proc/self/mem")

    inputs = found(tmp_path)

    assert set(inputs["scan"].files) == {*series, tmp_path / "scan" / "slice"}  # it may be the top of the head
    (other,) = (each for name, each in inputs.items() if name != "scan")
    assert other.name.startswith("unreadable_")
    assert other.problem.startswith(f"{other.name}: cannot be read")
    assert "thing" not in other.problem  # it may name the patient


def test_a_folder_that_cannot_be_listed_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def scandir(path: str) -> object:
        if Path(path).name == "closed":
            raise PermissionError(13, "Permission denied", path)
        return original(path)

    original = os.scandir
    touch(tmp_path / "a.nii.gz")
    (tmp_path / "closed").mkdir()
    monkeypatch.setattr(os, "scandir", scandir)

    (closed,) = [each for each in found(tmp_path).values() if each.problem]
    assert closed.problem.startswith(f"{closed.name}: the folder cannot be read (Permission denied)")
    assert "closed" not in closed.problem


def test_a_slice_cut_off_in_its_header_stays_with_its_series(tmp_path: Path) -> None:
    def cut(dataset: Dataset, k: int) -> None:
        if k == 1:
            del dataset.Columns

    files = write_series(tmp_path / "scan", VOXELS, edit=cut)
    assert found(tmp_path)["scan"].files == tuple(sorted(files))


def test_a_dicomdir_goes_with_the_series_below_it_which_must_be_whole(tmp_path: Path) -> None:
    disc = write_disc(tmp_path / "made", head_voxels((24, 22, 21)))
    (tmp_path / "in").mkdir()
    disc.rename(tmp_path / "in" / "disc")
    write_series(tmp_path / "in" / "alone", VOXELS)
    inputs = find_inputs(tmp_path / "in", tmp_path / "out")
    assert [any(path.name == "DICOMDIR" for path in each.files) for each in inputs] == [False, True, True]
    case = max(inputs, key=lambda each: len(each.files))
    request = CaseRequest("case", [str(path) for path in case.files], True, str(tmp_path / "out"), {}, "", "")
    with _source(request, list(case.files)) as folder:
        assert read_case(folder).volume.grid.size == (24, 22, 21)
    tops = sorted(case.files, key=lambda path: dcmread(path).get("ImagePositionPatient", [0, 0, -999])[2])
    request = replace(request, files=[str(path) for path in tops[:-1]])
    with _source(request, tops[:-1]) as folder, pytest.raises(CaseRefused, match="the DICOMDIR lists"):
        read_case(folder)


def test_nothing_to_do_is_an_error_that_says_what_is_there(tmp_path: Path) -> None:
    touch(tmp_path / "notes.txt")
    with pytest.raises(InputError, match="found none; passed over: 1 files that are neither"):
        find_inputs(tmp_path, tmp_path / "results")
    with pytest.raises(InputError, match="must be a folder"):
        find_inputs(tmp_path / "notes.txt", tmp_path / "results")


def test_a_name_is_one_that_every_file_system_takes() -> None:
    assert plain("../a:b\n") == "__a_b_"  # no way out of the folder
    assert plain("...") == "_"
    assert len(plain("x" * 300)) == 120
    assert plain("x" * 300) != plain("x" * 301)
    assert plain("\udcff") == "_"
    assert plain("Kopf 7 äö") == "Kopf 7 äö"
    assert names_of_file(PurePath("a/.nii.gz"), ".nii.gz")[0] == "case"


def test_the_last_candidates_are_taken_where_all_others_are() -> None:
    candidates = [["a", "b"], ["A", "c"], ["b", "d"], ["e"]]
    assert distinct_names(candidates) == ["b", "c", "d", "e"]
