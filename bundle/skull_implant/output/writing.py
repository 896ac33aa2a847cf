"""What a case leaves behind: masks, surface, preview, DICOM and report."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ignite.engine import Engine, Events

from bundle.skull_implant.errors import CaseRefused
from bundle.skull_implant.input.reading import case_name, folder_of_dicomdir
from bundle.skull_implant.output.candidate_files import agreement_figures, write_candidates
from bundle.skull_implant.output.result_folder import REPORT, check_target, whole_folder
from bundle.skull_implant.steps.options import Options
from bundle.skull_implant.steps.report import ReviewRules, about_run, describe, refused
from bundle.skull_implant.steps.transforms import timed
from bundle.skull_implant.surfaces.preview import render_preview
from bundle.skull_implant.surfaces.print_settings import PrintSettings
from bundle.skull_implant.surfaces.printing import print_implant
from bundle.skull_implant.volume import write_volume
from bundle.skull_implant.whole_files import check_writable

logger = logging.getLogger(__name__)


class CaseWriter:
    """Writes `OUTPUT_DIR/<case>/` for each completed case: masks, surface, preview, DICOM Segmentation and report.

    Everything goes to a hidden folder beside the target, which is then renamed.

    Args:
        output_dir: folder of the results.
        paths: the inputs, whose result folders must not exist yet.
        model_file: for the report.
        device: for the report.
        options: as they were read; `overwrite` and `secondary_capture` are obeyed, the others are for the report.
        printing: how the implant is printed.
        rules: when to ask for a review.
    """

    def __init__(
        self,
        output_dir: str | Path,
        paths: Iterable[str],
        model_file: str | Path,
        device: Any,
        options: Options | None = None,
        printing: PrintSettings | None = None,
        rules: ReviewRules | None = None,
    ) -> None:
        self.output_dir = Path(output_dir)
        self.options = options or Options()
        self.paths = [str(path) for path in paths]
        self.names = [case_name(path) for path in self.paths]
        self.about = (model_file, self.options, str(device))
        self.printing = printing or PrintSettings()
        self.rules = rules or ReviewRules()
        self.written: list[Path] = []

    def attach(self, engine: Engine) -> None:
        """Register with an evaluator."""
        engine.add_event_handler(Events.STARTED, lambda _: self.check_targets())
        engine.add_event_handler(Events.ITERATION_COMPLETED, lambda engine: self.write(engine.state.output))

    def check_targets(self) -> None:
        """Raise InputError before any work if a result is already there or cannot be written."""
        for path, name in zip(self.paths, self.names, strict=True):
            check_target(self.output_dir / name, folder_of_dicomdir(Path(path)), self.options.overwrite)
        check_writable(self.output_dir)

    def write(self, data: dict[str, Any]) -> dict[str, Any]:
        """Write one case; returns its report."""
        name = data["case"].name
        with whole_folder(self.output_dir / name) as folder:
            with timed(data, "write masks"):
                for key in ("completed", "implant", "skull", "decoded"):
                    if key in data:
                        write_volume(folder / f"{key}.nii.gz", data[key])
                if "agreement_map" in data:
                    write_volume(folder / "agreement.nii.gz", data["agreement_map"])
            printed = {}
            if data["implant"].voxels.any():
                with timed(data, "surface"):
                    printed = print_implant(folder, data["skull"], data["implant"], self.printing)
            candidates = []
            if "candidates" in data:
                with timed(data, "write candidates"):
                    candidates = write_candidates(
                        folder, data["candidates"], data["skull"], printed, self.printing, self.rules
                    )
            with timed(data, "report"):
                report = describe(data, printed, self.printing, about_run(*self.about), self.rules)
            with timed(data, "preview"):
                render_preview(
                    data["skull"],
                    data["implant"],
                    folder / "preview.png",
                    title=self._title(report),
                )
            if data["case"].reference_files:
                with timed(data, "DICOM"):
                    report["warnings"] += self._write_dicom(data, folder)
            if "candidates" in data:
                report["candidates"] = candidates
            if "agreement_map" in data:
                report["agreement_map"] = agreement_figures(data["agreement_map"], data["agreement_samples"])
            report["seconds"] = data["seconds"]
            _write_json(folder / REPORT, report)
        self.written.append(self.output_dir / name)
        _log(report, data)
        return report

    def _title(self, report: dict[str, Any]) -> str:
        """Of the preview, which shows masks: a surface's clearance is not in them."""
        status = "for review" if report["status"] == "review" else report["status"]
        clearance = "; clearance not drawn" if self.printing.clearance_mm > 0 else ""
        return f"gamma {report['gamma']:g}, {report['defect_class']}; {status}{clearance}; research only"

    def _write_dicom(self, data: dict[str, Any], folder: Path) -> list[str]:
        """Write what goes back to the archive; returns a line on each thing that could not be written."""
        try:  # lazy: highdicom needs pydicom 3, and MONAI Label an older one
            from bundle.skull_implant.output.dicom_results import Creator, write_dicom_results
        except ImportError as error:
            rule = f"{error.name} must be installed"
            return [f"segmentation.dcm was not written: {rule}, none arrived; see requirements.txt"]
        about = about_run(*self.about)
        return write_dicom_results(
            folder,
            data["skull"],
            data["implant"],
            data["case"].reference_files,
            Creator(about["versions"]["skull_implant"], about["weights"]["sha256"]),
            frames=data["case"].reference_frames,
            parameters={"gamma": f"{about['gamma']:g}", "defect_class": data["defect_class"]},
            picture=folder / "preview.png" if self.options.secondary_capture else None,
            tilt_degrees=data["case"].tilt.degrees if data["case"].tilt else 0.0,
        )

    def write_refused(self, error: CaseRefused) -> None:
        """Write the report, and nothing else, of a refused case."""
        with whole_folder(self.output_dir / self.names[0]) as folder:
            _write_json(folder / REPORT, refused(self.names[0], error.reasons, about_run(*self.about)))


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=1) + "\n")


def _log(report: dict[str, Any], data: dict[str, Any]) -> None:
    for stage, seconds in data["seconds"].items():
        logger.info("%-12s %5.1f s", stage, seconds)
    size = " x ".join(map(str, data["skull"].grid.size))
    logger.info(
        "%s voxels, %s defect, implant %.1f ml: %s",
        size,
        report["defect_class"],
        report["implant"]["volume_ml"],
        report["status"],
    )
    for reason in report["reasons"]:
        logger.info("review: %s", reason)
    for warning in report["warnings"]:
        logger.warning("warning: %s", warning)
