"""The AutoImplant challenge's scores of an implant, on the case's own grid, in millimeters.

Masks are arrays `(X, Y, Z)` of any type, nonzero inside. Everything is computed in the bounding box of what matters,
which changes no value: outside it every mask is empty.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import SimpleITK as sitk
from scipy import ndimage
from scipy.spatial import cKDTree

from bundle.skull_implant.bounding_box import bounding_box


@dataclass(frozen=True)
class ImplantScore:
    """How well one implant matches the piece that is missing.

    Args:
        dsc: Dice coefficient, 0..1.
        bdsc: Dice coefficient near the rim of the hole, 0..1.
        hd95_mm: Hausdorff distance, 95th percentile; infinite for a failed case.
        failed: the prediction is empty.
    """

    dsc: float
    bdsc: float
    hd95_mm: float
    failed: bool


def score_implant(
    prediction: np.ndarray, truth: np.ndarray, defective_skull: np.ndarray, spacing: Sequence[float]
) -> ImplantScore:
    """All challenge scores of one case.

    Args:
        prediction: predicted implant, (X, Y, Z).
        truth: the piece that was cut out, (X, Y, Z).
        defective_skull: the skull with the hole, (X, Y, Z).
        spacing: mm along the three axes.

    Raises:
        ValueError: the truth is empty, or the shapes differ.
    """
    if not truth.any():
        raise ValueError("the true implant is empty: nothing to score against; leave the case out")
    return ImplantScore(
        dsc=dice(prediction, truth),
        bdsc=boundary_dice(prediction, truth, defective_skull, spacing),
        hd95_mm=hausdorff95(prediction, truth, spacing),
        failed=not bool(prediction.any()),
    )


def dice(a: np.ndarray, b: np.ndarray) -> float:
    """Dice coefficient of two masks, 0..1; 0 when either is empty, also when both are.

    Raises:
        ValueError: the shapes differ.
    """
    _check_shapes(a, b)
    box = bounding_box(a)
    if box is None:
        return 0.0
    overlap = np.count_nonzero(np.logical_and(a[box], b[box]))
    return float(2.0 * overlap / (np.count_nonzero(a[box]) + np.count_nonzero(b)))


def boundary_dice(
    prediction: np.ndarray,
    truth: np.ndarray,
    defective_skull: np.ndarray,
    spacing: Sequence[float],
    distance_mm: float = 10.0,
) -> float:
    """Dice coefficient of two implants, of their voxels near the bone only: how well the rim fits.

    Args:
        prediction: predicted implant, (X, Y, Z).
        truth: true implant, (X, Y, Z).
        defective_skull: the bone that distances are measured from, voxel center to voxel center, (X, Y, Z).
        spacing: mm along the three axes.
        distance_mm: voxels at most this far from the bone count.

    Returns:
        0..1; 0 when either implant has no voxel near the bone.

    Raises:
        ValueError: the shapes differ.
    """
    _check_shapes(prediction, truth, defective_skull)
    box = bounding_box(prediction, truth, margin=[int(np.ceil(distance_mm / step)) for step in spacing])
    if box is None:
        return 0.0
    tie_mm = 1e-4  # distances are float32: a voxel at exactly the limit stays in
    near = _distance_to(defective_skull[box], spacing) <= distance_mm + tie_mm
    return dice(np.logical_and(prediction[box], near), np.logical_and(truth[box], near))


def hausdorff95(prediction: np.ndarray, truth: np.ndarray, spacing: Sequence[float]) -> float:
    """95th percentile of the distances from each surface to the other, both directions pooled, in mm.

    The surface of a mask is the mask XOR its erosion with the 6-neighborhood. Outside the image counts as background,
    so a mask that touches the border has surface there: a cut implant has an end. This is not MONAI's
    `HausdorffDistanceMetric`, which is the larger of the two directed percentiles.

    Args:
        prediction: predicted implant, (X, Y, Z).
        truth: true implant, (X, Y, Z).
        spacing: mm along the three axes.

    Returns:
        mm; infinite when either mask is empty.

    Raises:
        ValueError: the shapes differ.
    """
    _check_shapes(prediction, truth)
    if not (prediction.any() and truth.any()):
        return float("inf")
    box = bounding_box(prediction, truth)
    a, b = (_surface_points(mask[box], spacing) for mask in (prediction, truth))
    distances = [cKDTree(b).query(a)[0], cKDTree(a).query(b)[0]]
    return float(np.percentile(np.concatenate(distances), 95))


def _surface_points(mask: np.ndarray, spacing: Sequence[float]) -> np.ndarray:
    """Centers of a mask's surface voxels in mm, (N, 3)."""
    mask = mask != 0
    six_neighbors = ndimage.generate_binary_structure(3, 1)
    return np.argwhere(mask ^ ndimage.binary_erosion(mask, six_neighbors, border_value=0)) * np.asarray(spacing)


def _distance_to(mask: np.ndarray, spacing: Sequence[float]) -> np.ndarray:
    """Distance of each voxel to the nearest voxel of a mask, mm, float32; 0 inside, infinite if the mask is empty."""
    if not mask.any():
        return np.full(mask.shape, np.inf, dtype=np.float32)
    # ITK's exact distance transform takes a quarter of SciPy's time; the transpose hands it the memory order it wants.
    image = sitk.GetImageFromArray((mask != 0).transpose(2, 1, 0).astype(np.uint8))
    image.SetSpacing([float(step) for step in spacing])
    signed = sitk.SignedMaurerDistanceMap(image, insideIsPositive=False, squaredDistance=False, useImageSpacing=True)
    return np.maximum(sitk.GetArrayViewFromImage(signed).transpose(2, 1, 0), 0.0)


def _check_shapes(*masks: np.ndarray) -> None:
    shapes = {mask.shape for mask in masks}
    if len(shapes) != 1:
        raise ValueError(f"masks of one case must share a grid, got shapes {sorted(shapes)}")
