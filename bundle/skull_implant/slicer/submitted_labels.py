"""Labels that a site submits to MONAI Label's server, as complete skulls to learn from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from bundle.skull_implant.errors import InputError
from bundle.skull_implant.frame.canonical_frame import CanonicalFrame
from bundle.skull_implant.frame.canonical_grid import CanonicalBox
from bundle.skull_implant.frame.skull_mask import clean_binary_mask
from bundle.skull_implant.input.image_file import read_header, read_voxels
from bundle.skull_implant.input.reading import case_name
from bundle.skull_implant.model.network import SkullCompleter
from bundle.skull_implant.slicer.answering import IMPLANT, SKULL
from bundle.skull_implant.train.hole_filling import fill_hole
from bundle.skull_implant.train.preparing import Source
from bundle.skull_implant.volume import Volume


@dataclass(frozen=True)
class SubmittedSkull(Source):
    """A label map of 1 = skull and 2 = implant; both together are the complete skull.

    The implant is kept as an official defect's piece, so that this person's own hole is cut again in training.
    """

    @cached_property
    def labels(self) -> Volume:
        """The label map.

        Raises:
            InputError: it cannot be read, has other values, or has no skull.
        """
        volume = read_voxels(read_header(self.skull))
        values = set(np.unique(volume.voxels).tolist())
        if not {SKULL} <= values <= {0, SKULL, IMPLANT}:
            arrived = ", ".join(f"{value:g}" for value in sorted(values)[:5])
            raise InputError(
                f"{self.skull.name}: a label must hold {SKULL} = skull, {IMPLANT} = implant and 0, {arrived} arrived; "
                "submit the segments skull and implant alone, in this order"
            )
        return volume

    def read_skull(self, threshold_hu: float) -> Volume:
        """Skull and implant together, on the image's own grid; the threshold is for CT and not used."""
        return clean_binary_mask(Volume(self.labels.voxels > 0, self.labels.grid))

    def read_implant(self) -> Volume | None:
        """The implant, or None where the label has none."""
        implant = self.labels.voxels == IMPLANT
        return Volume(implant.astype(np.uint8), self.labels.grid) if implant.any() else None


def submitted_skulls(
    training: Sequence[Mapping[str, str]], validation: Sequence[Mapping[str, str]]
) -> tuple[list[SubmittedSkull], list[str]]:
    """The skulls of MONAI Label's two lists, and the names of those for validation.

    Args:
        training: entries with `label`, the path of a label map.
        validation: the same; if there is none, every fifth of `training` takes its place, the last one at least.

    Raises:
        InputError: fewer than two labels.
    """
    skulls = [SubmittedSkull(case_name(entry["label"]), Path(entry["label"])) for entry in (*training, *validation)]
    if len(skulls) < 2:
        raise InputError(
            f"training needs at least two submitted labels, one of them for validation, {len(skulls)} arrived; "
            "submit complete skulls: the segment skull of an undamaged one, or skull and implant"
        )
    held_out = skulls[len(training) :] or skulls[4::5] or skulls[-1:]
    return skulls, [each.name for each in held_out]


def refuse_hole(
    complete: np.ndarray, frame: CanonicalFrame, box: CanonicalBox, network: SkullCompleter, largest_ml: float = 0.5
) -> None:
    """Raise InputError if a skull submitted without implant has a hole in its vault, because none is to be learned.

    Below the vault's equator an undamaged skull has openings of its own, so nothing is said of what lies there.

    Args:
        complete: (X, Y, Z) bool, canonical.
        frame: of this skull.
        box: of `complete`.
        network: whose implant for it should be empty.
        largest_ml: of that implant, above the equator, that is no hole.
    """
    height_mm = box.affine[2, 2] * np.arange(box.spatial_size[2]) + box.affine[2, 3]
    above = height_mm > -network.template.vertex_mm * frame.scales[2]
    hole_ml = float(fill_hole(complete, frame, box, network)[:, :, above].sum()) * box.grid(frame).voxel_ml
    if hole_ml > largest_ml:
        raise InputError(
            f"a submitted skull must be complete, a hole of {hole_ml:.1f} ml was found; submit its implant with it"
        )
