"""How fast training is: our step beside plain training out of MONAI's parts, and both beside the floor."""

from __future__ import annotations

import itertools
import logging
import multiprocessing
import os
import platform
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from bundle.skull_implant.frame.canonical_grid import CanonicalBox
from bundle.skull_implant.frame.vault_template import VaultTemplate
from bundle.skull_implant.host_memory import keep_freed_memory
from bundle.skull_implant.model.network import SkullCompleter, SkullVAE
from bundle.skull_implant.peers import plain_training
from bundle.skull_implant.peers.plain_training import PlainTraining
from bundle.skull_implant.speed.step_floor import MachineSpeed, measure_machine, step_cost, synchronize
from bundle.skull_implant.synthetic.synthetic_head import synthetic_head
from bundle.skull_implant.train.augmentation import Deformation
from bundle.skull_implant.train.dataset_folder import DATALIST
from bundle.skull_implant.train.losses import SkullDiceLoss
from bundle.skull_implant.train.preparing import find_sources, prepare_dataset
from bundle.skull_implant.train.training import StageOneStep
from bundle.skull_implant.train.training_data import SkullBatches, SkullDataset
from bundle.skull_implant.volume import Volume, write_volume

logger = logging.getLogger(__name__)

BATCH_SIZE = 4
SIZES: dict[str, Any] = {
    "channels": plain_training.CHANNELS,
    "strides": plain_training.STRIDES,
    "latent_size": plain_training.LATENT_SIZE,
}


@dataclass(frozen=True)
class Speed:
    """One run.

    Args:
        volumes_per_s: by the clock.
        cpu_s: processor seconds a volume, workers included, which other programs on the machine disturb less.
    """

    volumes_per_s: float
    cpu_s: float


@dataclass
class Column:
    """What was measured on one device.

    Args:
        machine: its speed in our step's precision.
        value_bytes: of an activation in our step.
        ours: each run.
        plain: each run of plain training.
    """

    machine: MachineSpeed
    value_bytes: int
    ours: list[Speed] = field(default_factory=list)
    plain: list[Speed] = field(default_factory=list)


def benchmark_training(
    folder: Path,
    spatial_size: tuple[int, int, int],
    runs: int,
    steps: int,
    persons: int = 4,
    scan_size: tuple[int, int, int] = (512, 512, 224),
) -> str:
    """Time epochs of both in turn, on the CPU and on the GPU if there is one.

    Ours deforms the skulls and cuts new holes into them; plain training reads complete, cranial and facial skulls from
    NIfTI. Both start from files in the page cache, and an epoch's beginning, with its workers, is timed.

    Args:
        folder: for the skulls, which are synthetic; made if they are not there.
        spatial_size: voxels of the training grid.
        runs: epochs of each.
        steps: of an epoch, in batches of 4.
        persons: skulls, at least two for a whole batch.
        scan_size: voxels of the NIfTI files; as large as SkullFix's.

    Returns:
        Markdown table, a column for the CPU and one for the GPU.
    """
    if persons < 2:
        raise ValueError(f"two skulls at least make a batch of {BATCH_SIZE}, got {persons}")
    paths = _write_volumes(folder, persons, scan_size)
    dataset_dir = _prepare(folder, spatial_size)
    columns = {}
    for name, kind in {"CPU": "cpu", **({"GPU": "cuda"} if torch.cuda.is_available() else {})}.items():
        columns[name] = _measure(kind, paths, dataset_dir, spatial_size, runs, steps)
    return _table(columns, spatial_size)


def _measure(
    device: str, paths: list[Path], dataset_dir: Path, spatial_size: tuple[int, int, int], runs: int, steps: int
) -> Column:
    column = Column(*_machine(device))
    # In a process of its own, because how ours treats the host's memory must not help the other.
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as own:
        for run in range(runs):
            column.ours.append(own.submit(_time_ours, device, dataset_dir, spatial_size, steps).result())
            column.plain.append(_time_plain(device, paths, spatial_size, steps))
            for name, speed in {"ours": column.ours[-1], "plain": column.plain[-1]}.items():
                numbers = device, run + 1, name, speed.volumes_per_s, speed.cpu_s
                logger.info("%s run %d: %s %.3g volumes a second, %.3g processor seconds a volume", *numbers)
    return column


def _machine(device: str) -> tuple[MachineSpeed, int]:
    """Speed in the precision of our step, and the bytes of its activations."""
    bfloat16 = device == "cuda"
    return measure_machine(torch.device(device), torch.bfloat16 if bfloat16 else torch.float32), 2 if bfloat16 else 4


def _time_ours(device: str, dataset_dir: Path, spatial_size: tuple[int, int, int], steps: int) -> Speed:
    keep_freed_memory()
    ours = _OurTraining(dataset_dir, spatial_size, torch.device(device), bfloat16=device == "cuda")
    ours.steps(2)  # warm
    return _time(lambda: ours.steps(steps), torch.device(device), steps)


def _time_plain(device: str, paths: list[Path], spatial_size: tuple[int, int, int], steps: int) -> Speed:
    logging.getLogger("monai").setLevel(logging.ERROR)
    where = torch.device(device)
    plain = PlainTraining([paths[i % len(paths)] for i in range(steps * BATCH_SIZE)], spatial_size, where, BATCH_SIZE)
    PlainTraining(paths[:BATCH_SIZE], spatial_size, where, BATCH_SIZE).epoch()  # warm
    return _time(plain.epoch, where, steps)


def _time(work: Callable[[], float], device: torch.device, steps: int) -> Speed:
    synchronize(device)
    started, used = time.perf_counter(), _processor_seconds()
    work()
    synchronize(device)
    volumes = steps * BATCH_SIZE
    return Speed(volumes / (time.perf_counter() - started), (_processor_seconds() - used) / volumes)


