"""Pictures of an evaluation's best, median and worst cases: the implant beside the piece that was cut out."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke

from bundle.skull_implant.design.metrics import ImplantScore, score_implant
from bundle.skull_implant.design.rim_metrics import RimScore
from bundle.skull_implant.errors import InputError
from bundle.skull_implant.frame.canonical_frame import estimate_frame
from bundle.skull_implant.input.reading import Case
from bundle.skull_implant.model.network import SkullCompleter
from bundle.skull_implant.scores.figures import save_figure
from bundle.skull_implant.scores.score_table import Score, read_scores
from bundle.skull_implant.scores.scoring_protocol import PersonJob, Protocol, person_jobs
from bundle.skull_implant.steps.designing import ImplantDesigner
from bundle.skull_implant.surfaces.preview import SLICES, implant_view, sample_slice
from bundle.skull_implant.surfaces.scene import Color, Scene
from bundle.skull_implant.surfaces.surface_view import render_surface
from bundle.skull_implant.synthetic.native_defects import native_pieces
from bundle.skull_implant.train.preparing import find_sources
from bundle.skull_implant.volume import Volume
from bundle.skull_implant.whole_files import check_writable

logger = logging.getLogger(__name__)

BONE_COLOR: Color = (0.93, 0.89, 0.80)
IMPLANT_COLOR: Color = (0.06, 0.62, 0.78)
PIECE_COLOR: Color = (1.0, 0.35, 0.15)
RANKS = ("best", "median", "worst")


@dataclass(frozen=True)
class PicturedCase:
    """What a picture shows.

    Args:
        skull: bone with the hole.
        piece: what was cut out, on the same grid.
        implant: what was designed, on the same grid.
        score: of the implant.
        rim: gap and step; None where none is measured.
        lines: what the case is, above the numbers.
    """

    skull: Volume
    piece: Volume
    implant: Volume
    score: ImplantScore
    rim: RimScore | None
    lines: tuple[str, ...]


def picture_cases(
    scores_file: Path,
    source: Path,
    output_dir: Path,
    dataset_dir: str,
    model_file: Path,
    method: str,
    part: str = "validation",
    overwrite: bool = False,
) -> list[Path]:
    """Draw the best, the median and the worst case by implant DSC, of official and of varied holes.

    Each hole is cut again as the evaluation cut it, and its implant designed anew by the steps of inference, with the
    settings of its `protocol.json`; where its DSC is another than the table's, because other weights made that, the
    log says so.

    Args:
        scores_file: `scores.csv` of an evaluation, with `protocol.json` beside it.
        source: complete skulls on their native grids, as the evaluation read them.
        output_dir: gets `<defect>_<rank>.png`.
        dataset_dir: prepared training set, which the evaluation took its persons from.
        model_file: weights.
        method: of the scores, one of the completer's, by which cases are chosen.
        part: of the persons.
        overwrite: replace earlier pictures.

    Returns:
        The pictures.

    Raises:
        InputError: no such scores, protocol, method or person; or a picture is there already.
    """
    scores = [score for score in read_scores(scores_file) if score.part == part]
    chosen = {
        defect: choose_cases([score for score in scores if (score.defect, score.method) == (defect, method)])
        for defect in ("official", "varied")
    }
    if not any(chosen.values()):
        methods = "; ".join(dict.fromkeys(score.method for score in scores))
        raise InputError(f"--method must be one of {scores_file}, got {method!r}; its {part} persons have: {methods}")
    targets = [output_dir / f"{defect}_{rank}.png" for defect, cases in chosen.items() for rank in cases]
    if not overwrite and any(target.exists() for target in targets):
        raise InputError(f"{output_dir}: holds such pictures already; name another OUTPUT_DIR or pass --overwrite")
    check_writable(output_dir)
    protocol = _kept_protocol(scores_file, part, dataset_dir, model_file, method)
    ((_, gamma, fit_steps, rim_fit),) = protocol.models.values()
    network = SkullCompleter.from_file(model_file)
    designer = ImplantDesigner(network, gamma=gamma, fit_steps=fit_steps, rim_fit=rim_fit is True)
    jobs = _jobs(scores, protocol, source)
    for defect, cases in chosen.items():
        for rank, (score, place) in cases.items():
            title = f"{rank} of {defect} holes: {place}"
            case = design_again(jobs[score.person], score, designer, protocol, title)
            if abs(case.score.dsc - score.dsc) > 0.005:
                logger.warning("%s %s: DSC %.3f, the table's %.3f", score.person, score.site, case.score.dsc, score.dsc)
            render_case(case, output_dir / f"{defect}_{rank}.png")
            logger.info("%s, %s: person %s, %s", defect, rank, score.person, score.site)
    return targets


def choose_cases(scores: Sequence[Score]) -> dict[str, tuple[Score, str]]:
    """Best, median and worst by DSC, and each one's place as text; of an even number the better of the middle two."""
    ordered = sorted(scores, key=lambda score: -score.dsc)
    if not ordered:
        return {}
    count = len(ordered)
    places = dict(zip(RANKS, (0, (count - 1) // 2, count - 1), strict=True))
    return {rank: (ordered[place], f"{place + 1} of {count} by DSC") for rank, place in places.items()}


def design_again(
    job: PersonJob, score: Score, designer: ImplantDesigner, protocol: Protocol, title: str
) -> PicturedCase:
    """The case of a row of scores: the same hole, cut again, and its implant.

    Raises:
        CaseRefused: the skull cannot be aligned.
    """
    whole = job.source.read_skull(protocol.threshold_hu)
    complete = Volume(whole.voxels > 0, whole.grid)
    official = job.source.read_piece(complete.grid)
    frame = estimate_frame(complete.voxels, complete.grid, designer.network.template, case=job.source.name)
    generator = np.random.default_rng([protocol.seed, job.number, job.part == "training"])
    piece = native_pieces(complete, official, frame, job.sites, generator)[score.defect, score.site]
    skull = Volume(complete.voxels & ~piece, complete.grid)
    case = Case(job.source.name, Volume(complete.voxels.astype(np.uint8), complete.grid), True, {})
    data = designer(case, skull)
    found = score_implant(data["implant"].voxels, piece, skull.voxels, skull.grid.spacing)
    site = "official hole" if score.site == "official" else score.site.replace("_", " ")
    lines = (title, f"person {score.person}, {site}")
    return PicturedCase(skull, Volume(piece, skull.grid), data["implant"], found, data.get("rim"), lines)


def render_case(case: PicturedCase, path: Path, *, margin_mm: float = 14.0, pixel_mm: float = 0.3) -> None:
    """Write a picture of one case: three slices through the hole above, two views of the skull and the numbers below.

    Slices lie along the patient's axes in radiological convention and cross in the middle of the piece.

    Args:
        case: what to draw.
        path: target, `.png`.
        margin_mm: of bone shown around implant and piece.
        pixel_mm: of a slice.
    """
    figure = Figure(figsize=(15, 9.6), dpi=80, facecolor="black")
    FigureCanvasAgg(figure)
    index = np.argwhere(case.piece.voxels | case.implant.voxels)
    affine = case.piece.grid.affine
    points = index @ affine[:3, :3].T + affine[:3, 3]
    low, high = points.min(axis=0) - margin_mm, points.max(axis=0) + margin_mm
    of_piece = np.argwhere(case.piece.voxels) @ affine[:3, :3].T + affine[:3, 3]
    focus = of_piece[np.argmin(((of_piece - of_piece.mean(axis=0)) ** 2).sum(axis=1))]
    for column, name in enumerate(SLICES):
        axes = figure.add_axes((0.005 + column / 3, 0.47, 1 / 3 - 0.01, 0.52))
        _draw_slice(axes, name, case, (low, high, focus), pixel_mm)
    designed = Scene.from_masks([case.skull, case.implant], (BONE_COLOR, IMPLANT_COLOR))
    true = Scene.from_masks([case.skull, case.piece], (BONE_COLOR, PIECE_COLOR))
    view = implant_view(true)
    for column, (scene, label) in enumerate([(designed, "designed implant"), (true, "true piece")]):
        axes = figure.add_axes((0.005 + column / 3, 0.01, 1 / 3 - 0.01, 0.43))
        axes.imshow(render_surface(scene, view, width=400, height=340), interpolation="bilinear")
        axes.set_axis_off()
        axes.text(
            0.5, 0.0, f"{label}, from {view.name}", transform=axes.transAxes, color="0.75", fontsize=13, ha="center"
        )
    _write_numbers(figure, case)
    save_figure(figure, path)


def _draw_slice(
    axes: Axes, name: str, case: PicturedCase, place: tuple[np.ndarray, np.ndarray, np.ndarray], pixel_mm: float
) -> None:
    """A slice through a point: bone and implant filled, the true piece as an outline.

    Args:
        axes: to draw in.
        name: of :data:`SLICES`.
        case: what to draw.
        place: lower and upper corner of what is shown, and the point, LPS mm.
        pixel_mm: of the slice.
    """
    normal, right, down, letters = SLICES[name]
    low, high, focus = place
    center = (low + high) / 2
    center[normal] = focus[normal]
    across, along = ((high - low) @ np.abs(way) / 2 for way in (right, down))
    half = max(across, along)
    steps = np.arange(-half, half + pixel_mm, pixel_mm)
    points = center + steps[None, :, None] * np.array(right) + steps[:, None, None] * np.array(down)
    bone, implant, piece = (sample_slice(mask, points) for mask in (case.skull, case.implant, case.piece))
    image = bone[..., None] * np.array(BONE_COLOR) * 0.85
    image = image * (1 - implant[..., None]) + implant[..., None] * np.array(IMPLANT_COLOR)
    axes.imshow(np.clip(image, 0, 1), interpolation="bilinear")
    if piece.max() > 0.5 > piece.min():
        axes.contour(piece, levels=[0.5], colors=[PIECE_COLOR], linewidths=1.8)
    axes.set_axis_off()
    edge = [withStroke(linewidth=4, foreground="black")]  # letters may lie on bone
    for letter, at in zip(letters, ((0.03, 0.5), (0.97, 0.5), (0.5, 0.965), (0.5, 0.03)), strict=True):
        axes.text(
            *at,
            letter,
            transform=axes.transAxes,
            color="0.85",
            fontsize=14,
            ha="center",
            va="center",
            path_effects=edge,
        )
    axes.text(0.03, 0.965, name, transform=axes.transAxes, color="0.75", fontsize=13, va="center", path_effects=edge)
    end, level = 0.97 * len(steps), 0.97 * len(steps)
    axes.plot(
        [end - 10.0 / pixel_mm, end], [level, level], color="0.9", linewidth=3, solid_capstyle="butt", path_effects=edge
    )
    at = (end - 5.0 / pixel_mm, level - 2.0 / pixel_mm)
    axes.text(*at, "10 mm", color="0.85", fontsize=11, ha="center", path_effects=edge)


def _write_numbers(figure: Figure, case: PicturedCase) -> None:
    """What the case is, its scores, and what the colors mean."""
    score, grid = case.score, case.skull.grid
    hole_ml, implant_ml = (float(mask.voxels.sum()) * grid.voxel_ml for mask in (case.piece, case.implant))
    rows = [
        ("DSC", f"{score.dsc:.3f}"),
        ("bDSC (10 mm)", f"{score.bdsc:.3f}"),
        ("HD95", f"{score.hd95_mm:.2f} mm"),
        ("gap, outer / inner", _pair(case.rim, "gap")),
        ("step, outer / inner", _pair(case.rim, "step")),
        ("piece / implant", f"{hole_ml:.1f} / {implant_ml:.1f} ml"),
        ("voxels", " x ".join(f"{step:.2f}" for step in grid.spacing) + " mm"),
    ]
    top = 0.42
    for number, line in enumerate(case.lines):
        weight = "bold" if number == 0 else "normal"
        figure.text(0.68, top - 0.038 * number, line, color="white", fontsize=14, weight=weight, va="center")
    top -= 0.038 * len(case.lines) + 0.012
    for number, (name, value) in enumerate(rows):
        figure.text(0.68, top - 0.034 * number, name, color="0.75", fontsize=14, va="center")
        figure.text(0.835, top - 0.034 * number, value, color="white", fontsize=14, va="center")
    top -= 0.034 * len(rows) + 0.012
    legend = (("bone", BONE_COLOR), ("implant, filled", IMPLANT_COLOR), ("true piece, outline", PIECE_COLOR))
    for place, (name, color) in zip((0.68, 0.735, 0.845), legend, strict=True):
        figure.text(place, top, name, color=color, fontsize=13, weight="bold", va="center")


def _pair(rim: RimScore | None, name: str) -> str:
    if rim is None:
        return "-"
    values = (getattr(rim, f"{name}_{table}_mm") for table in ("outer", "inner"))
    return " / ".join("-" if np.isnan(value) else f"{value:.2f}" for value in values) + " mm"


def _kept_protocol(scores_file: Path, part: str, dataset_dir: str, model_file: Path, method: str) -> Protocol:
    """What an evaluation scored by one method on one part, with the files that are here."""
    path = scores_file.with_name("protocol.json")
    try:
        kept = json.loads(path.read_text())
        designed = {
            name: (gamma, fit_steps, rim_fit)
            for name, (_, gamma, fit_steps, rim_fit) in {**kept["models"], **kept["other_models"]}.items()
            if isinstance(rim_fit, bool)
        }
        wanted = {key: kept[key] for key in ("varied_holes", "threshold_hu", "seed")} | {
            "persons": {part: kept["persons"][part]}
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        rule = "the evaluation's protocol must lie beside its scores"
        raise InputError(f"{path}: {rule} ({type(error).__name__}); give the folder as it was written") from error
    if method not in designed:
        known = "; ".join(designed)
        raise InputError(f"--method must be one that inference can do again, got {method!r}; {path} has: {known}")
    return Protocol({method: (str(model_file), *designed[method])}, dataset_dir, **wanted)


def _jobs(scores: Sequence[Score], protocol: Protocol, source: Path) -> dict[str, PersonJob]:
    """The evaluation's jobs by person."""
    persons = {score.person for score in scores}
    sites = {person: {s.site for s in scores if (s.person, s.defect) == (person, "varied")} for person in persons}
    jobs = {job.source.name: job for job in person_jobs(protocol, {s.name: s for s in find_sources(source)})}
    for person in sorted(persons):
        if person not in jobs or (sites[person] and sites[person] != set(jobs[person].sites)):
            raise InputError(
                f"person {person}: must have the holes of its scores, {', '.join(sorted(sites[person]))}, with these "
                "dataset there are others; give the evaluation's own DATASET_DIR"
            )
    return jobs
