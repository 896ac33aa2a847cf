"""Training that MONAI Label's server starts: the decoder learns on from the skulls that a site has submitted."""

from __future__ import annotations

import logging
import shutil
import sys
import time
from collections.abc import KeysView, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import monai.bundle
import numpy as np
import torch
from monai.bundle import ConfigWorkflow
from torch.nn import functional

from bundle.skull_implant.commands.overrides import flags_of_run
from bundle.skull_implant.errors import InputError
from bundle.skull_implant.frame.canonical_grid import CanonicalBox
from bundle.skull_implant.model.network import DEFECT_CLASSES, SkullCompleter
from bundle.skull_implant.slicer.site_weights import WEIGHTS, keep_old, read_record, write_record
from bundle.skull_implant.slicer.submitted_labels import SubmittedSkull, refuse_hole, submitted_skulls
from bundle.skull_implant.train.dataset_folder import DatasetFolder
from bundle.skull_implant.train.losses import dice_coefficient
from bundle.skull_implant.train.preparing import prepare_dataset
from bundle.skull_implant.train.training_data import DefectCutter, SkullDataset
from bundle.skull_implant.train.weights import save_weights

logger = logging.getLogger(__name__)

CONFIGS = ("train.yaml", "compact.yaml", "finetune.yaml", "site.yaml")


