"""What a disc's DICOMDIR lists of a series, to tell a series that was copied in part.

Needs pydicom 3, so nothing that runs inside MONAI Label may import it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pydicom
from pydicom.uid import MediaStorageDirectoryStorage


def listed_instances(folder: Path, *, largest: int = 1 << 26) -> dict[str, set[str]]:
    """SOP Instance UIDs that the DICOMDIR of a folder lists, by the UID of their series.

    Instances are told by UID and not by file, because copying a disc may rename its files. A DICOMDIR that is damaged
    lists what can be read of it: it is not needed to read a series.

    Args:
        folder: that may hold one.
        largest: bytes; a larger one is no disc's, and lists nothing.
    """
    found: dict[str, set[str]] = defaultdict(set)
    for path in sorted(folder.iterdir()):
        if path.name.upper() != "DICOMDIR" or not path.is_file():
            continue
        try:
            if path.stat().st_size > largest:
                continue
            directory = pydicom.dcmread(path)
            if directory.file_meta.get("MediaStorageSOPClassUID") != MediaStorageDirectoryStorage:
                continue
            for series_uid, instance_uid in _instances(directory):
                found[series_uid].add(instance_uid)
        except Exception:  # pydicom raises whatever a damaged file leads it to
            continue
    return found


def _instances(directory: pydicom.Dataset) -> Iterator[tuple[str, str]]:
    """UIDs of series and instance of each record, found along the offsets that link the records."""
    records = {record.seq_item_tell: record for record in directory.DirectoryRecordSequence}
    first = directory.OffsetOfTheFirstDirectoryRecordOfTheRootDirectoryEntity
    waiting, seen = [(int(first), "")], set()
    while waiting:
        offset, series_uid = waiting.pop()
        record = records.get(offset)
        if record is None or offset in seen:  # 0 ends a level; offsets that lead in a circle are damage
            continue
        seen.add(offset)
        below = str(record.get("SeriesInstanceUID") or series_uid)
        if instance := record.get("ReferencedSOPInstanceUIDInFile"):
            yield below, str(instance)
        waiting.append((int(record.get("OffsetOfTheNextDirectoryRecord") or 0), series_uid))
        waiting.append((int(record.get("OffsetOfReferencedLowerLevelDirectoryEntity") or 0), below))
