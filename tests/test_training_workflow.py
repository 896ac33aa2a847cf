"""Training by the real command and in this process: files, resuming, and the same numbers again."""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ignite.engine import Engine, Events
from monai.bundle import ConfigWorkflow

from bundle.skull_implant.model.network import SkullCompleter
from bundle.skull_implant.train.training import ProgressLine, ResumableCheckpoint
from tests.end_to_end import (
    ROOT,
    SMOKE,
    Outcome,
    contents,
    run_module,
)


def epochs(path: Path) -> list[int]:
    with path.open() as file:
        return [int(row["epoch"]) for row in csv.DictReader(file)]


def train(
    dataset_dir: Path, folder: Path, configs: Sequence[str] = SMOKE, run_id: str = "training", **overrides: Any
) -> dict[str, torch.Tensor]:
    """A smoke run in this process; the weights it wrote."""
    workflow = ConfigWorkflow(
        list(configs),
        run_id=run_id,
        logging_file=False,
        dataset_dir=str(dataset_dir),
        output_dir=str(folder),
        model_file=str(folder / "model.pt"),
        device=torch.device("cpu"),
        **overrides,
    )
    workflow.initialize()
    workflow.run()
    return dict(torch.load(folder / "model.pt", weights_only=True))


def interrupted(dataset_dir: Path, folder: Path, after: int, monkeypatch: pytest.MonkeyPatch, **overrides: Any) -> None:
    """A smoke run that ends right after its checkpoint number `after` was written."""
    original, saved = ResumableCheckpoint.save, []

    def save_and_stop(self: ResumableCheckpoint, engine: Any) -> None:
        original(self, engine)
        saved.append(self.path.name)
        if len(saved) == after:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(ResumableCheckpoint, "save", save_and_stop)
        with pytest.raises(KeyboardInterrupt):
            train(dataset_dir, folder, **overrides)


def test_the_training_command_writes_weights_curves_and_checkpoints(trained: tuple[Path, Outcome]) -> None:
    folder, outcome = trained

    assert outcome.status == 0, outcome.stderr
    events = [name for name in contents(folder) if "tfevents" in name]
    assert {Path(name).parent.as_posix() for name in events} == {"run/tensorboard/stage1", "run/tensorboard/stage2"}
    assert sorted(set(contents(folder)) - set(events)) == [
        "model.pt",
        "run/stage1.csv",
        "run/stage1.pt",
        "run/stage2.csv",
        "run/stage2.pt",
    ]
    for stage in (1, 2):
        assert epochs(folder / "run" / f"stage{stage}.csv") == [1, 2]
        assert f"stage {stage} epoch 2/2: dice" in outcome.stdout


def test_the_weights_hold_all_that_inference_needs(trained: tuple[Path, Outcome], tiny_dataset: Path) -> None:
    folder, _ = trained
    network = SkullCompleter.from_file(folder / "model.pt")
    template = json.loads((tiny_dataset / "dataset.json").read_text())["template"]["radii_mm"]

    assert network.box.spatial_size == (32, 32, 32)
    np.testing.assert_allclose(network.template.radii_mm, template)
    assert (network.latent_std > 0).all()
    assert not torch.equal(network.latent_std, torch.ones(8))
    assert network.dev.abs().sum() > 0
    torch.testing.assert_close(network.dev, network.centroids[:1] - network.centroids[1:])


def test_a_second_run_with_more_epochs_continues(tiny_dataset: Path, tmp_path: Path) -> None:
    first = train(tiny_dataset, tmp_path)
    second = train(tiny_dataset, tmp_path, stage2_epochs=3)

    assert epochs(tmp_path / "stage1.csv") == [1, 2]
    assert epochs(tmp_path / "stage2.csv") == [1, 2, 3]
    encoder = [name for name in first if name.startswith("encoder.")]
    assert all(torch.equal(first[name], second[name]) for name in encoder)
    assert not torch.equal(first["decoder.linear.weight"], second["decoder.linear.weight"])


def test_without_resume_a_second_run_starts_anew_and_gives_the_same(tiny_dataset: Path, tmp_path: Path) -> None:
    first = train(tiny_dataset, tmp_path)
    second = train(tiny_dataset, tmp_path, resume=False)

    assert epochs(tmp_path / "stage1.csv") == epochs(tmp_path / "stage2.csv") == [1, 2]
    assert_equal_weights(first, second)


