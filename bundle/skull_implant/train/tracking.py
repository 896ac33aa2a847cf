"""Where the numbers of a training go besides its CSV files: TensorBoard event files, and an MLflow database if wanted.

`python -m monai.bundle run ... --tracking mlflow` is MONAI's own flag. What it does: it puts a path (or None) into the
key `save_execute_config`, which is `true` else, and appends an `MLFlowHandler` to `train#handlers`, unless
`is_not_rank0` holds. That handler would read the loss in every step, so that each one waits for the device, and knows
only one of the two stages; :class:`Tracker` stands in for it.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

from ignite.engine import Engine, Events
from monai.handlers import MLFlowHandler, TensorBoardStatsHandler

from bundle.skull_implant.errors import InputError
from bundle.skull_implant.train import processes


class Tracker:
    """Logs what :class:`ProgressLine` leaves in `engine.state.metrics`, once an epoch and never within one.

    Args:
        stage: name of the run.
        output_dir: of the training.
        tensorboard: write event files to `output_dir/tensorboard/<stage>`.
        mlflow: write a run named after the stage, in the experiment "skull_implant", to `output_dir/mlruns.db`, or to
            where `MLFLOW_TRACKING_URI` says.
    """

    def __init__(self, stage: str, output_dir: str | Path, tensorboard: bool = True, mlflow: bool = False) -> None:
        self.stage = stage
        self.output_dir = Path(output_dir).absolute()
        self.tensorboard = tensorboard
        self.mlflow = mlflow
        self.started = False

    def attach(self, engine: Engine) -> None:
        """Register with a trainer, after the progress line; a stage that has no epoch left writes nothing.

        Of several processes the first one writes.
        """
        if not processes.is_first():
            return
        engine.add_event_handler(Events.EPOCH_STARTED, self._start)

    def _start(self, engine: Engine) -> None:
        if self.started:
            return
        self.started = True
        self.output_dir.mkdir(parents=True, exist_ok=True)
        if self.tensorboard:
            log_dir = str(self.output_dir / "tensorboard" / self.stage)
            handler = TensorBoardStatsHandler(log_dir=log_dir, iteration_log=False)
            handler.attach(engine)
            engine.add_event_handler(Events.COMPLETED, handler.close)
        if self.mlflow:
            handler = MLFlowHandler(
                tracking_uri=f"sqlite:///{self.output_dir / 'mlruns.db'}",
                iteration_log=False,
                experiment_name="skull_implant",
                run_name=self.stage,
                close_on_complete=True,
            )
            handler.start(engine)  # its own event, the trainer's start, has passed
            handler.attach(engine)


def wants_mlflow(save_execute_config: bool | str | None) -> bool:
    """Whether MONAI was called with `--tracking`: it replaces the key's `true` then."""
    return save_execute_config is not True


def check_tracking(save_execute_config: bool | str | None) -> None:
    """Raise InputError where MLflow, which is optional, is wanted and not installed."""
    if wants_mlflow(save_execute_config):
        check_mlflow()


def check_mlflow() -> None:
    """Raise InputError if MLflow is not installed."""
    if importlib.util.find_spec("mlflow") is None:
        raise InputError(
            "tracking with mlflow must find the package mlflow, it is not installed; `pip install mlflow`, or leave "
            "--tracking out: TensorBoard files are written without it"
        )
