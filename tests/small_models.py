"""Networks and training sets of a size at which everything takes a moment."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import cast

import numpy as np
import torch
from ignite.engine import Engine
from torch import nn

from bundle.skull_implant.frame.canonical_grid import CanonicalBox
from bundle.skull_implant.frame.vault_rays import VaultRays
from bundle.skull_implant.frame.vault_template import VaultTemplate
from bundle.skull_implant.model.network import SkullCompleter
from bundle.skull_implant.train.dataset_folder import DatasetFolder, write_datalist, write_skull
from tests.made_up_skulls import ball, egg_template, pose, shell

BOX = CanonicalBox((16, 24, 16))
VAULT_BOX = CanonicalBox((88, 112, 80))  # fine enough for tables


def small_network(seed: int = 0) -> SkullCompleter:
    """A completer with unequal sizes and random weights, statistics and DEV vectors, in evaluation mode."""
    torch.manual_seed(seed)
    network = SkullCompleter(BOX.spatial_size, channels=[3, 5], strides=[2, 4], latent_size=7)
    for name, buffer in network.named_buffers():
        if name in ("latent_mean", "centroids", "dev", "class_weight", "class_bias") or name.endswith("running_mean"):
            buffer.normal_()
        elif name == "dev_slope":
            buffer.normal_(0.0, 0.1)
        elif name == "latent_std" or name.endswith("running_var"):
            buffer.uniform_(0.5, 2.0)
    network.template_mm.copy_(torch.as_tensor(egg_template().radii_mm))
    return network.eval()


def small_images(count: int = 3, seed: int = 0) -> torch.Tensor:
    return torch.rand(count, 1, *BOX.spatial_size, generator=torch.Generator().manual_seed(seed))


def engine_of(network: nn.Module, optimizer: torch.optim.Optimizer) -> Engine:
    """What a training step needs of a trainer."""
    state = SimpleNamespace(device=torch.device("cpu"))
    return cast(Engine, SimpleNamespace(network=network, optimizer=optimizer, state=state))


def small_dataset(folder: Path, training: int = 4, defective: int = 0) -> DatasetFolder:
    """Prepared vaults of different sizes: the training skulls, the first without an implant, and one validation skull.

    The official implant of the others is their bone in front of the vertex and right of the midline. In defective ones
    that bone is a model's guess.
    """
    folder.mkdir(parents=True, exist_ok=True)
    template = VaultTemplate.ellipsoid()
    points = BOX.coordinates().numpy()
    lists: dict[str, list[dict[str, str]]] = {"training": [], "validation": [], "defective": []}
    for number in range(training + 1 + defective):
        frame = pose(scales=(0.95 + 0.03 * number, 1.0, 1.05 - 0.03 * number))
        # walls as thick as the voxels are large
        complete = shell(points, frame, template, wall_mm=12.0)
        implant = complete & (points[0] > 5.0) & (points[1] > 20.0) & (points[2] > -60.0)
        entry = write_skull(folder, f"{number:03d}", complete, None if number == 0 else implant, frame)
        part = "defective" if number > training else "validation" if number == training else "training"
        lists[part].append(entry)
    write_datalist(folder, lists, BOX, template)
    return DatasetFolder(folder)


def vault_dataset(folder: Path) -> None:
    """Three prepared vaults of different thickness, and one with a guessed piece."""
    points, egg, head = VAULT_BOX.coordinates().numpy(), egg_template(), pose()
    training = [
        write_skull(folder, f"wall_{wall:g}", shell(points, head, egg, wall_mm=wall), None, head)
        for wall in (6.0, 8.0, 10.0)
    ]
    whole = shell(points, head, egg, wall_mm=8.0)
    guessed = [write_skull(folder, "guessed", whole, whole & ball(points, (40.0, 10.0, -25.0), 25.0), head)]
    write_datalist(folder, {"training": training, "validation": [], "defective": guessed}, VAULT_BOX, egg)


def tables_of_two_modes(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Maps (count, 2, N, N) that are a mean and two smooth modes, and the modes."""
    rays = VaultRays(3.0)
    x, y = np.meshgrid(*[np.linspace(-1, 1, rays.shape[0])] * 2, indexing="ij")
    modes = np.stack([np.stack([x, x - 0.2 * y]), np.stack([x * y, 0.8 * x * y + 0.1])])
    weights = np.random.default_rng(1).normal(0.0, 1.0, (count, 2)) * [2.0, 1.0]
    mean = np.stack([np.zeros_like(x), np.full_like(x, -6.0)])
    return mean + np.tensordot(weights, modes, axes=1), modes
