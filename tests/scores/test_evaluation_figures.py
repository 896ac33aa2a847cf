"""The figures of the latent space, and all of an evaluation's together."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from bundle.skull_implant.errors import InputError
from bundle.skull_implant.model.inferers import CompletionInferer
from bundle.skull_implant.scores import latent_figures
from bundle.skull_implant.scores.evaluation_figures import EvaluationFigures
from bundle.skull_implant.scores.latent_figures import ClassCodes, gamma_sweep, plot_gamma_sweep, plot_latents
from bundle.skull_implant.scores.score_table import SkullScore, write_csv
from bundle.skull_implant.scores.scoring_protocol import Protocol
from bundle.skull_implant.train.weights import save_weights
from tests.end_to_end import ROOT, run_module, untrained_model
from tests.made_up_scores import GOOD
from tests.small_models import BOX, small_dataset, small_images, small_network


@pytest.fixture(scope="module")
def protocol(tmp_path_factory: pytest.TempPathFactory) -> Protocol:
    folder = tmp_path_factory.mktemp("figures")
    small_dataset(folder / "dataset")
    save_weights(small_network(), folder / "model.pt")
    save_weights(small_network(1), folder / "other.pt")
    model = str(folder / "model.pt")
    methods = {"plain": (model, 1.0, 0, False), "fitted": (model, 1.0, 30, False)}
    return Protocol(methods, str(folder / "dataset"), {"other": (str(folder / "other.pt"), 1.0, 0, False)})


@pytest.fixture
def scored(tmp_path: Path) -> Path:
    write_csv(tmp_path / "scores.csv", [GOOD])
    write_csv(tmp_path / "skulls.csv", [SkullScore("validation", "008", "VAE", "REC cranial", 0.8)])
    return tmp_path


def test_the_sweep_decodes_what_the_inferer_decodes() -> None:
    network, image = small_network(), small_images(1)

    swept = gamma_sweep(network, image[0, 0].numpy(), "facial", [0.0, 0.5, 5.0])

    for gamma, volume in zip((0.0, 0.5, 5.0), swept, strict=True):
        wanted = CompletionInferer(gamma, "facial")(image, network)["pred"][0, 0]
        torch.testing.assert_close(torch.from_numpy(volume), wanted)


def test_the_arrows_lead_from_the_defective_centroids_to_the_complete_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved = []
    monkeypatch.setattr(latent_figures, "save_figure", lambda figure, _: saved.append(figure))
    generator = np.random.default_rng(0)
    kinds = np.repeat([0, 1, 2], 30)
    shift = np.zeros((90, 5))
    shift[kinds == 1, 0], shift[kinds == 2, 1] = 20.0, 15.0  # a plane: the first two components hold it
    training = ClassCodes(generator.normal(size=(90, 5)) + shift, kinds, 30)
    validation = ClassCodes(training.codes[::30], kinds[::30], 1)

    plot_latents({"model": (training, validation)}, tmp_path / "a.png")

    (axis,) = saved[0].axes
    complete, cranial, facial = axis.collections[-1].get_offsets()
    assert np.linalg.norm(complete - cranial) == pytest.approx(20.0, abs=1.0)
    assert np.linalg.norm(complete - facial) == pytest.approx(15.0, abs=1.0)
    assert [tuple(arrow.xy) for arrow in axis.texts] == [tuple(complete)] * 2
    np.testing.assert_allclose([arrow.xyann for arrow in axis.texts], [cranial, facial])
    assert axis.get_title() == "model: 30 training, 1 validation persons"


def test_the_sweep_shows_slices_through_the_missing_piece_in_mm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved = []
    monkeypatch.setattr(latent_figures, "save_figure", lambda figure, _: saved.append(figure))
    piece = np.zeros(BOX.spatial_size, np.float32)
    piece[10:13, 4:7, 8:11] = 1.0
    decoded = np.stack([np.full_like(piece, 0.25), np.full_like(piece, 0.75)])

    plot_gamma_sweep(1 - piece, piece, decoded, [0.0, 1.0], BOX, "a title", tmp_path / "a.png")

    grid = np.reshape(saved[0].axes, (3, 3))
    assert [axis.get_title() for axis in grid[0]] == ["input", r"$\gamma$ = 0", r"$\gamma$ = 1"]
    axial, coronal, sagittal = (axis.images[0] for axis in grid[:, 0])
    np.testing.assert_array_equal(axial.get_array(), (1 - piece)[:, :, 9].T)
    np.testing.assert_array_equal(coronal.get_array(), (1 - piece)[:, 5].T)
    np.testing.assert_array_equal(sagittal.get_array(), (1 - piece)[11].T)
    assert float(grid[2, 2].images[0].get_array().max()) == 0.75
    np.testing.assert_allclose(axial.get_extent(), [-88, 88, -112, 112])
    np.testing.assert_allclose(sagittal.get_extent(), [-112, 112, -154, 6])
    assert grid[0, 0].xaxis_inverted()  # the patient's right on the left
    assert not grid[2, 0].xaxis_inverted()


def test_all_figures_of_an_evaluation_are_drawn(protocol: Protocol, scored: Path) -> None:
    (scored / "stage1.csv").write_text("epoch,dice,kld,seconds,held_out_dsc\n1,40.0,90.0,1.0,0.4\n")

    paths = EvaluationFigures(protocol, [str(scored)], gammas=[0.0, 1.0]).draw(str(scored))

    assert sorted(path.name for path in paths) == [
        "box_plots_validation.png",
        "gamma_cranial.png",
        "gamma_facial.png",
        "latents.png",
        "skull_box_plots_validation.png",
        "training_curves.png",
    ]
    for path in paths:
        with Image.open(path) as image:
            assert np.asarray(image).std() > 10


def test_a_person_who_is_not_there_is_refused(protocol: Protocol, scored: Path) -> None:
    with pytest.raises(InputError, match=r"gamma_person must be one of the validation persons \(004, ...\), got 'x'"):
        EvaluationFigures(protocol, gamma_person="x").draw(str(scored))


def test_a_folder_without_scores_is_refused(protocol: Protocol, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"scores.csv: must hold scores \(No such file or directory\)"):
        EvaluationFigures(protocol).draw(str(tmp_path))


@pytest.mark.slow
def test_the_evaluating_command_writes_tables_and_figures(tiny_dataset: Path, tmp_path: Path) -> None:
    model = untrained_model(tmp_path / "model.pt")
    configs = [str(ROOT / "configs" / name) for name in ("train.yaml", "evaluate.yaml")]

    outcome = run_module(
        "monai.bundle", "run", "evaluating", "--config_file", configs, "--dataset_dir", tiny_dataset,
        "--source_dir", tiny_dataset.parent / "source", "--output_dir", tmp_path / "out", "--model_file", model,
        "--training_persons", "1", "--workers", "1", "--gammas", "[0.0,1.0]",
    )  # fmt: skip

    assert outcome.status == 0, outcome.stderr
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "box_plots_training.png",
        "box_plots_validation.png",
        "gamma_cranial.png",
        "gamma_facial.png",
        "latents.png",
        "protocol.json",
        "scores.csv",
        "sites.csv",
        "skull_box_plots_training.png",
        "skull_box_plots_validation.png",
        "skulls.csv",
        "table.md",
    ]
