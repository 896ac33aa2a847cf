"""Results replace earlier results and nothing else; a folder is whole or as it was."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from bundle.skull_implant.errors import InputError
from bundle.skull_implant.output.result_folder import check_target, whole_folder

RESULT = '{"status": "ok", "weights": {}}'


def made(folder: Path, **files: str) -> Path:
    folder.mkdir(parents=True)
    for name, text in files.items():
        (folder / name.replace("_", ".")).write_text(text)
    return folder


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("source", ["ct", "ct/ct.nii.gz", "ct/series/1"])
def test_the_input_is_never_in_the_place_of_the_results(tmp_path: Path, source: str, overwrite: bool) -> None:
    made(tmp_path / "ct", report_json=RESULT)
    with pytest.raises(InputError, match="ct: the folder of the results must not hold the input; name another"):
        check_target(tmp_path / "ct", tmp_path / source, overwrite)


def test_a_link_to_the_input_is_no_way_around(tmp_path: Path) -> None:
    made(tmp_path / "scans" / "ct", report_json=RESULT)
    (tmp_path / "out").symlink_to(tmp_path / "scans")
    with pytest.raises(InputError, match="must not hold the input"):
        check_target(tmp_path / "out" / "ct", tmp_path / "scans" / "ct" / "ct.nii.gz", overwrite=True)


@pytest.mark.parametrize("files", [{"notes_txt": "mine"}, {"report_json": "{}"}, {"report_json": "[" * 99_999}])
def test_other_files_are_never_replaced(tmp_path: Path, files: dict[str, str]) -> None:
    target = made(tmp_path / "ct", **files)
    for overwrite in (False, True):
        with pytest.raises(InputError, match="ct: there are other files, which are never replaced; name another"):
            check_target(target, tmp_path / "in" / "ct", overwrite)


def test_a_new_or_empty_folder_is_free_and_a_result_is_replaced_when_asked(tmp_path: Path) -> None:
    source = tmp_path / "in" / "ct"
    check_target(tmp_path / "new", source, overwrite=False)
    check_target(made(tmp_path / "result", report_json=RESULT), source, overwrite=True)
    check_target(made(tmp_path / "empty"), source, overwrite=True)
    with pytest.raises(InputError, match="result: holds a result already; name another OUTPUT_DIR or pass --overwrite"):
        check_target(tmp_path / "result", source, overwrite=False)


def test_a_name_that_no_file_system_takes_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="the name of a case must be shorter; rename the input"):
        check_target(tmp_path / ("x" * 250), tmp_path / "in", overwrite=False)


@pytest.mark.parametrize("refusing", ["earlier", "new"])
def test_what_cannot_be_renamed_is_one_line_and_leaves_the_earlier_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refusing: str
) -> None:
    target, rename = made(tmp_path / "ct", report_json=RESULT), os.replace

    def refuse(source: Any, to: Any) -> None:
        if (Path(source) == target) == (refusing == "earlier") and ".old." not in Path(source).name:
            raise OSError(errno.EPERM, os.strerror(errno.EPERM), str(source))
        rename(source, to)

    monkeypatch.setattr(os, "replace", refuse)
    with (
        pytest.raises(InputError, match=r"ct: must be a folder that can be written, got: Operation not permitted"),
        whole_folder(target) as folder,
    ):
        (folder / "implant.nii.gz").write_text("new")

    assert [path.name for path in tmp_path.iterdir()] == ["ct"]
    assert (target / "report.json").read_text() == RESULT


def test_what_cannot_be_written_is_one_line_and_a_bug_is_none(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="got: Is a directory"), whole_folder(tmp_path / "ct") as folder:
        folder.write_text("")
    with pytest.raises(FileNotFoundError), whole_folder(tmp_path / "ct"):
        (tmp_path / "elsewhere" / "x").write_text("")

    assert not list(tmp_path.iterdir())


def test_the_report_of_a_refusal_gives_way_to_the_next_try_and_a_result_does_not(tmp_path: Path) -> None:
    source = tmp_path / "ct.nii.gz"
    refused = made(tmp_path / "refused", report_json='{"status": "refused", "weights": {}}')
    check_target(refused, source, overwrite=False)
    (refused / "notes.txt").write_text("mine")
    for folder in (refused, made(tmp_path / "ok", report_json=RESULT)):
        with pytest.raises(InputError, match="holds a result already"):
            check_target(folder, source, overwrite=False)
