"""Completing by both commands: the same voxels, and what a result promises its reader."""

from __future__ import annotations

import contextlib
import gzip
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import highdicom as hd
import numpy as np
import pydicom
import pytest
import torch
import trimesh

from bundle.skull_implant.design.metrics import dice
from bundle.skull_implant.frame.canonical_frame import estimate_frame
from bundle.skull_implant.frame.canonical_grid import to_canonical
from bundle.skull_implant.frame.skull_mask import skull_mask_from_hu
from bundle.skull_implant.model.network import SkullCompleter
from bundle.skull_implant.output.dicom_writing import write_ct_series
from bundle.skull_implant.volume import Grid, Volume, write_volume
from tests.dicom_files import rotation
from tests.end_to_end import (
    INFERENCE,
    ROOT,
    SMOKE,
    Outcome,
    command,
    contents,
    read,
    run_module,
    small_head,
    untrained_model,
    without_preview,
)

MASKS = ("completed", "implant", "skull")
KNOWING_SIZE = (64, 96, 80)
SECRETS = ("Zwiebelfisch", "QX-77-ZETA", "19010203")


def assert_same_grid(first: Grid, second: Grid, tolerance: float = 1e-6) -> None:
    """NIfTI stores single precision, and ITK makes it orthonormal again each time it reads it."""
    assert first.size == second.size
    for name in ("spacing", "origin", "direction"):
        np.testing.assert_allclose(getattr(first, name), getattr(second, name), rtol=0, atol=tolerance)


@pytest.fixture(scope="module")
def ct(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A made-up head CT with a hole, on an oblique grid."""
    head, turn = small_head(0).hu, rotation(9.0, -6.0)
    path = tmp_path_factory.mktemp("ct") / "head.v1.nii.gz"
    grid = Grid(head.grid.size, head.grid.spacing, (-71.5, 130.25, 77.0), tuple(turn.ravel().tolist()))
    write_volume(path, Volume(head.voxels, grid))
    return path


@pytest.fixture(scope="module")
def knowing_model(ct: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A model whose decoder knows the complete skull of `ct`, so that an implant comes out that can be judged."""
    path = untrained_model(tmp_path_factory.mktemp("knowing") / "model.pt", KNOWING_SIZE)
    network = SkullCompleter.from_file(path)
    volume = read(ct)
    skull = skull_mask_from_hu(volume)
    complete_skull = Volume(small_head(0).complete_skull.voxels | skull.voxels, volume.grid)
    frame = estimate_frame(skull.voxels, skull.grid, network.template)
    answer = torch.from_numpy(to_canonical(complete_skull, frame, network.box))
    original = SkullCompleter.decode

    def decode(self: SkullCompleter, code: torch.Tensor) -> torch.Tensor:
        if self.box.spatial_size != KNOWING_SIZE:
            return original(self, code)
        return answer.expand(len(code), 1, *answer.shape).clone()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SkullCompleter, "decode", decode)
        yield path


@pytest.fixture(scope="module")
def by_script(ct: Path, knowing_model: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Outcome]:
    folder = tmp_path_factory.mktemp("script")
    outcome = run_module("scripts.complete", ct, folder / "out", "--model_file", knowing_model, "--keep_decoded")
    return folder / "out" / "head.v1", outcome


@pytest.fixture(scope="module")
def by_monai(ct: Path, knowing_model: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Outcome]:
    folder = tmp_path_factory.mktemp("monai")
    with pytest.MonkeyPatch.context() as patch:
        without_preview(patch)
        words = ("--output_dir", folder / "out", "--model_file", knowing_model, "--keep_decoded")
        outcome = run_module("monai.bundle", "run", "--config_file", INFERENCE, "--dataset_dir", ct, *words)
    return folder / "out" / "head.v1", outcome


def test_both_commands_succeed_and_say_where_the_files_are(
    by_script: tuple[Path, Outcome], by_monai: tuple[Path, Outcome]
) -> None:
    folder, outcome = by_script

    assert (outcome.status, outcome.stderr) == (0, "")
    last = outcome.stdout.strip().splitlines()[-1]
    assert last == "wrote " + " ".join(str(path) for path in sorted(folder.iterdir()))
    assert by_monai[1].status == 0


