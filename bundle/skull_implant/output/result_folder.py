"""The folder of a case's results: whole or not there, and never in the place of anything else."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

from bundle.skull_implant.errors import InputError

REPORT = "report.json"
LONGEST_NAME = 255  # bytes, of Linux's file systems


def is_result(folder: Path) -> bool:
    """Whether this bundle wrote a folder."""
    return bool(_report(folder))


def is_refusal(folder: Path) -> bool:
    """Whether a folder holds this bundle's report of a refused case and nothing else."""
    return _report(folder).get("status") == "refused" and len(list(folder.iterdir())) == 1


def _report(folder: Path) -> dict[str, Any]:
    """The report that this bundle wrote to a folder; empty without one."""
    path = folder / REPORT
    try:
        if not path.is_file() or path.stat().st_size > 1 << 24:
            return {}
        report = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return report if isinstance(report, dict) and {"weights", "status"} <= report.keys() else {}


def check_target(target: Path, source: Path, overwrite: bool) -> None:
    """Raise InputError unless results may come to a folder: new, empty, or an earlier result, whatever was added to it.

    The report of a refusal alone may be replaced in any case: what was wrong may have been mended.

    Args:
        target: of the results.
        source: the input, which must not lie in it.
        overwrite: whether an earlier result may be replaced.
    """
    if len(os.fsencode(_hidden(target, "partial").name)) > LONGEST_NAME:
        raise InputError(f"{target}: the name of a case must be shorter; rename the input")
    source = source.resolve()
    if target.resolve() in (source, *source.parents):
        raise InputError(f"{target}: the folder of the results must not hold the input; name another OUTPUT_DIR")
    if not target.exists():
        return
    if not is_result(target) and (not target.is_dir() or any(target.iterdir())):
        raise InputError(f"{target}: there are other files, which are never replaced; name another OUTPUT_DIR")
    if not overwrite and not is_refusal(target):
        raise InputError(f"{target}: holds a result already; name another OUTPUT_DIR or pass --overwrite")


class whole_folder:  # noqa: N801 - reads as a statement
    """A hidden folder to write in, renamed to the target at the end and removed on failure.

    Raises:
        InputError: the system refuses to make, fill or rename it; what was at the target is still there.
    """

    def __init__(self, target: Path) -> None:
        self.target = target
        self.partial = _hidden(target, "partial")

    def __enter__(self) -> Path:
        shutil.rmtree(self.partial, ignore_errors=True)
        try:
            self.partial.mkdir(parents=True)
        except OSError as error:
            raise self._refused(error) from error
        return self.partial

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        try:
            if kind is None:
                self._replace()
            elif isinstance(error, OSError) and str(error.filename or "").startswith(str(self.partial)):
                raise self._refused(error) from error
        except OSError as refusal:
            raise self._refused(refusal) from refusal
        finally:
            shutil.rmtree(self.partial, ignore_errors=True)

    def _replace(self) -> None:
        old = _hidden(self.target, "old")
        shutil.rmtree(old, ignore_errors=True)
        replaces = self.target.exists()
        if replaces:
            os.replace(self.target, old)
        try:
            os.replace(self.partial, self.target)
        except OSError:
            if replaces:
                os.replace(old, self.target)
            raise
        shutil.rmtree(old, ignore_errors=True)

    def _refused(self, error: OSError) -> InputError:
        return InputError(f"{self.target}: must be a folder that can be written, got: {error.strerror}; name another")


def _hidden(target: Path, kind: str) -> Path:
    return target.with_name(f".{kind}.{target.name}")
