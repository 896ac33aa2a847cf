"""What designs an implant, in one shape: the bundle's model with more or fewer of its steps, and what it is held to.

Every method gets the same skull, and its completed skull the same cleaning; all but inference, which aligns the skull
itself, get the same canonical frame.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch

from bundle.skull_implant.design.implant import design_implant
from bundle.skull_implant.errors import CaseRefused
from bundle.skull_implant.fit.rim_fit import Refined, RimFit
from bundle.skull_implant.frame.canonical_frame import CanonicalFrame
from bundle.skull_implant.frame.canonical_grid import CanonicalBox, to_canonical
from bundle.skull_implant.frame.vault_template import VaultTemplate
from bundle.skull_implant.input.reading import Case
from bundle.skull_implant.model.implant_unet import ImplantUNet
from bundle.skull_implant.model.inferers import CompletionInferer
from bundle.skull_implant.model.network import DEFECT_CLASSES, SkullCompleter
from bundle.skull_implant.peers.baselines import baseline_completion
from bundle.skull_implant.peers.table_completion import TableCompletion
from bundle.skull_implant.steps.designing import ImplantDesigner, report_of
from bundle.skull_implant.volume import Volume

ANYWHERE = "any"  # in a class's place: implants are looked for in the vault and in the face


@dataclass(frozen=True)
class DefectiveSkull:
    """What a method is given.

    Args:
        skull: bool, with the defect, on the scan's grid.
        frame: of this skull.
        true_class: of the defect, of `network.DEFECT_CLASSES`; "cranial" for an undamaged skull. For methods alone
            that cannot tell.
    """

    skull: Volume
    frame: CanonicalFrame
    true_class: str


@dataclass(frozen=True)
class Design:
    """What a method gives back.

    Args:
        implant: (X, Y, Z) bool, on the scan's grid; empty where it found no hole.
        defect_class: that the cleaning used, or :data:`ANYWHERE`; "" of a method that cannot design for this defect.
        expected_dsc: what the method expects of its implant; NaN where it expects nothing.
        report: makes the report, with `status` and `reasons`, when it is asked for; empty of a method that has none.
    """

    implant: np.ndarray
    defect_class: str
    expected_dsc: float = float("nan")
    report: Callable[[], Mapping[str, Any]] = dict


class ImplantMethod(Protocol):
    """A way from a defective skull to its implant."""

    def design(self, case: DefectiveSkull) -> Design:
        """The implant of one case."""


@dataclass(frozen=True)
class InferenceMethod:
    """What inference does from the bone mask on, and its report: the voxels of `scripts.complete` for such a mask.

    Args:
        designer: with the steps of `configs/inference.yaml`.
    """

    designer: ImplantDesigner

    def design(self, case: DefectiveSkull) -> Design:
        """The implant, of the class that the model finds; the skull is aligned and checked anew."""
        mask = Volume(case.skull.voxels.astype(np.uint8), case.skull.grid)
        try:
            data = self.designer(Case("skull", mask, True, {}), case.skull)
        except CaseRefused as error:
            told = {"status": "refused", "reasons": error.reasons}
            return Design(np.zeros(case.skull.voxels.shape, bool), "", report=lambda: told)
        return Design(
            data["implant"].voxels,
            data["defect_class"],
            float(data["expected_dsc"]),
            lambda: report_of(data),
        )


@dataclass(frozen=True)
class CompleterMethod:
    """Some of the model's steps: encode, DEV, decode, and those of the further ones that are asked for.

    Args:
        network: in evaluation mode.
        inferer: gamma, and the code's fit.
        template: mean vault of the frames.
        rim_fit: of cranial defects; None leaves the decoded skull where it is.
    """

    network: SkullCompleter
    inferer: CompletionInferer
    template: VaultTemplate
    rim_fit: RimFit | None = None

    @property
    def fits_code(self) -> bool:
        """Whether the code is fitted to the patient's bone."""
        return self.inferer.code_fit is not None and self.inferer.code_fit.steps > 0

    def design(self, case: DefectiveSkull) -> Design:
        """The implant, of the class that the model finds."""
        box = self.network.box
        bone = to_canonical(case.skull, case.frame, box)
        image = torch.from_numpy(bone)[None, None].to(self.network.dev)
        output = {name: value.cpu() for name, value in self.inferer(image, self.network).items()}
        defect_class = DEFECT_CLASSES[int(output["class_index"][0])]
        fitted = Refined(output["pred"][0, 0].numpy(), bone, box)
        if self.rim_fit is not None and defect_class == "cranial":
            fitted = self.rim_fit.refine(
                fitted.probability, case.skull, case.frame, box, self.template, self.inferer.gamma
            )
        return _cleaned(fitted.probability, fitted.bone_share, case, fitted.box, self.template, defect_class)


