"""Files that are whole or not there, and whether a folder takes any."""

from __future__ import annotations

import contextlib
import csv
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from bundle.skull_implant.errors import InputError


@contextlib.contextmanager
def whole_file(target: Path) -> Iterator[Path]:
    """A hidden name beside a target to write to, which takes the target's place at the end and is removed on failure.

    Args:
        target: its folder is made; the hidden name ends as its does, as many writers choose a format by that.

    Yields:
        Where to write.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".partial.{target.name}")
    try:
        yield partial
        os.replace(partial, target)
    finally:
        partial.unlink(missing_ok=True)


def write_text(target: Path, text: str) -> None:
    """Write a text file in UTF-8, whole or not at all; what of a file's name is no UTF-8 comes with backslashes."""
    with whole_file(target) as partial:
        partial.write_text(text, encoding="utf-8", errors="backslashreplace")


def write_rows(target: Path, rows: Iterable[Mapping[str, Any]], columns: Sequence[str]) -> None:
    """Write a CSV file, whole or not at all.

    Args:
        target: the file.
        rows: values by column; one that is missing is left empty.
        columns: in their order.
    """
    with whole_file(target) as partial, partial.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)


def check_writable(folder: str | Path) -> Path:
    """See, before any work and without making it, that a folder for results can be made and takes files.

    Args:
        folder: of results; may be missing.

    Returns:
        The folder.

    Raises:
        InputError: what is there is no folder, or it or the nearest folder above it cannot be written.
    """
    try:
        near = next(
            each for each in (Path(folder), *Path(folder).absolute().parents) if each.exists() or each.is_symlink()
        )
        with tempfile.TemporaryFile(dir=near):  # asks the system, whose rules are many
            return Path(folder)
    except OSError as error:
        rule = "results must go to a folder that can be written"
        raise InputError(f"{folder}: {rule}, got: {error.strerror}; name another one") from error
