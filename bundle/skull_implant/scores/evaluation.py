"""Scores on real skulls, on native grids, in mm: methods side by side, validation persons beside training persons."""

from __future__ import annotations

import json
import logging
import multiprocessing
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch

from bundle.skull_implant.design.metrics import ImplantScore, dice, score_implant
from bundle.skull_implant.design.rim_metrics import NO_RIM, rim_gap_and_step
from bundle.skull_implant.errors import CaseRefused, InputError
from bundle.skull_implant.frame.canonical_frame import estimate_frame
from bundle.skull_implant.frame.canonical_grid import to_canonical
from bundle.skull_implant.frame.vault_template import VaultTemplate
from bundle.skull_implant.model.inferers import CompletionInferer
from bundle.skull_implant.model.network import DEFECT_CLASSES
from bundle.skull_implant.scores.implant_methods import CompleterMethod, DefectiveSkull, ImplantMethod, InferenceMethod
from bundle.skull_implant.scores.score_table import (
    Score,
    SkullScore,
    calibration_table,
    implant_table,
    read_scores,
    read_skull_scores,
    refused_scores,
    site_scores,
    site_table,
    skull_table,
    write_csv,
)
from bundle.skull_implant.scores.scored_methods import aligning_template, methods_of
from bundle.skull_implant.scores.scoring_protocol import PersonJob, Protocol, person_jobs
from bundle.skull_implant.speed.peak_memory import measured
from bundle.skull_implant.synthetic.native_defects import native_pieces, planned_pieces
from bundle.skull_implant.threads import single_thread
from bundle.skull_implant.train.preparing import find_sources
from bundle.skull_implant.volume import Volume
from bundle.skull_implant.whole_files import check_writable, write_text

logger = logging.getLogger(__name__)

Row = TypeVar("Row", Score, SkullScore)


def evaluate(source_dir: str, output_dir: str, protocol: Protocol, workers: int = 2) -> str:
    """Score every part, write `scores.csv`, `sites.csv`, `skulls.csv` and `table.md`, and return the tables.

    The files are written after each person. A run that was stopped goes on from them, and methods that came since are
    scored alone; `protocol.json` tells whether what is there is of the same protocol.

    Args:
        source_dir: complete skulls on their native grids, as `scripts.prepare` read them.
        output_dir: where the files go.
        protocol: what is scored.
        workers: processes.

    Raises:
        InputError: a person of the dataset is not in the source, a model cannot be read, or the folder holds scores of
            another protocol.
    """
    sources = {source.name: source for source in find_sources(Path(source_dir))}
    jobs = person_jobs(protocol, sources)
    names = list(methods_of(protocol))  # what is wrong with a file shows before any work
    folder = check_writable(output_dir)
    implants, skulls = _begun(folder, protocol)
    scored = {(score.part, score.person, score.method) for score in implants}
    left = [(job, [name for name in names if (*job.person, name) not in scored]) for job in jobs]
    left = [(job, missing) for job, missing in left if missing]
    done = len(jobs) - len(left)
    if done or scored:
        logger.info("%d of %d persons are in %s/scores.csv already", done, len(jobs), folder)
    # A forked process cannot use a GPU that its parent has used.
    start = None if torch.device(protocol.device).type == "cpu" else multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=start, initializer=single_thread) as pool:
        found = pool.map(partial(_score_person, protocol=protocol), *zip(*left, strict=True)) if left else []
        for (job, _), (new_implants, new_skulls) in zip(left, found, strict=True):
            implants = _in_order(implants + new_implants, jobs, names)
            skulls = _in_order(skulls + new_skulls, jobs, names)
            _write(folder, implants, skulls)
            done += 1
            logger.info("%d of %d: %s %s", done, len(jobs), *job.person)
    return _tables(implants, skulls)


def _begun(folder: Path, protocol: Protocol) -> tuple[list[Score], list[SkullScore]]:
    """The rows that are there already, after whose persons this run goes on."""
    kept, scores = folder / "protocol.json", folder / "scores.csv"
    if not scores.exists():
        (folder / "skulls.csv").unlink(missing_ok=True)
        write_text(kept, json.dumps(protocol.fingerprint(), indent=1) + "\n")
        return [], []
    if changed := protocol.differs_from(json.loads(kept.read_text()) if kept.exists() else {}):
        raise InputError(
            f"{scores}: holds scores of another protocol ({', '.join(changed)} differ); "
            "name another output folder, or remove the file to score anew"
        )
    implants = read_scores(scores)
    scored = {(score.part, score.person, score.method) for score in implants}
    skulls = [
        score
        for score in read_skull_scores(folder / "skulls.csv")
        if (score.part, score.person, score.method) in scored
    ]
    write_text(kept, json.dumps(protocol.fingerprint(), indent=1) + "\n")
    return implants, skulls


def _in_order(rows: list[Row], jobs: list[PersonJob], names: list[str]) -> list[Row]:
    """Person after person, what was cut or decoded in the order it came, and of each the methods in theirs."""
    persons = {job.person: number for number, job in enumerate(jobs)}
    methods = {name: number for number, name in enumerate(names)}
    things: dict[tuple[str, ...], int] = {}
    for row in rows:
        things.setdefault(_thing(row), len(things))
    return sorted(rows, key=lambda row: (persons[row.part, row.person], things[_thing(row)], methods[row.method]))


def _thing(row: Score | SkullScore) -> tuple[str, ...]:
    return (row.part, row.person, *((row.defect, row.site) if isinstance(row, Score) else (row.task,)))


