"""OUTPUT_ROOT of a batch: checked before any work, kept from a second batch, cleared of what a killed one left."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
from pathlib import Path
from types import TracebackType

from bundle.skull_implant.archive.batch_case import WORK_FOLDER, link_prefix
from bundle.skull_implant.errors import InputError


class BatchFolder:
    """A context in which OUTPUT_ROOT is there, writable and this batch's alone.

    Args:
        output_root: is created.
        input_root: must not be inside it.

    Raises:
        InputError: on entering, if it cannot be written or another batch is at work in it.
    """

    def __init__(self, output_root: Path, input_root: Path) -> None:
        self.root = output_root
        self.work = output_root / WORK_FOLDER
        if output_root.resolve() in (input_root.resolve(), *input_root.resolve().parents):
            raise InputError(f"{output_root}: OUTPUT_ROOT must not be or hold INPUT_ROOT; name another folder")

    def __enter__(self) -> Path:
        while not self._lock():
            pass
        self._clear_up()
        return self.root

    def _lock(self) -> bool:
        """Lock the folder; False if what was locked is a file that another batch removed as it ended."""
        path = self.work / "lock"
        try:
            self.work.mkdir(parents=True, exist_ok=True)
            self.lock = path.open("w")
        except FileNotFoundError:  # removed between the two
            return False
        except OSError as error:
            rule = "OUTPUT_ROOT must be a folder that can be written"
            raise InputError(f"{self.root}: {rule} ({error.strerror}); name another one") from error
        try:
            fcntl.flock(self.lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self.lock.close()
            rule = "only one batch at a time may write to an OUTPUT_ROOT"
            raise InputError(f"{self.root}: {rule}, another is at work; wait for it or name another one") from error
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(self.lock.fileno()), path.stat()):
                return True
        self.lock.close()
        return False

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._clear_up()
        shutil.rmtree(self.work, ignore_errors=True)
        self.lock.close()

    def _clear_up(self) -> None:
        """Put back results that were to be replaced and were not, and remove unfinished ones."""
        for old in self.work.glob("old/*"):
            target = self.root / old.name
            if not os.path.lexists(target):
                os.replace(old, target)
        for folder in [*self.work.glob("work-*"), self.work / "old"]:
            shutil.rmtree(folder, ignore_errors=True)
        for folder in Path(tempfile.gettempdir()).glob(link_prefix(self.root) + "*"):
            shutil.rmtree(folder, ignore_errors=True)
