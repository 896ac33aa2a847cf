"""What a user is told about a case: `report.json`, without patient data."""

from __future__ import annotations

import json
import platform
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import monai
import numpy as np
import torch

from bundle.skull_implant.design.hole_cover import HoleCover
from bundle.skull_implant.hashes import hash_weights
from bundle.skull_implant.model.network import DEFECT_CLASSES, LATENT_CLASSES
from bundle.skull_implant.steps.options import Options
from bundle.skull_implant.surfaces.print_settings import PrintSettings


@dataclass(frozen=True)
class ReviewRules:
    """When a written result needs a second look.

    Args:
        maximum_tilt_deg: heads tilted more than this are rare in the training skulls.
        size_range: of the head along each axis against the mean vault; the training skulls lie between 0.92 and 1.18.
        maximum_residual_mm: distance of the bone from the fitted mean vault: beyond the training skulls' it is another
            thing, or lies otherwise than the scan's orientation says.
        minimum_coverage: share of the vault that has bone; less is a huge hole or a cropped scan.
        minimum_agreement: DSC of decoded skull and bone near the bone; less, and the model does not know this head.
        minimum_class_probability: of the defect's class against the other one.
        minimum_expected_dsc: of the implant, by the hole network's probabilities: a hole that the bone around it says
            little about.
        maximum_thin_share: of the implant, thinner than the minimum thickness of the print settings.
        maximum_volume_error: share by which the surface's volume may differ from the mask's.
        maximum_clearance_error_mm: by which the surface may lie nearer to the bone than its clearance.
        maximum_overlap_mm: by which it may reach into bone where no clearance is asked for; masks that touch have
            surfaces that overlap by a part of a voxel.
        maximum_below_vault_ml: of the hole, going on below the vault, where no implant is designed.
        maximum_openings: through-holes of a cranial implant: where the model is unsure it leaves the hole open.
        minimum_hole_cover: share of its hole that a cranial implant closes; less than all, because an orbit that lies
            beside a frontal hole seems a part of it.
        maximum_left_open_mm2: of the vault, an area with neither bone nor implant, away from the orbits: a further hole
            that got no piece.
    """

    maximum_tilt_deg: float = 30.0
    size_range: tuple[float, float] = (0.85, 1.2)
    maximum_residual_mm: float = 2.2
    minimum_coverage: float = 0.6
    minimum_agreement: float = 0.6
    minimum_class_probability: float = 0.6
    minimum_expected_dsc: float = 0.85
    maximum_thin_share: float = 0.05
    maximum_volume_error: float = 0.02
    maximum_clearance_error_mm: float = 0.05
    maximum_overlap_mm: float = 0.5
    maximum_below_vault_ml: float = 0.5
    maximum_openings: int = 0
    minimum_hole_cover: float = 0.9
    maximum_left_open_mm2: float = 60.0


def describe(
    data: dict[str, Any],
    printed: dict[str, Any],
    printing: PrintSettings,
    about: dict[str, Any],
    rules: ReviewRules,
) -> dict[str, Any]:
    """The report of a completed case.

    Args:
        data: the case's dictionary after all transforms.
        printed: what the printed surface is like, of :func:`print_implant`; empty if there is no implant.
        printing: what was asked of it.
        about: settings, versions and weights, of :func:`about_run`.
        rules: when to ask for a review.

    Returns:
        JSON-ready; `status` is "ok" or "review", with `reasons`; `warnings` are what does not touch the implant.
    """
    frame, implant, grid = data["frame"], data["implant"], data["skull"].grid
    probability = [round(float(value), 4) for value in data["class_probability"]]
    report: dict[str, Any] = {
        "status": "ok",
        "reasons": [],
        "warnings": list(data.get("warnings", [])),
        "input": {
            **data["case"].source,
            "size": grid.size,
            "spacing_mm": [round(s, 6) for s in grid.spacing],
            "is_mask": data["case"].is_mask,
        },
        **about,
        "defect_class": data["defect_class"],
        "class_probability": dict(zip(LATENT_CLASSES, probability, strict=True)),
        "frame": {
            "tilt_deg": round(frame.tilt_deg, 1),
            "distance_from_mean_vault_mm": round(frame.residual_mm, 2),
            "vault_coverage": round(frame.coverage, 3),
            "size_relative_to_mean_vault": [round(float(scale), 3) for scale in frame.scales],
        },
        "fit": {"decoded_bone_agreement_dsc": round(data["agreement"], 3), **_expected(data)},
        "implant": {"volume_ml": round(float(implant.voxels.sum()) * grid.voxel_ml, 2), **printed, **_rim(data)},
        "printing": printing.as_dict(),
    }
    report["reasons"] = _reasons(data, report, rules) + print_reasons(report, printing, rules)
    report["reasons"] += data.get("remarks", [])
    report["status"] = "review" if report["reasons"] else "ok"
    return report


