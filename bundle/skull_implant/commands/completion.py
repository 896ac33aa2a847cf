"""A case from input to result files, through `configs/inference.yaml`: every way of calling gives the same voxels."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine
from monai.bundle import ConfigParser
from monai.engines import IterationEvents

from bundle.skull_implant.errors import CaseRefused, InputError, as_input_error, exit_if_refused
from bundle.skull_implant.host_memory import keep_freed_memory
from bundle.skull_implant.model.network import SkullCompleter
from bundle.skull_implant.output.writing import CaseWriter
from bundle.skull_implant.steps.options import Options
from bundle.skull_implant.steps.transforms import timed
from bundle.skull_implant.surfaces.print_settings import PrintSettings

logger = logging.getLogger(__name__)


def complete_step(engine: Engine, batch: dict[str, Any]) -> dict[str, Any]:
    """One case through the inferer: MONAI's iteration update for cases that carry more than tensors.

    Args:
        engine: evaluator with `network` and `inferer`.
        batch: one case's dictionary, not collated; `image` is (1, X, Y, Z).

    Returns:
        The dictionary with the inferer's outputs under `pred`, without their batch axis, as MONAI Label's server has
        them there, and with what the postprocessing made of them.

    Raises:
        InputError: what the preprocessing found wrong with the case.
    """
    if "error" in batch:
        raise batch["error"]
    network: SkullCompleter = engine.network
    network.eval()
    image = batch["image"][None].to(engine.state.device)  # (1, X, Y, Z) -> (1, 1, X, Y, Z)
    with timed(batch, "decode"):
        outputs = engine.inferer(image, network)
    engine.state.output = {**batch, "pred": {key: value[0] for key, value in outputs.items()}}
    engine.fire_event(
        IterationEvents.MODEL_COMPLETED
    )  # runs the postprocessing, which may put its results in the batch
    return {**engine.state.batch, **engine.state.output}


def run_inference(evaluator: Engine, writer: CaseWriter) -> None:
    """Run an evaluator and turn expected errors into what a user can act on.

    Raises:
        InputError: bad input; a refused case's report has been written by then.
    """
    keep_freed_memory()  # a command's process ends soon; MONAI Label's server, which stays, does not come by here
    try:
        evaluator.run()
    except Exception as error:
        expected = as_input_error(error)
        if expected is None:
            raise
        if isinstance(expected, CaseRefused):
            writer.write_refused(expected)
        raise expected from error


def run_or_exit(evaluator: Engine, writer: CaseWriter) -> None:
    """The same for `python -m monai.bundle run`: one line on stderr and exit status 1."""
    exit_if_refused(run_inference, evaluator, writer)


def exit_on_bad_settings(model_file: str | Path, options: Options, device: str | torch.device) -> None:
    """One line on stderr and exit status 1, before MONAI builds anything and would wrap the error in its own."""
    exit_if_refused(_check_settings, model_file, options, device)


def _check_settings(model_file: str | Path, options: Options, device: str | torch.device) -> None:
    if options.problem is not None:
        raise options.problem
    choose_device(device)
    SkullCompleter.from_file(model_file)


def check_print(*values: Any) -> None:
    """The same for the values of :class:`PrintSettings`, in their order: exit status 1 if one cannot be meant."""
    exit_if_refused(PrintSettings, *values)


def complete(config_file: Path, **overrides: Any) -> list[Path]:
    """Run the inference config with some of its keys replaced.

    Args:
        config_file: `configs/inference.yaml`.
        overrides: top-level keys and their values.

    Returns:
        Folders of the results.

    Raises:
        InputError: bad input or settings.
    """
    parser = ConfigParser()
    parser.read_config(str(config_file))
    for key, value in overrides.items():
        parser[key] = as_it_is(key, value)
    parser.parse()
    try:
        writer = parser.get_parsed_content("writer")
        writer.check_targets()
        run_inference(parser.get_parsed_content("evaluator"), writer)
    except RuntimeError as error:  # MONAI wraps what a component raises
        expected = as_input_error(error)
        if expected is None:
            raise
        raise expected from error
    return list(writer.written)


def as_it_is(key: str, value: Any) -> Any:
    """An override that MONAI's parser leaves alone.

    In text it runs what begins with `$`, looks up what begins with `@` or `%`, and makes `::` of each `#`, also where a
    user's folder is called `Head #2`. Paths are handed over as such, which it does not look into.

    Args:
        key: of the config.
        value: that a user gave.

    Raises:
        InputError: text, other than a path, that it would not leave alone.
    """
    if not isinstance(value, str):
        return value
    if key in ("dataset_dir", "output_dir", "model_file"):
        return Path(value)
    if set(value) & set("$@%#"):
        raise InputError(f"{key} must be plain text without $, @, % and #, got {value!r}")
    return value


def choose_device(name: str | torch.device) -> torch.device:
    """A device by name; "auto" is the GPU where there is one.

    Raises:
        InputError: no such device here.
    """
    if str(name) == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise InputError(f"device must be auto, cpu or cuda, got {name!r}") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise InputError("device cuda must exist, PyTorch sees no GPU here; use --device cpu")
    return device
