"""Defects that are cut out of complete skulls on the scan's own grid: pieces that a method must give back."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from bundle.skull_implant.frame.canonical_frame import CanonicalFrame
from bundle.skull_implant.synthetic.defects import CranialHole, FacialSlab, draw_cranial_hole, draw_facial_slab
from bundle.skull_implant.volume import Volume


def native_pieces(
    complete: Volume,
    official: np.ndarray | None,
    frame: CanonicalFrame,
    sites: Sequence[str],
    generator: np.random.Generator,
) -> dict[tuple[str, str], np.ndarray]:
    """What is cut out of a skull in turn: defect and site -> the piece, (X, Y, Z) bool; of "none" it is empty.

    Args:
        complete: bool.
        official: (X, Y, Z) bool, the official implant, or None.
        frame: of the complete skull.
        sites: of the varied holes.
        generator: source of randomness.
    """
    pieces: dict[tuple[str, str], np.ndarray] = {}
    if official is not None:
        pieces["official", "official"] = official
    for site in sites:
        pieces["varied", site] = cut_native(complete, frame, draw_cranial_hole(generator, site))
    pieces["facial", "facial"] = cut_native(complete, frame, native_slab(complete, frame, generator))
    pieces["none", "none"] = np.zeros(complete.voxels.shape, bool)
    return pieces


def planned_pieces(has_official: bool, sites: Sequence[str]) -> list[tuple[str, str]]:
    """The keys of :func:`native_pieces`, of a skull that no frame fits."""
    official = [("official", "official")] if has_official else []
    return [*official, *(("varied", site) for site in sites), ("facial", "facial"), ("none", "none")]


def cut_native(complete: Volume, frame: CanonicalFrame, defect: CranialHole | FacialSlab) -> np.ndarray:
    """The bone that a defect takes away, (X, Y, Z) bool on the scan's grid."""
    index = np.argwhere(complete.voxels)
    to_canonical_mm = np.linalg.inv(frame.affine) @ complete.grid.affine
    points = torch.from_numpy((index @ to_canonical_mm[:3, :3].T + to_canonical_mm[:3, 3]).T.astype(np.float32))
    gone = index[defect.contains(points).numpy()]
    piece = np.zeros(complete.voxels.shape, bool)
    piece[tuple(gone.T)] = True
    return piece


def native_slab(complete: Volume, frame: CanonicalFrame, generator: np.random.Generator) -> FacialSlab:
    """A facial slab of a skull, measured on all of its bone."""
    index = np.argwhere(complete.voxels[::4, ::4, ::4]) * 4
    to_canonical_mm = np.linalg.inv(frame.affine) @ complete.grid.affine
    points = index @ to_canonical_mm[:3, :3].T + to_canonical_mm[:3, 3]
    return draw_facial_slab(generator, points[:, 1].max(), points[:, 0].max(), points[:, 0].min())
