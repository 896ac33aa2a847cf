"""Scores on real skulls, on native grids, in mm: model beside baselines, validation persons beside training persons."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, field
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
import torch

from bundle.skull_implant.baselines import BASELINES, baseline_completions
from bundle.skull_implant.canonical_frame import CanonicalFrame, estimate_frame
from bundle.skull_implant.canonical_grid import to_canonical
from bundle.skull_implant.code_fitting import CodeFit
from bundle.skull_implant.datalist import open_dataset
from bundle.skull_implant.defects import CRANIAL_SITES, CranialHole, FacialSlab, draw_cranial_hole, draw_facial_slab
from bundle.skull_implant.errors import CaseRefused, InputError
from bundle.skull_implant.implant import design_implant
from bundle.skull_implant.inferers import CompletionInferer
from bundle.skull_implant.metrics import ImplantScore, dice, score_implant
from bundle.skull_implant.network import DEFECT_CLASSES, SkullCompleter
from bundle.skull_implant.preparing import Source, find_sources
from bundle.skull_implant.rim_fit import RimFit
from bundle.skull_implant.score_table import Score, SkullScore, implant_table, refused_score, skull_table, write_csv
from bundle.skull_implant.vault_template import VaultTemplate
from bundle.skull_implant.volume import Volume

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Protocol:
    """What is scored.

    Args:
        models: method -> (model file, gamma, steps of the code's fit, whether to fit the rim); the first one's mean
            vault aligns the skulls.
        dataset_dir: prepared training set: its parts, its training skulls for the baselines.
        other_models: more of them.
        varied_holes: a person; the ten sites take turns over the persons.
        persons: part -> how many of it, drawn with the seed; 0 takes all.
        baselines: also score the completions without a model.
        threshold_hu: where the source is CT.
        seed: of holes, slabs and persons.
    """

    models: dict[str, tuple[str, float, int, bool]]
    dataset_dir: str
    other_models: dict[str, tuple[str, float, int, bool]] = field(default_factory=dict)
    varied_holes: int = 2
    persons: dict[str, int] = field(default_factory=lambda: {"validation": 0, "training": 0})
    baselines: bool = True
    threshold_hu: float = 300.0
    seed: int = 0


def evaluate(source_dir: str, output_dir: str, protocol: Protocol, workers: int = 2) -> str:
    """Score every part, write `scores.csv`, `skulls.csv` and `table.md`, and return the tables.

    Args:
        source_dir: complete skulls on their native grids, as `scripts.prepare` read them.
        output_dir: where the files go.
        protocol: what is scored.
        workers: processes.

    Raises:
        InputError: a person of the dataset is not in the source.
    """
    sources = {source.name: source for source in find_sources(Path(source_dir))}
    jobs = [job for part in protocol.persons for job in _jobs(part, sources, protocol)]
    folder = Path(output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    implants: list[Score] = []
    skulls: list[SkullScore] = []
    tables = ""
    with ProcessPoolExecutor(workers, initializer=_single_thread) as pool:
        for number, found in enumerate(pool.map(partial(_score_person, protocol=protocol), jobs), start=1):
            implants += found[0]
            skulls += found[1]
            # After each person, so that a stopped run has something to show.
            write_csv(folder / "scores.csv", implants)
            tables = implant_table(implants)
            if skulls:
                write_csv(folder / "skulls.csv", skulls)
                tables += "\n\n" + skull_table(skulls)
            (folder / "table.md").write_text(tables + "\n")
            logger.info("%d of %d: %s %s", number, len(jobs), jobs[number - 1][1], jobs[number - 1][0].name)
    return tables


Job = tuple[Source, str, tuple[str, ...], int]


def _jobs(part: str, sources: dict[str, Source], protocol: Protocol) -> list[Job]:
    names = [entry["name"] for entry in open_dataset(protocol.dataset_dir).lists[part]]
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


def _score_person(job: Job, protocol: Protocol) -> tuple[list[Score], list[SkullScore]]:
    source, part, sites, number = job
    scorer = _Scorer(protocol)
    whole = source.read_skull(protocol.threshold_hu)
    complete = Volume(whole.voxels > 0, whole.grid)
    official = source.read_implant()
    try:
        frame = estimate_frame(complete.voxels, complete.grid, scorer.template, case=source.name)
    except CaseRefused as error:
        logger.warning("%s", error)
        planned = [("official", "official")] if official is not None else []
        planned += [*(("varied", site) for site in sites), ("facial", "facial"), ("none", "none")]
        return [row for defect, site in planned for row in scorer.refused(part, source.name, defect, site)], []
    generator = np.random.default_rng([protocol.seed, number, part == "training"])
    pieces: dict[tuple[str, str], np.ndarray] = {}
    if official is not None:
        pieces["official", "official"] = official.voxels > 0
    for site in sites:
        pieces["varied", site] = cut_native(complete, frame, draw_cranial_hole(generator, site))
    pieces["facial", "facial"] = cut_native(complete, frame, native_slab(complete, frame, generator))
    pieces["none", "none"] = np.zeros(complete.voxels.shape, bool)
    implants: list[Score] = []
    skulls: list[SkullScore] = []
    for (defect, name), piece in pieces.items():
        try:
            skull = Volume(complete.voxels & ~piece, complete.grid)
            frame = estimate_frame(skull.voxels, skull.grid, scorer.template, case=source.name)
        except CaseRefused as error:
            logger.warning("%s", error)
            implants += scorer.refused(part, source.name, defect, name)
            continue
        implants += scorer.score(part, source.name, defect, name, skull, frame, piece)
        skulls += scorer.score_skulls(part, source.name, defect, complete, skull, frame)
    return implants, skulls


class _Scorer:
    """The models and training skulls of a protocol, loaded once a process."""

    def __init__(self, protocol: Protocol) -> None:
        self.protocol = protocol
        models = {**protocol.models, **protocol.other_models}
        self.networks = {
            name: (_load(model_file), CompletionInferer(gamma, code_fit=CodeFit(steps)))
            for name, (model_file, gamma, steps, _) in models.items()
        }
        self.rim_fits = {name: RimFit.of(self.networks[name][0]) for name, (*_, rim_fit) in models.items() if rim_fit}
        self.box = next(iter(self.networks.values()))[0].box
        self.template: VaultTemplate = next(iter(self.networks.values()))[0].template
        self.skulls = _training_skulls(protocol.dataset_dir, self.box.spatial_size) if protocol.baselines else None

    def score(
        self,
        part: str,
        person: str,
        defect: str,
        site: str,
        skull: Volume,
        frame: CanonicalFrame,
        truth: np.ndarray,
    ) -> list[Score]:
        """Every method on one defect.

        Args:
            part: of the person.
            person: name.
            defect: of `score_table.DEFECTS`.
            site: of a varied hole.
            skull: bool, with the defect, on the scan's grid.
            frame: of this skull.
            truth: (X, Y, Z) bool, the piece that was cut out; empty for an undamaged skull.
        """
        bone_voxels = np.count_nonzero(skull.voxels)
        rows = []
        true_kind = "facial" if defect == "facial" else "cranial"
        for method, probability, bone, kind, seconds in self._completions(skull, frame, true_kind, defect != "none"):
            started = time.perf_counter()
            box = self.networks[method][0].box if method in self.networks else self.box
            if method in self.rim_fits and kind == "cranial":
                fit = self.rim_fits[method]
                probability, bone, box = fit.refine(probability, skull, frame, box, self.template)
            implant = design_implant(
                probability, bone, skull, frame, box, self.template, cranial=kind == "cranial"
            ).voxels
            seconds += time.perf_counter() - started
            score = (
                score_implant(implant, truth, skull.voxels, skull.grid.spacing)
                if truth.any()
                else ImplantScore(np.nan, np.nan, np.nan, bool(implant.any()))
            )
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

    def score_skulls(
        self, part: str, person: str, defect: str, complete: Volume, skull: Volume, frame: CanonicalFrame
    ) -> list[SkullScore]:
        """Whole-skull DSC of the models that do not fit the code, as in the method paper; none for a varied hole."""
        task = {"official": "cranial", "facial": "facial", "none": "complete"}.get(defect)
        if task is None:
            return []
        rows = []
        for method, (network, inferer) in self.networks.items():
            if inferer.code_fit is not None and inferer.code_fit.steps:
                continue
            bone, whole = (to_canonical(volume, frame, network.box) for volume in (skull, complete))
            image = torch.from_numpy(bone)[None, None]
            with torch.no_grad():
                decoded = network.decode(network.encode(image))[0, 0].numpy()
            rows.append(SkullScore(part, person, method, f"REC {task}", dice(decoded > 0.5, bone > 0.5)))
            if task in DEFECT_CLASSES:
                decoded = CompletionInferer(inferer.gamma, task)(image, network)["pred"][0, 0].numpy()
                rows.append(SkullScore(part, person, method, f"CMP {task}", dice(decoded > 0.5, whole > 0.5)))
        return rows

    def refused(self, part: str, person: str, defect: str, site: str) -> list[Score]:
        """A failed row for every method."""
        baselines = () if self.skulls is None or defect == "none" else BASELINES
        return [refused_score(part, person, defect, site, method) for method in (*baselines, *self.networks)]

    def _completions(
        self, skull: Volume, frame: CanonicalFrame, true_kind: str, baselines: bool
    ) -> Iterator[tuple[str, np.ndarray, np.ndarray, str, float]]:
        """Method, probability, bone share, class used and seconds. The baselines are told the true class."""
        if self.skulls is not None and baselines:
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
    return np.stack([skull.complete for skull in open_dataset(dataset_dir).read("training", spatial_size)])


def _single_thread() -> None:
    torch.set_num_threads(1)
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
