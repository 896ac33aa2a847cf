"""Fixtures that several test files share."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.end_to_end import Outcome

ROOT = Path(__file__).resolve().parents[1]
HOSTILE = "hostile inputs survived"


@pytest.fixture
def count_hostile(record_property: Callable[[str, object], None]) -> Callable[[], None]:
    """To be called for each hostile input that was survived; their number is printed at the end."""
    return functools.partial(record_property, HOSTILE, 1)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print how many hostile inputs were survived, in all processes together, if any were tried."""
    passed = terminalreporter.getreports("passed")
    if number := sum(name == HOSTILE for report in passed for name, _ in report.user_properties):
        terminalreporter.write_line(f"{HOSTILE}: {number}")


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    """Folder of real skulls: $SKULL_IMPLANT_DATA or `../shared/data`; skips the test if absent."""
    folder = Path(os.environ.get("SKULL_IMPLANT_DATA", ROOT.parent / "shared" / "data"))
    if not (folder / "skullfix").is_dir():
        pytest.skip(f"no real skulls: {folder.name}/skullfix not found; set SKULL_IMPLANT_DATA to its folder")
    return folder


@pytest.fixture(scope="session")
def tiny_dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four made-up skulls, 001 for validation, prepared from the SkullFix layout with a mean vault of their own."""
    from bundle.skull_implant.train import preparing
    from scripts.prepare import prepare
    from tests.end_to_end import write_skullfix_layout

    folder = tmp_path_factory.mktemp("tiny")
    (folder / "split.json").write_text('{"validation": ["001"]}')
    source = write_skullfix_layout(folder / "source", seeds=(0, 1, 2, 3))
    with pytest.MonkeyPatch.context() as patch:  # two rounds of four do for skulls this much alike
        patch.setattr(preparing, "build_template", functools.partial(preparing.build_template, rounds=2))
        prepare(
            str(source),
            str(folder / "dataset"),
            split=str(folder / "split.json"),
            template="build",
            spatial_size=(64, 64, 32),
        )
    return folder / "dataset"


@pytest.fixture(scope="session")
def trained(tiny_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Outcome]:
    """Folder of a smoke run by the real command, and what it said."""
    from tests.end_to_end import SMOKE, command

    folder = tmp_path_factory.mktemp("trained")
    outcome = command(
        *("-m", "monai.bundle", "run", "training", "--config_file", SMOKE),
        *("--dataset_dir", tiny_dataset, "--output_dir", folder / "run", "--model_file", folder / "model.pt"),
    )
    return folder, outcome
