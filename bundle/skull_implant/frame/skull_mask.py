"""From Hounsfield units to a bone mask of the head, without head holder, table, wires and specks."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import SimpleITK as sitk
from scipy import ndimage

from bundle.skull_implant.bounding_box import bounding_box
from bundle.skull_implant.errors import CaseRefused
from bundle.skull_implant.mask_morphology import large_components
from bundle.skull_implant.volume import Volume


def skull_mask_from_hu(
    volume: Volume,
    *,
    case: str = "volume",
    threshold_hu: float = 300.0,
    fragment_ml: float = 1.0,
    speck_ml: float = 0.005,
    near_mm: float = 5.0,
    exposed_share: float = 0.15,
    minimum_bone_ml: float = 50.0,
) -> Volume:
    """Bone of the head exactly as thresholded: not smoothed, closed or filled, so thin bone and the hole's rim stay.

    The largest component in the head is the skull. Another one stays if it lies beneath skin, and is large (a bone
    flap, the mandible, the spine) or near the skull (an islet of thin orbital wall). A part of a holder pressed to the
    head has one side in the air, and goes. Metal in the head stays. These rules are our choice, because they need to
    know no holder's shape.

    Args:
        volume: CT in HU, voxels `(X, Y, Z)`; any orientation.
        case: name for messages.
        threshold_hu: bone is at least this. 300 keeps thin bone, and leaves out contrast-free vessels and the falx.
        fragment_ml: a component beneath skin of at least this volume stays wherever it is.
        speck_ml: components below this volume go.
        near_mm: components between the two stay if this near to the skull.
        exposed_share: a component other than the skull with more of its voxels than this at the skin's surface goes.
        minimum_bone_ml: less bone than this is not a skull; adults have 400 to 900 ml.

    Returns:
        Boolean voxels on the same grid.

    Raises:
        CaseRefused: the values are not HU, or there is too little bone.
    """
    _refuse_if_not_hu(volume.voxels, case)
    depth, factors = head_depth_mm(volume, bone_hu=threshold_hu)
    # Opening the head rounds off chin and nose by a few mm, so bone may lie a little outside it.
    head = _Blocks(factors, volume.voxels.shape, depth > -6.0)
    bone = (volume.voxels[head.box] >= threshold_hu) & head.enlarged(depth > -6.0)
    parts = _Parts.of(bone, volume.grid.voxel_ml)
    if parts.ml.sum() < minimum_bone_ml:
        found = f"{parts.ml.sum():.1f} ml at or above {threshold_hu:g} HU, expected at least {minimum_bone_ml:g} ml"
        raise CaseRefused(case, [f"no skull found ({found}); give a head CT in HU that shows the vault"])
    # Coarse voxels at the surface have a depth of up to one voxel, 2 mm; scalp is thicker than that.
    covered = parts.share(head.enlarged(depth <= 2.0)) <= exposed_share
    close = parts.gap_to_largest_mm(volume.grid.spacing) <= near_mm
    keep = covered & ((parts.ml >= fragment_ml) | (close & (parts.ml >= speck_ml)))
    keep[parts.largest] = True
    mask = np.zeros(volume.voxels.shape, bool, "F")  # in memory as readers have it, x fastest: files are written so
    mask[head.box] = parts.only(keep)
    return Volume(mask, volume.grid)


def clean_binary_mask(volume: Volume, *, speck_ml: float = 0.02, near_mm: float = 5.0) -> Volume:
    """A given bone mask as Boolean voxels; only specks that are both tiny and away from the skull are dropped.

    Everything else is preserved voxel for voxel, a strap or a table in the mask included, because whoever made the
    mask decided what bone is.

    Args:
        volume: mask, voxels `(X, Y, Z)`; what is above 0 is bone.
        speck_ml: components below this volume are specks.
        near_mm: a speck this near to the largest component stays.

    Returns:
        Boolean voxels on the same grid; an empty mask stays empty.
    """
    mask = volume.voxels > 0
    parts = _Parts.of(mask, volume.grid.voxel_ml)
    if parts.ml.size <= 2:  # nothing, or one piece
        return Volume(mask, volume.grid)
    keep = (parts.ml >= speck_ml) | (parts.gap_to_largest_mm(volume.grid.spacing) <= near_mm)
    return Volume(parts.only(keep), volume.grid)


def head_depth_mm(
    volume: Volume,
    *,
    bone_hu: float = 300.0,
    tissue_hu: float = -300.0,
    coarse_mm: float = 2.0,
    holder_radius_mm: float = 8.0,
    cavity_radius_mm: float = 6.0,
    minimum_head_ml: float = 300.0,
) -> tuple[np.ndarray, tuple[int, ...]]:
    """How deep each point lies beneath the head's surface, on a coarse grid; sinuses and airways count as inside.

    The head is the largest body of tissue, its cavities filled, after an opening that removes what is thinner than
    twice `holder_radius_mm`: the shell of a head holder, also where it touches the skin. A bare skull (a dried one, a
    phantom, a masked CT) has hardly any soft tissue, and leaves next to nothing or the cavity of its vault then; there,
    everything within 6 mm of the largest piece of bone is taken as deep.

    Args:
        volume: CT in HU, voxels `(X, Y, Z)`.
        bone_hu: bone is at least this; used for a bare skull only.
        tissue_hu: tissue is above, air and foam are below.
        coarse_mm: the coarse grid's voxel size, approximately; coarser axes are left as they are.
        holder_radius_mm: see above.
        cavity_radius_mm: cavities open to the air count as inside where a ball of this radius cannot enter.
        minimum_head_ml: a smaller head is taken as bare bone, and so is one with less soft tissue than bone.

    Returns:
        depth: mm, float32, positive inside; every `factors`-th voxel of `volume` along each axis.
        factors: voxels of `volume` to a coarse voxel, per axis.
    """
    steps = np.asarray(volume.grid.spacing)
    factors = tuple(np.clip(np.round(coarse_mm / steps).astype(int), 1, volume.grid.size))
    coarse = volume.voxels[tuple(slice(factor // 2, None, factor) for factor in factors)]
    spacing = tuple(factors * steps)
    tissue = coarse > tissue_hu
    bone = large_components(coarse >= bone_hu)
    is_bare = np.count_nonzero(tissue & (coarse < bone_hu)) < np.count_nonzero(bone)
    head = _opened_largest(tissue | _cavities(tissue), holder_radius_mm, spacing)
    head = ~_opened_largest(~head, cavity_radius_mm, spacing)
    if is_bare or head.sum() * np.prod(spacing) / 1000.0 < minimum_head_ml or not (~tissue).any():
        return np.where(_depth_mm(~bone, spacing) <= 6.0, np.float32(99.0), np.float32(-99.0)), factors
    return np.where(head, _depth_mm(head, spacing), -_depth_mm(~head, spacing)), factors


def _refuse_if_not_hu(voxels: np.ndarray, case: str) -> None:
    """Refuse values without air: a head CT in HU always has air around the head, at about -1000."""
    sample = voxels[::4, ::4, ::2]
    if np.mean(sample < -200) >= 0.001:
        return
    found = f"no air below -200 HU; they run from {np.nanmin(sample):g} to {np.nanmax(sample):g}"
    raise CaseRefused(case, [f"values are not HU ({found}); export with the rescale intercept applied"])


def _depth_mm(mask: np.ndarray, spacing: tuple[float, ...]) -> np.ndarray:
    """Distance in mm of each voxel of the mask to the voxels outside it, 0 there; past the array there is neither."""
    if mask.all():
        return np.full(mask.shape, 1e3, np.float32)
    image = sitk.GetImageFromArray((~mask).astype(np.uint8))
    image.SetSpacing(spacing[::-1])
    distance = sitk.SignedMaurerDistanceMap(image, insideIsPositive=False, squaredDistance=False, useImageSpacing=True)
    return np.maximum(sitk.GetArrayFromImage(distance), 0.0)


def _cavities(mask: np.ndarray) -> np.ndarray:
    """What the mask encloses in the slices of at least two of three orientations.

    The frontal sinus and the nose are open in sagittal slices only. The gap between head and holder may be a ring in
    axial slices, but is open in the others, because a holder is longer than the contact.
    """
    votes = np.zeros(mask.shape, np.uint8)
    for axis in range(3):
        in_plane = np.delete(np.arange(3), axis)
        neighbors = ndimage.generate_binary_structure(3, 1)
        neighbors[tuple(slice(None, None, 2) if a == axis else 1 for a in range(3))] = False
        labels, count = ndimage.label(~mask, neighbors)
        is_open = np.zeros(count + 1, bool)
        for border in in_plane:
            is_open[np.take(labels, [0, -1], axis=border)] = True
        votes += ~is_open[labels] & ~mask
    return votes >= 2


def _opened_largest(mask: np.ndarray, radius_mm: float, spacing: tuple[float, ...]) -> np.ndarray:
    """The largest part of the mask that a ball of this radius can roll through."""
    core = large_components(_depth_mm(mask, spacing) > radius_mm)
    return core if not core.any() else mask & (_depth_mm(~core, spacing) <= radius_mm)


class _Blocks:
    """Blocks of voxels that coarse ones stand for; the last ones reach to the grid's end.

    Args:
        factors: voxels to a coarse one, along each axis.
        shape: of the grid.
        used: coarse voxels, all that matters; work is done in a box around them.
    """

    def __init__(self, factors: tuple[int, ...], shape: tuple[int, ...], used: np.ndarray) -> None:
        ends = [(side.start, side.stop) for side in bounding_box(used) or [slice(0, 0)] * 3]
        self.index = []
        for (low, high), factor, size, count in zip(ends, factors, shape, used.shape, strict=True):
            voxels = np.arange(low * factor, size if high == count else high * factor)
            self.index.append(np.minimum(voxels // factor, count - 1))
        self.box = tuple(
            slice(low * factor, low * factor + len(index))
            for (low, _), factor, index in zip(ends, factors, self.index, strict=True)
        )

    def enlarged(self, coarse: np.ndarray) -> np.ndarray:
        """Coarse voxels repeated in the box, x fastest in memory."""
        turned = coarse.T
        for axis, index in enumerate(self.index[::-1]):
            turned = np.take(turned, index, axis=axis)
        return turned.T


@dataclass(frozen=True)
class _Parts:
    """Connected components (faces) of a mask, as a list of voxels, because bone is a few percent of a CT.

    Args:
        shape: of the mask.
        where: indices of its n voxels, one array an axis.
        label: component of each voxel, (n,), from 1.
        ml: volume of each component, (components + 1,); entry 0 belongs to no component.
    """

    shape: tuple[int, ...]
    where: tuple[np.ndarray, ...]
    label: np.ndarray
    ml: np.ndarray

    @classmethod
    def of(cls, mask: np.ndarray, voxel_ml: float) -> _Parts:
        turned = np.ascontiguousarray(mask.T)  # no copy where x is fastest in memory
        labels, count = ndimage.label(turned)
        flat = np.flatnonzero(turned)
        label = labels.ravel()[flat]
        where = np.unravel_index(flat, turned.shape)[::-1]
        return cls(mask.shape, where, label, np.bincount(label, minlength=count + 1) * voxel_ml)

    @property
    def largest(self) -> int:
        return int(np.argmax(self.ml))

    def share(self, mask: np.ndarray) -> np.ndarray:
        """Share of each component's voxels that lie in the mask."""
        inside = np.bincount(self.label, weights=mask[self.where], minlength=self.ml.size)
        return inside / np.maximum(np.bincount(self.label, minlength=self.ml.size), 1)

    def gap_to_largest_mm(self, spacing: tuple[float, ...], coarse_mm: float = 2.0) -> np.ndarray:
        """Smallest distance of each component to the largest one, good to the size of a coarse voxel."""
        factors = np.maximum(np.round(coarse_mm / np.asarray(spacing)).astype(int), 1)
        cells = tuple(index // factor for index, factor in zip(self.where, factors, strict=True))
        occupied = np.zeros([-(-size // factor) for size, factor in zip(self.shape, factors, strict=True)], bool)
        occupied[tuple(index[self.label == self.largest] for index in cells)] = True
        distance = _depth_mm(~occupied, tuple(factors * spacing))
        gap = np.full(self.ml.size, np.inf)
        np.minimum.at(gap, self.label, distance[cells])
        return gap

    def only(self, keep: np.ndarray) -> np.ndarray:
        """The mask of the components to keep."""
        mask = np.zeros(self.shape, bool, "F")
        mask[self.where] = keep[self.label]
        return mask
