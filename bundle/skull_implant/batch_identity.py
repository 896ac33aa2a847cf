"""What a result was made of: input files by content, settings, weights, version; so that finished cases are known."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from bundle.skull_implant.errors import InputError

REPORT = "report.json"
CONFIGS = Path(__file__).resolve().parents[2] / "configs"


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


def hash_files(files: Sequence[Path]) -> str:
    """SHA-256 of the files' contents, hexadecimal; their names and order do not matter.

    Raises:
        OSError: one cannot be read.
    """
    digests = sorted(_sha256(path) for path in [*files, *(data for path in files for data in _data_files(path))])
    return digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()


def hash_weights(model_file: Path) -> str:
    """SHA-256 of a model file; computed once for each version of the file.

    Raises:
        OSError: it cannot be read.
    """
    state = model_file.stat()
    return _hash_once(model_file, state.st_mtime_ns, state.st_size)


def bundle_state(configs: Path = CONFIGS) -> tuple[str, str]:
    """The bundle's version, and SHA-256 of the config that every case runs through.

    Raises:
        InputError: one of the files is not there or is damaged.
    """
    try:
        version = str(json.loads((configs / "metadata.json").read_text(encoding="utf-8"))["version"])
        return version, _sha256(configs / "inference.yaml")
    except (OSError, ValueError, KeyError, TypeError) as error:
        rule = "metadata.json and inference.yaml must be there and whole"
        raise InputError(f"configs: {rule} ({type(error).__name__}); install the bundle again") from error


def read_report(folder: Path) -> dict[str, Any]:
    """The report of a result folder; empty if it has none, is damaged, or misses a file that the batch wrote."""
    try:
        report = json.loads((folder / REPORT).read_text())
        sizes = report.get("batch", {}).get("files", {})
        whole = all((folder / name).stat().st_size == size for name, size in sizes.items())
    except (OSError, ValueError, AttributeError):
        return {}
    return report if whole else {}


@lru_cache(maxsize=4)
def _hash_once(path: Path, _modified_ns: int, _size: int) -> str:
    return _sha256(path)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _data_files(path: Path) -> list[Path]:
    """Files beside a header without data that its text names."""
    if not path.name.lower().endswith((".nhdr", ".mhd")):
        return []
    text = path.read_bytes()[: 1 << 22].decode("latin-1")
    beside = (other for other in path.parent.iterdir() if other != path and other.is_file())
    return [other for other in beside if other.name.encode(errors="surrogateescape").decode("latin-1") in text]
