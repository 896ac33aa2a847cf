"""Scores of many cases as a CSV file and as tables that a reader compares with the papers'."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from bundle.skull_implant.errors import InputError
from bundle.skull_implant.synthetic.defects import CRANIAL_SITES
from bundle.skull_implant.whole_files import write_rows

SITES = tuple(CRANIAL_SITES)
DEFECTS = ("official", "varied", "facial", "none")
# Li et al. 2022, Table 1: another grid (256 x 256 x 128) and other skulls, all of them in training.
PAPER = {
    "Li et al. 2022, beta 0.0001": (0.9153, 0.9215, 0.9199, 0.9189, 0.9072),
    "Li et al. 2022, beta 100, aggregated": (0.9076, 0.9094, 0.9127, 0.8978, 0.7934),
}
TASKS = ("REC cranial", "REC facial", "REC complete", "CMP cranial", "CMP facial")


@dataclass(frozen=True)
class Score:
    """One method on one defect of one person.

    Args:
        part: "validation" or "training".
        person: name of the case.
        defect: of :data:`DEFECTS`; "none" is the undamaged skull.
        site: where a varied hole is; else the defect.
        method: name.
        dsc: of the implant; NaN for an undamaged skull, as are the next two.
        bdsc: of the implant within 10 mm of the bone.
        hd95_mm: infinite where the prediction is empty.
        failed: no implant for a defect, an implant for an undamaged skull, or refused.
        skull_dsc: completed against complete skull, on the scan's grid.
        implant_ml: volume.
        defect_class: that was used, "any" by a method without classes; empty where the skull was refused or the method
            is not for this defect.
        seconds: from the bone mask to the implant; of a method with a report with aligning the skull and measuring the
            rim and the hole, which the others are given or do not do.
        peak_gb: largest resident memory of the process meanwhile, 2^30 bytes; NaN where the system does not tell.
        gap_outer_mm: median gap between implant and bone along the rim at the outer table (`rim_metrics.RimScore`); NaN
            for a facial defect and without an implant, as are the next three.
        gap_inner_mm: at the inner table.
        step_outer_mm: median step across the rim at the outer table.
        step_inner_mm: at the inner table.
        expected_dsc: what the method itself expected; NaN where it expects nothing.
        status: of the report, "ok", "review" or "refused"; empty where a method has none.
        reasons: for a review or refusal, with semicolons between.
    """

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
    peak_gb: float = np.nan
    gap_outer_mm: float = np.nan
    gap_inner_mm: float = np.nan
    step_outer_mm: float = np.nan
    step_inner_mm: float = np.nan
    expected_dsc: float = np.nan
    status: str = ""
    reasons: str = ""


@dataclass(frozen=True)
class SiteScore:
    """Means of one method over the varied holes of one site, failures counted in DSC and bDSC as 0.

    Args:
        part: "validation" or "training".
        site: of `defects.CRANIAL_SITES`.
        method: name.
        cases: holes.
        failed: of them.
        dsc: mean of the implant.
        bdsc: mean.
        hd95_mm: mean over those that did not fail; NaN if all did.
    """

    part: str
    site: str
    method: str
    cases: int
    failed: int
    dsc: float
    bdsc: float
    hd95_mm: float


@dataclass(frozen=True)
class SkullScore:
    """One cell of the method paper's Table 1 for one person: DSC of a whole decoded skull.

    Args:
        part: "validation" or "training".
        person: name of the case.
        method: name.
        task: of :data:`TASKS`; REC decodes the code of a skull as it is, CMP after the step along DEV.
        dsc: decoded against the bone that should be there, at the network's own grid, both thresholded at one half.
    """

    part: str
    person: str
    method: str
    task: str
    dsc: float


def refused_score(part: str, person: str, defect: str, site: str, method: str) -> Score:
    """A case that was refused counts as failed: no implant, and nothing that could be timed."""
    dsc = np.nan if defect == "none" else 0.0
    return Score(part, person, defect, site, method, dsc, dsc, np.inf, True, np.nan, np.nan, "", np.nan)


def refused_scores(part: str, person: str, defects: Sequence[tuple[str, str]], methods: Sequence[str]) -> list[Score]:
    """A failed row for each defect and site, and each method."""
    return [refused_score(part, person, defect, site, method) for defect, site in defects for method in methods]


def write_csv(path: Path, rows: Sequence[Any]) -> None:
    """Dataclasses of one kind, a column for each field; whole or not at all."""
    write_rows(path, [asdict(row) for row in rows], list(asdict(rows[0])))


def read_scores(path: Path) -> list[Score]:
    """Rows of `scores.csv` as :func:`write_csv` wrote them.

    Raises:
        InputError: no such file, or it holds other columns.
    """
    return [Score(**_typed(Score, row)) for row in _read(path, Score)]


def read_skull_scores(path: Path) -> list[SkullScore]:
    """Rows of `skulls.csv`; none where the file is missing, because a protocol may have no such model.

    Raises:
        InputError: it holds other columns.
    """
    return [SkullScore(**_typed(SkullScore, row)) for row in _read(path, SkullScore)] if path.exists() else []


def implant_table(scores: Sequence[Score]) -> str:
    """Markdown: a row for each part, defect and method; means over the cases, failures counted in DSC and bDSC as 0.

    Gaps and steps at the rim are medians over the cases, outer / inner table; memory is the largest of all cases.
    """
    lines = [
        "| persons | defect | method | cases | failed | implant DSC | bDSC | HD95 mm (not failed) | skull DSC "
        "| implant ml | gap mm (outer / inner) | step mm (outer / inner) | s a case | peak GB |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for (part, defect, method), group in _groups(scores, lambda row: (row.part, row.defect, row.method)):
        distances = [score.hd95_mm for score in group if not score.failed]
        lines.append(
            f"| {part} | {defect} | {method} | {len(group)} | {sum(score.failed for score in group)} "
            f"| {_column(group, 'dsc', 3)} | {_column(group, 'bdsc', 3)} | {_number(distances, 2)} "
            f"| {_column(group, 'skull_dsc', 3)} | {_column(group, 'implant_ml', 1)} "
            f"| {_column(group, 'gap_outer_mm', 2, np.median)} / {_column(group, 'gap_inner_mm', 2, np.median)} "
            f"| {_column(group, 'step_outer_mm', 2, np.median)} / {_column(group, 'step_inner_mm', 2, np.median)} "
            f"| {_column(group, 'seconds', 1)} | {_column(group, 'peak_gb', 1, max)} |"
        )
    return "\n".join(lines)


def site_scores(scores: Sequence[Score]) -> list[SiteScore]:
    """A row for each part, method and site of the varied holes."""
    varied = [score for score in scores if score.defect == "varied"]
    keys = dict.fromkeys((score.part, score.method, score.site) for score in varied)
    rows = []
    for part, method, site in keys:
        group = [score for score in varied if (score.part, score.method, score.site) == (part, method, site)]
        found = [score.hd95_mm for score in group if not score.failed]
        rows.append(
            SiteScore(
                part,
                site,
                method,
                len(group),
                sum(score.failed for score in group),
                float(np.mean([score.dsc for score in group])),
                float(np.mean([score.bdsc for score in group])),
                float(np.mean(found)) if found else np.nan,
            )
        )
    return sorted(rows, key=lambda row: (row.part != "validation", SITES.index(row.site)))


def site_table(scores: Sequence[SiteScore]) -> str:
    """Markdown: a row for each part and method, a column for each site: mean implant DSC, and failures if there are."""
    sites = [site for site in SITES if any(score.site == site for score in scores)]
    counts = {site: max(score.cases for score in scores if score.site == site) for site in sites}
    titles = " | ".join(f"{site} ({counts[site]})" for site in sites)
    lines = [f"| persons | implant DSC, varied holes (cases) | {titles} |", "|---|---|" + "---|" * len(sites)]
    for part, method in dict.fromkeys((score.part, score.method) for score in scores):
        cells = []
        for site in sites:
            own = [score for score in scores if (score.part, score.method, score.site) == (part, method, site)]
            cells += [f"{row.dsc:.3f}" + (f", {row.failed} failed" if row.failed else "") for row in own] or ["-"]
        lines.append(f"| {part} | {method} | {' | '.join(cells)} |")
    return "\n".join(lines)


def calibration_table(scores: Sequence[Score], good_dsc: float = 0.8) -> str:
    """Markdown: what the reports' status says of implants that are good and of those that are not; "" without reports.

    Args:
        scores: of which the undamaged skulls do not count.
        good_dsc: below is worse than an implant should be whose status is ok.
    """
    lines = [
        f"| persons | defect | method | cases | ok | of them below DSC {good_dsc:g} | lowest DSC of ok "
        f"| review or refused | of them from DSC {good_dsc:g} |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    reported = [score for score in scores if score.defect != "none" and score.status]
    for (part, defect, method), group in _groups(reported, lambda row: (row.part, row.defect, row.method)):
        ok = [score.dsc for score in group if score.status == "ok"]
        others = [score.dsc for score in group if score.status != "ok"]
        lowest = f"{min(ok):.3f}" if ok else "-"
        lines.append(
            f"| {part} | {defect} | {method} | {len(group)} | {len(ok)} | {sum(dsc < good_dsc for dsc in ok)} "
            f"| {lowest} | {len(others)} | {sum(dsc >= good_dsc for dsc in others)} |"
        )
    return "\n".join(lines) if reported else ""


def skull_table(scores: Sequence[SkullScore]) -> str:
    """Markdown: the method paper's Table 1, a row for each method and part, a column for each task.

    A method's training persons stand above its validation persons; below all are the paper's own rows.
    """
    lines = [f"| persons | method | cases | {' | '.join(TASKS)} |", "|---|---|---|" + "---|" * len(TASKS)]
    methods = list(dict.fromkeys(score.method for score in scores))
    parts = sorted({score.part for score in scores})  # training, validation
    for method, part in ((method, part) for method in methods for part in parts):
        group = [score for score in scores if (score.method, score.part) == (method, part)]
        if group:
            means = [_number([score.dsc for score in group if score.task == task], 3) for task in TASKS]
            lines.append(f"| {part} | {method} | {len({score.person for score in group})} | {' | '.join(means)} |")
    for method, means_of_paper in PAPER.items():
        means = [f"{mean:.4f}" for mean in means_of_paper]
        lines.append(f"| the paper's own, its training skulls | {method} | 100 | {' | '.join(means)} |")
    return "\n".join(lines)


def _groups(
    scores: Sequence[Any], key_of: Callable[[Any], tuple[str, ...]]
) -> Iterator[tuple[tuple[str, ...], list[Any]]]:
    """Rows of each part, defect and method, validation first, then defects in their order, methods as they came."""
    keys = list(dict.fromkeys(key_of(score) for score in scores))
    for key in sorted(keys, key=lambda key: (key[0] != "validation", DEFECTS.index(key[1]))):
        yield key, [score for score in scores if key_of(score) == key]


def _column(group: Sequence[Any], name: str, digits: int, statistic: Callable[[list[float]], Any] = np.mean) -> str:
    return _number([getattr(score, name) for score in group], digits, statistic)


def _number(values: Sequence[float], digits: int, statistic: Callable[[list[float]], Any] = np.mean) -> str:
    known = [value for value in values if not np.isnan(value)]
    return f"{statistic(known):.{digits}f}" if known else "-"


def _read(path: Path, kind: type) -> list[dict[str, str]]:
    try:
        with path.open(newline="") as file:
            reader = csv.DictReader(file)
            rows = list(reader)
    except OSError as error:
        raise InputError(f"{path}: must hold scores ({error.strerror}); run the evaluating workflow first") from error
    wanted = [field.name for field in fields(kind)]
    if reader.fieldnames != wanted:
        arrived = ", ".join(reader.fieldnames or ["none"])
        raise InputError(f"{path}: must have the columns {', '.join(wanted)}, got {arrived}; run evaluating again")
    return rows


def _typed(kind: type, row: dict[str, str]) -> dict[str, Any]:
    readers: dict[str, Callable[[str], Any]] = {"str": str, "float": float, "bool": lambda text: text == "True"}
    return {field.name: readers[str(field.type)](row[field.name]) for field in fields(kind)}