def test_both_commands_give_the_same_voxels_and_report(
    by_script: tuple[Path, Outcome], by_monai: tuple[Path, Outcome]
) -> None:
    for name in (*MASKS, "decoded"):
        first, second = (read(folder / f"{name}.nii.gz") for folder, _ in (by_script, by_monai))
        assert_same_grid(first.grid, second.grid, 0.0)
        np.testing.assert_array_equal(first.voxels, second.voxels)
    first_report, second_report = (
        {key: value for key, value in json.loads((folder / "report.json").read_text()).items() if key != "seconds"}
        for folder, _ in (by_script, by_monai)
    )
    assert first_report == second_report


def test_a_result_has_exactly_the_promised_files(by_script: tuple[Path, Outcome]) -> None:
    folder, _ = by_script

    assert sorted(path.name for path in folder.iterdir()) == [
        "completed.nii.gz",
        "decoded.nii.gz",
        "implant.nii.gz",
        "implant.stl",
        "preview.png",
        "report.json",
        "skull.nii.gz",
    ]
    assert [path.name for path in folder.parent.iterdir()] == ["head.v1"]


def test_masks_are_uint8_on_the_exact_grid_and_completed_is_skull_or_implant(
    by_script: tuple[Path, Outcome], ct: Path
) -> None:
    masks = {name: read(by_script[0] / f"{name}.nii.gz") for name in (*MASKS, "decoded")}

    for volume in masks.values():
        assert volume.voxels.dtype == np.uint8
        assert set(np.unique(volume.voxels)) == {0, 1}
        assert_same_grid(volume.grid, read(ct).grid)
    skull, implant, completed = (masks[name].voxels > 0 for name in ("skull", "implant", "completed"))
    assert not (skull & implant).any()
    np.testing.assert_array_equal(completed, skull | implant)
    np.testing.assert_array_equal(skull, skull_mask_from_hu(read(ct)).voxels)


def test_the_implant_fills_the_hole(by_script: tuple[Path, Outcome]) -> None:
    implant = read(by_script[0] / "implant.nii.gz").voxels > 0

    assert dice(implant, small_head(0).implant.voxels) > 0.8


def test_the_surface_lies_on_the_implant_in_lps_mm(by_script: tuple[Path, Outcome]) -> None:
    implant = read(by_script[0] / "implant.nii.gz")
    surface = trimesh.load_mesh(by_script[0] / "implant.stl")
    index = np.argwhere(implant.voxels)
    points = index @ implant.grid.affine[:3, :3].T + implant.grid.affine[:3, 3]

    assert surface.is_watertight
    np.testing.assert_allclose(surface.bounds, [points.min(0), points.max(0)], atol=2.5)
    assert surface.volume / 1000 == pytest.approx(len(index) * implant.grid.voxel_ml, rel=0.1)


def test_the_report_says_what_was_done_and_how_well(by_script: tuple[Path, Outcome]) -> None:
    report = json.loads((by_script[0] / "report.json").read_text())
    implant = read(by_script[0] / "implant.nii.gz")

    assert report["status"] in ("ok", "review")
    assert bool(report["reasons"]) == (report["status"] == "review")
    assert report["input"]["name"] == "head.v1.nii.gz"
    assert report["input"]["size"] == list(implant.grid.size)
    assert report["input"]["is_mask"] is False
    assert (report["gamma"], report["requested_class"]) == (1.0, "auto")
    assert (report["fit_steps"], report["rim_fit"]) == (30, True)
    assert report["weights"]["file"] == "model.pt"
    assert len(report["weights"]["sha256"]) == 64
    assert (
        report["versions"]["skull_implant"] == json.loads((ROOT / "configs" / "metadata.json").read_text())["version"]
    )
    assert report["defect_class"] in ("cranial", "facial")
    assert sum(report["class_probability"].values()) == pytest.approx(1.0, abs=0.001)
    assert report["implant"]["volume_ml"] == pytest.approx(implant.voxels.sum() * 0.008, abs=0.01)
    assert report["implant"]["watertight"] is True
    assert report["implant"]["thickness_mm"]["median"] > 2.0
    assert report["defect_class"] == "cranial"  # of a facial implant there is no rim in the vault
    assert report["implant"]["hole_cover"] == 1.0
    assert {name: value < 0.6 for name, value in report["implant"]["rim"].items()} == {
        "gap_outer_mm": True,
        "gap_inner_mm": True,
        "step_outer_mm": True,
        "step_inner_mm": True,
    }
    assert report["fit"]["decoded_bone_agreement_dsc"] > 0.7
    assert {"read", "skull mask", "align", "decode", "implant", "preview"} <= set(report["seconds"])


