"""Skulls with a hole of their own, made whole enough to train with: a trained completer fills the hole.

What it fills in is a guess, so it is never a target (:class:`losses.SkullDiceLoss`); it is there so that the rest of
the skull can be learned from as from any other, with other holes cut into it.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from bundle.skull_implant.design.implant import design_implant
from bundle.skull_implant.fit.rim_fit import RimFit
from bundle.skull_implant.frame.canonical_frame import CanonicalFrame
from bundle.skull_implant.frame.canonical_grid import CanonicalBox, to_canonical
from bundle.skull_implant.model.code_fitting import CodeFit
from bundle.skull_implant.model.inferers import CompletionInferer
from bundle.skull_implant.model.network import SkullCompleter
from bundle.skull_implant.volume import Volume


def fill_hole(bone: np.ndarray, frame: CanonicalFrame, box: CanonicalBox, network: SkullCompleter) -> np.ndarray:
    """The implant of a cranial hole, designed as by inference, on the canonical grid.

    Args:
        bone: (X, Y, Z) bool, canonical.
        frame: of this skull; its scales are used.
        box: of `bone`.
        network: the completer.

    Returns:
        (X, Y, Z) bool, never on bone; all False when no hole is found.
    """
    # On the canonical grid the head lies as the frame wants it.
    upright = replace(frame, rotation=np.eye(3), vertex=np.zeros(3))
    skull = Volume(np.asarray(bone, bool), box.grid(upright))
    share = to_canonical(skull, upright, network.box)
    output = CompletionInferer(defect_class="cranial", code_fit=CodeFit())(torch.from_numpy(share)[None, None], network)
    fitted = RimFit.of(network).refine(output["pred"][0, 0].numpy(), skull, upright, network.box, network.template)
    return design_implant(fitted.probability, fitted.bone_share, skull, upright, fitted.box, network.template).voxels
