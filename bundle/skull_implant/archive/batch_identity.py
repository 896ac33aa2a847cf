"""What a result was made of: input files by content, settings, weights, version; so that finished cases are known."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bundle.skull_implant.output.result_folder import REPORT


@dataclass(frozen=True)
class Identity:
    """What decides a result.

    Args:
        input_sha256: of the input files' contents, whatever they are called.
        settings: those that change voxels or what is written.
        weights_sha256: of the model file.
        version: of the bundle.
        config_sha256: of `configs/inference.yaml`.
    """

    input_sha256: str
    settings: Mapping[str, Any]
    weights_sha256: str
    version: str
    config_sha256: str

    def difference(self, report: dict[str, Any]) -> str:
        """In what an earlier result differs from this, in words; empty if in nothing."""
        made_of = report.get("batch")
        if not isinstance(made_of, dict):
            return "something that no batch wrote"
        if made_of.get("input_sha256") != self.input_sha256:
            return "the result of another input"
        if made_of.get("weights_sha256") != self.weights_sha256:
            return "the result of other weights"
        if made_of.get("version") != self.version:
            return f"the result of version {made_of.get('version', 'unknown')}, now {self.version}"
        if made_of.get("config_sha256") != self.config_sha256:
            return "the result of another configs/inference.yaml"
        earlier = made_of.get("settings") or {}
        changed = [
            f"{key} {earlier.get(key)}, now {self.settings.get(key)}"
            for key in sorted({*earlier, *self.settings})
            if earlier.get(key) != self.settings.get(key)
        ]
        return f"the result of other settings ({', '.join(changed)})" if changed else ""


def read_report(folder: Path) -> dict[str, Any]:
    """The report of a result folder; empty if it has none, is damaged, or misses a file that the batch wrote."""
    try:
        report = json.loads((folder / REPORT).read_text())
        sizes = report.get("batch", {}).get("files", {})
        whole = all((folder / name).stat().st_size == size for name, size in sizes.items())
    except (OSError, ValueError, AttributeError):
        return {}
    return report if whole else {}