def _processor_seconds() -> float:
    """Of this process and of the workers that it has waited for."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


class _OurTraining:
    """Steps of stage 1 as `configs/train.yaml` has them, without the trainer's events."""

    def __init__(
        self, dataset_dir: Path, spatial_size: tuple[int, int, int], device: torch.device, bfloat16: bool
    ) -> None:
        dataset = SkullDataset(str(dataset_dir), "training", spatial_size, device)
        self.batches = SkullBatches(dataset, BATCH_SIZE, Deformation())
        network = SkullVAE(SkullCompleter(spatial_size, **SIZES)).to(device)
        optimizer = torch.optim.Adam(network.parameters(), 1e-3)
        self.engine: Any = SimpleNamespace(network=network, optimizer=optimizer, state=SimpleNamespace(device=device))
        self.step = StageOneStep(100.0, SkullDiceLoss(), bfloat16)

    def steps(self, count: int) -> float:
        """That many steps, over as many epochs as it takes, full batches only; the mean loss."""
        whole = (batch for batch in self._endless() if len(batch["image"]) == BATCH_SIZE)
        losses = [self.step(self.engine, batch)["dice"] for batch in itertools.islice(whole, count)]
        return float(torch.stack(losses).mean())

    def _endless(self) -> Iterator[dict[str, torch.Tensor]]:
        while True:
            yield from self.batches


def _write_volumes(folder: Path, persons: int, scan_size: tuple[int, int, int]) -> list[Path]:
    """NIfTI files of complete, cranial and facial skulls, and `complete_skull/` and `implant/` for preparing."""
    spacing = tuple(extent / count for extent, count in zip((235.0, 235.0, 150.0), scan_size, strict=True))
    paths = []
    for seed in range(persons):
        name = f"{seed:03d}.nii.gz"
        targets = {each: folder / each / name for each in ("complete_skull", "implant", "cranial", "facial")}
        paths += [targets[each] for each in ("complete_skull", "cranial", "facial")]
        if all(path.is_file() for path in targets.values()):
            continue
        head = synthetic_head(seed, size=scan_size, spacing=(spacing[0], spacing[1], spacing[2]), noise_sd_hu=0.0)
        complete, implant = head.complete_skull.voxels, head.implant.voxels
        front = np.argwhere(complete.any((0, 2)))[0, 0]  # LPS: the face is at low y
        facial = complete.copy()
        facial[: scan_size[0] // 2, front : front + round(45 / spacing[1])] = False
        volumes = {"complete_skull": complete, "implant": implant, "cranial": complete & ~implant, "facial": facial}
        for each, voxels in volumes.items():
            write_volume(targets[each], Volume(voxels, head.complete_skull.grid))
        logger.info("synthetic skull %d of %d", seed + 1, persons)
    return paths


def _prepare(folder: Path, spatial_size: tuple[int, int, int]) -> Path:
    target = folder / ("dataset_" + "x".join(map(str, spatial_size)))
    if not (target / DATALIST).is_file():
        sources = find_sources(folder)
        prepare_dataset(sources, target, [], VaultTemplate.ellipsoid(), CanonicalBox(spatial_size), 300.0)
    return target


def _table(columns: dict[str, Column], spatial_size: tuple[int, int, int]) -> str:
    cost = step_cost(spatial_size, BATCH_SIZE, **SIZES)
    rows: dict[str, Callable[[Column], str]] = {
        "our step, volumes a second": lambda each: _numbers([run.volumes_per_s for run in each.ours]),
        "plain training, volumes a second": lambda each: _numbers([run.volumes_per_s for run in each.plain]),
        "ratio": lambda each: _numbers(
            [ours.volumes_per_s / plain.volumes_per_s for ours, plain in zip(each.ours, each.plain, strict=True)]
        ),
        "our step, processor seconds a volume": lambda each: _numbers([run.cpu_s for run in each.ours]),
        "plain training, processor seconds a volume": lambda each: _numbers([run.cpu_s for run in each.plain]),
        "ratio of processor seconds": lambda each: _numbers(
            [plain.cpu_s / ours.cpu_s for ours, plain in zip(each.ours, each.plain, strict=True)]
        ),
        "operations a step, 10^9": lambda each: f"{cost.operations / 1e9:.3g}",
        "bytes moved a step, 10^9": lambda each: f"{cost.moved_bytes(each.value_bytes) / 1e9:.3g}",
        "machine: operations a second, 10^9": lambda each: f"{each.machine.operations / 1e9:.3g}",
        "machine: bytes a second, 10^9": lambda each: f"{each.machine.moved_bytes / 1e9:.3g}",
        "floor of a step, s": lambda each: f"{cost.seconds(each.machine, each.value_bytes):.3g}",
        "our step, times the floor": lambda each: _numbers(
            [BATCH_SIZE / run.volumes_per_s / cost.seconds(each.machine, each.value_bytes) for run in each.ours]
        ),
    }
    machine = f"{os.cpu_count()} CPU cores, {torch.get_num_threads()} threads, torch {torch.__version__}"
    lines = [
        f"Stage 1 at {' x '.join(map(str, spatial_size))}, batches of {BATCH_SIZE}, {machine}, Python "
        f"{platform.python_version()}; a number for each run",
        "",
        "| | CPU | GPU |",
        "|---|---|---|",
    ]
    for name, row in rows.items():
        cells = [row(columns[device]) if device in columns else "-" for device in ("CPU", "GPU")]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _numbers(values: list[float]) -> str:
    return ", ".join(f"{value:.3g}" for value in values)
