"""The shipped weights on heads whose holes are known."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import ndimage

from bundle.skull_implant.commands.completion import complete
from bundle.skull_implant.design.metrics import dice
from bundle.skull_implant.frame.canonical_frame import bone_points, estimate_frame
from bundle.skull_implant.frame.skull_mask import skull_mask_from_hu
from bundle.skull_implant.model.network import SkullCompleter
from bundle.skull_implant.synthetic.defects import FacialShares, draw_cranial_hole
from bundle.skull_implant.synthetic.native_defects import cut_native
from bundle.skull_implant.volume import Volume, write_volume
from tests.debian_sample import debian_sample
from tests.end_to_end import (
    INFERENCE,
    ROOT,
    read,
    small_head,
    without_preview,
)


@pytest.fixture(scope="module")
def shipped_model() -> Path:
    path = ROOT / "models" / "model.pt"
    if not path.is_file():
        pytest.skip("no weights: models/model.pt is not there yet")
    return path


@pytest.fixture(scope="module")
def real_head() -> Volume:
    return skull_mask_from_hu(debian_sample())


def completed(path: Path, model: Path, output: Path) -> tuple[np.ndarray, dict[str, Any]]:
    """The implant and the report."""
    (folder,) = complete(INFERENCE, dataset_dir=str(path), output_dir=str(output), model_file=str(model), device="cpu")
    return read(folder / "implant.nii.gz").voxels > 0, json.loads((folder / "report.json").read_text())


def test_the_shipped_model_fills_the_hole_of_a_made_up_head_at_2_mm(
    shipped_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_preview(monkeypatch)
    write_volume(tmp_path / "head.nrrd", small_head(0).hu)

    implant, _ = completed(tmp_path / "head.nrrd", shipped_model, tmp_path / "out")

    assert dice(implant, small_head(0).implant.voxels) >= 0.6


@pytest.mark.parametrize("end", ["left", "right"])
def test_the_shipped_model_designs_for_a_narrow_slab_at_the_side_of_a_real_face(
    end: str, real_head: Volume, shipped_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_preview(monkeypatch)
    template = SkullCompleter.from_file(shipped_model).template
    frame = estimate_frame(real_head.voxels, real_head.grid, template)
    points = bone_points(real_head.voxels, real_head.grid) @ frame.rotation - frame.vertex @ frame.rotation
    left, right, front = points[:, 0].min(), points[:, 0].max(), points[:, 1].max()
    shares = FacialShares(width=0.3, start=0.0 if end == "left" else 1.0, depth_mm=45.0)
    truth = cut_native(real_head, frame, shares.slab(front, right, left))
    write_volume(tmp_path / "head.nii.gz", Volume(real_head.voxels & ~truth, real_head.grid))

    implant, report = completed(tmp_path / "head.nii.gz", shipped_model, tmp_path / "out")

    print(f"{truth.sum() * real_head.grid.voxel_ml:.1f} ml, DSC {dice(implant, truth):.3f}; {report['reasons']}")
    assert report["status"] == "review"
    assert dice(implant, truth) > 0.2


@pytest.mark.parametrize(("number", "site"), [(4, "temporal_left"), (5, "parietal_right")])
def test_the_shipped_model_fills_holes_cut_into_a_real_head(
    number: int, site: str, real_head: Volume, shipped_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_preview(monkeypatch)
    whole = real_head
    frame = estimate_frame(whole.voxels, whole.grid, SkullCompleter.from_file(shipped_model).template)
    truth = cut_native(whole, frame, draw_cranial_hole(np.random.default_rng(number), site))
    write_volume(tmp_path / "head.nii.gz", Volume(whole.voxels & ~truth, whole.grid))

    implant, report = completed(tmp_path / "head.nii.gz", shipped_model, tmp_path / "out")

    # The head has a defect of its own in its frontal bone, which gets a piece as well, around an islet of thin bone.
    pieces, count = ndimage.label(implant)
    score = max(dice(pieces == number, truth) for number in range(1, count + 1))
    print(f"{site}: implant DSC {score:.3f}; {report['reasons']}")
    assert report["input"]["is_mask"] is True
    first, *others = [reason.split(",")[0] for reason in report["reasons"]]
    assert first == "2 holes found"
    assert all(re.fullmatch(r"the implant leaves \d openings in itself", reason) for reason in others)
    assert score >= 0.8
