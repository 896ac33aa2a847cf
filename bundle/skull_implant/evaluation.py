"""Scores on real skulls, on native grids, in mm: model beside baselines, validation persons beside training persons."""

from __future__ import annotations

import csv
import logging
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, field
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
import torch

from bundle.skull_implant.baselines import baseline_completions
from bundle.skull_implant.canonical_frame import CanonicalFrame, estimate_frame
from bundle.skull_implant.canonical_grid import to_canonical
from bundle.skull_implant.code_fitting import CodeFit
from bundle.skull_implant.dataset_folder import DatasetFolder
from bundle.skull_implant.defects import CRANIAL_SITES, CranialHole, FacialSlab, draw_cranial_hole, draw_facial_slab
from bundle.skull_implant.errors import InputError
from bundle.skull_implant.implant import design_implant
from bundle.skull_implant.inferers import CompletionInferer
from bundle.skull_implant.metrics import score_implant
from bundle.skull_implant.network import DEFECT_CLASSES, SkullCompleter
from bundle.skull_implant.preparing import Source, find_sources
from bundle.skull_implant.vault_template import VaultTemplate
from bundle.skull_implant.volume import Volume

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Score:
    """One method on one defect of one person. HD95 is infinite where the prediction is empty."""

    part: str
    person: str
    defect: str
    site: str
    method: str
    dsc: float
    bdsc: float
    hd95_mm: float
    failed: bool
    skull_dsc: float
    implant_ml: float
    defect_class: str
    seconds: float


@dataclass(frozen=True)
class Protocol:
    """What is scored.

    Args:
        models: method -> (model file, gamma, steps of the code's fit); the first one's mean vault aligns the skulls.
        dataset_dir: prepared training set: its parts, its training skulls for the baselines.
        other_models: more of them.
        varied_holes: a person; the ten sites take turns over the persons.
        persons: part -> how many of it, drawn with the seed; 0 takes all.
        baselines: also score the completions without a model.
        threshold_hu: where the source is CT.
        seed: of holes, slabs and persons.
    """

    models: dict[str, tuple[str, float, int]]
    dataset_dir: str
    other_models: dict[str, tuple[str, float, int]] = field(default_factory=dict)
    varied_holes: int = 2
    persons: dict[str, int] = field(default_factory=lambda: {"validation": 0, "training": 0})
    baselines: bool = True
    threshold_hu: float = 300.0
    seed: int = 0


