"""Evaluations and the comparison: every method in the table, every failure counted, nothing scored twice."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import SimpleITK as sitk
import torch

from bundle.skull_implant.errors import CaseRefused, InputError
from bundle.skull_implant.frame.canonical_grid import CanonicalBox
from bundle.skull_implant.frame.vault_template import VaultTemplate
from bundle.skull_implant.model.implant_unet import ImplantUNet
from bundle.skull_implant.model.network import SkullCompleter
from bundle.skull_implant.scores import evaluation
from bundle.skull_implant.scores.evaluation import evaluate
from bundle.skull_implant.scores.score_table import SITES, read_scores, refused_scores, write_csv
from bundle.skull_implant.scores.scored_methods import methods_of
from bundle.skull_implant.scores.scoring_protocol import Protocol, person_jobs
from bundle.skull_implant.train.preparing import find_sources
from bundle.skull_implant.train.table_fitting import fit_table_model
from bundle.skull_implant.train.weights import save_weights
from scripts.compare import compare

BOX = CanonicalBox((32, 32, 32))
METHODS = [
    "nothing",
    "mean skull",
    "nearest skull",
    "mirror",
    "PCA shape model",
    "U-Net",
    "VAE beta 100, z + DEV (Li et al. 2022)",
    "VAE z",
    "VAE z + DEV",
    "VAE z + DEV, code fitted",
    "VAE z + DEV, code and rim fitted, no defect networks",
    "VAE z + DEV, code and rim fitted",
]


@pytest.fixture(scope="module")
def files(tiny_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Untrained networks that get through to the end, and a shape model of the made-up skulls."""
    folder = tmp_path_factory.mktemp("models")
    torch.manual_seed(0)
    network = SkullCompleter(BOX.spatial_size, (8, 16), (4, 4), latent_size=8, table_modes=2)
    network.template_mm.copy_(torch.as_tensor(VaultTemplate.ellipsoid().radii_mm))
    fit_table_model(network, str(tiny_dataset), defective=False, modes=2)
    save_weights(network, folder / "model.pt")
    save_weights(ImplantUNet(BOX.spatial_size, (4, 8, 8)), folder / "unet.pt")
    return {"source": tiny_dataset.parent / "source", "dataset": tiny_dataset, "folder": folder}


def one_method(files: dict[str, Path], **changes: Any) -> Protocol:
    model = str(files["folder"] / "model.pt")
    return Protocol(
        {"VAE": (model, 1.0, 0, False)}, str(files["dataset"]), **{"varied_holes": 0, "baselines": False} | changes
    )


