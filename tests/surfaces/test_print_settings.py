"""What cannot be printed is refused before any work."""

from __future__ import annotations

from typing import Any

import pytest

from bundle.skull_implant.errors import InputError
from bundle.skull_implant.surfaces.print_settings import PrintSettings


@pytest.mark.parametrize(
    ("mesh", "formats"),
    [("stl", ("stl",)), ("STL,.ply", ("stl", "ply")), (["obj", "stl"], ("obj", "stl")), ("ply, ply", ("ply",))],
)
def test_formats_are_read_from_text_or_a_list(mesh: Any, formats: tuple[str, ...]) -> None:
    assert PrintSettings(mesh).mesh == formats


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"mesh": "step"}, "mesh must be stl, ply or obj, .* got 'step'"),
        ({"mesh": ""}, "mesh must be stl, ply or obj"),
        ({"mesh": 3}, "mesh must be stl, ply or obj, .* got 3"),
        ({"triangles": 10}, "triangles must be a whole number between 1000 and 10000000, got 10"),
        ({"triangles": 5000.5}, "triangles must be a whole number"),
        ({"clearance_mm": -0.1}, "clearance_mm must be a number between 0 and 5, got -0.1; 0 lets the implant touch"),
        ({"clearance_mm": float("nan")}, "clearance_mm must be a number between 0 and 5, got nan"),
        ({"clearance_mm": "wide"}, "clearance_mm must be a number between 0 and 5, got 'wide'"),
        ({"clearance_mm": True}, "clearance_mm must be a number"),
        (
            {"minimum_thickness_mm": 50},
            "minimum_thickness_mm must be a number between 0 and 10, got 50; 0 asks for none",
        ),
    ],
)
def test_a_value_that_cannot_be_meant_is_refused_with_its_rule(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        PrintSettings(**settings)
