"""The way of a case through the workflow, as MONAI transforms: each adds to its dictionary what the next one needs."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from monai.transforms import Transform
from scipy import ndimage

from bundle.skull_implant.design.hole_cover import HoleCover, hole_cover
from bundle.skull_implant.design.implant import Holes, ImplantRules, fill_holes, find_holes
from bundle.skull_implant.design.metrics import dice
from bundle.skull_implant.design.rim_metrics import RimScore, rim_gap_and_step
from bundle.skull_implant.errors import InputError
from bundle.skull_implant.fit.facial_fit import FacialFit
from bundle.skull_implant.fit.rim_fit import Refined, RimFit
from bundle.skull_implant.frame.canonical_frame import estimate_frame
from bundle.skull_implant.frame.canonical_grid import CanonicalBox, to_canonical, to_native
from bundle.skull_implant.frame.fitness import FitnessRules, check_scan, check_vault
from bundle.skull_implant.frame.head_strap import strap_ml
from bundle.skull_implant.frame.skull_mask import clean_binary_mask, skull_mask_from_hu
from bundle.skull_implant.input.reading import read_case
from bundle.skull_implant.model.network import DEFECT_CLASSES, SkullCompleter
from bundle.skull_implant.steps.options import Options
from bundle.skull_implant.volume import Volume

CaseData = dict[str, Any]


@contextmanager
def timed(data: CaseData, stage: str) -> Iterator[None]:
    """Add the seconds spent inside to `data["seconds"][stage]`."""
    started = time.perf_counter()
    yield
    data.setdefault("seconds", {})[stage] = round(time.perf_counter() - started, 2)


class CaseTransform(Transform):
    """A step on the way of a case, which changes the case's dictionary in place.

    Bad input is kept in `error`, with an empty `image`, and later steps pass such a case by. Who runs the steps says
    what becomes of it: the commands raise it, and MONAI Label's server, which would answer an exception with HTTP 500
    and no reason, sends it back as an answer.
    """

    def __call__(self, data: CaseData) -> CaseData:
        """A new dictionary with what the step added, or with `error`."""
        data = dict(data)
        if "error" not in data:
            try:
                self.step(data)
            except InputError as error:
                data |= {"error": error, "image": torch.empty(0)}
        return data

    def step(self, data: CaseData) -> None:
        """Do the work; may raise InputError."""
        raise NotImplementedError


class CheckOptionsd(CaseTransform):
    """Let a case with wrong options come to nothing before any work.

    Args:
        options: as they were read.
    """

    def __init__(self, options: Options) -> None:
        self.options = options

    def step(self, data: CaseData) -> None:
        """Raises InputError, the options' own."""
        if self.options.problem is not None:
            raise self.options.problem


class ReadCased(CaseTransform):
    """Read `image`, a path, into `case`.

    Args:
        rules: which scans are refused for their grid.
        series_number: of a DICOM folder's CT series; None takes the one with the most slices.
    """

    def __init__(self, rules: FitnessRules | None = None, series_number: int | None = None) -> None:
        self.series_number = series_number
        self.rules = rules or FitnessRules()

    def step(self, data: CaseData) -> None:
        """Raises InputError for anything that is not a head CT or a skull mask, CaseRefused if it is unfit."""
        with timed(data, "read"):
            data["case"] = read_case(data["image"], series_number=self.series_number)
            check_scan(data["case"], self.rules)


class SkullMaskd(CaseTransform):
    """Add `skull`, the patient's bone as a bool Volume on the scan's grid.

    Args:
        threshold_hu: bone is at least this; not used for masks.
    """

    def __init__(self, threshold_hu: float = 300.0) -> None:
        self.threshold_hu = float(threshold_hu)

    def step(self, data: CaseData) -> None:
        """Raises CaseRefused where there is no skull."""
        case = data["case"]
        with timed(data, "skull mask"):
            if case.is_mask:
                skull = clean_binary_mask(case.volume)
            else:
                skull = skull_mask_from_hu(case.volume, case=case.name, threshold_hu=self.threshold_hu)
            data["skull"] = Volume(skull.voxels > 0, skull.grid)


class CanonicalFramed(CaseTransform):
    """Add `frame`, and replace `image` by the share of bone in the canonical box, (1, X, Y, Z) float32.

    Args:
        network: gives the box and the mean vault.
    """

    def __init__(self, network: SkullCompleter) -> None:
        self.box = network.box
        self.template = network.template

    def step(self, data: CaseData) -> None:
        """Raises CaseRefused where there is no vault."""
        skull: Volume = data["skull"]
        with timed(data, "align"):
            data["frame"] = estimate_frame(skull.voxels, skull.grid, self.template, case=data["case"].name)
            data["image"] = torch.from_numpy(to_canonical(skull, data["frame"], self.box)[None])


class CheckVaultd(CaseTransform):
    """Add `remarks`, what a report should say of the scan. Comes after the frame, which tells a vault from a chest.

    Args:
        network: gives the mean vault.
        rules: which scans are refused, and which need a second look.
    """

    def __init__(self, network: SkullCompleter, rules: FitnessRules | None = None) -> None:
        self.template = network.template
        self.rules = rules or FitnessRules()

    def step(self, data: CaseData) -> None:
        """Raises CaseRefused where the field of view cuts the vault off."""
        with timed(data, "check"):
            data["remarks"] = check_vault(data["case"], data["skull"], self.rules)
            around_ml = strap_ml(data["skull"], data["frame"], self.template)
            if around_ml >= self.rules.review_strap_ml:
                data["remarks"].append(
                    f"{around_ml:.1f} ml of what was taken for bone lies around the vault with a gap between, "
                    "a head strap, a bandage or a holder; take it out of the mask if it is none of the skull"
                )


