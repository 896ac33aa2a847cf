"""What a user asks of the printed implant. Imports nothing heavy, so that a command can refuse bad values at once."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from bundle.skull_implant.errors import InputError

SURFACE_FORMATS = ("stl", "ply", "obj")


@dataclass(frozen=True)
class PrintSettings:
    """The printed implant; the masks do not depend on it.

    Args:
        mesh: formats of the surface, "stl", "ply" and "obj", one or several as a list or separated by commas.
        triangles: at most so many.
        clearance_mm: the surface keeps at least this from the bone.
        minimum_thickness_mm: an implant of which more than 5 % is thinner is marked for review. 1 mm is our choice:
            two to three lines of a 0.4 mm nozzle; what is thinner breaks or is left out when the piece is sliced.

    Raises:
        InputError: a value that cannot be meant.
    """

    mesh: str | Sequence[str] = "stl"
    triangles: int = 200_000
    clearance_mm: float = 0.0
    minimum_thickness_mm: float = 1.0

    def __post_init__(self) -> None:
        formats = self.mesh.split(",") if isinstance(self.mesh, str) else self.mesh
        try:
            named = tuple(dict.fromkeys(str(name).strip().lower().removeprefix(".") for name in formats))
        except TypeError:
            named = ()
        if not named or not set(named) <= set(SURFACE_FORMATS):
            raise InputError(f"mesh must be stl, ply or obj, or several with commas between, got {self.mesh!r}")
        object.__setattr__(self, "mesh", named)
        _check("triangles", self.triangles, 1000, 10_000_000, "the default is 200000", whole=True)
        _check("clearance_mm", self.clearance_mm, 0, 5, "0 lets the implant touch the bone")
        _check("minimum_thickness_mm", self.minimum_thickness_mm, 0, 10, "0 asks for none")

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready, for the report."""
        return {**asdict(self), "mesh": list(self.mesh)}


def _check(name: str, value: Any, low: float, high: float, way_out: str, whole: bool = False) -> None:
    is_number = isinstance(value, int if whole else int | float) and not isinstance(value, bool)
    if not is_number or not math.isfinite(value) or not low <= value <= high:
        kind = "a whole number" if whole else "a number"
        raise InputError(f"{name} must be {kind} between {low} and {high}, got {value!r}; {way_out}")
