"""Gamma and the defect class enter here, because a workflow's parameters cannot reach a network."""

from __future__ import annotations

from typing import Any

import torch
from monai.inferers import Inferer

from bundle.skull_implant.errors import InputError
from bundle.skull_implant.model.code_fitting import CodeFit
from bundle.skull_implant.model.defect_class import decided_class
from bundle.skull_implant.model.network import DEFECT_CLASSES, SkullCompleter


class CompletionInferer(Inferer):
    """Encode, add `gamma * DEV` of the defect's class, decode (Li et al. 2022).

    With `code_fit`, DEV is this patient's: the step to the code that fits the remaining bone best, started from the
    class's DEV.

    Args:
        gamma: 0 reconstructs the input, 1 completes it, more thickens.
        defect_class: "cranial", "facial", or "auto": :func:`class_by_shape`; where hardly anything of the vault is
            missing, facial if the facial network finds missing bone and cranial if not; else the more probable one of
            each code.
        code_fit: how the completed skull's code is fitted to the patient's bone, for cranial defects; None does not.
            After a facial defect the bone that is left says too little: there the fit lowered the implant's DSC from
            0.52 to 0.41 on the validation persons (table in the model card).

    Raises:
        InputError: gamma is no number or the class is unknown.
    """

    def __init__(self, gamma: float = 1.0, defect_class: str = "auto", code_fit: CodeFit | None = None) -> None:
        super().__init__()
        if defect_class not in ("auto", *DEFECT_CLASSES):
            raise InputError(f"defect_class must be auto, {' or '.join(DEFECT_CLASSES)}, got {defect_class!r}")
        try:
            self.gamma = float(gamma)
        except (TypeError, ValueError) as error:
            raise InputError(f"gamma must be a number, got {gamma!r}; 1 completes the skull") from error
        if not -10.0 <= self.gamma <= 10.0:
            raise InputError(f"gamma must lie between -10 and 10, got {self.gamma:g}; 1 completes the skull")
        self.defect_class = defect_class
        self.code_fit = code_fit

    @torch.no_grad()
    def __call__(
        self, inputs: torch.Tensor, network: SkullCompleter, *args: Any, **kwargs: Any
    ) -> dict[str, torch.Tensor]:
        """Complete a batch of canonical skulls.

        Args:
            inputs: (B, 1, X, Y, Z), share of bone; an empty tensor, of a refused case, comes back as `pred`.
            network: the completer.
            args: unused; MONAI's signature.
            kwargs: unused; MONAI's signature.

        Returns:
            `pred` (B, 1, X, Y, Z), probability of skull; `class_probability` (B, 3) of complete, cranial, facial;
            `class_index` (B,) of the class that was used, in :data:`DEFECT_CLASSES`; `class_decided` (B,) bool,
            whether the defect's shape or the facial network decided it and not the code's probability; `code` and
            `code_step` (B, latent_size), of which `pred` is decoded at `code + gamma * code_step`, and `gamma` (B,).
        """
        if torch.as_tensor(inputs).numel() == 0:
            return {"pred": inputs}
        code = network.encode(torch.as_tensor(inputs))
        probability = network.class_probabilities(code)
        if self.defect_class == "auto":
            decided = decided_class(network, code, torch.as_tensor(inputs))
            index = torch.where(decided >= 0, decided, probability[:, 1:].argmax(dim=1))
        else:
            index = torch.full((len(code),), DEFECT_CLASSES.index(self.defect_class), device=code.device)
            decided = torch.full_like(index, -1)
        step = network.step(code, index)
        cranial = index == DEFECT_CLASSES.index("cranial")
        if self.code_fit is not None and self.gamma != 0 and cranial.any():
            image, start = torch.as_tensor(inputs)[cranial], (code + step)[cranial]
            step[cranial] = self.code_fit(network, image, start) - code[cranial]
        return {
            "pred": network.decode(code + self.gamma * step),
            "class_probability": probability,
            "class_index": index,
            "class_decided": decided >= 0,
            "code": code,
            "code_step": step,
            "gamma": torch.full((len(code),), self.gamma),
        }
