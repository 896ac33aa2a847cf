"""The bundle's own weights are those that `configs/metadata.json` names by SHA-256; other model files are free."""

from __future__ import annotations

import json
import re
from pathlib import Path

from bundle.skull_implant.errors import InputError
from bundle.skull_implant.hashes import hash_weights
from bundle.skull_implant.whole_files import write_text

ROOT = Path(__file__).resolve().parents[3]
KEY = "weights_sha256"
OWN = "models/model.pt"


def model_path(given: str | Path) -> Path:
    """Where a command's `model_file` is: its default is the bundle's own, from whatever folder the command is run."""
    return ROOT / OWN if str(given) == OWN else Path(given)


def check_weights(model_file: Path, root: Path = ROOT) -> None:
    """Refuse the bundle's own model file if it is not the one that was shipped, or that training registered.

    A file at any other place passes: whoever names it knows what it is, and the report has its hash.

    Args:
        model_file: that exists.
        root: of the bundle.

    Raises:
        InputError: another content than `configs/metadata.json` says, or a bundle without it.
    """
    if not is_own(model_file, root):
        return
    expected, found = _expected(root), hash_weights(model_file)
    if found != expected:
        rule = f"models/model.pt must have the SHA-256 in configs/metadata.json, {expected[:12]}"
        way_out = "copy it again, or if it is meant, run `python -m scripts.register_weights`"
        raise InputError(f"{model_file.name}: {rule}, {found[:12]} arrived; {way_out}")


def register_weights(root: Path = ROOT) -> str:
    """Write the SHA-256 of the bundle's own model file to `configs/metadata.json`, and nothing else there.

    Args:
        root: of the bundle.

    Returns:
        The hash.

    Raises:
        InputError: no weights, no metadata, or it cannot be written.
    """
    model_file, metadata = root / OWN, root / "configs" / "metadata.json"
    earlier = _expected(root)
    try:
        found = hash_weights(model_file)
        text = metadata.read_text(encoding="utf-8")  # replaced as text, so that a hand-written layout stays
        write_text(metadata, re.sub(rf'("{KEY}"\s*:\s*"){earlier}"', rf'\g<1>{found}"', text))
    except OSError as error:
        rule = "models/model.pt must be there and configs/metadata.json be writable"
        raise InputError(f"{root.name}: {rule} ({error.strerror}); run this in a whole clone of one's own") from error
    return found


def is_own(model_file: Path, root: Path = ROOT) -> bool:
    """Whether a path is that of the bundle's own model file."""
    return model_file.resolve() == (root / OWN).resolve()


def _expected(root: Path) -> str:
    try:
        expected = json.loads((root / "configs" / "metadata.json").read_text(encoding="utf-8"))[KEY]
        if re.fullmatch("[0-9a-f]{64}", expected):
            return str(expected)
        error: Exception = ValueError(KEY)
    except (OSError, ValueError, KeyError, TypeError) as wrong:
        error = wrong
    rule = f"configs/metadata.json must hold {KEY}, 64 hexadecimal digits"
    raise InputError(f"model.pt: {rule}, {type(error).__name__} arrived; install the bundle again") from error
