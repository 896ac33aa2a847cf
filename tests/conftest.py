"""Fixtures that several test files share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    """Folder of real skulls: $SKULL_IMPLANT_DATA or `../shared/data`; skips the test if absent."""
    folder = Path(os.environ.get("SKULL_IMPLANT_DATA", ROOT.parent / "shared" / "data"))
    if not (folder / "skullfix").is_dir():
        pytest.skip(f"no real skulls: {folder.name}/skullfix not found; set SKULL_IMPLANT_DATA to its folder")
    return folder
