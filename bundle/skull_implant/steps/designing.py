"""An implant for a skull in memory, by the steps of `configs/inference.yaml` between the bone mask and the files."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from bundle.skull_implant.input.reading import Case
from bundle.skull_implant.model.code_fitting import CodeFit
from bundle.skull_implant.model.inferers import CompletionInferer
from bundle.skull_implant.model.network import SkullCompleter
from bundle.skull_implant.steps.report import ReviewRules, describe
from bundle.skull_implant.steps.transforms import CanonicalFramed, CaseData, CheckVaultd, Implantd
from bundle.skull_implant.surfaces.print_settings import PrintSettings
from bundle.skull_implant.surfaces.printing import print_implant
from bundle.skull_implant.volume import Volume


class ImplantDesigner:
    """Aligns, checks, completes and designs with the same transforms and inferer as a command does.

    Args:
        network: the completer, in evaluation mode.
        gamma: as in the config, like all that follow.
        defect_class: "auto", "cranial" or "facial".
        fit_steps: of the code's fit.
        rim_fit: fit the decoded skull to the bone around the defect.
    """

    def __init__(
        self,
        network: SkullCompleter,
        *,
        gamma: float = 1.0,
        defect_class: str = "auto",
        fit_steps: int = 30,
        rim_fit: bool = True,
    ) -> None:
        self.network = network
        self.before = [CanonicalFramed(network), CheckVaultd(network)]
        self.inferer = CompletionInferer(gamma, defect_class, CodeFit(fit_steps))
        self.after = Implantd(network, rim_fit=rim_fit)

    def __call__(self, case: Case, skull: Volume) -> CaseData:
        """The case's dictionary after the last step, with `frame`, `implant` and what a report says of them.

        Args:
            case: whose scan it is.
            skull: bool, the bone to design for.

        Raises:
            CaseRefused: no vault, or one that is cut off.
        """
        data: CaseData = {"case": case, "skull": skull}
        for step in self.before:
            step.step(data)
        image = data["image"][None].to(self.network.dev)
        outputs = self.inferer(image, self.network)  # (1, X, Y, Z) -> (1, 1, X, Y, Z)
        data["pred"] = {key: value[0] for key, value in outputs.items()}
        self.after.step(data)
        return data


def report_of(data: CaseData, printing: PrintSettings | None = None) -> dict[str, Any]:
    """What a report says of a designed implant, its surface measured and thrown away."""
    printing, printed = printing or PrintSettings(), {}
    if data["implant"].voxels.any():
        with tempfile.TemporaryDirectory() as folder:
            printed = print_implant(Path(folder), data["skull"], data["implant"], printing)
    return describe(data, printed, printing, {}, ReviewRules())