def refused(name: str, reasons: list[str], about: dict[str, Any]) -> dict[str, Any]:
    """The report of a case that was not computed."""
    return {"status": "refused", "reasons": reasons, "input": {"name": name}, **about}


def about_run(model_file: str | Path, options: Options, device: str) -> dict[str, Any]:
    """What is the same for all cases of a run: settings, weights and versions."""
    metadata = Path(__file__).parents[3] / "configs" / "metadata.json"
    version = json.loads(metadata.read_text())["version"] if metadata.is_file() else "unknown"
    return {
        "gamma": options.gamma,
        "requested_class": options.defect_class,
        "threshold_hu": options.threshold_hu,
        "fit_steps": options.fit_steps,
        "rim_fit": options.rim_fit,
        "device": device,
        "weights": {"file": Path(model_file).name, "sha256": hash_weights(Path(model_file))},
        "versions": {
            "skull_implant": version,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "monai": monai.__version__,
            "numpy": np.__version__,
        },
    }


def _rim(data: dict[str, Any]) -> dict[str, Any]:
    """What share of its hole a cranial implant closes, and how it meets the bone, mm; nothing for a facial one."""
    found = asdict(data["rim"]) if "rim" in data else {}
    known = {name: round(value, 2) for name, value in found.items() if np.isfinite(value)}
    return _closed(data.get("hole_cover")) | ({"rim": known} if known else {})


def _closed(cover: HoleCover | None) -> dict[str, float]:
    """What a cranial implant closes, and what it leaves open; nothing of a facial one."""
    if cover is None:
        return {}
    share = {} if np.isnan(cover.share) else {"hole_cover": round(cover.share, 3)}
    return share | {"left_open_mm2": round(cover.left_open_mm2, 1)}


def _expected(data: dict[str, Any]) -> dict[str, float]:
    """What the hole network expects of the implant; nothing where it was not asked or found no hole."""
    expected = data.get("expected_dsc", np.nan)
    return {} if np.isnan(expected) else {"expected_dsc": round(float(expected), 3)}