def test_an_interrupted_and_resumed_run_equals_an_unbroken_one_bit_for_bit(
    tiny_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lengths = {"stage1_epochs": 3, "stage2_epochs": 3}
    unbroken = train(tiny_dataset, tmp_path / "unbroken", **lengths)
    broken = tmp_path / "broken"

    interrupted(tiny_dataset, broken, 2, monkeypatch, **lengths)
    assert epochs(broken / "stage1.csv") == [1, 2]
    interrupted(tiny_dataset, broken, 2, monkeypatch, **lengths)  # the last of stage 1, the first of stage 2
    assert not (broken / "model.pt").exists()
    resumed = train(tiny_dataset, broken, **lengths)

    assert epochs(broken / "stage1.csv") == epochs(broken / "stage2.csv") == [1, 2, 3]
    assert_equal_weights(unbroken, resumed)


def test_a_killed_run_loses_no_more_than_the_epoch_it_was_in(tiny_dataset: Path, tmp_path: Path) -> None:
    lengths = {"stage1_epochs": 8, "stage2_epochs": 1}
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}  # sums are only the same bits with as many threads

    def start(folder: Path) -> subprocess.Popen[bytes]:
        words = ["--config_file", str(SMOKE), "--dataset_dir", str(tiny_dataset), "--output_dir", str(folder)]
        words += ["--model_file", str(folder / "model.pt"), "--device", "$torch.device('cpu')"]
        words += [word for name, value in lengths.items() for word in (f"--{name}", str(value))]
        command = [sys.executable, "-m", "monai.bundle", "run", "training", *words]
        return subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )

    def weights(folder: Path) -> dict[str, torch.Tensor]:
        with start(folder) as process:
            assert process.wait(250) == 0
        return dict(torch.load(folder / "model.pt", weights_only=True))

    unbroken, broken = weights(tmp_path / "unbroken"), tmp_path / "broken"
    with start(broken) as process:
        curve = broken / "stage1.csv"
        while not (curve.exists() and curve.read_text().count("\n") > 3):  # a heading, and the third epoch begins
            assert process.poll() is None
            time.sleep(0.002)
        process.kill()
    known = epochs(curve)
    kept = int(torch.load(broken / "stage1.pt", weights_only=True)["epoch"])

    resumed = weights(broken)

    assert known[-1] - 1 <= kept <= known[-1]
    assert epochs(curve) == list(range(1, 9))
    assert_equal_weights(unbroken, resumed)


def test_a_curve_ends_before_the_epoch_that_is_run_again(tmp_path: Path) -> None:
    path = tmp_path / "stage1.csv"
    path.write_text("epoch,dice,kld,seconds,held_out_dsc\n1,5,,1,\n2,4,,1,\n3,9")
    engine = Engine(lambda engine, batch: {"dice": torch.tensor(1.0)})
    engine.add_event_handler(Events.STARTED, lambda engine: setattr(engine.state, "epoch", 1))
    ProgressLine("stage 1", path).attach(engine)

    engine.run([0], max_epochs=3)

    with path.open() as file:
        assert [(row["epoch"], row["dice"]) for row in csv.DictReader(file)] == [("1", "5"), ("2", "1.0"), ("3", "1.0")]


@pytest.mark.parametrize(
    ("changed", "named"),
    [({"beta": 0.0001}, "beta"), ({"seed": 1, "batch_size": 4}, "batch_size, seed"), ({"deformation": None}, "deform")],
    ids=str,
)
def test_a_checkpoint_does_not_go_on_with_other_settings(
    tiny_dataset: Path, tmp_path: Path, changed: dict[str, Any], named: str, capsys: pytest.CaptureFixture[str]
) -> None:
    lengths = {"stage1_epochs": 1, "stage2_epochs": 1}
    train(tiny_dataset, tmp_path, **lengths)
    before = (tmp_path / "model.pt").read_bytes()

    with pytest.raises(SystemExit):
        train(tiny_dataset, tmp_path, **lengths, **changed)

    line = capsys.readouterr().err.splitlines()[-1]
    assert f"stage1.pt: holds a training with other settings ({named}" in line
    assert line.endswith("differ); name another output_dir or pass --resume False")
    assert (tmp_path / "model.pt").read_bytes() == before


