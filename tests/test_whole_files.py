"""Files that are whole or not there, and folders that take no files."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from bundle.skull_implant.errors import InputError
from bundle.skull_implant.train.training import check_targets
from bundle.skull_implant.whole_files import check_writable, whole_file, write_rows, write_text
from scripts.benchmark import benchmark
from scripts.check_holes import check_holes
from scripts.import_published import import_published
from scripts.make_demo_ct import make_demo_ct
from scripts.package import package
from scripts.plot_curves import plot_curves
from scripts.prepare import prepare


def test_a_file_takes_its_place_at_the_end(tmp_path: Path) -> None:
    target = tmp_path / "new" / "case.npz"

    with whole_file(target) as partial:
        partial.write_text("half")
        assert partial.suffix == ".npz"  # many writers choose a format by it
        assert not target.exists()

    assert target.read_text() == "half"
    assert list(target.parent.iterdir()) == [target]


def test_what_was_there_stays_where_writing_fails(tmp_path: Path) -> None:
    target = tmp_path / "scores.csv"
    target.write_text("earlier")

    def write() -> None:
        with whole_file(target) as partial:
            partial.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write()

    assert target.read_text() == "earlier"
    assert list(tmp_path.iterdir()) == [target]


def test_a_name_that_is_no_utf8_can_be_written(tmp_path: Path) -> None:
    write_text(tmp_path / "a.txt", "Sch\udce4del")

    assert (tmp_path / "a.txt").read_text() == "Sch\\udce4del"


def test_a_missing_value_is_an_empty_cell(tmp_path: Path) -> None:
    write_rows(tmp_path / "a.csv", [{"epoch": 1, "dsc": 0.5}, {"epoch": 2}], ["epoch", "dsc"])

    assert (tmp_path / "a.csv").read_text().split() == ["epoch,dsc", "1,0.5", "2,"]


def test_a_folder_that_can_be_made_is_taken_and_not_made(tmp_path: Path) -> None:
    assert check_writable(str(tmp_path / "a" / "b")) == tmp_path / "a" / "b"

    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize(
    ("below", "found"),
    [
        ("file", "Not a directory"),
        ("file/results", "Not a directory"),
        ("link", "No such file or directory"),
        ("n" * 300, "File name too long"),
    ],
    ids=["a file", "below a file", "a link to nothing", "a name too long"],
)
def test_what_takes_no_files_is_refused_in_one_line(tmp_path: Path, below: str, found: str) -> None:
    (tmp_path / "file").write_text("kept")
    (tmp_path / "link").symlink_to("nowhere")

    with pytest.raises(InputError, match=rf"must go to a folder that can be written, got: {found}; name another one$"):
        check_writable(tmp_path / below)
    assert (tmp_path / "file").read_text() == "kept"


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS, errno.EDQUOT])
def test_what_the_system_says_of_a_folder_is_told(number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("tempfile.TemporaryFile", refuse)
    with pytest.raises(InputError, match=rf"written, got: {os.strerror(number)}; name another one$"):
        check_writable(tmp_path)


@pytest.mark.parametrize(
    "command",
    [
        lambda target: benchmark("inference", target),
        lambda target: check_holes("head.nii.gz", target),
        lambda target: check_targets("runs", f"{target}/model.pt"),
        lambda target: import_published("vae.pth", "own", f"{target}/model.pt"),
        lambda target: make_demo_ct(target),
        lambda target: package(target),
        lambda target: plot_curves("runs/mine", f"{target}/curves.png"),
        lambda target: prepare("skulls", target),
    ],
    ids=[
        "benchmark",
        "check_holes",
        "training",
        "import_published",
        "make_demo_ct",
        "package",
        "plot_curves",
        "prepare",
    ],
)
def test_commands_refuse_it_before_any_work(tmp_path: Path, command: Callable[[str], None]) -> None:
    (tmp_path / "file").write_text("kept")

    with pytest.raises(
        InputError, match=r"results must go to a folder that can be written, got: Not a directory; name"
    ):
        command(str(tmp_path / "file"))
