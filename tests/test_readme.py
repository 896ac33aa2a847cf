"""README and docs: every room has its place, every link leads somewhere."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "bundle" / "skull_implant"
DOCUMENTS = ("README.md", "docs/README.md", "docs/label.md", "docs/report.md", "docs/training.md")


def test_rooms_are_named_with_what_is_in_them() -> None:
    assert readme_rooms() == {room.name: ast.get_docstring(tree(room / "__init__.py")) for room in rooms()}


def test_a_room_uses_those_above_it_only() -> None:
    order = list(readme_rooms())
    for room in rooms():
        for path in room.glob("*.py"):
            used = {name for name in imported_rooms(path) if name in order}
            assert not {name for name in used if order.index(name) > order.index(room.name)}, path
    for path in PACKAGE.glob("*.py"):
        assert not set(imported_rooms(path)) & set(order), path


def readme_rooms() -> dict[str, str]:
    """The rooms of README's table, in its order, and what it says of them."""
    table = (ROOT / "README.md").read_text().partition("| room | what is in it |")[2].partition("\n\n")[0]
    return dict(re.findall(r"^\| `(\w+)` \| (.*) \|$", table, re.MULTILINE))


def rooms() -> list[Path]:
    return sorted(path.parent for path in PACKAGE.glob("*/__init__.py"))


def imported_rooms(path: Path) -> list[str]:
    """The first names below the package of what a module imports, also within its functions."""
    found = [node for node in ast.walk(tree(path)) if isinstance(node, ast.ImportFrom)]
    names = [f"{node.module}.{alias.name}" for node in found for alias in node.names]
    return [name.split(".")[2] for name in names if name.startswith("bundle.skull_implant.")]


def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


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


@pytest.mark.parametrize("document", ["Makefile", *DOCUMENTS])
def test_the_files_of_code_that_are_named_are_there(document: str) -> None:
    named = re.findall(r"\b(?:bundle|label|scripts|tests)/[\w/]+\.py\b", (ROOT / document).read_text())

    assert [name for name in named if not (ROOT / name).is_file()] == []


def anchors(document: Path) -> set[str]:
    """Headings as the Markdown viewers of repositories name them."""
    headings = re.findall(r"^#+ (.*)$", document.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