def evaluate(source_dir: str, output_dir: str, protocol: Protocol, workers: int = 2) -> str:
    """Score every part, write `scores.csv` and the table, and return the table.

    Args:
        source_dir: complete skulls on their native grids, as `scripts.prepare` read them.
        output_dir: where `scores.csv` and `table.md` go.
        protocol: what is scored.
        workers: processes.

    Raises:
        InputError: a person of the dataset is not in the source.
    """
    sources = {source.name: source for source in find_sources(Path(source_dir))}
    jobs = [job for part in protocol.persons for job in _jobs(part, sources, protocol)]
    folder = Path(output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    scores: list[Score] = []
    table = ""
    with ProcessPoolExecutor(workers, initializer=_single_thread) as pool:
        for number, found in enumerate(pool.map(partial(_score_person, protocol=protocol), jobs), start=1):
            scores += found
            table = score_table(scores)
            _write(folder, scores, table)  # after each person, so that a stopped run has something to show
            logger.info("%d of %d: %s %s", number, len(jobs), jobs[number - 1][1], jobs[number - 1][0].name)
    return table


def _write(folder: Path, scores: Sequence[Score], table: str) -> None:
    with (folder / "scores.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(asdict(scores[0])))
        writer.writeheader()
        writer.writerows(asdict(score) for score in scores)
    (folder / "table.md").write_text(table + "\n")


def score_table(scores: Sequence[Score]) -> str:
    """Markdown: a row for each part, defect and method; means over the cases, failures counted in DSC and bDSC as 0."""
    lines = [
        "| persons | defect | method | cases | failed | implant DSC | bDSC | HD95 mm (not failed) | skull DSC |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for (part, defect, method), group in _groups(scores):
        distances = [score.hd95_mm for score in group if not score.failed]
        hd95 = f"{np.mean(distances):.2f}" if distances else "-"
        means = [np.mean([getattr(score, name) for score in group]) for name in ("dsc", "bdsc", "skull_dsc")]
        failed = sum(score.failed for score in group)
        lines.append(
            f"| {part} | {defect} | {method} | {len(group)} | {failed} "
            f"| {means[0]:.3f} | {means[1]:.3f} | {hd95} | {means[2]:.3f} |"
        )
    return "\n".join(lines)


def _groups(scores: Sequence[Score]) -> Iterator[tuple[tuple[str, str, str], list[Score]]]:
    keys = list(dict.fromkeys((score.part, score.defect, score.method) for score in scores))
    order = {name: rank for rank, name in enumerate(("official", "varied", "facial"))}
    for key in sorted(keys, key=lambda key: (key[0] != "validation", order[key[1]])):
        yield key, [score for score in scores if (score.part, score.defect, score.method) == key]


Job = tuple[Source, str, tuple[str, ...], int]


def _jobs(part: str, sources: dict[str, Source], protocol: Protocol) -> list[Job]:
    names = [entry["name"] for entry in DatasetFolder(protocol.dataset_dir).lists[part]]
    missing = sorted(set(names) - set(sources))
    if missing:
        raise InputError(
            f"{part} persons must be in SOURCE, missing {', '.join(missing[:5])}; give the folder that was prepared"
        )
    if protocol.persons[part]:
        chosen = np.random.default_rng(protocol.seed).permutation(len(names))[: protocol.persons[part]]
        names = [names[i] for i in sorted(chosen)]
    sites = list(CRANIAL_SITES)
    count = protocol.varied_holes
    return [
        (sources[name], part, tuple(sites[(number * count + i) % len(sites)] for i in range(count)), number)
        for number, name in enumerate(names)
    ]


def _score_person(job: Job, protocol: Protocol) -> list[Score]:
    source, part, sites, number = job
    scorer = _Scorer(protocol)
    skull = source.read_skull(protocol.threshold_hu)
    complete = Volume(skull.voxels > 0, skull.grid)
    frame = estimate_frame(complete.voxels, complete.grid, scorer.template, case=source.name)
    generator = np.random.default_rng([protocol.seed, number, part == "training"])
    found: list[Score] = []
    official = source.read_implant()
    if official is not None:
        found += scorer.score(part, source.name, "official", "official", complete, official.voxels > 0)
    for site in sites:
        found += scorer.score(
            part, source.name, "varied", site, complete, cut_native(complete, frame, draw_cranial_hole(generator, site))
        )
    found += scorer.score(
        part,
        source.name,
        "facial",
        "facial",
        complete,
        cut_native(complete, frame, native_slab(complete, frame, generator)),
    )
    return found


class _Scorer:
    """The models and training skulls of a protocol, loaded once a process."""

    def __init__(self, protocol: Protocol) -> None:
        self.protocol = protocol
        self.networks = {
            name: (_load(model_file), CompletionInferer(gamma, code_fit=CodeFit(steps)))
            for name, (model_file, gamma, steps) in {**protocol.models, **protocol.other_models}.items()
        }
        self.box = next(iter(self.networks.values()))[0].box
        self.template: VaultTemplate = next(iter(self.networks.values()))[0].template
        self.skulls = _training_skulls(protocol.dataset_dir, self.box.spatial_size) if protocol.baselines else None

    def score(self, part: str, person: str, defect: str, site: str, complete: Volume, truth: np.ndarray) -> list[Score]:
        """Every method on one defect. `truth` (X, Y, Z) is the piece that was cut out, on the scan's grid."""
        skull = Volume(complete.voxels & ~truth, complete.grid)
        frame = estimate_frame(skull.voxels, skull.grid, self.template, case=person)
        bone_voxels = np.count_nonzero(skull.voxels)
        rows = []
        for method, probability, bone, kind, seconds in self._completions(
            skull, frame, "facial" if defect == "facial" else "cranial"
        ):
            started = time.perf_counter()
            box = self.networks[method][0].box if method in self.networks else self.box
            implant = design_implant(
                probability, bone, skull, frame, box, self.template, cranial=kind == "cranial"
            ).voxels
            seconds += time.perf_counter() - started
            score = score_implant(implant, truth, skull.voxels, skull.grid.spacing)
            # The skull is part of the complete skull, and the implant is never on it, so counting the implant's hits
            # is enough.
            whole = 2 * (bone_voxels + (implant & truth).sum()) / (2 * bone_voxels + truth.sum() + implant.sum())
            ml = float(implant.sum()) * skull.grid.voxel_ml
            numbers: dict[str, Any] = asdict(score)
            rows.append(
                Score(
                    part,
                    person,
                    defect,
                    site,
                    method,
                    **numbers,
                    skull_dsc=float(whole),
                    implant_ml=ml,
                    defect_class=kind,
                    seconds=seconds,
                )
            )
        return rows

    def _completions(
        self, skull: Volume, frame: CanonicalFrame, true_kind: str
    ) -> Iterator[tuple[str, np.ndarray, np.ndarray, str, float]]:
        """Method, probability, bone share, class used and seconds. The baselines are told the true class."""
        if self.skulls is not None:
            bone = to_canonical(skull, frame, self.box)
            for name, probability in baseline_completions(bone, self.skulls).items():
                yield name, probability, bone, true_kind, 0.0
        for name, (network, inferer) in self.networks.items():
            started = time.perf_counter()
            bone = to_canonical(skull, frame, network.box)
            output = inferer(torch.from_numpy(bone)[None, None], network)
            kind = DEFECT_CLASSES[int(output["class_index"][0])]
            yield name, output["pred"][0, 0].numpy(), bone, kind, time.perf_counter() - started


def cut_native(complete: Volume, frame: CanonicalFrame, defect: CranialHole | FacialSlab) -> np.ndarray:
    """The bone that a defect takes away, (X, Y, Z) bool on the scan's grid."""
    index = np.argwhere(complete.voxels)
    to_canonical_mm = np.linalg.inv(frame.affine) @ complete.grid.affine
    points = torch.from_numpy((index @ to_canonical_mm[:3, :3].T + to_canonical_mm[:3, 3]).T.astype(np.float32))
    gone = index[defect.contains(points).numpy()]
    piece = np.zeros(complete.voxels.shape, bool)
    piece[tuple(gone.T)] = True
    return piece


def native_slab(complete: Volume, frame: CanonicalFrame, generator: np.random.Generator) -> FacialSlab:
    """A facial slab of a skull, measured on all of its bone."""
    index = np.argwhere(complete.voxels[::4, ::4, ::4]) * 4
    to_canonical_mm = np.linalg.inv(frame.affine) @ complete.grid.affine
    points = index @ to_canonical_mm[:3, :3].T + to_canonical_mm[:3, 3]
    return draw_facial_slab(generator, points[:, 1].max(), points[:, 0].max(), points[:, 0].min())


@lru_cache(maxsize=8)
def _load(model_file: str) -> SkullCompleter:
    return SkullCompleter.from_file(model_file)


@lru_cache(maxsize=1)
def _training_skulls(dataset_dir: str, spatial_size: tuple[int, int, int]) -> np.ndarray:
    return np.stack([skull.complete for skull in DatasetFolder(dataset_dir).read("training", spatial_size)])


def _single_thread() -> None:
    torch.set_num_threads(1)
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
