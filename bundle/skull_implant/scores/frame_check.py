"""What the canonical frame costs: how far a hole moves it, and how well a perfect network could score in it."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from scipy.spatial.transform import Rotation

from bundle.skull_implant.design.implant import design_implant
from bundle.skull_implant.design.metrics import dice
from bundle.skull_implant.errors import CaseRefused
from bundle.skull_implant.frame.canonical_frame import CanonicalFrame, estimate_frame
from bundle.skull_implant.frame.canonical_grid import CanonicalBox, to_canonical
from bundle.skull_implant.frame.vault_template import VaultTemplate
from bundle.skull_implant.scores.score_table import write_csv
from bundle.skull_implant.synthetic.defects import draw_cranial_hole
from bundle.skull_implant.synthetic.native_defects import cut_native, native_slab
from bundle.skull_implant.threads import single_thread
from bundle.skull_implant.train.preparing import Source, find_sources
from bundle.skull_implant.volume import Volume
from bundle.skull_implant.whole_files import check_writable, write_text

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Measurement:
    """One number of one case.

    Args:
        case: name.
        defect: "none", "official", "facial" or "hemicraniectomy".
        quantity: "distance from the mean vault", "rotation", "vertex", or "implant DSC at" a grid size.
        unit: "degrees", "mm" or "".
        value: NaN where the skull with this defect was refused.
    """

    case: str
    defect: str
    quantity: str
    unit: str
    value: float


@dataclass(frozen=True)
class FrameCheck:
    """What is measured.

    Args:
        template: mean vault.
        boxes: canonical boxes for the ceiling, which is measured on the official defect alone.
        threshold_hu: bone threshold where the source is CT.
        seed: of slabs and holes.
    """

    template: VaultTemplate
    boxes: tuple[CanonicalBox, ...]
    threshold_hu: float = 300.0
    seed: int = 0


def check_frames(
    source_dir: str, output_dir: str, check: FrameCheck, cases: int = 20, ceiling_cases: int = 20, workers: int = 2
) -> str:
    """Measure every case, write `frame.csv` and `frame.md`, and return the table.

    Args:
        source_dir: complete skulls, as `scripts.prepare` reads them; with their implants in the SkullFix layout.
        output_dir: where the files go.
        check: what is measured.
        cases: how many, drawn with the seed; 0 takes all.
        ceiling_cases: in how many of them the ceiling is measured too, which takes most of the time.
        workers: processes.

    Raises:
        InputError: no skulls, or one that cannot be read.
    """
    folder = check_writable(output_dir)
    sources = find_sources(Path(source_dir))
    order = np.random.default_rng(check.seed).permutation(len(sources))
    chosen = sorted(order[: cases or len(sources)])
    with_ceiling = set(order[:ceiling_cases])
    checks = [check if number in with_ceiling else replace(check, boxes=()) for number in chosen]
    sources = [sources[number] for number in chosen]
    found: list[Measurement] = []
    with ProcessPoolExecutor(workers, initializer=single_thread) as pool:
        for number, measured in enumerate(pool.map(check_case, sources, checks), start=1):
            found += measured
            logger.info("%d of %d: %s", number, len(sources), measured[0].case)
    table = summary_table(found)
    write_text(folder / "frame.md", table + "\n")
    write_csv(folder / "frame.csv", found)
    return table


def check_case(source: Source, check: FrameCheck) -> list[Measurement]:
    """Every measurement of one skull; the official defect's only where the source has one.

    A complete skull that is refused has no other measurements.
    """
    skull = source.read_skull(check.threshold_hu)
    complete = Volume(skull.voxels > 0, skull.grid)
    frame = _frame(complete, check.template, source.name, "none")
    residual_mm = frame.residual_mm if frame else np.nan
    found = [Measurement(source.name, "none", "distance from the mean vault", "mm", residual_mm)]
    if frame is None:
        return found
    for defect, piece in _pieces(source, complete, frame, check.seed).items():
        damaged = Volume(complete.voxels & ~piece, complete.grid)
        moved = _frame(damaged, check.template, source.name, defect)
        turn_deg, vertex_mm = frame_difference(frame, moved) if moved else (np.nan, np.nan)
        found.append(Measurement(source.name, defect, "rotation", "degrees", turn_deg))
        found.append(Measurement(source.name, defect, "vertex", "mm", vertex_mm))
        for box in check.boxes if defect == "official" else ():
            size = " x ".join(str(count) for count in box.spatial_size)
            score = ceiling(complete, piece, moved, box, check.template) if moved else np.nan
            found.append(Measurement(source.name, defect, f"implant DSC at {size}", "", score))
    return found


def frame_difference(first: CanonicalFrame, second: CanonicalFrame) -> tuple[float, float]:
    """Rotation in degrees and distance of the vertices in mm between two frames."""
    turn = Rotation.from_matrix(first.rotation.T @ second.rotation)
    return float(np.rad2deg(turn.magnitude())), float(np.linalg.norm(first.vertex - second.vertex))


def ceiling(
    complete: Volume, piece: np.ndarray, frame: CanonicalFrame, box: CanonicalBox, template: VaultTemplate
) -> float:
    """Implant DSC of a perfect network: the complete skull itself, through the canonical box and back.

    Args:
        complete: bool, on the scan's grid.
        piece: (X, Y, Z) bool, what was cut out of it.
        frame: of the damaged skull.
        box: canonical box.
        template: mean vault.
    """
    damaged = Volume(complete.voxels & ~piece, complete.grid)
    decoded, bone = (to_canonical(volume, frame, box) for volume in (complete, damaged))
    return dice(design_implant(decoded, bone, damaged, frame, box, template).voxels, piece)


def summary_table(found: Sequence[Measurement]) -> str:
    """Markdown: a row for each defect and quantity. Worst is the largest shift and the lowest DSC.

    A refused case counts in "refused" and in nothing else.
    """
    lines = [
        "| defect | quantity | cases | refused | mean | 95th percentile from best | worst | worst case |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for defect, quantity in dict.fromkeys((each.defect, each.quantity) for each in found):
        group = [each for each in found if (each.defect, each.quantity) == (defect, quantity)]
        measured = [each for each in group if np.isfinite(each.value)]
        name = f"{quantity}, {group[0].unit}" if group[0].unit else quantity
        start = f"| {defect} | {name} | {len(group)} | {len(group) - len(measured)} "
        if not measured:
            lines.append(start + "| - | - | - | - |")
            continue
        higher_is_better = not group[0].unit
        values = np.array([each.value for each in measured])
        worst = measured[int(values.argmin() if higher_is_better else values.argmax())]
        tail = np.percentile(values, 5 if higher_is_better else 95)
        digits = 3 if higher_is_better else 2
        numbers = " | ".join(f"{value:.{digits}f}" for value in (values.mean(), tail, worst.value))
        lines.append(f"{start}| {numbers} | {worst.case} |")
    return "\n".join(lines)


def _frame(skull: Volume, template: VaultTemplate, case: str, defect: str) -> CanonicalFrame | None:
    """The skull's frame, or None, with a line in the log, if it is refused."""
    try:
        return estimate_frame(skull.voxels, skull.grid, template, case=case)
    except CaseRefused as refusal:
        logger.warning("%s: refused with defect %s: %s", case, defect, "; ".join(refusal.reasons))
        return None


def _pieces(source: Source, complete: Volume, frame: CanonicalFrame, seed: int) -> dict[str, np.ndarray]:
    """Defect -> the bone it takes, (X, Y, Z) bool. The draws depend on the case's name, not on its place in a list."""
    generator = np.random.default_rng([seed, *source.name.encode()])
    pieces = {}
    official = source.read_piece(complete.grid)
    if official is not None:
        pieces["official"] = complete.voxels & official
    pieces["facial"] = cut_native(complete, frame, native_slab(complete, frame, generator))
    pieces["hemicraniectomy"] = cut_native(complete, frame, draw_cranial_hole(generator, "hemicraniectomy"))
    return pieces
