"""Fits the shape model of the vault's tables to training skulls."""

from __future__ import annotations

import logging

import numpy as np
import torch
from scipy import ndimage

from bundle.skull_implant.fit.table_model import PLATE_MM, TableModel
from bundle.skull_implant.frame.vault_rays import VaultRays
from bundle.skull_implant.model.network import SkullCompleter
from bundle.skull_implant.train.datalist import open_dataset
from bundle.skull_implant.train.dataset_folder import DatasetFolder, PreparedSkull

logger = logging.getLogger(__name__)


def fit_table_model(network: SkullCompleter, dataset_dir: str, defective: bool = True, modes: int = 30) -> None:
    """Set the shape model of a completer from training skulls and their mirror images.

    Args:
        network: changed in place.
        dataset_dir: what `scripts.prepare` wrote, or a MONAI datalist.
        defective: also the skulls with a hole of their own, of which nothing near the hole counts.
        modes: principal components.
    """
    folder = open_dataset(dataset_dir)
    rays = VaultRays(TableModel.step_deg)
    parts = ["training", "defective"] if defective else ["training"]
    maps = np.stack(
        [
            measured_tables(skull, folder, rays, guessed=part == "defective")
            for part in parts
            for skull in folder.skulls(part, folder.box.spatial_size)
        ]
    )
    mean, components = principal_tables(np.concatenate([maps, maps[:, :, ::-1]]), modes)
    network.table_mean = torch.from_numpy(mean).to(network.table_mean)
    network.table_modes = torch.from_numpy(components).to(network.table_modes)
    logger.info("shape model of the vault's tables: %d components of %d skulls", len(components), len(maps))


def measured_tables(skull: PreparedSkull, folder: DatasetFolder, rays: VaultRays, guessed: bool = False) -> np.ndarray:
    """Tables (2, N, N) of a prepared skull; NaN where there is no plate, and in and around a guessed implant.

    Args:
        skull: at the folder's own grid.
        folder: gives box and mean vault.
        rays: to measure along.
        guessed: the official implant is a guess.
    """
    return plates(measured_profiles(skull, folder, rays), rays, official_rays(skull, folder, rays) if guessed else None)


def measured_profiles(skull: PreparedSkull, folder: DatasetFolder, rays: VaultRays) -> np.ndarray:
    """Share of bone along the rays (N * N, H) of a prepared skull. Arguments as for :func:`measured_tables`."""
    share = skull.complete.astype(np.float32) / 255
    smooth = ndimage.gaussian_filter(share, 0.5 / folder.box.spacing_mm)  # voxels of 0 and 1 would show as steps
    return rays.sample(smooth, folder.box, skull.scales, folder.template)


def official_rays(skull: PreparedSkull, folder: DatasetFolder, rays: VaultRays) -> np.ndarray:
    """Rays (N, N) bool that meet a prepared skull's official implant; none where it has none."""
    if skull.implant is None:
        return np.zeros(rays.shape, bool)
    filled = rays.sample(skull.implant.astype(np.float32) / 255, folder.box, skull.scales, folder.template)
    return np.asarray((filled > 0.3).any(1).reshape(rays.shape))


def plates(profiles: np.ndarray, rays: VaultRays, guessed: np.ndarray | None = None) -> np.ndarray:
    """Tables (2, N, N) of bone along rays (N * N, H); NaN where there is no plate, and in and around what is guessed.

    Args:
        profiles: share of bone.
        rays: that they were sampled on.
        guessed: (N, N) bool, rays that meet a guessed implant.
    """
    tables = rays.tables(profiles)
    thickness = tables[0] - tables[1]
    wrong = ~((thickness > PLATE_MM[0]) & (thickness < PLATE_MM[1])) | (rays.polar_deg > rays.lowest_deg)
    if guessed is not None:
        wrong |= ndimage.binary_dilation(guessed)
    return np.where(wrong, np.nan, tables)


def principal_tables(maps: np.ndarray, modes: int, rounds: int = 15) -> tuple[np.ndarray, np.ndarray]:
    """Mean (2, N, N) and components (K, 2, N, N) of maps (B, 2, N, N) with gaps, by iterated singular values.

    Gaps are filled from mean and components of the round before, beginning with the mean of what is known. Entries that
    no map has get the nearest entry's mean and no deviation.

    Args:
        maps: NaN in gaps.
        modes: at most so many components.
        rounds: of filling.
    """
    known = np.isfinite(maps)
    count = known.sum(0)
    mean = np.where(known, maps, 0.0).sum(0) / np.maximum(count, 1)
    for table, seen in zip(mean, count > 0, strict=True):
        if seen.any() and not seen.all():
            nearest = ndimage.distance_transform_edt(~seen, return_distances=False, return_indices=True)
            table[:] = table[tuple(nearest)]
    gaps = ~known
    filled = np.where(known, maps, mean)
    kept = min(modes, len(maps) - 1)
    for _ in range(rounds):
        mean = filled.mean(0)
        left, size, right = np.linalg.svd((filled - mean).reshape(len(maps), -1), full_matrices=False)
        reconstructed = mean + ((left[:, :kept] * size[:kept]) @ right[:kept]).reshape(filled.shape)
        filled[gaps] = reconstructed[gaps]
    components = right[:kept] * size[:kept, None] / np.sqrt(len(maps))
    return mean.astype(np.float32), components.reshape(kept, *maps.shape[1:]).astype(np.float32)