def test_a_longer_stage_1_begins_stage_2_anew(tiny_dataset: Path, tmp_path: Path) -> None:
    first = train(tiny_dataset, tmp_path / "run", stage2_epochs=1)
    longer = train(tiny_dataset, tmp_path / "run", stage1_epochs=3, stage2_epochs=1)
    stage1 = torch.load(tmp_path / "run" / "stage1.pt", weights_only=True)["network"]

    assert epochs(tmp_path / "run" / "stage2.csv") == [1]
    assert not torch.equal(first["encoder.mean.weight"], longer["encoder.mean.weight"])
    assert any(torch.equal(longer["encoder.mean.weight"], value) for value in stage1.values())


def test_a_checkpoint_of_an_earlier_version_goes_on(tiny_dataset: Path, tmp_path: Path) -> None:
    train(tiny_dataset, tmp_path, stage1_epochs=1, stage2_epochs=1)
    for path in tmp_path.glob("stage?.pt"):
        content = torch.load(path, weights_only=True)
        del content["settings"]
        torch.save(content, path)

    train(tiny_dataset, tmp_path, stage1_epochs=1, stage2_epochs=2, seed=1)

    assert epochs(tmp_path / "stage2.csv") == [1, 2]


def test_a_device_may_be_a_text(tiny_dataset: Path, tmp_path: Path) -> None:
    words = ("--dataset_dir", tiny_dataset, "--output_dir", tmp_path, "--model_file", tmp_path / "model.pt")
    lengths = ("--stage1_epochs", 1, "--stage2_epochs", 1)

    done = run_module("monai.bundle", "run", "training", "--config_file", SMOKE, *words, *lengths, "--device", "auto")

    assert (done.status, (tmp_path / "model.pt").is_file()) == (0, True), done.stderr


def test_another_seed_gives_other_weights(tiny_dataset: Path, tmp_path: Path) -> None:
    lengths = {"stage1_epochs": 1, "stage2_epochs": 1}
    first = train(tiny_dataset, tmp_path / "0", **lengths)
    second = train(tiny_dataset, tmp_path / "1", seed=1, **lengths)

    assert not torch.equal(first["encoder.mean.weight"], second["encoder.mean.weight"])


def test_the_paper_as_published_runs_and_stops_where_it_was_told(tiny_dataset: Path, tmp_path: Path) -> None:
    configs = [SMOKE[0], str(ROOT / "configs" / "as_published.yaml"), SMOKE[1]]
    train(tiny_dataset, tmp_path, configs, stage2_epochs=1)
    network = SkullCompleter.from_file(tmp_path / "model.pt")

    assert epochs(tmp_path / "stage1.csv") == [1, 2]
    assert not network.dev_slope.any()
    assert network.dev.any()
    rates = [
        torch.load(tmp_path / f"stage{stage}.pt", weights_only=True)["optimizer"]["param_groups"][0]["lr"]
        for stage in (1, 2)
    ]
    assert rates == [1e-4, 1e-4]


