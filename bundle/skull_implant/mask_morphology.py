"""Distances, openings and connected parts of masks, in mm on grids of any spacing."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import SimpleITK as sitk
from scipy import ndimage

from bundle.skull_implant.bounding_box import bounding_box


def large_components(mask: np.ndarray, share: float = 1.0) -> np.ndarray:
    """Parts of a mask, connected by faces, of at least a share of the largest one's voxels; 1 for it alone."""
    labels, count = ndimage.label(mask)
    if count == 0:
        return np.zeros(mask.shape, bool)
    sizes = np.bincount(labels.ravel())[1:]
    if share >= 1.0:
        return np.asarray(labels == 1 + np.argmax(sizes))
    return np.isin(labels, 1 + np.flatnonzero(sizes >= share * sizes.max()))


def opened(mask: np.ndarray, spacing: tuple[float, ...], radius_mm: float) -> np.ndarray:
    """Opening with a ball, by two distance maps, which is exact for anisotropic voxels."""
    window = bounding_box(mask, margin=(1, 1, 1))
    result = np.zeros_like(mask)
    if window is None:
        return result
    part = mask[window]
    kept = distance_mm(~part, spacing) > radius_mm
    result[window] = part & (distance_mm(kept, spacing) <= radius_mm)
    return result


def distance_mm(mask: np.ndarray, spacing: tuple[float, ...]) -> np.ndarray:
    """Distance of every voxel from a mask in mm, (X, Y, Z) float32; infinite if the mask is empty."""
    if not mask.any():
        return np.full(mask.shape, np.inf, np.float32)
    image = sitk.GetImageFromArray(np.ascontiguousarray(mask.transpose(2, 1, 0)).astype(np.uint8))
    image.SetSpacing(spacing)
    distance = sitk.SignedMaurerDistanceMap(image, insideIsPositive=False, squaredDistance=False, useImageSpacing=True)
    return np.maximum(sitk.GetArrayViewFromImage(distance).transpose(2, 1, 0), 0.0)


def far_from_bone(
    decoded: np.ndarray, bone_share: np.ndarray, spacing_mm: Sequence[float] | np.ndarray, core_mm: float
) -> np.ndarray:
    """Decoded skull (X, Y, Z) bool at least `core_mm` from all bone: what fills a hole, while a film never is.

    Args:
        decoded: (X, Y, Z) bool.
        bone_share: (X, Y, Z) share of the patient's bone.
        spacing_mm: (3,).
        core_mm: distance.
    """
    return decoded & (ndimage.distance_transform_edt(bone_share < 0.4, sampling=spacing_mm) >= core_mm)