def test_networks_run_on_the_device_that_is_asked_for(files: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    moved: list[tuple[str, object]] = []
    to = torch.nn.Module.to

    def noted(network: torch.nn.Module, where: Any = None, **others: Any) -> torch.nn.Module:
        moved.append((type(network).__name__, where))
        return network if where == "cuda:7" else to(network, **others)

    monkeypatch.setattr(torch.nn.Module, "to", noted)
    protocol = one_method(files, unet=str(files["folder"] / "unet.pt"), device="cuda:7")

    methods_of(protocol)

    assert {("SkullCompleter", "cuda:7"), ("ImplantUNet", "cuda:7")} <= set(moved)


@pytest.mark.slow
def test_the_comparison_has_every_method_for_every_defect(
    files: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = str(files["folder"] / "model.pt")

    compare(
        str(files["source"]), str(files["dataset"]), str(tmp_path), model, str(files["folder"] / "unet.pt"), model,
        varied_holes=1, fit_steps=1, workers=1,
    )  # fmt: skip

    scores = read_scores(tmp_path / "scores.csv")
    assert {score.person for score in scores} == {"001"}
    for defect in ("official", "varied", "facial", "none"):
        assert [score.method for score in scores if score.defect == defect] == METHODS
    assert all(score.failed for score in scores if (score.defect, score.method) == ("facial", "PCA shape model"))
    assert all(score.seconds > 0 and score.peak_gb > 0.1 for score in scores)
    assert {score.method for score in scores if score.status} == {METHODS[-1]}
    assert {score.status for score in scores if score.method == METHODS[-1]} == {"review"}  # of untrained networks
    assert all(score.reasons for score in scores if score.status)
    printed = capsys.readouterr().out
    assert all(f"| validation | official | {method} | 1 |" in printed for method in METHODS)
    assert f"| {SITES[0]} (1) |" in printed
    assert (tmp_path / "table.md").read_text().strip() in printed
    assert (tmp_path / "sites.csv").read_text().count("\n") == 1 + len(METHODS)


def test_without_peers_the_model_alone_is_scored(files: dict[str, Path], tmp_path: Path) -> None:
    model, unet = (str(files["folder"] / name) for name in ("model.pt", "unet.pt"))
    given = (str(files["source"]), str(files["dataset"]), str(tmp_path), model)

    compare(*given, peers=False, varied_holes=1, fit_steps=1, workers=1)

    assert [score.method for score in read_scores(tmp_path / "scores.csv")] == METHODS[-1:] * 4
    assert (tmp_path / "box_plots_validation.png").stat().st_size > 10_000
    with pytest.raises(InputError, match="--peers False scores the bundle's model alone; leave --unet"):
        compare(*given, unet, peers=False)


def test_a_run_that_was_stopped_scores_the_rest_alone(files: dict[str, Path], tmp_path: Path) -> None:
    protocol = one_method(files, persons={"validation": 0, "training": 1})
    evaluate(str(files["source"]), str(tmp_path), protocol, workers=1)
    whole = read_scores(tmp_path / "scores.csv")
    kept = [score for score in whole if score.part == "validation"]
    write_csv(tmp_path / "scores.csv", kept)

    evaluate(str(files["source"]), str(tmp_path), protocol, workers=1)

    again = read_scores(tmp_path / "scores.csv")
    assert repr(again[: len(kept)]) == repr(kept)  # seconds too: not scored again
    assert [repr(each.dsc) for each in again] == [repr(each.dsc) for each in whole]
    assert len(again) == len(whole) == 6


def test_an_official_implant_on_another_grid_is_refused(files: dict[str, Path], tmp_path: Path) -> None:
    shutil.copytree(files["source"], tmp_path / "source")
    path = str(tmp_path / "source" / "implant" / "001.nrrd")
    sitk.WriteImage(sitk.DICOMOrient(sitk.ReadImage(path), "RAS"), path)

    with pytest.raises(InputError, match="001: its implant must lie on the skull's grid, another arrived; resample it"):
        evaluate(str(tmp_path / "source"), str(tmp_path / "scores"), one_method(files), workers=1)


def test_methods_that_are_asked_for_later_are_scored_alone(files: dict[str, Path], tmp_path: Path) -> None:
    given = (str(files["source"]), str(tmp_path))
    evaluate(*given, one_method(files), workers=1)
    first, first_skulls = read_scores(tmp_path / "scores.csv"), (tmp_path / "skulls.csv").read_text().splitlines()
    model = str(files["folder"] / "model.pt")
    plain = one_method(files)
    more = replace(
        plain, models={"sooner": (model, 0.5, 0, False), **plain.models}, other_models={"later": (model, 0.0, 0, False)}
    )

    table = evaluate(*given, more, workers=1)

    scores = read_scores(tmp_path / "scores.csv")
    assert [score.method for score in scores] == ["sooner", "VAE", "later"] * len(first)  # in the protocol's order
    assert repr(scores[1::3]) == repr(first)  # seconds too: not scored again
    assert [(score.person, score.site) for score in scores[::3]] == [(score.person, score.site) for score in first]
    skulls = (tmp_path / "skulls.csv").read_text().splitlines()
    assert [line for line in skulls if ",VAE," in line] == first_skulls[1:]
    assert len(skulls) == 3 * len(first_skulls) - 2
    assert "| validation | official | later | 1 |" in table
    assert evaluate(*given, more, workers=1) == table
    with pytest.raises(
        InputError, match=r"scores.csv: holds scores of another protocol \(models, other_models differ\)"
    ):
        evaluate(*given, plain)


def test_a_protocol_may_gain_methods_and_parts_and_nothing_else(files: dict[str, Path]) -> None:
    unet = str(files["folder"] / "unet.pt")
    earlier = one_method(files, persons={"validation": 0}, whole_skulls=False)
    more = replace(earlier, unet=unet, baselines=True, shape_model=True, persons={"validation": 0, "training": 2})
    other = replace(more, persons={"validation": 1, "training": 2}, whole_skulls=True, varied_holes=1, seed=1)

    assert more.differs_from(earlier.fingerprint()) == []
    assert earlier.differs_from(more.fingerprint()) == ["persons", "baselines", "unet", "shape_model"]
    assert other.differs_from(more.fingerprint()) == ["varied_holes", "persons", "whole_skulls", "seed"]


def test_scores_of_another_version_are_not_mixed_in(files: dict[str, Path], tmp_path: Path) -> None:
    write_csv(tmp_path / "scores.csv", refused_scores("validation", "001", [("facial", "facial")], ["VAE"]))
    protocol = one_method(files)
    (tmp_path / "protocol.json").write_text(json.dumps(protocol.fingerprint() | {"version": "0.0.1"}))

    with pytest.raises(InputError, match=r"scores.csv: holds scores of another protocol \(version differ\)"):
        evaluate(str(files["source"]), str(tmp_path), protocol)


def test_scores_of_another_protocol_are_not_mixed_in(files: dict[str, Path], tmp_path: Path) -> None:
    write_csv(tmp_path / "scores.csv", refused_scores("validation", "001", [("facial", "facial")], ["VAE"]))

    with pytest.raises(InputError, match=r"scores.csv: holds scores of another protocol \(.*varied_holes.* differ\)"):
        evaluate(str(files["source"]), str(tmp_path), one_method(files))


def test_a_refused_skull_is_a_failure_of_every_method(
    files: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, case: str, **__: object) -> None:
        raise CaseRefused(case, ["no vault"])

    monkeypatch.setattr(evaluation, "estimate_frame", refuse)
    fitted = {"fitted": (str(files["folder"] / "model.pt"), 1.0, 0, True)}
    protocol = one_method(files, varied_holes=2, baselines=True, persons={"validation": 0}, other_models=fitted)

    tables = evaluate(str(files["source"]), str(tmp_path), protocol, workers=1)

    scores = read_scores(tmp_path / "scores.csv")
    assert [score.method for score in scores] == [*METHODS[:4], "VAE", "fitted"] * 5
    assert {(score.method, score.status, score.reasons) for score in scores if score.status} == {
        ("fitted", "refused", "no vault")
    }
    assert "| validation | varied | fitted | 2 | 0 | 0 | - | 2 | 0 |" in tables
    assert all(score.failed for score in scores)
    assert {score.dsc for score in scores if score.defect != "none"} == {0.0}


def test_sites_take_turns_over_the_persons(files: dict[str, Path]) -> None:
    sources = {source.name: source for source in find_sources(files["source"])}
    jobs = person_jobs(one_method(files, varied_holes=4, persons={"training": 0}), sources)

    assert [job.sites for job in jobs] == [SITES[:4], SITES[4:8], (*SITES[8:], *SITES[:2])]


def test_more_holes_than_sites_are_refused(files: dict[str, Path]) -> None:
    with pytest.raises(InputError, match="varied_holes must be 0 to 10 a person, one for each site, got 11"):
        one_method(files, varied_holes=11)


def test_a_fingerprint_knows_files_by_their_content(files: dict[str, Path], tmp_path: Path) -> None:
    copied = tmp_path / "elsewhere.pt"
    copied.write_bytes((files["folder"] / "model.pt").read_bytes())
    moved = Protocol(
        {"VAE": (str(copied), 1.0, 0, False)}, str(files["dataset"]), varied_holes=0, baselines=False
    ).fingerprint()

    assert moved == one_method(files).fingerprint()
    copied.write_bytes(b"trained on")
    assert one_method(files, other_models={"new": (str(copied), 1.0, 0, False)}).fingerprint() != moved


def test_a_model_without_a_shape_model_is_refused_before_any_work(files: dict[str, Path], tmp_path: Path) -> None:
    network = SkullCompleter(BOX.spatial_size, (8, 16), (4, 4), latent_size=8)
    save_weights(network, tmp_path / "old.pt")
    protocol = Protocol({"VAE": (str(tmp_path / "old.pt"), 1.0, 0, False)}, str(files["dataset"]), shape_model=True)

    with pytest.raises(InputError, match=r"old.pt: must hold a shape model to score it alone, has none"):
        evaluate(str(files["source"]), str(tmp_path / "out"), protocol)
    assert not (tmp_path / "out").exists()
