"""Cranial or facial, by what is left in front of the missing bone, where that decides."""

from __future__ import annotations

import numpy as np
import torch
from scipy import ndimage

from bundle.skull_implant.implant import VAULT_END_DEG, far_from_bone
from bundle.skull_implant.network import DEFECT_CLASSES, SkullCompleter

CORE_MM = 4.0  # decoded bone this far from all bone is missing
VAULT_DEG = 100.0  # polar angle down to which the missing bone is a hole of the vault
SMALLEST_ML = 2.0  # of the missing bone; less decides nothing
MIDDLE_PERCENT = (10.0, 90.0)  # of the missing bone's width in which bone in front counts
BACK_PERCENT = 20.0  # of its depth, from where on bone is in front
UNDECIDED, NO_HOLE = -1, -2
FACIAL_SHARE = 0.03  # of bone in front: less is a facial defect


def class_by_shape(network: SkullCompleter, code: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
    """Class of each defect (B,) in :data:`DEFECT_CLASSES` where its shape decides it.

    Else :data:`NO_HOLE` where hardly anything of the vault is missing, or :data:`UNDECIDED`.

    A facial defect, as the method paper cuts it, leaves no bone in front of what is missing; around a hole of the
    vault, also of the forehead, there is some. The linear discriminants of the codes mistake wide holes of the
    forehead for facial defects.

    Args:
        network: that completes the skulls.
        code: (B, latent_size), of the skulls with their defects.
        image: (B, 1, X, Y, Z), share of bone.
    """
    decoded = [network.completed(code, kind)[:, 0] for kind in DEFECT_CLASSES]
    completions = torch.stack(decoded, dim=1).cpu().numpy() > 0.5  # (B, 2, X, Y, Z)
    bones = image[:, 0].cpu().numpy()
    found = [_class_of(complete, bone, network) for complete, bone in zip(completions, bones, strict=True)]
    return torch.tensor(found, device=code.device)


def _class_of(completions: np.ndarray, bone: np.ndarray, network: SkullCompleter) -> int:
    """Of one skull; completions (2, X, Y, Z) as of a cranial and of a facial defect."""
    box, template = network.box, network.template
    points = box.coordinates().numpy()
    polar_deg = np.rad2deg(np.arctan2(np.hypot(points[0], points[1]), points[2] + template.vertex_mm))
    voxel_ml = float(np.prod(box.spacing_mm)) / 1000.0
    missing = np.stack([far_from_bone(each, bone, box.spacing_mm, CORE_MM) for each in completions])
    vault_ml, below_ml = (
        voxel_ml * (missing & part).sum(axis=(1, 2, 3)) for part in (polar_deg < VAULT_DEG, polar_deg >= VAULT_END_DEG)
    )
    if vault_ml.max() < SMALLEST_ML:
        return NO_HOLE
    labels, _ = ndimage.label(missing.any(0) & (polar_deg < VAULT_END_DEG))
    core = labels == 1 + np.argmax(np.bincount(labels.ravel())[1:])
    left, right = np.percentile(points[0][core], MIDDLE_PERCENT)
    back = np.percentile(points[1][core], BACK_PERCENT)
    window = (points[0] > left) & (points[0] < right) & (points[1] > back)
    bone_there, missing_there = float((bone * window).sum()), float((core & window).sum())
    if not missing_there:
        return UNDECIDED
    if bone_there < FACIAL_SHARE * (bone_there + missing_there):
        return DEFECT_CLASSES.index("facial")
    decided = vault_ml[0] >= SMALLEST_ML and vault_ml.max() > below_ml.max()
    return DEFECT_CLASSES.index("cranial") if decided else UNDECIDED