def _reasons(data: dict[str, Any], report: dict[str, Any], rules: ReviewRules) -> list[str]:
    frame, implant, kind = report["frame"], report["implant"], report["defect_class"]
    tilt, coverage, agreement = frame["tilt_deg"], frame["vault_coverage"], data["agreement"]
    # A small hole leaves a code that is nearly a complete skull's, so the classes are weighed against each other only.
    defects = sum(report["class_probability"][name] for name in DEFECT_CLASSES)
    probability = report["class_probability"][kind] / max(defects, 1e-9)
    below_ml = data.get("below_vault_ml", 0.0)
    acquisitions = report["input"].get("acquisitions", 1)
    sizes, residual_mm = frame["size_relative_to_mean_vault"], frame["distance_from_mean_vault_mm"]
    found = [
        (
            acquisitions > 1,
            f"the slices are of {acquisitions} acquisitions that overlap; see that the head did not move between them",
        ),
        (
            "orientation" in report["input"],
            f"{report['input'].get('orientation', '')}; see that left is left in the preview",
        ),
        (
            implant["volume_ml"] == 0,
            "no hole found, the implant is empty; try another --defect_class or --threshold_hu",
        ),
        (
            min(sizes) < rules.size_range[0] or max(sizes) > rules.size_range[1],
            f"the head is {' x '.join(f'{size:.2f}' for size in sizes)} of the mean one, the model knows "
            f"{rules.size_range[0]:g} to {rules.size_range[1]:g}",
        ),
        (
            residual_mm > rules.maximum_residual_mm,
            f"bone lies {residual_mm:.1f} mm from the mean vault, more than {rules.maximum_residual_mm:g}; see that "
            "the scan's orientation is right",
        ),
        (tilt > rules.maximum_tilt_deg, f"head tilted by {tilt} degrees, more than {rules.maximum_tilt_deg:g}"),
        (
            coverage < rules.minimum_coverage,
            f"bone on {coverage:.0%} of the vault, less than {rules.minimum_coverage:.0%}",
        ),
        (
            agreement < rules.minimum_agreement,
            f"decoded skull and bone agree by DSC {agreement:.2f}, less than {rules.minimum_agreement}",
        ),
        (
            probability < rules.minimum_class_probability and not data.get("class_decided", False),
            f"a {kind} defect is the likelier class by {probability:.2f} only, less than "
            f"{rules.minimum_class_probability}",
        ),
        (
            kind == "facial" and implant["volume_ml"] > 0,
            "a facial implant is coarse, because a face holds more detail than the model's voxels; see that it will do",
        ),
        (
            implant["volume_ml"] > 0 and data.get("expected_dsc", np.nan) < rules.minimum_expected_dsc,
            f"the implant is expected to overlap the missing bone by DSC {data.get('expected_dsc', np.nan):.2f}, "
            f"less than {rules.minimum_expected_dsc}",
        ),
        (
            kind == "cranial" and implant["volume_ml"] > 0 and np.isnan(data.get("expected_dsc", np.nan)),
            "how good the implant is cannot be told: the weights have no hole network, or the fit to the rim is off",
        ),
        (
            kind == "cranial" and implant.get("holes", 0) > 1,
            f"{implant.get('holes', 0)} holes found, each with a piece of its own; see that all are holes",
        ),
        (
            below_ml > rules.maximum_below_vault_ml,
            f"the hole goes on towards the skull base, {below_ml:.1f} ml of it; the implant ends at the vault's end",
        ),
        (
            kind == "cranial" and implant.get("openings", 0) > rules.maximum_openings,
            f"the implant leaves {implant.get('openings', 0)} openings in itself",
        ),
        (
            implant.get("hole_cover", np.nan) < rules.minimum_hole_cover,
            f"the implant closes {implant.get('hole_cover', np.nan):.0%} of its hole, less than "
            f"{rules.minimum_hole_cover:.0%}",
        ),
        (
            implant["volume_ml"] > 0 and implant.get("left_open_mm2", 0.0) > rules.maximum_left_open_mm2,
            f"{implant.get('left_open_mm2', 0.0):.0f} mm2 of the vault have neither bone nor implant, more than "
            f"{rules.maximum_left_open_mm2:g}; see whether that is a further hole",
        ),
    ]
    return [reason for holds, reason in found if holds]


def print_reasons(report: dict[str, Any], printing: PrintSettings, rules: ReviewRules) -> list[str]:
    """What is wrong with the printed surface.

    Args:
        report: with `implant`.
        printing: what was asked of the surface.
        rules: when to ask for a review.

    Returns:
        A line for each fault; nothing if there is no implant.
    """
    implant, clearance_mm = report["implant"], printing.clearance_mm
    if "holes" not in implant:
        return []
    if "watertight" not in implant:
        return [
            f"a clearance of {clearance_mm:g} mm leaves nothing of the implant that could be printed, "
            "no surface was written"
        ]
    error, pieces, holes = implant["surface_volume_error"], implant["pieces"], implant["holes"]
    gap, thin = implant["gap_mm"].get("min", np.inf), implant["thinner_than_minimum"]
    found = [
        (not implant["watertight"], "the implant's surface is not watertight"),
        (
            abs(error) > rules.maximum_volume_error,
            f"the surface's volume is {error:+.1%} off the mask's, more than {rules.maximum_volume_error:.0%}",
        ),
        (pieces > holes, f"the surface has {pieces} pieces, the implant's mask {holes}"),
        (
            clearance_mm > 0 and gap < clearance_mm - rules.maximum_clearance_error_mm,
            f"the surface comes within {gap:.2f} mm of the bone, the clearance is {clearance_mm:g} mm",
        ),
        (
            clearance_mm == 0 and gap < -rules.maximum_overlap_mm,
            f"the surface reaches {-gap:.2f} mm into bone, at most {rules.maximum_overlap_mm:g}; allow more triangles",
        ),
        (
            implant["triangles"] > printing.triangles,
            f"the surface has {implant['triangles']} triangles, more than {printing.triangles}, "
            "with which it would reach into bone",
        ),
        (
            thin > rules.maximum_thin_share,
            f"{thin:.0%} of the implant is thinner than {printing.minimum_thickness_mm:g} mm",
        ),
    ]
    return [reason for holds, reason in found if holds]
