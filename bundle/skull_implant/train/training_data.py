"""Batches for training, made on the device: skulls that live there are deformed and cut, with nothing read between."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch
from torch.nn import functional
from torch.utils.data import Dataset

from bundle.skull_implant.errors import InputError
from bundle.skull_implant.frame.canonical_grid import CanonicalBox
from bundle.skull_implant.model.network import LATENT_CLASSES
from bundle.skull_implant.synthetic.defects import (
    CRANIAL_SITES,
    CranialHole,
    FacialShares,
    FacialSlab,
    draw_cranial_hole,
    draw_facial_shares,
)
from bundle.skull_implant.train import processes
from bundle.skull_implant.train.augmentation import Deformation, deform
from bundle.skull_implant.train.datalist import open_dataset


class SkullDataset(Dataset[dict[str, torch.Tensor]]):
    """Complete skulls and official implants in device memory, 8 bits a voxel.

    Args:
        dataset_dir: what `scripts.prepare` wrote, or a MONAI datalist.
        part: "training" or "validation".
        spatial_size: voxels of the canonical grid to train at.
        device: where the skulls live.
        defective: also take the skulls that have a hole of their own, behind the complete ones. Their hole is filled
            with a model's guess, which stands in their official implant and is never a target.
        data: nothing; MONAI Label's server puts submitted labels here, which `run` makes a dataset of.

    Raises:
        InputError: no such dataset, or labels arrived.
    """

    def __init__(
        self,
        dataset_dir: str,
        part: str,
        spatial_size: Sequence[int],
        device: torch.device | str = "cpu",
        defective: bool = False,
        data: Sequence[Mapping[str, str]] = (),
    ) -> None:
        if data:
            raise InputError(
                f"{part}: {len(data)} submitted labels arrived; leave run_id at `run`, which prepares them"
            )
        folder = open_dataset(dataset_dir)
        size = (int(spatial_size[0]), int(spatial_size[1]), int(spatial_size[2]))
        skulls = folder.read(part, size)
        self.complete_count = len(skulls)
        if defective:
            skulls += folder.read("defective", size)
        self.box = CanonicalBox(size, folder.box.size_mm, folder.box.top_mm)
        self.template = folder.template
        self.device = torch.device(device)
        self.names = [skull.name for skull in skulls]
        blank = np.zeros(size, np.uint8)
        pairs = [np.stack([skull.complete, blank if skull.implant is None else skull.implant]) for skull in skulls]
        self.skulls = torch.from_numpy(np.stack(pairs)).to(self.device)  # (N, 2, X, Y, Z): complete, official implant
        self.has_implant = [skull.implant is not None for skull in skulls]

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        """The undeformed complete skull and its official implant, each (1, X, Y, Z) in 0 to 1."""
        pair = self.skulls[index].float() / 255
        return {"image": pair[:1], "implant": pair[1:]}


Cut = CranialHole | FacialShares | None


def check_sites(sites: Sequence[str]) -> None:
    """Raise InputError where varied cranial holes have no site, or an unknown one."""
    unknown = [site for site in sites if site not in CRANIAL_SITES]
    if unknown or not sites:
        raise InputError(f"sites must be some of {', '.join(CRANIAL_SITES)}, got {', '.join(unknown) or 'none'}")


class DefectCutter:
    """Cuts the defect of a class into skulls.

    Drawing and cutting are apart, so that of several processes each can draw all and cut its own.

    Args:
        box: canonical box of the skulls.
        official_share: how many of the cranial defects are the person's official one; the others are varied.
        edge_samples: along each axis of a voxel; a voxel loses the share of them that lies in the defect. With 1 a
            voxel keeps its bone or loses all of it, which no scan's hole does after it is resampled.
        sites: of the varied cranial holes, of :data:`CRANIAL_SITES`; None for all.

    Raises:
        InputError: no samples, or an unknown site.
    """

    def __init__(
        self,
        box: CanonicalBox,
        official_share: float = 0.3,
        edge_samples: int = 1,
        sites: Sequence[str] | None = None,
    ) -> None:
        if edge_samples < 1:
            raise InputError(f"edge_samples must be at least 1, got {edge_samples}")
        self.sites = list(CRANIAL_SITES if sites is None else sites)
        check_sites(self.sites)
        self.box = box
        self.points = box.coordinates()
        self.official_share = official_share
        within = (torch.arange(edge_samples) + 0.5) / edge_samples - 0.5
        self.offsets = torch.cartesian_prod(within, within, within) * torch.tensor(box.spacing_mm, dtype=torch.float32)

    def cut(
        self, skull: torch.Tensor, official: torch.Tensor | None, kind: str, generator: np.random.Generator
    ) -> torch.Tensor:
        """A defective skull.

        Args:
            skull: (1, X, Y, Z), complete.
            official: (1, X, Y, Z), its official implant, or None.
            kind: of :data:`LATENT_CLASSES`.
            generator: source of randomness.

        Returns:
            (1, X, Y, Z); the skull itself for "complete".
        """
        if kind == "complete":
            return skull
        return self.apply(skull, official, self.draw(official is not None, kind, generator))

    def draw(self, has_official: bool, kind: str, generator: np.random.Generator) -> Cut:
        """A random defect of a class, None for the official one, for :meth:`apply`."""
        if kind == "facial":
            return draw_facial_shares(generator)
        if has_official and generator.random() < self.official_share:
            return None
        return draw_cranial_hole(generator, str(generator.choice(self.sites)))

    def apply(self, skull: torch.Tensor, official: torch.Tensor | None, defect: Cut) -> torch.Tensor:
        """Take a defect out of a skull (1, X, Y, Z); None takes the official one."""
        if defect is None:
            return skull if official is None else (skull - official).clamp_min(0)
        if self.points.device != skull.device:
            self.points = self.points.to(skull.device)
        if isinstance(defect, FacialShares):
            left, right = self._reach(skull, 0)
            _, front = self._reach(skull, 1)
            return self._take_out(skull, defect.slab(front, right, left))
        return self._take_out(skull, defect)

    def _take_out(self, skull: torch.Tensor, defect: CranialHole | FacialSlab) -> torch.Tensor:
        return self._without_bone(skull, defect) if skull.device.type == "cpu" else self._without(skull, defect)

    def _without(self, skull: torch.Tensor, defect: CranialHole | FacialSlab) -> torch.Tensor:
        """By the rule on every voxel, because a GPU would have to tell its host how many are bone."""
        return skull * (1 - self._share(self.points, defect))

    def _without_bone(self, skull: torch.Tensor, defect: CranialHole | FacialSlab) -> torch.Tensor:
        """By the rule on bone: it costs dozens of operations a point, and one voxel in eight is bone."""
        bone = torch.nonzero(skull[0] > 0, as_tuple=True)
        share = self._share(self.points[:, bone[0], bone[1], bone[2]], defect)
        left = skull.clone()
        left[0][bone] = left[0][bone] * (1 - share)
        return left

    def _share(self, points: torch.Tensor, defect: CranialHole | FacialSlab) -> torch.Tensor:
        """How much of the voxels around points (3, ...) lies in a defect, (...) in 0 to 1."""
        offsets = self.offsets.to(points.device)
        inside = [defect.contains(points + each.view(3, *[1] * (points.ndim - 1))).float() for each in offsets]
        return torch.stack(inside).mean(0)

    def _reach(self, skull: torch.Tensor, axis: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Canonical mm of the first and the last bone along an axis, on the device; infinite where there is none."""
        other = [dim for dim in (1, 2, 3) if dim != axis + 1]
        position = self.points[axis].select(2, 0).select(1 - axis, 0)  # (X, Y, Z) -> along the axis
        bone = skull.amax(dim=other)[0] > 0.5
        return (
            torch.where(bone, position, torch.inf).amin(),
            torch.where(bone, position, -torch.inf).amax(),
        )