class TrainingOptions(dict[str, Any]):
    """MONAI Label's table of options for training, none of which a request has to hold.

    MONAI Label 0.8.5 fills its table from this mapping and raises KeyError for each of `keys()` that a request lacks,
    so it has none to show. `run_id` is in it because the server's own, an empty text, has MONAI evaluate every
    expression of the config, one after the other.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(options)

    def keys(self) -> KeysView[str]:  # type: ignore[override]
        """Nothing."""
        return dict[str, Any]().keys()


class SiteTraining:
    """`run` of `configs/train.yaml`.

    Args:
        bundle_root: its `models/model.pt` learns on.
        device: where to compute.
        training: MONAI Label's entries, each with `label`, the path of a label map.
        validation: the same; empty takes some of `training`.
        max_epochs: of the decoder; a number or its text.
        stored_size: voxels of the grid on which a submitted skull is kept and searched for holes.
    """

    def __init__(
        self,
        bundle_root: str | Path,
        device: torch.device | str,
        training: Sequence[Mapping[str, str]],
        validation: Sequence[Mapping[str, str]],
        max_epochs: Any,
        stored_size: Sequence[int] = (256, 256, 128),
    ) -> None:
        self.root = Path(bundle_root)
        self.device = torch.device(device)
        self.training = training
        self.validation = validation
        self.max_epochs = max_epochs
        self.box = CanonicalBox((stored_size[0], stored_size[1], stored_size[2]))

    def run(self) -> None:
        """Learn from the submitted labels; where none arrived and the command line asked, run `training`.

        Raises:
            InputError: a wrong number of epochs, too few labels, or too few complete skulls among them. In a process
                that MONAI Label started for the training there is one line in the log instead, and status 1.
        """
        flags = flags_of_run()
        if flags is not None and not (self.training or self.validation):
            monai.bundle.run("training", **flags)
            return
        try:
            self._learn()
        except InputError as error:
            if Path(sys.argv[0]).parts[-4:] != ("monailabel", "interfaces", "utils", "app.py"):
                raise
            logger.error("not trained: %s", error)  # the last line is what the server's status ends with
            sys.exit(1)

    def _learn(self) -> None:
        if not str(self.max_epochs).isdecimal() or not int(self.max_epochs):
            raise InputError(f"max_epochs must be a whole number of 1 or more, got {self.max_epochs!r}")
        skulls, held_out = submitted_skulls(self.training, self.validation)
        models = self.root / "models"
        record = read_record(models)
        folder = self.root / "submitted"  # patient data; a training that was killed has left it
        shutil.rmtree(folder, ignore_errors=True)
        try:
            used = self._prepare(skulls, held_out, folder)
            write_record(models, record)  # or a training that is killed after it wrote its weights would lose them
            verdict = self._train(folder)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        time_now = time.strftime("%Y-%m-%dT%H:%M:%S")
        entry = {"time": time_now, "epochs": int(self.max_epochs), "submitted": len(skulls), **used, **verdict}
        write_record(models, {**record, "trainings": [*record["trainings"], entry]})

    def _prepare(self, skulls: Sequence[SubmittedSkull], held_out: Sequence[str], folder: Path) -> dict[str, int]:
        """Write the dataset and count its skulls."""
        network = SkullCompleter.from_file(self.root / "models" / WEIGHTS)
        inspect = partial(refuse_hole, network=network)
        prepare_dataset(skulls, folder, held_out, network.template, self.box, threshold_hu=0.0, inspect=inspect)
        counts = {part: len(DatasetFolder(folder).lists[part]) for part in ("training", "validation")}
        if not counts["validation"]:
            raise InputError(
                f"of {len(held_out)} labels for validation none is a complete skull, see why above; submit more"
            )
        return counts

    def _train(self, folder: Path) -> dict[str, Any]:
        """What the gate says."""
        workflow = ConfigWorkflow(
            [str(self.root / "configs" / name) for name in CONFIGS],
            run_id="site_finetuning",
            workflow_type="train",
            logging_file=False,
            bundle_root=str(self.root),
            device=self.device,
            dataset_dir=str(folder),
            output_dir=str(folder),
            start_model=str(self.root / "models" / WEIGHTS),
            stage2_epochs=int(self.max_epochs),
        )
        workflow.initialize()
        return dict(workflow.run()[-1])


class Gate:
    """Lets weights replace those of a model only if they complete the validation skulls no worse.

    Args:
        model_file: the weights in use; replaced ones stay beside the new ones, under a name with the date.
        dataset: validation skulls.
        device: where to compute.
        holes: cranial holes cut into each skull, the same for both.
        seed: of the holes.
    """

    def __init__(
        self, model_file: str | Path, dataset: SkullDataset, device: torch.device | str, holes: int = 8, seed: int = 0
    ) -> None:
        self.path = Path(model_file)
        self.dataset = dataset
        self.device = torch.device(device)
        self.holes = holes
        self.seed = seed

    def decide(self, network: SkullCompleter) -> dict[str, Any]:
        """Compare, replace or not, and say which.

        Args:
            network: with the new weights.

        Returns:
            Mean DSC of the implants before and after, whether the weights were replaced, and the file of the old ones.
        """
        old = SkullCompleter.from_file(self.path).to(self.device)
        before, after = (implant_dice(each, self.dataset, self.holes, self.seed) for each in (old, network))
        replaced = after >= before and after > 0  # weights that complete nothing prove nothing
        verdict: dict[str, Any] = {
            "implant_dice": {"before": round(before, 4), "after": round(after, 4)},
            "replaced": replaced,
        }
        if replaced:
            verdict["old_weights"] = keep_old(self.path.parent).name
            save_weights(network, self.path)
        logger.info(
            "implant DSC of %d validation skulls: %.4f before, %.4f after; the weights %s",
            len(self.dataset),
            before,
            after,
            f"are replaced, the old ones are {verdict['old_weights']}" if replaced else "stay as they were",
        )
        return verdict


@torch.no_grad()
def implant_dice(network: SkullCompleter, dataset: SkullDataset, holes: int, seed: int, reach: int = 2) -> float:
    """Mean DSC of the implants of cranial holes, `z + DEV` decoded, at the training grid.

    Args:
        network: moved to where the skulls are by the caller.
        dataset: complete skulls.
        holes: a skull; where a skull has an implant of its own, the first hole is that one.
        seed: of the holes.
        reach: voxels around a hole within which decoded bone counts.
    """
    network.eval()
    cutter = DefectCutter(dataset.box, official_share=0.0)
    numbers = np.random.default_rng(seed)
    scores = []
    for index in range(len(dataset)):
        complete, implant = dataset[index]["image"], dataset[index]["implant"]
        cut = [cutter.cut(complete, None, "cranial", numbers) for _ in range(holes)]
        if dataset.has_implant[index]:
            cut[0] = (complete - implant).clamp_min(0)
        defective = torch.stack(cut)  # (holes, 1, X, Y, Z)
        code = network.encode(defective)
        cranial = torch.full((len(code),), DEFECT_CLASSES.index("cranial"), device=code.device)
        decoded = network.decode(code + network.step(code, cranial)) > 0.5
        truth = (complete - defective) > 0.5
        near = functional.max_pool3d(truth.float(), 2 * reach + 1, stride=1, padding=reach) > 0
        scores.append(dice_coefficient(decoded & near & (defective <= 0.5), truth))
    return float(torch.cat(scores).mean())
