"""Stand-ins for the work on one case, and a batch of them as a command that can be killed.

Imports nothing heavy, because each of a batch's processes imports it. The inputs are files with volume extensions that
hold words of text: the first says what to do.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
import time
from pathlib import Path
from typing import Any

from bundle.skull_implant.archive.batch_case import complete_case
from bundle.skull_implant.errors import InputError


def act(source: Path, output_dir: Path, settings: dict[str, Any]) -> Path:
    """A result folder in a moment, or what the input's first word says."""
    text = source.read_text() if source.is_file() else "series " + " ".join(sorted(os.listdir(source)))
    word = text.split()[0]
    if word == "hang":
        time.sleep(600)
    elif word == "die":
        os.kill(os.getpid(), signal.SIGSEGV)
    elif word == "bug":
        raise KeyError("Secret^Name")
    elif word == "wrapped":  # as MONAI does
        try:
            raise KeyError("Secret^Name")
        except KeyError as error:
            raise RuntimeError("applying transform") from error
    elif word == "damaged":
        raise InputError(f"{source.name}: must be whole, half of it arrived; copy it again")
    elif word == "hog":
        hoard = bytearray(os.urandom(1 << 20) * 1500)
        time.sleep(60)
        del hoard
    elif word == "slow":
        time.sleep(0.3)
    folder = output_dir / source.name.partition(".")[0]
    folder.mkdir()
    report = {"status": "ok", "reasons": [], "implant": {"volume_ml": float(len(text))}, "gamma": settings["gamma"]}
    report["seconds"] = {"read": settings["threshold_hu"]}
    if word == "refuse":
        report = {"status": "refused", "reasons": ["must be a head, a foot arrived"]}
    else:
        (folder / "implant.nii.gz").write_bytes(text.encode() * (20_000 if word == "big" else 1))
        if settings.get("candidates", 1) > 1:
            (folder / "candidates").mkdir()
            (folder / "candidates" / "1_recommended.nii.gz").write_bytes(text.encode())
    (folder / "report.json").write_text(json.dumps(report))
    return folder


def complete_without_preview(source: Path, output_dir: Path, settings: dict[str, Any]) -> Path:
    """The real thing but for the picture, which is most of a small case's time."""
    from bundle.skull_implant.output import writing

    writing.render_preview = lambda *_, **__: None  # type: ignore[assignment]
    return complete_case(source, output_dir, settings)


if __name__ == "__main__":
    from bundle.skull_implant.archive.batch import Resources, run_batch
    from tests import batch_stand_in  # processes find its functions by this name, not by __main__
    from tests.batch_requests import SETTINGS

    work = {"act": batch_stand_in.act, "complete": batch_stand_in.complete_without_preview}[sys.argv[1]]
    limit = int(os.environ.get("FILE_SIZE_LIMIT", "0"))
    if limit:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    try:
        outcomes = run_batch(
            Path(sys.argv[2]),
            Path(sys.argv[3]),
            SETTINGS,
            Path(sys.argv[4]),
            device="cpu",
            resources=Resources(workers=int(sys.argv[5])),
            work=work,
        )
    except InputError as error:
        sys.exit(str(error))
    sys.exit(int(any(outcome.status == "failed" for outcome in outcomes)))
