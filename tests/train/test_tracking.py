"""What is tracked is what the CSV file says, once an epoch; what cannot be tracked is refused before any work."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest
import torch
from ignite.engine import Engine, Events
from monai.bundle import ConfigWorkflow
from monai.handlers import MLFlowHandler

from bundle.skull_implant.train import tracking
from bundle.skull_implant.train.tracking import Tracker
from bundle.skull_implant.train.training import ProgressLine
from tests.end_to_end import ROOT, SMOKE, run_module


def train(folder: Path, kind: str = "", epochs: int = 3, first: int = 0) -> Engine:
    """A trainer whose loss is the number of the step, 2 steps an epoch; held-out scores at every second epoch."""
    engine = Engine(lambda engine, batch: {"dice": torch.tensor(float(engine.state.iteration))})
    ProgressLine("stage 1", folder / "stage1.csv", held_out=lambda: 0.5, interval=2).attach(engine)
    Tracker("stage1", folder, tensorboard=kind == "tensorboard", mlflow=kind == "mlflow").attach(engine)

    def resume(engine: Engine) -> None:
        engine.state.epoch, engine.state.iteration = first, first * 2

    engine.add_event_handler(Events.STARTED, resume)
    engine.run([0, 1], max_epochs=epochs)
    return engine


def events(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Steps and values of each number in TensorBoard's files."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    log = EventAccumulator(str(folder / "tensorboard" / "stage1"))
    log.Reload()
    return {tag: [(each.step, each.value) for each in log.Scalars(tag)] for tag in log.Tags()["scalars"]}


def test_tensorboard_has_the_means_of_each_epoch_and_no_step(tmp_path: Path) -> None:
    train(tmp_path, "tensorboard")

    logged = events(tmp_path)

    assert logged["dice"] == [(1, 1.5), (2, 3.5), (3, 5.5)]
    assert logged["held_out_dsc"] == [(2, 0.5), (3, 0.5)]  # none of epoch 1, and no old one again
    assert set(logged) == {"dice", "seconds", "held_out_dsc"}


def test_a_resumed_training_goes_on_in_the_same_folder_and_a_finished_one_adds_nothing(tmp_path: Path) -> None:
    train(tmp_path, "tensorboard", epochs=2)
    train(tmp_path, "tensorboard", epochs=3, first=2)
    before = sorted(tmp_path.rglob("*"))

    train(tmp_path, "tensorboard", epochs=3, first=3)

    assert sorted(tmp_path.rglob("*")) == before
    assert [step for step, _ in events(tmp_path)["dice"]] == [1, 2, 3]


def test_none_writes_nothing(tmp_path: Path) -> None:
    train(tmp_path)

    assert [path.name for path in tmp_path.iterdir()] == ["stage1.csv"]


def test_mlflow_gets_one_run_a_stage_in_a_database_beside_the_checkpoints(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[dict[str, Any]] = []
    calls: list[Any] = []

    class Recorder:
        def __init__(self, **settings: Any) -> None:
            made.append(settings)

        def start(self, engine: Engine) -> None:
            calls.append("start")

        def attach(self, engine: Engine) -> None:
            engine.add_event_handler(Events.EPOCH_COMPLETED, lambda engine: calls.append(engine.state.metrics["dice"]))

    monkeypatch.setattr(tracking, "MLFlowHandler", Recorder)
    train(tmp_path, "mlflow")

    assert len(made) == 1
    assert made[0]["tracking_uri"] == f"sqlite:///{tmp_path / 'mlruns.db'}"
    assert made[0]["run_name"] == "stage1"
    assert made[0]["iteration_log"] is False
    assert calls == ["start", 1.5, 3.5, 5.5]


@pytest.mark.filterwarnings("ignore")
def test_a_real_mlflow_database_holds_the_epochs(tmp_path: Path) -> None:
    mlflow = pytest.importorskip("mlflow", reason="mlflow is optional and not installed")
    train(tmp_path, "mlflow")

    client = mlflow.MlflowClient(f"sqlite:///{tmp_path / 'mlruns.db'}")
    (run,) = client.search_runs([client.get_experiment_by_name("skull_implant").experiment_id])
    assert run.info.run_name == "stage1"
    assert run.info.status == "FINISHED"
    assert [each.value for each in client.get_metric_history(run.info.run_id, "dice")] == [1.5, 3.5, 5.5]


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_monais_own_flag_turns_mlflow_on_for_both_stages_and_its_own_handler_off(
    tiny_dataset: Path, tmp_path: Path
) -> None:
    trackers = {}
    for flag in (None, "mlflow"):
        workflow = ConfigWorkflow(
            SMOKE,
            "training",
            logging_file=False,
            tracking=flag,
            dataset_dir=str(tiny_dataset),
            output_dir=str(tmp_path),
        )
        workflow.initialize()
        handlers = [workflow.parser.get_parsed_content(f"{stage}#handlers") for stage in ("stage1", "train")]
        trackers[flag] = [each for stage in handlers for each in stage if isinstance(each, Tracker)]
        assert not any(isinstance(each, MLFlowHandler) for stage in handlers for each in stage)

    assert [(each.stage, each.mlflow) for each in trackers[None]] == [("stage1", False), ("stage2", False)]
    assert [(each.stage, each.mlflow) for each in trackers["mlflow"]] == [("stage1", True), ("stage2", True)]
    assert all(each.tensorboard for each in trackers["mlflow"])


def test_without_mlflow_training_ends_with_one_line_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *more: None if name == "mlflow" else find(name, *more)
    )
    words = ("run", "training", "--config_file", str(ROOT / "configs" / "train.yaml"), "--tracking", "mlflow")

    outcome = run_module("monai.bundle", *words, "--output_dir", tmp_path / "run", "--dataset_dir", tmp_path)

    assert outcome.status == 1
    assert outcome.stderr.splitlines()[-1] == (
        "tracking with mlflow must find the package mlflow, it is not installed; `pip install mlflow`, or leave "
        "--tracking out: TensorBoard files are written without it"
    )
    assert [path.name.partition("_")[0] for path in (tmp_path / "run").iterdir()] == ["config"]  # MONAI's, of itself
