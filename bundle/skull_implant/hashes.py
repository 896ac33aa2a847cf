"""Files by their content: scans, weights, and the bundle itself."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

from bundle.skull_implant.errors import InputError

CONFIGS = Path(__file__).resolve().parents[2] / "configs"


def hash_files(files: Sequence[Path]) -> str:
    """SHA-256 of the files' contents, hexadecimal; their names and order do not matter.

    Raises:
        OSError: one cannot be read.
    """
    digests = sorted(hash_file(path) for path in [*files, *(data for path in files for data in _data_files(path))])
    return digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()


def hash_weights(model_file: str | Path) -> str:
    """SHA-256 of a model file; computed once for each version of the file.

    Raises:
        OSError: it cannot be read.
    """
    path = Path(model_file)
    state = path.stat()
    return _hash_once(path, state.st_mtime_ns, state.st_size)


def bundle_state(configs: Path = CONFIGS) -> tuple[str, str]:
    """The bundle's version, and SHA-256 of the config that every case runs through.

    Raises:
        InputError: one of the files is not there or is damaged.
    """
    try:
        version = str(json.loads((configs / "metadata.json").read_text(encoding="utf-8"))["version"])
        return version, hash_file(configs / "inference.yaml")
    except (OSError, ValueError, KeyError, TypeError) as error:
        rule = "metadata.json and inference.yaml must be there and whole"
        raise InputError(f"configs: {rule} ({type(error).__name__}); install the bundle again") from error


@lru_cache(maxsize=4)
def _hash_once(path: Path, _modified_ns: int, _size: int) -> str:
    return hash_file(path)


def hash_file(path: Path) -> str:
    """SHA-256 of a file's content, hexadecimal.

    Raises:
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _data_files(path: Path) -> list[Path]:
    """Files beside a header without data that its text names."""
    if not path.name.lower().endswith((".nhdr", ".mhd")):
        return []
    text = path.read_bytes()[: 1 << 22].decode("latin-1")
    beside = (other for other in path.parent.iterdir() if other != path and other.is_file())
    return [other for other in beside if other.name.encode(errors="surrogateescape").decode("latin-1") in text]
