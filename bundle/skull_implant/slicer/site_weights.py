"""Weights that a site's own training made, those before them, and a record of how it went, in a bundle's `models/`."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path
from typing import Any

from bundle.skull_implant.hashes import hash_file
from bundle.skull_implant.whole_files import write_text

WEIGHTS = "model.pt"
RECORD = "site_training.json"
STAMP = "%Y%m%d_%H%M%S"


def keep_old(models: Path) -> Path:
    """Copy the weights in use to a file whose name says until when they were; that file."""
    kept = models / f"model_until_{time.strftime(STAMP)}.pt"
    shutil.copy2(models / WEIGHTS, kept)
    return kept


def read_record(models: Path) -> dict[str, Any]:
    """`released`, the sha256 of the weights that the bundle came with, and `trainings`, oldest first.

    `earlier`, where it is there, are the records from earlier releases.
    """
    path = models / RECORD
    if path.is_file():
        return dict(json.loads(path.read_text()))
    return {"released": hash_file(models / WEIGHTS), "trainings": []}


def write_record(models: Path, record: dict[str, Any]) -> None:
    """Write the record, whole or not at all."""
    write_text(models / RECORD, json.dumps(record, indent=1) + "\n")


def carry_over(old: Path, new: Path) -> str:
    """Bring a site's weights and record from the folder of a bundle to that of the same bundle, unpacked anew.

    Weights that were trained from those of another release stay beside the new release's, which are then in use. Kept
    weights stay in any case.

    Args:
        old: `models/`, may be missing.
        new: `models/` as it comes with the bundle.

    Returns:
        One line that says which weights are in use, or nothing where the released ones were and are.
    """
    for path in old.glob("model_*.pt"):
        shutil.copy2(path, new / path.name)
    if not (old / RECORD).is_file():
        return ""
    record = read_record(old)
    trained = [each["time"] for each in record["trainings"] if each["replaced"]]
    changed = hash_file(old / WEIGHTS) != record["released"]
    if record["released"] == hash_file(new / WEIGHTS):
        for name in (WEIGHTS, RECORD):
            shutil.copy2(old / name, new / name)
        origin = f"of this site's training of {trained[-1]}" if trained else "that were copied to models/model.pt"
        return f"the weights are those {origin}" if changed else ""
    earlier = [*record.pop("earlier", []), record]
    write_record(new, {**read_record(new), "earlier": earlier})
    if not changed:
        return ""
    kept = new / f"model_until_{time.strftime(STAMP)}.pt"
    shutil.copy2(old / WEIGHTS, kept)
    return f"the weights are this release's; those that this site trained from an earlier one's are {kept.name}"