@dataclass(frozen=True)
class Completion:
    """A completed skull in the canonical frame and where its holes are: what an implant is cut from.

    Args:
        probability: (X, Y, Z) of skull.
        bone_share: (X, Y, Z) share of the patient's bone.
        box: of both.
        holes: to be filled.
        expected_dsc: of the implant; NaN where nothing is expected.
    """

    probability: np.ndarray
    bone_share: np.ndarray
    box: CanonicalBox
    holes: Holes
    expected_dsc: float = float("nan")

    def of(self, probability: np.ndarray) -> Completion:
        """The same holes in another completed skull (X, Y, Z)."""
        return replace(self, probability=probability)


class Implantd(CaseTransform):
    """Add `implant` and `completed`, bool Volumes on the scan's grid, from `pred`; and `decoded` if it is to be kept.

    Also adds what the report says of the model and the hole: `defect_class`, `agreement` and `below_vault_ml`; of a
    cranial implant also `rim`, its gap and step, and `hole_cover`; and `completion`, from which other implants of the
    case can be made.

    Args:
        network: gives the box and the mean vault.
        keep_decoded: also resample the decoder's own skull, uncleaned.
        rim_fit: move the decoded vault onto the bone around a cranial hole, and let the facial network say what bone
            a facial defect took.
        rules: what counts as implant.
    """

    def __init__(
        self,
        network: SkullCompleter,
        keep_decoded: bool = False,
        rim_fit: bool = True,
        rules: ImplantRules | None = None,
    ) -> None:
        self.box: CanonicalBox = network.box
        self.template = network.template
        self.keep_decoded = keep_decoded
        self.rim_fit = RimFit.of(network) if rim_fit else None
        self.facial_fit = FacialFit.of(network) if rim_fit else None
        self.rules = rules or ImplantRules()

    def step(self, data: CaseData) -> None:
        """`pred` holds the inferer's outputs of this case, of which its own `pred` (1, X, Y, Z) takes the place."""
        data.update(data["pred"])
        probability = np.asarray(data["pred"].cpu(), dtype=np.float32)[0]
        bone = np.asarray(data["image"].cpu())[0]
        skull, frame = data["skull"], data["frame"]
        data["defect_class"] = DEFECT_CLASSES[int(data["class_index"])]
        with timed(data, "implant"):
            data["agreement"] = bone_agreement(probability, bone, self.box)
            data["completion"] = self.complete(probability, data)
            data["implant"] = self.design(data["completion"], data)
            data["below_vault_ml"] = data["completion"].holes.below_ml
            data["expected_dsc"] = data["completion"].expected_dsc
            data["completed"] = Volume(skull.voxels | data["implant"].voxels, skull.grid)
            if data["defect_class"] == "cranial":
                data["rim"], data["hole_cover"] = self.measure(data["implant"], data)
                data["expected_dsc"] = min(data["expected_dsc"], data["hole_cover"].best_dsc)
            if self.keep_decoded:
                decoded = to_native(probability, frame, self.box, skull.grid) > self.rules.level
                data["decoded"] = Volume(decoded, skull.grid)

    def complete(
        self, probability: np.ndarray, data: CaseData, holes: Holes | None = None, gamma: float | None = None
    ) -> Completion:
        """A decoded skull, fitted to the bone around the defect, and its holes.

        Args:
            probability: (X, Y, Z), decoded.
            data: of the case, with the inferer's outputs.
            holes: if they are known.
            gamma: that it was decoded with; None takes the inferer's.
        """
        skull, frame, cranial = data["skull"], data["frame"], data["defect_class"] == "cranial"
        fitted = Refined(probability, np.asarray(data["image"].cpu())[0], self.box)
        gamma = float(data["gamma"]) if gamma is None else gamma
        if self.rim_fit is not None and cranial:
            fitted = self.rim_fit.refine(probability, skull, frame, self.box, self.template, gamma)
        elif self.facial_fit is not None and not cranial:
            fitted = self.facial_fit.refine(fitted, skull, frame, data["code"], gamma)
        probability, share, box, expected_dsc = fitted
        if holes is None:
            holes = find_holes(
                probability, share, skull.grid, frame, box, self.template, cranial=cranial, rules=self.rules
            )
        return Completion(probability, share, box, holes, expected_dsc)

    def design(self, completion: Completion, data: CaseData) -> Volume:
        """The implant, on the scan's grid, that fills the holes of a completed skull."""
        pieces = 1.0 if data["defect_class"] == "cranial" else self.rules.facial_share
        return fill_holes(
            completion.holes,
            completion.probability,
            data["skull"],
            data["frame"],
            completion.box,
            share=pieces,
            rules=self.rules,
        )

    def measure(self, implant: Volume, data: CaseData) -> tuple[RimScore, HoleCover]:
        """How a cranial implant meets the bone, and what it closes."""
        frame, made = data["frame"], data["completion"]
        rim = rim_gap_and_step(implant.voxels, data["skull"], frame, self.template)
        return rim, hole_cover(implant, made.bone_share, frame, made.box, self.template)


def bone_agreement(probability: np.ndarray, bone: np.ndarray, box: CanonicalBox, reach_mm: float = 4.0) -> float:
    """DSC of decoded skull and bone near the bone, where no hole can lower it: how well the model knows this head."""
    solid = bone > 0.5
    near = ndimage.distance_transform_edt(~solid, sampling=box.spacing_mm) <= reach_mm
    decoded = (probability > 0.5) & near
    return dice(decoded, solid)
