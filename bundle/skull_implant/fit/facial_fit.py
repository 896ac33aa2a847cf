"""What the facial network says of a case: the bone that is there and the bone that a defect took, in one skull."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from bundle.skull_implant.fit.rim_fit import Refined
from bundle.skull_implant.frame.canonical_frame import CanonicalFrame
from bundle.skull_implant.frame.canonical_grid import to_canonical
from bundle.skull_implant.model.facial_network import THIN_BONE, missing_in, missing_ml
from bundle.skull_implant.model.network import SkullCompleter
from bundle.skull_implant.volume import Volume

SURE_ML = 0.7  # with less missing bone the network is unsure of what is missing, and the decoded skull stays


@dataclass(frozen=True)
class FacialFit:
    """Completion of a facial defect by the facial network.

    Args:
        completer: in evaluation mode, with a facial network.
    """

    completer: SkullCompleter

    @classmethod
    def of(cls, completer: SkullCompleter) -> FacialFit | None:
        """With a completer's facial network; None where it has none."""
        return None if completer.facial_network is None else cls(completer)

    @torch.no_grad()
    def refine(
        self, decoded: Refined, skull: Volume, frame: CanonicalFrame, code: torch.Tensor, gamma: float = 1.0
    ) -> Refined:
        """The completed skull at the finer grid; as decoded where the network finds hardly anything missing.

        Shares are added because at a defect's edge a voxel is half bone and half missing. The network learned at a
        gamma of 1, so gamma scales its answer: 0 adds nothing, more thickens.

        Args:
            decoded: at gamma, on the decoder's grid.
            skull: the patient's bone, on the scan's grid.
            frame: of this case.
            code: (latent_size,), of the skull with its defect.
            gamma: strength of the completion.
        """
        completer = self.completer
        assert completer.facial_network is not None
        fine = completer.fine_box
        bone = to_canonical(skull, frame, fine)
        complete = completer.completed(code[None].to(completer.latent_mean), "facial")[0, 0]
        missing = missing_in(completer.facial_network, bone, complete.cpu().numpy())
        if missing_ml(torch.from_numpy(missing)[None, None], fine)[0] < SURE_ML:
            return decoded
        return Refined(np.minimum(bone + THIN_BONE * max(gamma, 0.0) * missing, 1.0), bone, fine)
