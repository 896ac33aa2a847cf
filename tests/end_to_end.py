"""Made-up heads, models and datasets of no patient, and commands run in this process, for the tests of the whole."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import runpy
import subprocess
import sys
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from bundle.skull_implant.frame.vault_template import VaultTemplate
from bundle.skull_implant.model.network import SkullCompleter
from bundle.skull_implant.synthetic.synthetic_head import SyntheticHead, synthetic_head
from bundle.skull_implant.train.weights import save_weights
from bundle.skull_implant.volume import Grid, Volume, write_volume

ROOT = Path(__file__).resolve().parents[1]
SMOKE = [str(ROOT / "configs" / name) for name in ("train.yaml", "smoke.yaml")]
INFERENCE = ROOT / "configs" / "inference.yaml"
IDENTITY = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)


@dataclass(frozen=True)
class Outcome:
    """What a command left: exit status and what it said."""

    status: int
    stdout: str
    stderr: str


@cache
def small_head(seed: int = 0) -> SyntheticHead:
    """A head CT at 2 mm, 96 x 116 x 84 voxels, and its truth; a second or so."""
    return synthetic_head(seed, size=(96, 116, 84), spacing=(2.0, 2.0, 2.0), detail_mm=2.0)


def write_skullfix_layout(folder: Path, seeds: tuple[int, ...]) -> Path:
    """Complete skulls and implants as SkullFix has them, named 000, 001, ..."""
    for kind in ("complete_skull", "implant"):
        (folder / kind).mkdir(parents=True)
        for seed in seeds:
            write_volume(folder / kind / f"{seed:03d}.nrrd", getattr(small_head(seed), kind))
    return folder


def untrained_model(path: Path, spatial_size: tuple[int, int, int] = (32, 32, 32)) -> Path:
    """A completer with random weights that knows where a vault is, so that a case gets through to the end."""
    torch.manual_seed(0)
    network = SkullCompleter(spatial_size, (8, 16), (4, 4), latent_size=8)
    network.template_mm.copy_(torch.as_tensor(VaultTemplate.ellipsoid().radii_mm))
    save_weights(network, path)
    return path


def chest_ct() -> Volume:
    """HU of an elliptic trunk with two lungs, a spine, a breastbone and ribs that slope down to the front."""
    size, spacing = (133, 100, 120), (3.0, 3.0, 3.0)
    x, y, z = np.meshgrid(*(3.0 * (np.arange(count) - (count - 1) / 2) for count in size), indexing="ij")
    hu = np.where(np.hypot(x / 160.0, y / 105.0) < 1.0, 40.0, -1000.0)
    hu[(np.hypot((np.abs(x) - 75) / 55.0, y / 75.0) < 1.0) & (np.abs(z) < 130)] = -850.0
    ribs = (np.abs(np.hypot(x / 145.0, y / 90.0) - 1.0) < 0.05) & ((z - 0.5 * y) % 30.0 < 9.0)
    hu[ribs & (np.abs(z) < 160)] = 550.0
    hu[(np.hypot(x, y - 75) < 18) | ((np.abs(x) < 18) & (np.abs(y + 90) < 6) & (z < 100))] = 500.0
    hu += np.random.default_rng(0).normal(0.0, 15.0, size)
    return Volume(np.rint(hu).astype(np.int16), Grid(size, spacing, (-200.0, -150.0, -900.0), IDENTITY))


def box_of_noise() -> Volume:
    """HU like bone's in a box as large as a head, in air."""
    hu = np.full((90, 110, 90), -1000.0)
    hu[10:80, 10:100, 5:85] = np.random.default_rng(0).normal(600.0, 500.0, (70, 90, 80))
    return Volume(np.rint(hu).astype(np.int16), Grid(hu.shape, (2.0, 2.0, 2.0), (0.0, 0.0, 0.0), IDENTITY))


def write_voxels(path: Path, voxels: np.ndarray, spacing: tuple[float, float, float] = (2.0, 2.0, 2.0)) -> Path:
    """An image file on an axis-aligned grid."""
    write_volume(path, Volume(voxels, Grid(voxels.shape, spacing, (0.0, 0.0, 0.0), IDENTITY)))
    return path


def run_module(name: str, *words: object) -> Outcome:
    """`python -m NAME WORDS...` in this process, which saves the imports; warnings are errors but in MONAI itself."""
    out, err, before = io.StringIO(), io.StringIO(), sys.argv
    sys.argv = [name, *map(str, words)]
    imported = sys.modules.pop(name, None) if name.startswith("scripts.") else None  # runpy warns of it
    try:
        with (
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
            _logging_restored(),
            warnings.catch_warnings(),
        ):
            if name.startswith("monai"):
                warnings.simplefilter("ignore")
            runpy.run_module(name, run_name="__main__", alter_sys=True)
        status: object = 0
    except SystemExit as stop:
        status = stop.code or 0
    finally:
        sys.argv = before
        if imported is not None:
            sys.modules[name] = imported
    assert isinstance(status, int)
    return Outcome(status, out.getvalue(), err.getvalue())


def without_preview(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draw no picture, which is most of a small case's time."""
    monkeypatch.setattr("bundle.skull_implant.output.writing.render_preview", lambda *_, **__: None)


@contextlib.contextmanager
def _logging_restored() -> Iterator[None]:
    """No handlers yet, as in a new process; and what MONAI's logging.conf replaces and silences is put back."""
    root = logging.getLogger()
    handlers, level, root.handlers = root.handlers, root.level, []
    loggers = [each for each in logging.Logger.manager.loggerDict.values() if isinstance(each, logging.Logger)]
    states = [(each, each.disabled, each.level, each.propagate, list(each.handlers)) for each in loggers]
    try:
        yield
    finally:
        root.handlers, root.level = handlers, level
        for each, disabled, each_level, propagate, each_handlers in states:
            each.disabled, each.propagate, each.handlers = disabled, propagate, each_handlers
            each.setLevel(each_level)


def command(*words: object) -> Outcome:
    """A real process, as a user starts it."""
    done = subprocess.run(
        [sys.executable, *map(str, words)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=250,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=False,
    )
    return Outcome(done.returncode, done.stdout, done.stderr)


def read(path: Path) -> Volume:
    """A volume file as ITK reads it."""
    return Volume.from_image(sitk.ReadImage(str(path)))


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
