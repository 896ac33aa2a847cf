"""Cranial or facial, by what is left in front of the missing bone, and else by where the facial network misses bone."""

from __future__ import annotations

import numpy as np
import torch
from scipy import ndimage

from bundle.skull_implant.frame.canonical_grid import CanonicalBox
from bundle.skull_implant.frame.vault_template import VAULT_END_DEG, VaultTemplate
from bundle.skull_implant.mask_morphology import far_from_bone
from bundle.skull_implant.model.facial_network import FACIAL_ML, missing_bone, missing_ml
from bundle.skull_implant.model.network import DEFECT_CLASSES, SkullCompleter

CORE_MM = 4.0  # decoded bone this far from all bone is missing
VAULT_DEG = 100.0  # polar angle down to which the missing bone is a hole of the vault
SMALLEST_ML = 2.0  # of the missing bone; less decides nothing
MIDDLE_PERCENT = (10.0, 90.0)  # of the missing bone's width in which bone in front counts
BACK_PERCENT = 20.0  # of its depth, from where on bone is in front
UNDECIDED, NO_HOLE = -1, -2
FACIAL_SHARE = 0.03  # of bone in front: less is a facial defect
CRANIAL, FACIAL = DEFECT_CLASSES.index("cranial"), DEFECT_CLASSES.index("facial")


def decided_class(network: SkullCompleter, code: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
    """Class of each defect (B,) in :data:`DEFECT_CLASSES` where shape or facial network decide it, else negative.

    Without a hole of the vault, any bone that the facial network misses is a facial defect. Where the shape leaves it
    open, a defect is facial whose missing bone lies below the vault for the most part: half a face, say, whose bone on
    the other side reaches in front of it.

    Args:
        network: that completes the skulls.
        code: (B, latent_size), of the skulls with their defects.
        image: (B, 1, X, Y, Z), share of bone.
    """
    decided = class_by_shape(network, code, image)
    if network.facial_network is None or bool((decided >= 0).all()):
        return decided
    missing = missing_bone(network.facial_network, image, network.completed(code, "facial"))
    below = torch.from_numpy(_polar_deg(network.fine_box, network.template) >= VAULT_DEG).to(missing.device)
    all_ml, below_ml = (missing_ml(each, network.box) for each in (missing, missing * below))
    face = torch.where(all_ml >= FACIAL_ML, FACIAL, CRANIAL)
    mostly_face = torch.where((all_ml >= FACIAL_ML) & (below_ml > all_ml / 2), FACIAL, UNDECIDED)
    return torch.where(decided == NO_HOLE, face, torch.where(decided == UNDECIDED, mostly_face, decided))


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
    points, polar_deg = box.coordinates().numpy(), _polar_deg(box, template)
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
        return FACIAL
    decided = vault_ml[0] >= SMALLEST_ML and vault_ml.max() > below_ml.max()
    return CRANIAL if decided else UNDECIDED


def _polar_deg(box: CanonicalBox, template: VaultTemplate) -> np.ndarray:
    """Angle from the vertex (X, Y, Z) of a box's voxels, around the vault's center."""
    points = box.coordinates().numpy()
    return np.asarray(np.rad2deg(np.arctan2(np.hypot(points[0], points[1]), points[2] + template.vertex_mm)))
