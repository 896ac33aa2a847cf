"""README and docs: every module has its place, every link leads somewhere."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DOCUMENTS = ("README.md", "docs/README.md", "docs/label.md", "docs/training.md")


def test_every_module_of_the_package_is_in_one_room() -> None:
    rooms = (ROOT / "README.md").read_text().partition("| room | modules |")[2].partition("\n## ")[0]
    modules = {path.stem for path in (ROOT / "bundle" / "skull_implant").glob("*.py")} - {"__init__"}

    assert sorted(re.findall(r"`(\w+)`", rooms)) == sorted(modules)


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_link_leads_to_a_file_and_a_heading_of_the_repository(document: str) -> None:
    path = ROOT / document
    links = re.findall(r"\]\((?!https?://)([^)]*)\)", path.read_text())

    assert links
    for link in links:
        name, _, anchor = link.partition("#")
        target = path.parent / name if name else path
        assert target.is_file(), link
        assert not anchor or anchor in anchors(target), link


def anchors(document: Path) -> set[str]:
    """Headings as the Markdown viewers of repositories name them."""
    headings = re.findall(r"^#+ (.*)$", document.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
