"""What a batch asks of a process for one case."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from bundle.skull_implant.archive.batch_case import CaseRequest
from bundle.skull_implant.hashes import hash_weights

SETTINGS: dict[str, Any] = {"gamma": 1.0, "defect_class": "auto", "threshold_hu": 300.0, "keep_decoded": False}


def request(path: Path, **changes: Any) -> CaseRequest:
    """The case of a file, with a model file and OUTPUT_ROOT beside it; CHANGES are its fields."""
    out = path.parent / "out"
    (out / ".batch").mkdir(parents=True, exist_ok=True)
    model = path.parent / "model.pt"
    model.write_text("weights")
    case = CaseRequest("case", [str(path)], False, str(out), SETTINGS, str(model), hash_weights(model))
    return replace(case, **changes)