def test_print_settings_change_the_surface_and_no_mask(
    by_script: tuple[Path, Outcome], ct: Path, knowing_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_preview(monkeypatch)

    outcome = run_module(
        *("monai.bundle", "run", "--config_file", INFERENCE, "--dataset_dir", ct, "--output_dir", tmp_path),
        *("--model_file", knowing_model, "--mesh", "ply,obj", "--clearance_mm", 1, "--minimum_thickness_mm", 0.5),
    )

    assert (outcome.status, outcome.stderr) == (0, "")
    folder, before = tmp_path / "head.v1", by_script[0]
    assert {path.name for path in folder.glob("implant.*")} == {"implant.nii.gz", "implant.ply", "implant.obj"}
    for name in MASKS:
        np.testing.assert_array_equal(read(folder / f"{name}.nii.gz").voxels, read(before / f"{name}.nii.gz").voxels)
    report, plain = (json.loads((each / "report.json").read_text()) for each in (folder, before))
    assert report["printing"]["clearance_mm"] == 1
    assert report["printing"]["mesh"] == ["ply", "obj"]
    assert report["implant"]["gap_mm"]["min"] >= 0.95
    assert report["implant"]["surface_volume_ml"] < plain["implant"]["surface_volume_ml"]
    assert report["implant"]["volume_ml"] == plain["implant"]["volume_ml"]


def test_a_print_setting_that_cannot_be_ends_monais_command_before_any_work(
    ct: Path, knowing_model: Path, tmp_path: Path
) -> None:
    outcome = run_module(
        *("monai.bundle", "run", "--config_file", INFERENCE, "--dataset_dir", ct),
        *("--output_dir", tmp_path / "out", "--model_file", knowing_model, "--mesh", "step"),
    )

    assert outcome.status == 1
    assert outcome.stderr == "mesh must be stl, ply or obj, or several with commas between, got 'step'\n"
    assert not (tmp_path / "out").exists()


def test_a_result_is_not_overwritten_unless_asked(
    ct: Path, knowing_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_preview(monkeypatch)
    (tmp_path / "head.v1").mkdir()
    (tmp_path / "head.v1" / "report.json").write_text('{"status": "ok", "weights": {}}')
    before = contents(tmp_path)
    words = ("scripts.complete", ct, tmp_path, "--model_file", knowing_model)

    refused = run_module(*words)

    assert refused.status == 1
    assert (
        refused.stderr
        == f"{tmp_path / 'head.v1'}: holds a result already; name another OUTPUT_DIR or pass --overwrite\n"
    )
    assert contents(tmp_path) == before
    by_monai = run_module(
        *("monai.bundle", "run", "--config_file", INFERENCE),
        *("--dataset_dir", ct, "--output_dir", tmp_path, "--model_file", knowing_model),
    )
    assert by_monai.status == 1
    assert by_monai.stderr == refused.stderr
    assert contents(tmp_path) == before
    with_words = run_module(
        *("monai.bundle", "run", "--config_file", INFERENCE, "--overwrite", "false", "--device", "auto"),
        *("--dataset_dir", ct, "--output_dir", tmp_path, "--model_file", knowing_model),
    )
    assert with_words.stderr == refused.stderr
    assert contents(tmp_path) == before

    assert run_module(*words, "--overwrite").status == 0
    assert "head.v1/implant.nii.gz" in contents(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["head.v1"]


@pytest.fixture(scope="module")
def with_candidates(ct: Path, knowing_model: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Outcome]:
    folder = tmp_path_factory.mktemp("candidates")
    with pytest.MonkeyPatch.context() as patch:
        without_preview(patch)
        words = ("--output_dir", folder, "--model_file", knowing_model, "--candidates", 3, "--keep_agreement")
        outcome = run_module("monai.bundle", "run", "--config_file", INFERENCE, "--dataset_dir", ct, *words)
    return folder / "head.v1", outcome


def test_every_key_of_a_report_is_documented(with_candidates: tuple[Path, Outcome]) -> None:
    report = json.loads((with_candidates[0] / "report.json").read_text())
    named = set(re.findall(r"[a-z0-9_]+", " ".join(re.findall(r"`(.*?)`", (ROOT / "docs" / "report.md").read_text()))))
    del report["seconds"]

    assert {"status", "implant", "gap_outer_mm", "all_ml", "dsc_with_recommended"} <= set(keys(report)) <= named


def keys(report: Any) -> Iterator[str]:
    """Of all levels."""
    if isinstance(report, dict):
        yield from report
    for value in report.values() if isinstance(report, dict) else report if isinstance(report, list) else ():
        yield from keys(value)


def test_candidates_and_agreement_are_further_files_and_change_no_other(
    with_candidates: tuple[Path, Outcome], by_monai: tuple[Path, Outcome]
) -> None:
    (folder, outcome), (plain, _) = with_candidates, by_monai
    report, before = (json.loads((each / "report.json").read_text()) for each in (folder, plain))
    names = [row["name"] for row in report["candidates"]]

    assert (outcome.status, outcome.stderr) == (0, "")
    assert names[0] == "recommended"
    assert set(names[1:]) == {"thicker", "thinner"}
    assert set(contents(folder)) - set(contents(plain)) == {
        "agreement.nii.gz",
        *(f"candidates/{rank}_{name}.{end}" for rank, name in enumerate(names, 1) for end in ("nii.gz", "stl")),
    }
    for name in MASKS:
        np.testing.assert_array_equal(read(folder / f"{name}.nii.gz").voxels, read(plain / f"{name}.nii.gz").voxels)
    assert {"candidates", "agreement_map"}.isdisjoint(before)
    new = ("candidates", "agreement_map", "seconds")
    assert {key: value for key, value in report.items() if key not in new} == {
        key: value for key, value in before.items() if key != "seconds"
    }


def test_a_candidate_is_what_its_line_in_the_report_says(with_candidates: tuple[Path, Outcome], ct: Path) -> None:
    folder, _ = with_candidates
    rows = json.loads((folder / "report.json").read_text())["candidates"]

    for suffix in ("nii.gz", "stl"):
        copied = folder / "candidates" / f"1_recommended.{suffix}"
        assert copied.read_bytes() == (folder / f"implant.{suffix}").read_bytes()
    for rank, row in enumerate(rows, start=1):
        mask, surface = row["files"]
        implant = read(folder / mask)
        assert row["rank"] == rank
        assert_same_grid(implant.grid, read(ct).grid)
        assert row["volume_ml"] == pytest.approx(implant.voxels.sum() * 0.008, abs=0.01)
        assert trimesh.load_mesh(folder / surface).volume / 1000 == pytest.approx(row["volume_ml"], rel=0.1)
        assert row["watertight"] is True
        assert 0 <= row["rim"]["gap_outer_mm"] < 3
    thickness = {row["name"]: row["thickness_mm"]["median"] for row in rows}
    assert thickness["thinner"] < thickness["recommended"] < thickness["thicker"]


def test_the_agreement_map_is_a_percentage_on_the_scans_grid(with_candidates: tuple[Path, Outcome], ct: Path) -> None:
    folder, _ = with_candidates
    percentage = read(folder / "agreement.nii.gz")
    figures = json.loads((folder / "report.json").read_text())["agreement_map"]

    assert percentage.voxels.dtype == np.uint8
    assert_same_grid(percentage.grid, read(ct).grid)
    assert set(np.unique(percentage.voxels)) <= set(range(0, 101, 10))
    assert figures["samples"] == 10
    assert figures["all_ml"] == pytest.approx((percentage.voxels == 100).sum() * 0.008, abs=0.01)
    assert 0 < figures["all_ml"] < figures["any_ml"]


@pytest.mark.parametrize(
    ("value", "status", "rule"),
    [
        ("0", 1, "candidates must lie between 1 and 20, got 0"),
        ("-1", 1, "candidates must lie between 1 and 20, got -1"),
        ("1000", 1, "candidates must lie between 1 and 20, got 1000"),
        ("2.5", 2, "--candidates must be int, got '2.5'"),
        ("abc", 2, "--candidates must be int, got 'abc'"),
    ],
)
def test_a_number_of_candidates_that_cannot_be_is_one_line_and_no_work(
    value: str, status: int, rule: str, ct: Path, knowing_model: Path, tmp_path: Path
) -> None:
    words = ("--model_file", knowing_model, "--candidates", value)
    outcome = run_module("scripts.complete", ct, tmp_path / "out", *words)

    assert outcome.status == status
    assert rule in outcome.stderr
    assert outcome.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_candidates_that_cannot_be_written_leave_nothing(
    ct: Path, knowing_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("bundle.skull_implant.output.candidate_files.print_implant", stop)

    with contextlib.suppress(RuntimeError):
        outcome = run_module("scripts.complete", ct, tmp_path, "--model_file", knowing_model, "--candidates", 2)
        assert outcome.status != 0

    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("error", "earlier"), [(KeyboardInterrupt, True), (OSError("no space left on device"), False)])
def test_an_interrupted_write_leaves_what_was_there(
    error: BaseException | type[BaseException],
    earlier: bool,
    ct: Path,
    knowing_model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def stop(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("bundle.skull_implant.output.writing.render_preview", stop)
    if earlier:
        (tmp_path / "head.v1").mkdir()
        (tmp_path / "head.v1" / "mine.txt").write_text("keep")
    before = contents(tmp_path)

    with contextlib.suppress(OSError, RuntimeError):
        outcome = run_module("scripts.complete", ct, tmp_path, "--model_file", knowing_model, "--overwrite")
        assert outcome.status != 0

    assert contents(tmp_path) == before
    assert [path.name for path in tmp_path.iterdir()] == (["head.v1"] if earlier else [])


def test_monai_reports_bad_input_in_one_line_too(knowing_model: Path, tmp_path: Path) -> None:
    (tmp_path / "text.nii.gz").write_text("no image")

    outcome = run_module(
        *("monai.bundle", "run", "--config_file", INFERENCE, "--dataset_dir", tmp_path / "text.nii.gz"),
        *("--output_dir", tmp_path / "out", "--model_file", knowing_model),
    )

    assert outcome.status == 1
    assert outcome.stderr.startswith("text.nii.gz: not readable as NIfTI")
    assert outcome.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("flag", "value", "rule"),
    [
        ("--model_file", "missing.pt", "model_file must exist"),
        ("--gamma", "abc", "gamma must be a number"),
        ("--defect_class", "nasal", "defect_class must be auto"),
        ("--threshold_hu", "abc", "threshold_hu must be a number"),
        ("--fit_steps", "1.5", "fit_steps must be a whole number"),
        ("--candidates", "0", "candidates must lie between 1 and 20, got 0"),
        ("--candidates", "abc", "candidates must be a number, got 'abc'"),
        ("--keep_agreement", "perhaps", "keep_agreement must be true or false, got 'perhaps'"),
    ],
)
def test_monai_reports_bad_settings_in_one_line(flag: str, value: str, rule: str, ct: Path, tmp_path: Path) -> None:
    outcome = run_module(
        *("monai.bundle", "run", "--config_file", INFERENCE, "--dataset_dir", ct, "--output_dir", tmp_path / "out"),
        *(flag, value),
    )

    assert outcome.status == 1
    assert rule in outcome.stderr
    assert outcome.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("configs", [[str(INFERENCE)], SMOKE])
def test_monai_refuses_a_mistyped_override_before_any_work(configs: list[str], tmp_path: Path) -> None:
    outcome = run_module(
        *("monai.bundle", "run", "--config_file", configs, "--output_dir", tmp_path / "out"), "--modle_file", "m.pt"
    )

    assert outcome.status == 2
    assert outcome.stderr == "monai.bundle run: no key --modle_file in the config; known: model_file\n"
    assert not (tmp_path / "out").exists()


# A real process, from a DICOM folder, with the weights of the smoke run


@pytest.fixture(scope="module")
def from_dicom(trained: tuple[Path, Outcome], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Outcome]:
    folder = tmp_path_factory.mktemp("dicom")
    files = write_ct_series(folder / "ct", small_head(0).hu, patient_name="Zwiebelfisch^Jane", patient_id="QX-77-ZETA")
    for path in files:
        dataset = pydicom.dcmread(path)
        dataset.PatientBirthDate, dataset.AccessionNumber = "19010203", "QX-77-ZETA"
        dataset.save_as(path)
    model = trained[0] / "model.pt"
    words = ("--model_file", model, "--keep_decoded", "--secondary_capture")
    outcome = command("-m", "scripts.complete", folder / "ct", folder / "out", *words)
    return folder / "out" / "ct", outcome


def test_the_weights_of_a_smoke_run_complete_a_dicom_folder_without_further_arguments(
    from_dicom: tuple[Path, Outcome],
) -> None:
    folder, outcome = from_dicom

    assert (outcome.status, outcome.stderr) == (0, "")
    assert {"completed.nii.gz", "implant.nii.gz", "skull.nii.gz", "preview.png", "report.json"} <= set(contents(folder))
    assert read(folder / "completed.nii.gz").grid.size == small_head(0).hu.grid.size
    assert json.loads((folder / "report.json").read_text())["status"] in ("ok", "review")


def test_a_dicom_folder_gives_dicom_objects_of_its_study(from_dicom: tuple[Path, Outcome]) -> None:
    folder, _ = from_dicom
    source = pydicom.dcmread(folder.parents[1] / "ct" / "IM0001.dcm")

    for name, modality in (("segmentation.dcm", "SEG"), ("preview.dcm", "OT")):
        dataset = pydicom.dcmread(folder / name)
        assert (dataset.Modality, dataset.StudyInstanceUID) == (modality, source.StudyInstanceUID)
        assert (dataset.PatientName, dataset.PatientID) == (source.PatientName, source.PatientID)
    segments = hd.seg.segread(folder / "segmentation.dcm")
    uids = [pydicom.dcmread(path).SOPInstanceUID for path in sorted((folder.parents[1] / "ct").iterdir())]
    voxels = segments.get_pixels_by_source_instance(uids, assert_missing_frames_are_empty=True)
    for number, name in enumerate(("skull", "implant")):
        np.testing.assert_array_equal(voxels[..., number].T, read(folder / f"{name}.nii.gz").voxels)
    assert json.loads((folder / "report.json").read_text())["warnings"] == []


def test_nothing_of_the_patient_is_in_any_other_output_or_message(from_dicom: tuple[Path, Outcome]) -> None:
    folder, outcome = from_dicom
    texts = {"stdout": outcome.stdout.encode(), "stderr": outcome.stderr.encode(), **contents(folder)}
    for_the_archive = {name: texts.pop(name) for name in ("segmentation.dcm", "preview.dcm")}

    assert all(b"Zwiebelfisch" in content for content in for_the_archive.values())
    for name, text in texts.items():
        plain = gzip.decompress(text) if name.endswith(".gz") else text
        assert [secret for secret in SECRETS if secret.encode() in plain] == [], name
    assert all(secret not in str(path) for path in folder.rglob("*") for secret in SECRETS)


def test_a_smoke_model_gives_the_same_voxels_through_monai(
    from_dicom: tuple[Path, Outcome],
    trained: tuple[Path, Outcome],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    without_preview(monkeypatch)
    folder, _ = from_dicom

    words = ("--output_dir", tmp_path, "--model_file", trained[0] / "model.pt", "--keep_decoded")
    outcome = run_module(
        "monai.bundle", "run", "--config_file", INFERENCE, "--dataset_dir", folder.parents[1] / "ct", *words
    )

    assert outcome.status == 0
    assert (tmp_path / "ct" / "segmentation.dcm").is_file()
    assert not (tmp_path / "ct" / "preview.dcm").exists()  # only where it is asked for
    for name in (*MASKS, "decoded"):
        first, second = read(folder / f"{name}.nii.gz"), read(tmp_path / "ct" / f"{name}.nii.gz")
        assert_same_grid(first.grid, second.grid, 0.0)
        np.testing.assert_array_equal(first.voxels, second.voxels)


def test_a_series_without_a_frame_of_reference_gives_masks_and_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_preview(monkeypatch)
    for path in write_ct_series(tmp_path / "ct", small_head(0).hu):
        dataset = pydicom.dcmread(path)
        del dataset.FrameOfReferenceUID
        dataset.save_as(path)
    model = untrained_model(tmp_path / "model.pt")

    outcome = run_module("scripts.complete", tmp_path / "ct", tmp_path / "out", "--model_file", model)

    reason = "slice 1 must have a FrameOfReferenceUID, none arrived; export the series again"
    warning = f"segmentation.dcm was not written: {reason}"
    assert (outcome.status, outcome.stderr) == (0, "")
    assert f"warning: {warning}\n" in outcome.stdout
    assert json.loads((tmp_path / "out" / "ct" / "report.json").read_text())["warnings"] == [warning]
    assert {"completed.nii.gz", "implant.nii.gz", "skull.nii.gz"} <= set(contents(tmp_path / "out" / "ct"))
    assert "segmentation.dcm" not in contents(tmp_path / "out" / "ct")