def assert_equal_weights(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> None:
    assert list(first) == list(second)
    assert [name for name in first if not torch.equal(first[name], second[name])] == []


def test_stage_2_may_go_on_from_the_decoder_of_stage_1(tiny_dataset: Path, tmp_path: Path) -> None:
    anew = train(tiny_dataset, tmp_path / "anew")
    warm = train(tiny_dataset, tmp_path / "warm", warm_decoder=True)

    def first_loss(folder: str) -> float:
        with (tmp_path / folder / "stage2.csv").open() as file:
            return float(next(csv.DictReader(file))["dice"])

    assert torch.equal(anew["encoder.mean.weight"], warm["encoder.mean.weight"])
    assert first_loss("warm") < first_loss("anew")


def test_finetuning_changes_the_decoder_and_the_statistics_of_a_model_alone(
    tiny_dataset: Path, trained: tuple[Path, Outcome], tmp_path: Path
) -> None:
    start = trained[0] / "model.pt"
    before = dict(torch.load(start, weights_only=True))

    after = train(
        tiny_dataset,
        tmp_path,
        (*SMOKE, "configs/finetune.yaml"),
        "finetuning",
        start_model=str(start),
        stage2_epochs=1,
    )

    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert {name.split(".")[0] for name in changed} <= {
        "decoder",
        "centroids",
        "dev",
        "dev_slope",
        "class_weight",
        "class_bias",
    }
    assert "decoder.linear.weight" in changed
    assert not any(name.startswith("latent") for name in changed)
    assert SkullCompleter.from_file(tmp_path / "model.pt").box.spatial_size == (32, 32, 32)
    assert not (tmp_path / "stage1.csv").exists()


@pytest.mark.parametrize("changed", ["start_model", "dataset"])
def test_finetuning_does_not_go_on_with_another_model_or_other_skulls(
    tiny_dataset: Path,
    trained: tuple[Path, Outcome],
    tmp_path: Path,
    changed: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    starts = [trained[0] / "model.pt", tmp_path / "other.pt"]
    state = torch.load(starts[0], weights_only=True)
    torch.save({**state, "decoder.linear.weight": 0.5 * state["decoder.linear.weight"]}, starts[1])
    datasets = [tiny_dataset, tmp_path / "fewer"]
    shutil.copytree(tiny_dataset, datasets[1])
    content = json.loads((tiny_dataset / "dataset.json").read_text())
    (datasets[1] / "dataset.json").write_text(json.dumps({**content, "training": content["training"][:-1]}))

    def finetune(start: Path, dataset: Path) -> None:
        configs = (*SMOKE, "configs/finetune.yaml")
        train(dataset, tmp_path / "run", configs, "finetuning", start_model=str(start), stage2_epochs=1)

    finetune(starts[0], datasets[0])
    with pytest.raises(SystemExit):
        finetune(starts[changed == "start_model"], datasets[changed == "dataset"])

    assert f"stage2.pt: holds a training with other settings ({changed} differ)" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("overlay", "entry", "words", "message"),
    [
        ("compact", "training", (), "nowhere: dataset_dir must hold a dataset.json that scripts.prepare wrote; run"),
        ("finetune", "finetuning", (), "nowhere: dataset_dir must hold a dataset.json that"),
        ("facial", "facial_training", ("--start_model", "no.pt"), "no.pt: model_file must exist"),
        ("holes", "hole_training", ("--start_model", "no.pt"), "no.pt: model_file must exist"),
        ("compact", "training", ("--stage1_epochs", "0"), "stage1_epochs must be a whole number of 1 or more, got 0"),
        ("compact", "training", ("--stage2_epochs", "1.5"), "stage2_epochs must be a whole number of 1 or more, got"),
        ("facial", "facial_training", ("--facial_epochs", "0"), "facial_epochs must be a whole number of 1 or more"),
        ("compact", "training", ("--batch_size", "0"), "batch_size must be a whole number of 1 or more, got 0"),
        ("compact", "training", ("--device", "gpu"), "device must be auto, cpu or cuda, got 'gpu'"),
        ("evaluate", "evaluating", ("--device", "gpu"), "device must be auto, cpu or cuda, got 'gpu'"),
        ("evaluate", "evaluating", ("--source_dir", "no"), "no: SOURCE must hold volume files"),
        ("evaluate", "drawing", ("--seed", "1"), "scores.csv"),
        ("compact", "training", ("--validation_interval", "0"), "validation_interval must be a whole number of 1 or"),
        ("unet", "training_unet", ("--edge_samples", "0"), "edge_samples must be a whole number of 1 or more, got 0"),
        ("facial", "facial_training", ("--facial_sites", "['chin']"), "sites must be some of frontal_right, "),
    ],
)
def test_what_a_training_lacks_is_said_in_one_line_before_any_work(
    tiny_dataset: Path, tmp_path: Path, overlay: str, entry: str, words: tuple[str, ...], message: str
) -> None:
    config = f"['configs/train.yaml','configs/compact.yaml','configs/{overlay}.yaml']"
    dataset = str(tiny_dataset) if words else "nowhere"
    paths = ("--dataset_dir", dataset, "--output_dir", str(tmp_path / "run"))

    done = run_module("monai.bundle", "run", entry, "--config_file", config, *paths, *words)

    assert done.status == 1
    assert message in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "run").exists()
