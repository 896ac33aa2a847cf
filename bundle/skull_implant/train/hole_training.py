"""Trains the hole network: the plate under synthetic holes of the unrolled vault, from the bone around them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from ignite.engine import Engine
from monai.networks.nets import BasicUNet
from scipy import ndimage
from torch.nn import functional

from bundle.skull_implant.errors import InputError
from bundle.skull_implant.fit.table_model import TableModel
from bundle.skull_implant.frame.vault_rays import VaultRays, vault_center, vault_radius
from bundle.skull_implant.frame.vault_template import VaultTemplate
from bundle.skull_implant.model.network import SkullCompleter
from bundle.skull_implant.model.unrolled_vault import (
    STEP_DEG,
    carried_on,
    heights,
    hole_features,
    plate_logits,
    relative_profiles,
)
from bundle.skull_implant.synthetic.defects import CRANIAL_SITES, draw_cranial_hole
from bundle.skull_implant.train.datalist import open_dataset
from bundle.skull_implant.train.dataset_folder import DatasetFolder, PreparedSkull
from bundle.skull_implant.train.table_fitting import measured_profiles, official_rays, plates, principal_tables
from bundle.skull_implant.train.training import update

RAYS = VaultRays(STEP_DEG)
LARGEST_POLAR_DEG = 117.0  # of a hole's rays
OFFICIAL_ATTEMPTS = 10  # a skull's own hole may lie where all official ones do
SMALLEST_HOLE = 30  # rays; a hole of which less is known teaches nothing
Hole = dict[str, np.ndarray]


class UnrolledSkulls:
    """Prepared skulls as bone along rays, with shape models that have not seen them.

    A shape model expects too much of the skulls that it was made of, so the skulls are parted in folds and each fold
    gets a model of the others.

    Args:
        dataset_dir: what `scripts.prepare` wrote, or a MONAI datalist.
        part: "training" or "validation".
        defective: also the skulls that have a hole of their own; what fills it is a guess and never a target.
        folds: number of them.
        modes: principal components.
        model: of other skulls, such as a completer's for validation skulls; then there are no folds.
    """

    def __init__(
        self,
        dataset_dir: str,
        part: str = "training",
        defective: bool = False,
        folds: int = 5,
        modes: int = 30,
        model: TableModel | None = None,
    ) -> None:
        folder = open_dataset(dataset_dir)
        self.skulls = [
            _unroll(skull, folder, guessed=each == "defective")
            for each in ([part, "defective"] if defective else [part])
            for skull in folder.skulls(each, folder.box.spatial_size)
        ]
        self.official = [skull["official"] for skull in self.skulls if skull["official"].any()]
        numbers = np.arange(len(self.skulls))
        if model is not None:
            self.models = [model]
        else:
            self.models = [self._model(numbers[numbers % folds != fold], modes) for fold in range(folds)]

    def __len__(self) -> int:
        return len(self.skulls)

    def model_of(self, index: int) -> TableModel:
        """The shape model that has not seen a skull."""
        return self.models[index % len(self.models)]

    def cut(self, index: int, hole: np.ndarray, mirrored: bool = False) -> Hole:
        """A skull with a hole: its bone, its expected tables, and where the truth under the hole is known.

        Args:
            index: of the skull.
            hole: (N, N) bool, rays.
            mirrored: exchange left and right of the skull first.
        """
        skull = self.skulls[index]
        if mirrored:
            skull = {name: each[:, ::-1] if name == "tables" else each[::-1] for name, each in skull.items()}
        cut = hole | skull["guessed"]
        known = ~ndimage.binary_dilation(cut, np.ones((3, 3))) & np.isfinite(skull["tables"]).all(0)
        expected = self.model_of(index).complete(np.where(known, skull["tables"], np.nan), RAYS)
        return {
            "profiles": skull["profiles"],
            "tables": np.nan_to_num(skull["tables"]).astype(np.float32),
            "expected": expected.astype(np.float32),
            "cut": cut,
            "known": known.astype(np.float32),
            "asked": hole & ~skull["guessed"],
        }

    def _model(self, numbers: np.ndarray, modes: int) -> TableModel:
        maps = np.stack([self.skulls[number]["tables"] for number in numbers])
        return TableModel(*principal_tables(np.concatenate([maps, maps[:, :, ::-1]]), modes), step_deg=STEP_DEG)


class HoleBatches:
    """Epochs of fixed length, endlessly varied: each skull, or its mirror image, with several holes.

    The randomness of an epoch depends on the seed and its number alone, so a resumed run sees what an unbroken one
    would have.

    Args:
        skulls: to cut into.
        mean: (2, N, N) mm, of the completer's shape model.
        batch_size: holes in a batch.
        holes: of each skull in an epoch.
        official_share: of the holes that are some person's official one, moved a little.
        anywhere_share: of the others whose middle lies anywhere on the vault; the rest lie at the ten sites.
        noise_mm: largest standard deviation of smooth errors that the expected tables get in a hole; 0 for held-out
            skulls, which get the same holes in every epoch and are not mirrored.
        seed: of everything random.
    """

    def __init__(
        self,
        skulls: UnrolledSkulls,
        mean: torch.Tensor,
        batch_size: int = 4,
        holes: int = 4,
        official_share: float = 0.3,
        anywhere_share: float = 0.35,
        noise_mm: float = 0.8,
        seed: int = 0,
    ) -> None:
        self.skulls = skulls
        self.mean = mean.cpu()
        self.batch_size = batch_size
        self.holes = holes
        self.official_share = official_share if skulls.official else 0.0
        self.anywhere_share = anywhere_share
        self.noise_mm = noise_mm
        self.seed = seed
        self.epoch = 0
        # MONAI's engines look for this on a loader.
        self.sampler = None

    def __len__(self) -> int:
        return -(-len(self.skulls) * self.holes // self.batch_size)

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        generator = np.random.default_rng([self.seed, self.epoch if self.noise_mm else 0])
        self.epoch += 1
        order = generator.permutation(np.repeat(np.arange(len(self.skulls)), self.holes))
        for start in range(0, len(order), self.batch_size):
            yield self._batch(
                [self._draw(int(index), generator) for index in order[start : start + self.batch_size]], generator
            )

    def _draw(self, index: int, generator: np.random.Generator) -> Hole:
        mirrored = bool(self.noise_mm) and generator.random() < 0.5
        attempts = 0
        while True:
            hole = self.skulls.cut(index, self._hole(index, generator, attempts < OFFICIAL_ATTEMPTS), mirrored)
            if np.count_nonzero(hole["asked"]) >= SMALLEST_HOLE:
                return hole
            attempts += 1

    def _hole(self, index: int, generator: np.random.Generator, official: bool = True) -> np.ndarray:
        """Rays (N, N) of a random hole."""
        in_vault = RAYS.polar_deg < LARGEST_POLAR_DEG
        if generator.random() < self.official_share and official:
            piece = self.skulls.official[generator.integers(len(self.skulls.official))]
            piece = np.roll(piece, (generator.integers(-3, 4), generator.integers(-6, 7)), (0, 1))
            return np.asarray(piece & in_vault)
        hole = draw_cranial_hole(generator, str(generator.choice(list(CRANIAL_SITES))))
        if generator.random() < self.anywhere_share:
            azimuth, polar = generator.uniform(0, 2 * np.pi), np.deg2rad(generator.uniform(0.0, 95.0))
            axis = [np.sin(polar) * np.cos(azimuth), np.sin(polar) * np.sin(azimuth), np.cos(polar)]
            hole = type(hole)(np.array(axis), hole.half_axes_mm, hole.turn_rad, hole.exponent, hole.waves)
        inside = hole.contains(torch.from_numpy(self.skulls.skulls[index]["points"].transpose(2, 0, 1).copy()))
        return np.asarray(inside.numpy() & in_vault)

    def _batch(self, holes: list[Hole], generator: np.random.Generator) -> dict[str, torch.Tensor]:
        profiles, tables, expected, cut, known, asked = (
            torch.from_numpy(np.stack([hole[name] for hole in holes]))
            for name in ("profiles", "tables", "expected", "cut", "known", "asked")
        )
        expected = expected + carried_on((tables - expected) * known[:, None], known[:, None])
        if self.noise_mm:
            expected = expected + self._errors(cut, generator)
        expected = torch.stack([expected[:, 0], torch.minimum(expected[:, 1], expected[:, 0] - 1.0)], dim=1)
        bone = profiles.float() / 255
        return {
            "features": hole_features(bone * ~cut[..., None], expected, known, self.mean, RAYS),
            "expected": plate_logits(expected),
            "truth": relative_profiles(bone, expected[:, 0], RAYS),
            "asked": asked.float(),
        }

    def _errors(self, cut: torch.Tensor, generator: np.random.Generator) -> torch.Tensor:
        """Smooth errors (B, 2, N, N) mm in and a little around the holes: of both tables alike, and of each."""
        size = tuple(cut.shape[1:])
        amount = torch.from_numpy(generator.uniform(0.0, self.noise_mm, (len(cut), 1, 1, 1))).float()
        coarse = torch.from_numpy(generator.standard_normal((len(cut), 3, 9, 9))).float()
        waves = functional.interpolate(coarse, size=size, mode="bicubic", align_corners=True)
        near = functional.avg_pool2d(functional.max_pool2d(cut[:, None].float(), 5, 1, 2), 5, 1, 2)
        return amount * near * (waves[:, :1] + 0.5 * waves[:, 1:])


class HoleStep:
    """Cross entropy and Dice of the bone under the holes, weighted by the volume that a ray stands for.

    Args:
        bfloat16: mixed precision; worth it on GPUs and on CPUs with AMX or AVX-512 BF16.
    """

    def __init__(self, bfloat16: bool = False) -> None:
        self.bfloat16 = bfloat16

    def __call__(self, engine: Engine, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """One optimizer step; returns the detached Dice term."""
        network: BasicUNet = engine.network
        network.train()
        features, expected, truth, asked = (batch[name].to(engine.state.device) for name in _INPUTS)
        with torch.autocast(features.device.type, torch.bfloat16, enabled=self.bfloat16):
            correction = network(features.contiguous(memory_format=torch.channels_last))
        logits = expected + correction.float()
        weight = _volumes(asked)
        volume = (truth * weight).sum((1, 2, 3)).clamp_min(20.0)
        entropy = functional.binary_cross_entropy_with_logits(logits, truth, reduction="none") * weight
        probability = torch.sigmoid(logits)
        both = (probability * truth * weight).sum((1, 2, 3))
        loss = 1 - 2 * both / ((probability * weight).sum((1, 2, 3)) + volume)
        update(engine.optimizer, (entropy.sum((1, 2, 3)) / volume + 2 * loss).mean())
        return {"dice": loss.mean().detach()}


class HeldOutHoles:
    """Mean DSC of the bone under the holes of validation skulls, on the rays, the same holes each time.

    Args:
        network: the hole network.
        batches: of skulls that nothing was learned from, without noise.
        device: where to compute.
    """

    def __init__(self, network: BasicUNet, batches: HoleBatches, device: torch.device) -> None:
        self.network = network
        self.batches = batches
        self.device = device

    @torch.no_grad()
    def __call__(self) -> float:
        """The mean over all holes, thresholded at one half."""
        self.network.eval()
        scores = []
        for batch in self.batches:
            features, expected, truth, asked = (batch[name].to(self.device) for name in _INPUTS)
            solid, weight = expected + self.network(features) > 0, _volumes(asked)
            both = ((solid & (truth > 0.5)) * weight).sum((1, 2, 3))
            total = ((solid * weight) + (truth > 0.5) * weight).sum((1, 2, 3))
            scores.append(2 * both / total.clamp_min(1e-6))
        return float(torch.cat(scores).mean())


def held_out_skulls(dataset_dir: str, network: SkullCompleter) -> UnrolledSkulls:
    """Validation skulls with the completer's own shape model.

    Raises:
        InputError: it has none.
    """
    return UnrolledSkulls(dataset_dir, "validation", model=_shape_model(network))


def check_start_model(model_file: str | Path) -> None:
    """Raise InputError where a file is no completer with a shape model."""
    _shape_model(SkullCompleter.from_file(model_file))


def _shape_model(network: SkullCompleter) -> TableModel:
    model = TableModel.of(network)
    if model is None:
        raise InputError(
            "start_model must hold a shape model of the vault's tables, has none; "
            "`run table_fitting` of finetune.yaml adds it"
        )
    return model


_INPUTS = ("features", "expected", "truth", "asked")


def _volumes(asked: torch.Tensor) -> torch.Tensor:
    """What each entry (B, C, N, N) of a hole's rays (B, N, N) stands for, 1 at the vertex; 0 elsewhere."""
    polar = torch.from_numpy(np.deg2rad(RAYS.polar_deg)).to(asked)
    narrower = torch.sinc(polar / torch.pi)  # the plane's azimuthal circles are too long
    return asked[:, None] * narrower * (1 + heights(asked) / 80.0).square()


def _unroll(skull: PreparedSkull, folder: DatasetFolder, guessed: bool) -> Hole:
    """A skull's bone along the rays (uint8), its tables, its official hole, and the rays on which it is guessed."""
    profiles = measured_profiles(skull, folder, RAYS)
    official = official_rays(skull, folder, RAYS)
    unknown = ndimage.binary_dilation(official) if guessed else np.zeros_like(official)
    return {
        "profiles": np.rint(profiles.clip(0, 1) * 255).astype(np.uint8).reshape(*RAYS.shape, -1),
        "tables": plates(profiles, RAYS, official if guessed else None).astype(np.float32),
        "official": np.zeros_like(official) if guessed else official,
        "guessed": unknown,
        "points": _vault_points(folder.template, skull.scales),
    }


def _vault_points(template: VaultTemplate, scales: np.ndarray) -> np.ndarray:
    """Canonical RAS mm of the fitted vault on each ray, (N, N, 3) float32."""
    directions = RAYS.plane.directions()
    radius = vault_radius(directions.reshape(-1, 3), scales, template).reshape(RAYS.shape)
    return (vault_center(scales, template) + directions * radius[..., None]).astype(np.float32)
