"""What a batch ends with: `summary.csv` and `summary.json`, without patient data."""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bundle.skull_implant.archive.batch_case import CaseOutcome
from bundle.skull_implant.whole_files import write_text

COLUMNS = ("case", "status", "reasons", "warnings", "implant_volume_ml", "seconds")
STATUSES = ("ok", "review", "refused", "failed")
FORMULA = ("=", "+", "-", "@", "\t", "\r")  # a spreadsheet computes text that begins so


def write_summary(folder: Path, outcomes: Sequence[CaseOutcome], settings: dict[str, Any]) -> list[Path]:
    """Write both files, each whole or not at all; those of an earlier run are replaced.

    In the CSV file a single quote stands before text that a spreadsheet would take for a formula.

    Args:
        folder: OUTPUT_ROOT.
        outcomes: one for each case.
        settings: for the JSON file.

    Returns:
        The files.

    Raises:
        OSError: they cannot be written; what was there is still there.
    """
    rows = [{column: getattr(outcome, column) for column in COLUMNS} for outcome in outcomes]
    table = io.StringIO()
    writer = csv.DictWriter(table, COLUMNS, lineterminator="\n")
    writer.writeheader()
    sentences = ("reasons", "warnings")
    for row in rows:
        cells = {**row, **{column: "; ".join(row[column]) for column in sentences}}
        writer.writerow({column: _as_text(cell) for column, cell in cells.items()})
    count = Counter(outcome.status for outcome in outcomes)
    content = {"settings": settings, "count": {status: count[status] for status in STATUSES}, "cases": rows}
    files = [folder / "summary.csv", folder / "summary.json"]
    for path, text in zip(files, (table.getvalue(), json.dumps(content, indent=1) + "\n"), strict=True):
        write_text(path, text)
    return files


def _as_text(cell: Any) -> Any:
    if not isinstance(cell, str):
        return cell
    line = cell.replace("\r", " ")  # which csv does not quote, so that a spreadsheet would begin another row with it
    return f"'{line}" if cell.startswith(FORMULA) else line
