"""Virtual holes in a complete head: what the bundle gives back of pieces that are known, on anyone's own scanner."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from scipy import ndimage

from bundle.skull_implant.bounding_box import bounding_box
from bundle.skull_implant.design.metrics import score_implant
from bundle.skull_implant.design.rim_metrics import NO_RIM, RimScore
from bundle.skull_implant.errors import CaseRefused, InputError
from bundle.skull_implant.frame.canonical_frame import estimate_frame
from bundle.skull_implant.input.reading import Case
from bundle.skull_implant.model.network import SkullCompleter
from bundle.skull_implant.scores.score_table import write_csv
from bundle.skull_implant.steps.designing import ImplantDesigner, report_of
from bundle.skull_implant.steps.transforms import CaseData, ReadCased, SkullMaskd
from bundle.skull_implant.synthetic.defects import CRANIAL_SITES, draw_cranial_hole
from bundle.skull_implant.synthetic.native_defects import cut_native
from bundle.skull_implant.volume import Volume, write_volume
from bundle.skull_implant.whole_files import check_writable, write_text

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class HoleScore:
    """One virtual hole.

    Args:
        site: of :data:`CRANIAL_SITES`; "none" is the head as it is, where no implant is right.
        hole_ml: bone that was cut out.
        implant_ml: designed, all pieces.
        elsewhere_ml: of it, what the scores leave out: pieces that do not touch the hole, and what fills an opening
            that the head has without it, as the row "none" then shows, which nobody knows the true filling of.
        dsc: of implant and piece, as are the next two; NaN for "none", 0 for a refused case.
        bdsc: within 10 mm of the bone.
        hd95_mm: infinite for an empty implant.
        gap_outer_mm: median gap along the rim at the outer table; NaN without a rim.
        gap_inner_mm: at the inner table.
        step_outer_mm: median step across the rim at the outer table.
        step_inner_mm: at the inner table.
        status: "ok", "review" or "refused", as a report has it.
        reasons: of a status that is not "ok".
        seconds: from the bone mask to the implant.
    """

    site: str
    hole_ml: float
    implant_ml: float
    elsewhere_ml: float
    dsc: float
    bdsc: float
    hd95_mm: float
    gap_outer_mm: float
    gap_inner_mm: float
    step_outer_mm: float
    step_inner_mm: float
    status: str
    reasons: str
    seconds: float


def check_head(
    path: str,
    folder: Path,
    model_file: Path,
    threshold_hu: float = 300.0,
    sites: Sequence[str] = (),
    seed: int = 0,
    keep_masks: bool = False,
    overwrite: bool = False,
) -> list[HoleScore]:
    """:func:`check_holes` of a file or DICOM folder, read as a command reads it; no `sites` are all.

    Raises:
        InputError: bad input, an unknown site, or a result is there already.
    """
    chosen = sites or tuple(CRANIAL_SITES)
    unknown = sorted(set(chosen) - set(CRANIAL_SITES))
    if unknown:
        raise InputError(f"sites must be of {', '.join(CRANIAL_SITES)}, got {', '.join(unknown)}; leave it out for all")
    if (folder / "holes.csv").exists() and not overwrite:
        raise InputError(f"{folder}/holes.csv: holds a result already; name another OUTPUT_DIR or pass --overwrite")
    check_writable(folder)
    designer = ImplantDesigner(SkullCompleter.from_file(model_file))
    data: CaseData = {"image": path}
    for step in (ReadCased(), SkullMaskd(threshold_hu)):
        step.step(data)
    return check_holes(data["case"], data["skull"], designer, folder, sites=chosen, seed=seed, keep_masks=keep_masks)


def check_holes(
    case: Case,
    complete: Volume,
    designer: ImplantDesigner,
    folder: Path,
    *,
    sites: Sequence[str] = tuple(CRANIAL_SITES),
    seed: int = 0,
    minimum_ml: float = 1.0,
    keep_masks: bool = False,
) -> list[HoleScore]:
    """Cut a hole at each site in turn, design its implant, and score it against the piece; first the head as it is.

    Holes are cut out of the bone mask, not out of the HU, so a hole's edge is as sharp as a fresh cut. Written to the
    folder after each hole: `holes.csv`, `holes.md`.

    Args:
        case: the scan.
        complete: its bone, bool, without a defect.
        designer: of the implants.
        folder: is made.
        sites: of :data:`CRANIAL_SITES`.
        seed: of the holes' places and outlines.
        minimum_ml: a site where less bone would go is left out, because the scan does not show it.
        keep_masks: also write `<site>.hole.nii.gz`, the piece, and `<site>.implant.nii.gz`.

    Returns:
        A row for each hole.

    Raises:
        CaseRefused: the head as it is cannot be aligned.
    """
    rows: list[HoleScore] = []
    opening = np.zeros(complete.voxels.shape, bool)
    for site, piece in _pieces(case, complete, designer, sites, seed):
        hole_ml = np.count_nonzero(piece) * complete.grid.voxel_ml
        if site != "none" and hole_ml < minimum_ml:
            logger.info("%s: the scan shows %.1f ml of bone there, less than %g; left out", site, hole_ml, minimum_ml)
            continue
        row, implant = _score(site, piece, case, complete, designer, opening)
        if site == "none" and implant is not None:
            opening = near(implant)
        rows.append(row)
        write_csv(folder / "holes.csv", rows)
        write_text(folder / "holes.md", hole_table(rows) + "\n")
        if keep_masks and implant is not None:
            write_volume(folder / f"{site}.hole.nii.gz", Volume(piece, complete.grid))
            write_volume(folder / f"{site}.implant.nii.gz", implant)
        logger.info("%-15s DSC %.3f, %s, %.0f s", site, row.dsc, row.status, row.seconds)
    return rows


def hole_table(rows: Sequence[HoleScore]) -> str:
    """Markdown: a row for each hole, below them the medians over the holes; refused and empty ones count as 0 DSC."""
    lines = [
        "| site | hole ml | implant ml | elsewhere ml | DSC | bDSC | HD95 mm | gap mm (outer / inner) "
        "| step mm (outer / inner) | status |",
        "|---|---|---|---|---|---|---|---|---|---|",
        *(_line(row) for row in rows),
    ]
    holes = [row for row in rows if row.site != "none"]
    if holes:
        status = [row.status for row in holes]
        counted = ", ".join(f"{status.count(name)} {name}" for name in ("ok", "review", "refused") if name in status)
        medians = {field.name: _median(holes, field.name) for field in fields(HoleScore) if field.type == "float"}
        lines.append(_line(HoleScore(site="median", status=counted, reasons="", **medians)))
    return "\n".join(lines)


def _median(holes: Sequence[HoleScore], name: str) -> float:
    known = [value for value in (getattr(row, name) for row in holes) if not np.isnan(value)]
    return float(np.median(known)) if known else np.nan


def _pieces(
    case: Case, complete: Volume, designer: ImplantDesigner, sites: Sequence[str], seed: int
) -> Iterator[tuple[str, np.ndarray]]:
    """Sites and what is cut out there; first nothing."""
    frame = estimate_frame(complete.voxels, complete.grid, designer.network.template, case=case.name)
    yield "none", np.zeros(complete.voxels.shape, bool)
    for site in sites:  # a site's hole is the same whichever others are asked for
        generator = np.random.default_rng([seed, list(CRANIAL_SITES).index(site)])
        yield site, cut_native(complete, frame, draw_cranial_hole(generator, site))


def _score(
    site: str, piece: np.ndarray, case: Case, complete: Volume, designer: ImplantDesigner, opening: np.ndarray
) -> tuple[HoleScore, Volume | None]:
    skull = Volume(complete.voxels & ~piece, complete.grid)
    hole_ml = float(np.count_nonzero(piece) * complete.grid.voxel_ml)
    started = time.perf_counter()
    whole = site == "none"
    missed = (np.nan, np.nan, np.nan) if whole else (0.0, 0.0, np.inf)
    scores: dict[str, Any] = dict(zip(("dsc", "bdsc", "hd95_mm"), missed, strict=True))
    scores["elsewhere_ml"] = 0.0
    try:
        data = designer(case, skull)
    except CaseRefused as error:
        seconds = time.perf_counter() - started
        told: dict[str, Any] = {"status": "refused", "reasons": "; ".join(error.reasons), "seconds": seconds}
        return HoleScore(site, hole_ml, 0.0, **scores, **_rim(NO_RIM), **told), None
    seconds = time.perf_counter() - started
    report, implant = report_of(data), data["implant"]
    if not whole:
        own = filling(implant.voxels & (piece | ~opening), piece)
        scores["elsewhere_ml"] = float(np.count_nonzero(implant.voxels & ~own)) * skull.grid.voxel_ml
        found = score_implant(own, piece, skull.voxels, skull.grid.spacing)
        scores |= {"dsc": found.dsc, "bdsc": found.bdsc, "hd95_mm": found.hd95_mm}
    row = HoleScore(
        site,
        hole_ml,
        report["implant"]["volume_ml"],
        **scores,
        **_rim(data.get("rim", NO_RIM)),
        status=report["status"],
        reasons="; ".join(report["reasons"]),
        seconds=seconds,
    )
    return row, implant


def filling(implant: np.ndarray, piece: np.ndarray) -> np.ndarray:
    """The pieces of an implant, connected by faces, that reach into a hole, (X, Y, Z) bool."""
    labels, _ = ndimage.label(implant)
    inside = np.unique(labels[piece])
    return np.isin(labels, inside[inside > 0])


def near(implant: Volume, margin_mm: float = 2.0) -> np.ndarray:
    """Voxels of an implant and as near to it, (X, Y, Z) bool: two implants of one opening differ by about a voxel."""
    around = np.zeros(implant.voxels.shape, bool)
    steps = np.ceil(margin_mm / np.asarray(implant.grid.spacing)).astype(int)
    window = bounding_box(implant.voxels, margin=(int(steps[0]), int(steps[1]), int(steps[2])))
    if window is not None:
        distance = ndimage.distance_transform_edt(~implant.voxels[window], sampling=implant.grid.spacing)
        around[window] = distance <= margin_mm
    return around


def _rim(rim: RimScore) -> dict[str, Any]:
    return asdict(rim)


def _line(row: HoleScore) -> str:
    return (
        f"| {row.site} | {row.hole_ml:.1f} | {row.implant_ml:.1f} | {row.elsewhere_ml:.1f} "
        f"| {_number(row.dsc, 3)} | {_number(row.bdsc, 3)} | {_number(row.hd95_mm, 2)} "
        f"| {_number(row.gap_outer_mm, 2)} / {_number(row.gap_inner_mm, 2)} "
        f"| {_number(row.step_outer_mm, 2)} / {_number(row.step_inner_mm, 2)} | {row.status} |"
    )


def _number(value: float, digits: int) -> str:
    return "-" if np.isnan(value) else f"{value:.{digits}f}"