@dataclass(frozen=True)
class BaselineMethod:
    """A completion without a model; it is told the true class.

    Args:
        name: of `baselines.BASELINES`.
        skulls: (N, X, Y, Z) uint8, complete training skulls, share of bone times 255.
        box: their canonical box.
        template: mean vault of the frames.
    """

    name: str
    skulls: np.ndarray
    box: CanonicalBox
    template: VaultTemplate

    def design(self, case: DefectiveSkull) -> Design:
        """The implant, of the true class."""
        bone = to_canonical(case.skull, case.frame, self.box)
        probability = baseline_completion(self.name, bone, self.skulls)
        return _cleaned(probability, bone, case, self.box, self.template, case.true_class)


@dataclass(frozen=True)
class ShapeModelMethod:
    """The PCA shape model of the vault's tables alone, fitted to the bone that is there, without a network.

    It knows the vault and nothing else, and is told the class: for a facial defect it gives no implant, which counts as
    failed.

    Args:
        completion: of the tables.
        box: canonical box at a network's grid.
        template: mean vault of the frames.
    """

    completion: TableCompletion
    box: CanonicalBox
    template: VaultTemplate

    def design(self, case: DefectiveSkull) -> Design:
        """The implant of a cranial defect."""
        if case.true_class != "cranial":
            return Design(np.zeros(case.skull.voxels.shape, bool), "")
        fine = self.completion.fine_box(self.box)
        bone = to_canonical(case.skull, case.frame, fine)
        probability = self.completion(bone, case.frame, fine, self.template)
        return _cleaned(probability, bone, case, fine, self.template, "cranial")


@dataclass(frozen=True)
class UNetMethod:
    """The supervised peer: the U-Net's missing bone, added to the bone that is there, is its completed skull.

    Shares of bone are added because at a rim a voxel is half bone and half missing. The network has no film over the
    head that only a class could tell from an implant, so it is told no class and asked for none: the cleaning looks
    everywhere, as it does for facial defects. Where it looked in the vault alone the implants of cranial defects were
    the same, and those of facial defects, which reach into the vault's shell, lost their lower part.

    Args:
        network: in evaluation mode.
        template: mean vault of the frames.
    """

    network: ImplantUNet
    template: VaultTemplate

    def design(self, case: DefectiveSkull) -> Design:
        """The implant, wherever it is."""
        box = self.network.box
        bone = to_canonical(case.skull, case.frame, box)
        image = torch.from_numpy(bone)[None, None].to(next(self.network.parameters()))
        missing = self.network.missing(image)[0, 0].cpu().numpy()
        return _cleaned(np.minimum(bone + missing, 1.0), bone, case, box, self.template, ANYWHERE)


def _cleaned(
    probability: np.ndarray,
    bone: np.ndarray,
    case: DefectiveSkull,
    box: CanonicalBox,
    template: VaultTemplate,
    defect_class: str,
) -> Design:
    cranial = defect_class == "cranial"
    implant = design_implant(probability, bone, case.skull, case.frame, box, template, cranial=cranial)
    return Design(implant.voxels, defect_class)