class SkullBatches:
    """Epochs of fixed length, endlessly varied: each skull deformed, complete or with a defect, once for each kind.

    Where a guess fills a skull's own hole, and a little around, nothing is known: `known` is 0 there. Where the guess
    was cut out again, the hole is.

    The randomness of an epoch depends on the seed and its number alone, so a resumed run sees what an unbroken one
    would have.

    Args:
        dataset: skulls.
        batch_size: volumes in a batch; several processes share it.
        deformation: ranges of the deformation, or None for the skulls as they are.
        official_share: of the cranial defects.
        seed: of everything random.
        binary: threshold the volumes at one half, as in the method paper; else they hold the share of bone in a voxel.
        guess_margin_mm: how far around a guess nothing is known.
        fixed_defects: each skull keeps its defects in every epoch, whatever the seed, as in the method paper.
        edge_samples: of :class:`DefectCutter`.
        wholes: also give each volume's skull without its defect, `whole`, and where that is the truth, `whole_known`.
        kinds: of each skull's volumes, of :data:`LATENT_CLASSES`; one that comes more than once has another defect each
            time, unless `fixed_defects`.
        sites: of :class:`DefectCutter`.
    """

    def __init__(
        self,
        dataset: SkullDataset,
        batch_size: int,
        deformation: Deformation | None = None,
        official_share: float = 0.3,
        seed: int = 0,
        binary: bool = False,
        guess_margin_mm: float = 2.5,
        fixed_defects: bool = False,
        edge_samples: int = 1,
        wholes: bool = False,
        kinds: Sequence[str] = LATENT_CLASSES,
        sites: Sequence[str] | None = None,
    ) -> None:
        if batch_size < 1:
            raise InputError(f"batch_size must be at least 1, got {batch_size}")
        self.dataset = dataset
        self.batch_size = batch_size
        self.deformation = deformation
        self.cutter = DefectCutter(dataset.box, official_share, edge_samples, sites)
        self.seed = seed
        self.binary = binary
        self.fixed_defects = fixed_defects
        self.wholes = wholes
        self.kinds = [LATENT_CLASSES.index(kind) for kind in kinds]
        # Odd sizes, so that the pooled maximum lies in the middle of its window.
        self.guess_window = [2 * round(guess_margin_mm / step) + 1 for step in dataset.box.spacing_mm]
        self.epoch = 0
        # MONAI's engines look for these two on a loader.
        self.sampler = None

    def __len__(self) -> int:
        return -(-len(self.dataset) * len(self.kinds) // self.batch_size)

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        numbers = np.random.default_rng([self.seed, self.epoch])
        generator = torch.Generator().manual_seed(int(numbers.integers(2**62)))
        self.epoch += 1
        jobs = [(int(index), kind) for index in numbers.permutation(len(self.dataset)) for kind in self.kinds]
        for start in range(0, len(jobs), self.batch_size):
            yield self._batch(jobs[start : start + self.batch_size], numbers, generator)

    def _batch(
        self, jobs: list[tuple[int, int]], numbers: np.random.Generator, generator: torch.Generator
    ) -> dict[str, torch.Tensor]:
        """Draw for the whole batch, make this process's part of it."""
        cuts = [self._draw(index, kind, numbers) for index, kind in jobs]
        persons = list(dict.fromkeys(index for index, _ in jobs))
        deformations = self._deformations(len(persons), generator)
        own = processes.own_part(len(jobs))
        volumes = torch.tensor(len(jobs))
        jobs, cuts = jobs[own], cuts[own]
        # A person's volumes in a batch share one deformation, which costs as much as a training step.
        pairs = {
            index: self._pair(index, deformations, number)
            for number, index in enumerate(persons)
            if index in {job[0] for job in jobs}
        }
        blank = self.dataset.skulls.new_empty((0, 1, *self.dataset.box.spatial_size), dtype=torch.float32)
        made = [self._volume(pairs[index], index, kind, cut) for (index, kind), cut in zip(jobs, cuts, strict=True)]
        images = torch.stack(made) if made else blank
        known = [self._known(image, pairs[index], index) for image, (index, _) in zip(images, jobs, strict=True)]
        if self.binary:
            images = (images > 0.5).float()
        batch = {
            "image": images,
            "known": torch.stack(known) if known else blank,
            "kind": torch.tensor([job[1] for job in jobs]),
            "volumes": volumes,
        }
        return batch | self._wholes([index for index, _ in jobs], pairs, blank) if self.wholes else batch

    def _wholes(
        self, indices: list[int], pairs: dict[int, torch.Tensor], blank: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        """The skulls of a batch's volumes before they were cut; under a guess, which cuts may have met, unknown."""
        wholes = torch.stack([pairs[index][:1] for index in indices]) if indices else blank
        known = [self._known(whole, pairs[index], index) for whole, index in zip(wholes, indices, strict=True)]
        if self.binary:
            wholes = (wholes > 0.5).float()
        return {"whole": wholes, "whole_known": torch.stack(known) if known else blank}

    def _deformations(self, count: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor] | None:
        """Affine maps and displacements of a batch's persons on the device, or None."""
        if self.deformation is None:
            return None
        box = self.dataset.box
        # the vault's center, 80 mm below the vertex
        pivot = (0.0, 0.0, 1.0 - 2 * (80.0 + box.top_mm) / box.size_mm[2])
        affine, warp = self.deformation.draw(count, generator, box.size_mm, pivot)
        return send(affine, self.dataset.device), send(warp, self.dataset.device)

    def _pair(self, index: int, deformations: tuple[torch.Tensor, torch.Tensor] | None, number: int) -> torch.Tensor:
        """A person's skull and official implant (2, X, Y, Z), with deformation `number` of the batch."""
        pair = self.dataset.skulls[index].float() / 255
        if deformations is None:
            return pair
        affine, warp = (each[number : number + 1] for each in deformations)
        return deform(pair[None], affine, warp)[0]

    def _draw(self, index: int, kind: int, numbers: np.random.Generator) -> Cut:
        if LATENT_CLASSES[kind] == "complete":
            return None
        if self.fixed_defects:
            numbers = np.random.default_rng([index, kind])
        return self.cutter.draw(self.dataset.has_implant[index], LATENT_CLASSES[kind], numbers)

    def _known(self, image: torch.Tensor, pair: torch.Tensor, index: int) -> torch.Tensor:
        """Where a volume (1, X, Y, Z) of a skull (2, X, Y, Z) is the truth, (1, X, Y, Z) in 0 and 1."""
        if index < self.dataset.complete_count:
            return torch.ones_like(image)
        near = (torch.minimum(image, pair[1:]) > 0.05).float()
        for axis, size in enumerate(self.guess_window):  # one axis after the other is five times as fast
            window = [size if other == axis else 1 for other in range(3)]
            near = functional.max_pool3d(near, window, stride=1, padding=[each // 2 for each in window])
        return 1 - near

    def _volume(self, pair: torch.Tensor, index: int, kind: int, cut: Cut) -> torch.Tensor:
        """One volume (1, X, Y, Z) of a deformed skull and official implant (2, X, Y, Z)."""
        if LATENT_CLASSES[kind] == "complete":
            return pair[:1]
        return self.cutter.apply(pair[:1], pair[1:] if self.dataset.has_implant[index] else None, cut)


def send(values: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Move values of the host to a device without waiting for it."""
    return values.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else values.to(device)
