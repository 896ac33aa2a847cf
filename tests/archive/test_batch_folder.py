"""OUTPUT_ROOT of a batch: one batch's at a time, cleared of what a killed one left."""

from __future__ import annotations

import fcntl
import shutil
from pathlib import Path
from typing import IO

import pytest

from bundle.skull_implant.archive.batch_folder import BatchFolder
from bundle.skull_implant.errors import InputError


def test_a_result_that_was_to_be_replaced_comes_back_after_a_kill(tmp_path: Path) -> None:
    old = tmp_path / "out" / ".batch" / "old" / "case"
    old.mkdir(parents=True)
    (old / "report.json").write_text("{}")
    (tmp_path / "in").mkdir()
    with BatchFolder(tmp_path / "out", tmp_path / "in"):
        assert (tmp_path / "out" / "case" / "report.json").is_file()
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["case"]


def test_a_lock_that_a_batch_removed_as_it_ended_is_taken_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ending, out = [True], tmp_path / "out"

    def lock(file: IO[str], how: int) -> None:
        if ending.pop() if ending else False:
            shutil.rmtree(out / ".batch")  # between this batch's opening the file and locking it
        flock(file, how)

    flock = fcntl.flock
    monkeypatch.setattr("bundle.skull_implant.archive.batch_folder.fcntl.flock", lock)
    with BatchFolder(out, tmp_path / "in"), pytest.raises(InputError, match="another is at work"):
        BatchFolder(out, tmp_path / "in").__enter__()
