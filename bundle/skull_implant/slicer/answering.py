"""What MONAI Label's server sends back for a case: a label map on the image's grid and a result in JSON."""

from __future__ import annotations

import logging
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.transforms import Transform

from bundle.skull_implant.errors import CaseRefused, InputError
from bundle.skull_implant.input.reading import case_name
from bundle.skull_implant.model.network import DEFECT_CLASSES
from bundle.skull_implant.steps.options import Options
from bundle.skull_implant.steps.report import ReviewRules, about_run, describe, refused
from bundle.skull_implant.steps.transforms import CaseData, timed
from bundle.skull_implant.surfaces.print_settings import PrintSettings
from bundle.skull_implant.surfaces.printing import print_implant
from bundle.skull_implant.volume import Grid

logger = logging.getLogger(__name__)

SKULL, IMPLANT = 1, 2


class Answerd(Transform):
    """Replace `pred` by the label map (1, X, Y, Z) uint8, 1 = skull, 2 = implant, and add `result`, the report.

    Only a request of MONAI Label's server is answered, told by its key `image_path`; any other case passes as it is.

    A refused case has an empty label map and a result with `status` "refused" and its `reasons`: MONAI Label's client
    cannot read an answer without an image. Where not even the grid could be read, the map is a single voxel.

    Args:
        options: as they were read.
        model_file: for the report, unless a request names another of its folder as `model_filename`.
        device: for the report.
        rules: when to ask for a review.
    """

    def __init__(self, options: Options, model_file: str | Path, device: Any, rules: ReviewRules | None = None) -> None:
        self.options = options
        self.model_file = model_file
        self.device = str(device)
        self.rules = rules or ReviewRules()

    def __call__(self, data: CaseData) -> CaseData:
        """A new dictionary; `image_meta_dict` tells the server's writer the grid."""
        if "image_path" not in data:
            return data
        data = dict(data)
        about = about_run(self._weights(data), self.options, self.device)
        if "error" in data:
            data["result"] = _refusal(data, about)
            grid = data["case"].volume.grid if "case" in data else _ONE_VOXEL
            labels = np.zeros(grid.size, np.uint8)
        else:
            grid = data["skull"].grid
            labels = label_map(data["skull"].voxels, data["implant"].voxels)
            data["result"] = self._report(data, about)
        data["pred"] = torch.from_numpy(labels[None])  # (X, Y, Z) -> (1, X, Y, Z)
        data["image_meta_dict"] = {"original_affine": ras_affine(grid), "spatial_shape": grid.size}
        return data

    def _weights(self, data: CaseData) -> Path:
        """The file that the server took the network from: of the request if it is there, as MONAI Label does it."""
        chosen = data.get("model_filename") or ""
        path = Path(self.model_file).parent / (chosen[0] if isinstance(chosen, list) else str(chosen))
        return path if path.is_file() else Path(self.model_file)

    def _report(self, data: CaseData, about: dict[str, Any]) -> dict[str, Any]:
        printed: dict[str, Any] = {}
        printing = PrintSettings()
        if data["implant"].voxels.any():  # Slicer makes its own surface; this one is measured and thrown away
            with timed(data, "surface"), tempfile.TemporaryDirectory() as folder:
                printed = print_implant(Path(folder), data["skull"], data["implant"], printing)
        report = describe(data, printed, printing, about, self.rules)
        defects = {name: report["class_probability"][name] for name in DEFECT_CLASSES}
        share = defects[report["defect_class"]] / max(sum(defects.values()), 1e-9)
        return {**report, "confidence": round(share, 4), "seconds": data["seconds"]}


def label_map(skull: np.ndarray, implant: np.ndarray) -> np.ndarray:
    """Skull and implant, Boolean (X, Y, Z) without a common voxel, as 1 and 2 in one uint8 array."""
    return np.where(implant, np.uint8(IMPLANT), skull.astype(np.uint8) * np.uint8(SKULL))


def ras_affine(grid: Grid) -> np.ndarray:
    """Index to RAS mm, (4, 4) float64, as MONAI has it; a grid's own affine is to LPS."""
    return np.diag([-1.0, -1.0, 1.0, 1.0]) @ grid.affine


_ONE_VOXEL = Grid((1, 1, 1), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0), (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0))


def _refusal(data: CaseData, about: dict[str, Any]) -> dict[str, Any]:
    error: InputError = data["error"]
    name = data["case"].name if "case" in data else case_name(data["image_path"])
    reasons = error.reasons if isinstance(error, CaseRefused) else [str(error)]
    logger.warning("%s: refused: %s", name, "; ".join(reasons))
    return {**refused(name, reasons, about), "warnings": []}
