"""The study of stage-2 codes trains one decoder a code, from the same start, and tells when each was good enough."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
import torch

from bundle.skull_implant.train.code_study import CODES, CodeStudy, raw_code, sampled_code, standardized_code
from bundle.skull_implant.train.losses import SkullDiceLoss
from bundle.skull_implant.train.training_data import SkullBatches, SkullDataset
from tests.small_models import BOX, small_dataset, small_images, small_network


def test_the_codes_are_what_they_are_called() -> None:
    network, images = small_network(), small_images()
    mean, log_variance = network.encoder(images)
    torch.manual_seed(0)
    noise = torch.randn_like(mean)
    torch.manual_seed(0)

    torch.testing.assert_close(raw_code(network, images), mean + torch.exp(log_variance / 2))
    torch.testing.assert_close(standardized_code(network, images), (mean - network.latent_mean) / network.latent_std)
    torch.testing.assert_close(sampled_code(network, images), mean + noise * torch.exp(log_variance / 2))


def test_a_study_writes_every_score_and_leaves_the_network_as_it_was(tmp_path: Path) -> None:
    folder = small_dataset(tmp_path / "dataset").folder
    batches = {
        part: SkullBatches(SkullDataset(str(folder), part, BOX.spatial_size), 4) for part in ("training", "validation")
    }
    network = small_network()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    study = CodeStudy(batches["training"], batches, SkullDiceLoss(), epochs=3, learning_rate=1e-3, interval=2)

    table = study.run(network, tmp_path, torch.device("cpu"))

    with (tmp_path / "codes.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["code"], row["epoch"]) for row in rows] == [(code, str(epoch)) for epoch in (2, 3) for code in CODES]
    assert (tmp_path / "codes.md").read_text() == table + "\n"
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


@pytest.mark.parametrize(("level", "first"), [(0.3, "5"), (0.5, "10"), (0.9, "-")])
def test_the_table_tells_the_first_scored_epoch_at_a_level(level: float, first: str) -> None:
    study = CodeStudy(None, {"training": None}, SkullDiceLoss(), 15, 1e-3, levels=(level,))  # type: ignore[arg-type, dict-item]
    rows: list[dict[str, float | str]] = [
        {"code": name, "epoch": epoch, "training": score}
        for epoch, score in ((5, 0.4), (10, 0.6), (15, 0.55))
        for name in CODES
    ]

    assert study.table(rows).splitlines()[2] == f"| mu + sigma | training | {first} | 0.550 |"
