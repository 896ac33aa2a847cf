"""Names of result folders: those of `scripts.complete` where they are unique, and never the patient's."""

from __future__ import annotations

import hashlib
import logging
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import PurePath

logger = logging.getLogger(__name__)

RESERVED = ("summary.csv", "summary.json")


def names_of_file(relative: PurePath, extension: str) -> list[str]:
    """What to call a volume file's results, the shorter names first; the last one is unique.

    Args:
        relative: the file below INPUT_ROOT.
        extension: of its format, such as `.nii.gz`.
    """
    path = "_".join(relative.parts)
    bare = relative.name[: len(relative.name) - len(extension)] or "case"
    below = "_".join([*relative.parent.parts, bare])
    return [plain(bare), plain(below), plain(path), content_name(bare, str(relative))]


def name_of_folder(relative: PurePath, root_name: str) -> str:
    """What to call the results of a series: its folder below INPUT_ROOT, or INPUT_ROOT's own name."""
    return plain("_".join(relative.parts) or root_name or "case")


def content_name(prefix: str, text: str) -> str:
    """A prefix and twelve digits of a text's SHA-256, which tell the text to nobody who does not have it."""
    return plain(f"{prefix}_{hashlib.sha256(text.encode(errors='surrogateescape')).hexdigest()[:12]}")


def plain(name: str, longest: int = 120) -> str:
    """A name that every file system takes: printable, not hidden, of at most `longest` characters."""
    name = "".join(each if each.isprintable() and each not in '/\\<>:"|?*' else "_" for each in name)
    name = re.sub(r"^\.+", "_", name).rstrip(" .") or "case"
    if len(name.encode()) > longest:
        digest = hashlib.sha256(name.encode()).hexdigest()[:12]
        name = f"{name.encode()[: longest - 13].decode(errors='ignore')}_{digest}"
    return name


def distinct_names(candidates: Sequence[Sequence[str]], reserved: Sequence[str] = RESERVED) -> list[str]:
    """One name for each case: the first of its candidates, or a later one where two cases would have the same.

    Names that differ in capitals only are the same, as they are on some file systems.

    Args:
        candidates: of each case; the last ones must all differ.
        reserved: names that no case may have.
    """
    level = [0] * len(candidates)
    while True:
        names = [each[depth] for each, depth in zip(candidates, level, strict=True)]
        count = Counter([*(name.casefold() for name in names), *reserved])
        again = [
            number
            for number, name in enumerate(names)
            if count[name.casefold()] > 1 and level[number] + 1 < len(candidates[number])
        ]
        if not again:
            break
        for number in again:
            level[number] += 1
    moved = {candidates[number][0] for number, depth in enumerate(level) if depth}
    for first in sorted(moved):
        to = [name for name, each, depth in zip(names, candidates, level, strict=True) if depth and each[0] == first]
        logger.info("more than one input is called %s: results go to %s", first, ", ".join(to))
    return names


def patient_words(name: str, identity: str, birth_date: str) -> set[str]:
    """What of a patient could stand in a folder's name: parts of the name, the id, the birth date in any order."""
    date = _solid(birth_date)  # YYYYMMDD
    dates = {date, date[6:] + date[4:6] + date[:4], date[4:] + date[:4]} if len(date) == 8 else {date}
    return {word for word in (*_words(name), _solid(identity), *dates) if word}


def carries_patient(text: str, patient: set[str]) -> bool:
    """Whether a path has any of a patient's words: as a word of its own, or, from four letters on, within another."""
    words, solid = _words(text), _solid(text)
    return any(word in words or (len(word) >= 4 and word in solid) for word in patient)


def _words(text: str) -> set[str]:
    return {word for word in re.split(r"[\W_]+", text.casefold()) if word}


def _solid(text: str) -> str:
    return re.sub(r"[\W_]+", "", text.casefold())
