"""A voxel array and the place of its grid in the patient."""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from bundle.skull_implant.whole_files import whole_file


@dataclass(frozen=True)
class Grid:
    """Where voxels are: ITK's own four numbers, in the patient frame LPS, kept as read to be written exactly.

    Args:
        size: voxels along i, j, k.
        spacing: mm along i, j, k.
        origin: LPS mm of the center of voxel (0, 0, 0).
        direction: 3 x 3 row-major; its columns are the LPS directions of i, j and k.
    """

    size: tuple[int, int, int]
    spacing: tuple[float, float, float]
    origin: tuple[float, float, float]
    direction: tuple[float, ...]

    @classmethod
    def from_image(cls, image: sitk.Image) -> Grid:
        """The grid of a 3-D SimpleITK image."""
        return cls(image.GetSize(), image.GetSpacing(), image.GetOrigin(), image.GetDirection())

    @cached_property
    def affine(self) -> np.ndarray:
        """Index to LPS mm, (4, 4) float64."""
        affine = np.eye(4)
        affine[:3, :3] = np.reshape(self.direction, (3, 3)) * np.asarray(self.spacing)
        affine[:3, 3] = self.origin
        return affine

    @cached_property
    def inverse_affine(self) -> np.ndarray:
        """LPS mm to index, (4, 4) float64."""
        return np.asarray(np.linalg.inv(self.affine))

    @property
    def voxel_ml(self) -> float:
        """Volume of one voxel in ml."""
        return float(np.prod(self.spacing)) / 1000.0

    def same_as(self, other: Grid, tolerance: float = 0.1) -> bool:
        """Whether a voxel of either grid is where the same voxel of the other is: sizes equal, corners together.

        Args:
            other: the other grid.
            tolerance: how far apart corners may be, in voxels; image formats keep a grid in single precision.
        """
        if tuple(self.size) != tuple(other.size):
            return False
        corners = np.stack(np.meshgrid(*[(0.0, length - 1.0) for length in self.size], [1.0])).reshape(4, -1)
        apart_mm = np.linalg.norm((self.affine - other.affine) @ corners, axis=0).max()
        return bool(apart_mm <= tolerance * min(self.spacing))


@dataclass(frozen=True)
class Volume:
    """Voxels `(X, Y, Z)` in ITK's index order, and their grid."""

    voxels: np.ndarray
    grid: Grid

    def __post_init__(self) -> None:
        if tuple(self.voxels.shape) != tuple(self.grid.size):
            raise ValueError(f"voxels {self.voxels.shape} do not match the grid {self.grid.size}")

    @classmethod
    def from_image(cls, image: sitk.Image) -> Volume:
        """Voxels and grid of a 3-D SimpleITK image."""
        return cls(sitk.GetArrayFromImage(image).transpose(2, 1, 0), Grid.from_image(image))

    def to_image(self) -> sitk.Image:
        """The same as a SimpleITK image; Boolean voxels become `uint8`."""
        voxels = self.voxels.astype(np.uint8) if self.voxels.dtype == bool else self.voxels
        image = sitk.GetImageFromArray(voxels.transpose(2, 1, 0))
        image.SetSpacing(self.grid.spacing)
        image.SetOrigin(self.grid.origin)
        image.SetDirection(self.grid.direction)
        return image


def write_volume(path: Path, volume: Volume) -> None:
    """Write a compressed image file, whole or not at all.

    Args:
        path: target; its suffix chooses the format (`.nii.gz`, `.nrrd`, `.mha`).
        volume: what to write.

    Raises:
        OSError: there is no room for it, or the folder cannot be written.
    """
    image = volume.to_image()
    with whole_file(path) as partial:
        partial.touch()  # the system's own error, where ITK's would not tell why
        sitk.WriteImage(image, str(partial), useCompression=True)
        if not _is_whole(partial, image):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path.name)


def _is_whole(path: Path, image: sitk.Image, nifti_header_bytes: int = 352) -> bool:
    """Whether a file holds all of an image: on a full disk ITK cuts it off and says nothing."""
    if path.name.endswith(".nii.gz"):  # gzip ends with the unpacked length, so a result need not be read again
        length = nifti_header_bytes + image.GetNumberOfPixels() * image.GetSizeOfPixelComponent()
        with path.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - 4))
            return int.from_bytes(file.read(), "little") == length % (1 << 32)
    try:
        read = sitk.ReadImage(str(path))
    except RuntimeError:
        return False
    return bool(np.array_equal(sitk.GetArrayViewFromImage(read), sitk.GetArrayViewFromImage(image), equal_nan=True))
