"""Files by their content, whatever they are called."""

from __future__ import annotations

from pathlib import Path

import pytest

from bundle.skull_implant.errors import InputError
from bundle.skull_implant.hashes import bundle_state, hash_files


def test_an_input_is_what_its_files_hold_and_not_what_they_are_called(tmp_path: Path) -> None:
    first, second, header, data = (tmp_path / name for name in ("a", "b", "c.mhd", "c.raw"))
    first.write_text("1")
    second.write_text("2")
    header.write_text("ElementDataFile = c.raw\n")
    data.write_text("3")
    assert hash_files([first, second]) == hash_files([second, first])
    renamed = second.rename(tmp_path / "z")
    assert hash_files([first, renamed]) != hash_files([first])
    before = hash_files([header])
    data.write_text("4")
    assert hash_files([header]) != before


def test_a_damaged_bundle_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"configs: metadata\.json and inference\.yaml must"):
        bundle_state(tmp_path)