def _write(folder: Path, implants: list[Score], skulls: list[SkullScore]) -> None:
    if skulls:
        write_csv(folder / "skulls.csv", skulls)
    if sites := site_scores(implants):
        write_csv(folder / "sites.csv", sites)
    write_text(folder / "table.md", _tables(implants, skulls) + "\n")
    write_csv(folder / "scores.csv", implants)  # the last one: a person in it is done


def _tables(implants: list[Score], skulls: list[SkullScore]) -> str:
    tables = [implant_table(implants)]
    if sites := site_scores(implants):
        tables.append(site_table(sites))
    if calibration := calibration_table(implants):
        tables.append(calibration)
    if skulls:
        tables.append(skull_table(skulls))
    return "\n\n".join(tables)


def _score_person(job: PersonJob, names: list[str], protocol: Protocol) -> tuple[list[Score], list[SkullScore]]:
    methods = {name: method for name, method in methods_of(protocol).items() if name in names}
    template = aligning_template(protocol)
    whole = job.source.read_skull(protocol.threshold_hu)
    complete = Volume(whole.voxels > 0, whole.grid)
    official = job.source.read_piece(complete.grid)
    try:
        frame = estimate_frame(complete.voxels, complete.grid, template, case=job.source.name)
    except CaseRefused as error:
        logger.warning("%s", error)
        return _refused(job, planned_pieces(official is not None, job.sites), methods, error), []
    generator = np.random.default_rng([protocol.seed, job.number, job.part == "training"])
    pieces = native_pieces(complete, official, frame, job.sites, generator)
    implants: list[Score] = []
    skulls: list[SkullScore] = []
    for (defect, site), piece in pieces.items():
        skull = Volume(complete.voxels & ~piece, complete.grid)
        try:
            frame = estimate_frame(skull.voxels, skull.grid, template, case=job.source.name)
        except CaseRefused as error:
            logger.warning("%s", error)
            implants += _refused(job, [(defect, site)], methods, error)
            continue
        case = DefectiveSkull(skull, frame, "facial" if defect == "facial" else "cranial")
        row = (*job.person, defect, site)
        implants += [score_design(name, method, case, piece, template, row) for name, method in methods.items()]
        if protocol.whole_skulls:
            skulls += _whole_skulls(job, defect, complete, case, methods)
    return implants, skulls


def _refused(
    job: PersonJob, defects: Sequence[tuple[str, str]], methods: Mapping[str, ImplantMethod], error: CaseRefused
) -> list[Score]:
    """Failed rows of a skull that cannot be aligned, which a report would call refused."""
    reasons = "; ".join(error.reasons)
    return [
        replace(row, status="refused", reasons=reasons) if isinstance(methods[row.method], InferenceMethod) else row
        for row in refused_scores(*job.person, defects, list(methods))
    ]


def score_design(
    name: str,
    method: ImplantMethod,
    case: DefectiveSkull,
    truth: np.ndarray,
    template: VaultTemplate,
    job: tuple[str, str, str, str],
) -> Score:
    """One method on one defect.

    Args:
        name: of the method.
        method: that designs.
        case: the skull with the defect.
        truth: (X, Y, Z) bool, the piece that was cut out; empty for an undamaged skull.
        template: mean vault.
        job: part, person, defect and site of the row.
    """
    skull = case.skull
    found = measured(lambda: method.design(case))
    implant = found.result.implant
    report = found.result.report()
    refused = report.get("status") == "refused"
    score = (
        score_implant(implant, truth, skull.voxels, skull.grid.spacing)
        if truth.any()
        else ImplantScore(np.nan, np.nan, np.nan, bool(implant.any()) or refused)
    )
    seam = truth.any() and case.true_class == "cranial"
    rim = rim_gap_and_step(implant, skull, case.frame, template) if seam else NO_RIM
    bone_voxels = np.count_nonzero(skull.voxels)
    # The skull is part of the complete skull, and the implant is never on it, so counting the implant's hits is enough.
    whole = 2 * (bone_voxels + (implant & truth).sum()) / (2 * bone_voxels + truth.sum() + implant.sum())
    numbers: dict[str, Any] = {**asdict(score), **asdict(rim)}
    return Score(
        *job,
        name,
        **numbers,
        skull_dsc=float(whole),
        implant_ml=float(implant.sum()) * skull.grid.voxel_ml,
        defect_class=found.result.defect_class,
        seconds=found.seconds,
        peak_gb=found.peak_gb,
        expected_dsc=found.result.expected_dsc,
        status=report.get("status", ""),
        reasons="; ".join(report.get("reasons", [])),
    )


def _whole_skulls(
    job: PersonJob, defect: str, complete: Volume, case: DefectiveSkull, methods: Mapping[str, ImplantMethod]
) -> list[SkullScore]:
    """Whole-skull DSC of the models that do not fit the code, as in the method paper; none for a varied hole."""
    task = {"official": "cranial", "facial": "facial", "none": "complete"}.get(defect)
    if task is None:
        return []
    rows = []
    for name, method in methods.items():
        if not isinstance(method, CompleterMethod) or method.fits_code:
            continue
        network = method.network
        bone, whole = (to_canonical(volume, case.frame, network.box) for volume in (case.skull, complete))
        image = torch.from_numpy(bone)[None, None].to(network.dev)
        with torch.no_grad():
            decoded = network.decode(network.encode(image))[0, 0].cpu().numpy()
        rows.append(SkullScore(job.part, job.source.name, name, f"REC {task}", dice(decoded > 0.5, bone > 0.5)))
        if task in DEFECT_CLASSES:
            decoded = CompletionInferer(method.inferer.gamma, task)(image, network)["pred"][0, 0].cpu().numpy()
            rows.append(SkullScore(job.part, job.source.name, name, f"CMP {task}", dice(decoded > 0.5, whole > 0.5)))
    return rows
