"""A site's submitted skulls teach the decoder, and weights are replaced only by weights that are no worse."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from bundle.skull_implant.errors import InputError
from bundle.skull_implant.model.network import SkullCompleter
from bundle.skull_implant.slicer import site_training
from bundle.skull_implant.slicer.site_training import Gate, SiteTraining, TrainingOptions, implant_dice
from bundle.skull_implant.slicer.site_weights import carry_over, read_record, write_record
from bundle.skull_implant.slicer.submitted_labels import SubmittedSkull, refuse_hole, submitted_skulls
from bundle.skull_implant.train.training_data import SkullDataset
from bundle.skull_implant.volume import Volume, write_volume
from tests.end_to_end import ROOT, small_head, untrained_model, write_voxels
from tests.made_up_skulls import pose
from tests.small_models import BOX, small_dataset, small_network

APP_OF_MONAI_LABEL = "/somewhere/monailabel/interfaces/utils/app.py"


def write_label(path: Path, seed: int) -> dict[str, str]:
    """A submitted label: 1 = skull with its hole, 2 = implant."""
    head = small_head(seed)
    labels = head.complete_skull.voxels.astype(np.uint8)
    labels[head.implant.voxels > 0] = 2
    write_volume(path, Volume(labels, head.hu.grid))
    return {"image": "not read", "label": str(path)}


def entries(count: int) -> list[dict[str, str]]:
    return [{"image": "", "label": f"/labels/final/{number:02d}.nrrd"} for number in range(count)]


def test_skull_and_implant_together_are_the_complete_skull(tmp_path: Path) -> None:
    write_label(tmp_path / "a.nrrd", 0)
    skull = SubmittedSkull("a", tmp_path / "a.nrrd")
    piece = skull.read_implant()

    assert piece is not None
    np.testing.assert_array_equal(piece.voxels > 0, small_head(0).implant.voxels > 0)
    assert (skull.read_skull(300.0).voxels & (piece.voxels > 0)).sum() == piece.voxels.sum()


@pytest.mark.parametrize(("values", "arrived"), [((0, 2), "0, 2"), ((0, 1, 3), "0, 1, 3"), ((0, 0), "0 ")])
def test_a_label_with_other_segments_is_named_with_what_it_holds(
    values: tuple[int, ...], arrived: str, tmp_path: Path
) -> None:
    labels = np.zeros((20, 20, 20), np.uint8)
    labels[: len(values), 0, 0] = values
    write_voxels(tmp_path / "a.nrrd", labels)

    with pytest.raises(InputError, match=rf"^a\.nrrd: a label must hold 1 = skull, 2 = implant and 0, {arrived}"):
        SubmittedSkull("a", tmp_path / "a.nrrd").read_skull(300.0)


@pytest.mark.parametrize(
    ("training", "validation", "held_out"),
    [
        (entries(3), entries(9)[7:], ["07", "08"]),
        (entries(12), [], ["04", "09"]),
        (entries(3), [], ["02"]),
    ],
)
def test_the_servers_validation_labels_are_kept_apart_and_some_are_taken_if_it_names_none(
    training: list[dict[str, str]], validation: list[dict[str, str]], held_out: list[str]
) -> None:
    skulls, names = submitted_skulls(training, validation)

    assert names == held_out
    assert len(skulls) == len(training) + len(validation)


def test_one_label_is_too_few() -> None:
    with pytest.raises(InputError, match="at least two submitted labels, one of them for validation, 1 arrived"):
        submitted_skulls(entries(1), [])


@pytest.mark.parametrize(("height", "refused"), [(slice(12, 15), True), (slice(0, 6), False)])
def test_a_hole_in_the_vault_is_refused_and_the_face_is_left_alone(
    height: slice, refused: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    piece = np.zeros(BOX.spatial_size, bool)
    piece[:2, :2, height] = True
    monkeypatch.setattr("bundle.skull_implant.slicer.submitted_labels.fill_hole", lambda *_: piece)
    frame = pose()

    if refused:
        with pytest.raises(InputError, match=r"a hole of \d+\.\d ml was found; submit its implant with it"):
            refuse_hole(piece, frame, BOX, small_network())
    else:
        refuse_hole(piece, frame, BOX, small_network())


class Oracle(SkullCompleter):
    """Decodes one volume, whatever the code."""

    def __init__(self, decoded: torch.Tensor) -> None:
        super().__init__(BOX.spatial_size, channels=[3, 5], strides=[2, 4], latent_size=7)
        self.decoded = decoded

    def decode(self, code: torch.Tensor) -> torch.Tensor:
        return self.decoded.expand(len(code), -1, -1, -1, -1)


def test_the_score_is_1_where_the_holes_are_filled_exactly_and_0_where_they_are_not(tmp_path: Path) -> None:
    small_dataset(tmp_path)
    dataset = SkullDataset(str(tmp_path), "validation", BOX.spatial_size)
    complete = dataset[0]["image"][None]

    assert implant_dice(Oracle(complete), dataset, holes=3, seed=0) == 1.0
    assert implant_dice(Oracle(torch.zeros_like(complete)), dataset, holes=3, seed=0) == 0.0
    assert 0.05 < implant_dice(Oracle(torch.ones_like(complete)), dataset, holes=3, seed=0) < 0.9


@pytest.mark.parametrize(
    ("before", "after", "replaced"), [(0.6, 0.7, True), (0.6, 0.6, True), (0.6, 0.59, False), (0.0, 0.0, False)]
)
def test_weights_are_replaced_only_by_weights_that_are_no_worse_and_the_old_ones_are_kept(
    before: float, after: float, replaced: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from bundle.skull_implant.train.weights import save_weights

    scores = iter([before, after])
    monkeypatch.setattr(site_training, "implant_dice", lambda *_: next(scores))
    save_weights(small_network(0), tmp_path / "model.pt")
    old = (tmp_path / "model.pt").read_bytes()

    verdict = Gate(tmp_path / "model.pt", [], "cpu").decide(small_network(1))  # type: ignore[arg-type]

    assert verdict["implant_dice"] == {"before": before, "after": after}
    assert verdict["replaced"] is replaced
    kept = list(tmp_path.glob("model_until_*.pt"))
    if replaced:
        assert [path.name for path in kept] == [verdict["old_weights"]]
        assert kept[0].read_bytes() == old
        fresh = SkullCompleter.from_file(tmp_path / "model.pt").state_dict()
        assert all(torch.equal(value, fresh[name]) for name, value in small_network(1).state_dict().items())
    else:
        assert kept == []
        assert (tmp_path / "model.pt").read_bytes() == old


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A bundle's folder with its configs and an untrained model."""
    shutil.copytree(ROOT / "configs", tmp_path / "bundle" / "configs")
    untrained_model(tmp_path / "bundle" / "models" / "model.pt")
    return tmp_path / "bundle"


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_the_decoder_alone_learns_from_submitted_labels_and_a_record_says_how_it_went(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    labels = [write_label(tmp_path / f"{seed}.nrrd", seed) for seed in range(3)]
    (tmp_path / "broken.nrrd").write_text("no label")
    broken = {"image": "", "label": str(tmp_path / "broken.nrrd")}
    before = SkullCompleter.from_file(root / "models" / "model.pt").state_dict()
    (root / "submitted").mkdir()  # of a training that was killed
    (root / "submitted" / "dataset.json").write_text("{}")

    SiteTraining(root, "cpu", [*labels[:2], broken], labels[2:], 2, stored_size=(32, 32, 32)).run()

    record = json.loads((root / "models" / "site_training.json").read_text())
    (entry,) = record["trainings"]
    assert {key: entry[key] for key in ("epochs", "submitted", "training", "validation")} == {
        "epochs": 2,
        "submitted": 4,
        "training": 2,
        "validation": 1,
    }
    scores = entry["implant_dice"]
    assert entry["replaced"] is (scores["after"] >= scores["before"] and scores["after"] > 0)
    after = SkullCompleter.from_file(root / "models" / "model.pt").state_dict()
    changed = {name.split(".")[0] for name in before if not torch.equal(before[name], after[name])}
    assert changed == ({"decoder"} if entry["replaced"] else set())
    assert sorted(path.name for path in root.iterdir()) == ["configs", "models"]


def test_without_a_usable_label_for_validation_nothing_is_trained(root: Path, tmp_path: Path) -> None:
    (tmp_path / "broken.nrrd").write_text("no label")
    broken = {"image": "", "label": str(tmp_path / "broken.nrrd")}
    label = write_label(tmp_path / "0.nrrd", 0)
    before = (root / "models" / "model.pt").read_bytes()

    with pytest.raises(InputError, match="of 1 labels for validation none is a complete skull"):
        SiteTraining(root, "cpu", [label], [broken], 2, stored_size=(32, 32, 32)).run()

    assert [path.name for path in (root / "models").iterdir()] == ["model.pt"]
    assert (root / "models" / "model.pt").read_bytes() == before


def test_in_monai_labels_process_the_log_ends_with_the_reason(
    root: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(sys, "argv", [APP_OF_MONAI_LABEL, "-m", "train"])

    with pytest.raises(SystemExit) as stop:
        SiteTraining(root, "cpu", [], [], 2).run()

    assert stop.value.code == 1
    assert caplog.messages[-1].startswith("not trained: training needs at least two submitted labels")


@pytest.mark.parametrize("epochs", ["many", 0, "1.5", -1])
def test_a_wrong_number_of_epochs_is_refused_before_any_work(epochs: object, root: Path) -> None:
    with pytest.raises(InputError, match=rf"^max_epochs must be a whole number of 1 or more, got {epochs!r}"):
        SiteTraining(root, "cpu", entries(3), [], epochs).run()


def test_run_on_the_command_line_is_the_whole_training(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[object, ...]] = []
    monkeypatch.setattr("monai.bundle.run", lambda run_id, **flags: calls.append((run_id, flags)))
    program = "/somewhere/monai/bundle/__main__.py"
    monkeypatch.setattr(sys, "argv", [program, "run", "--config_file", "configs/train.yaml", "--seed", "3"])

    SiteTraining(root, "cpu", [], [], 2).run()

    assert calls == [("training", {"config_file": "configs/train.yaml", "seed": 3})]


def test_a_dataset_refuses_labels_that_nobody_prepared(tmp_path: Path) -> None:
    small_dataset(tmp_path)

    with pytest.raises(InputError, match="training: 2 submitted labels arrived; leave run_id at `run`"):
        SkullDataset(str(tmp_path), "training", BOX.spatial_size, data=entries(2))


def test_the_table_of_options_fills_another_but_asks_for_nothing() -> None:
    table = {"run_id": "", "max_epochs": 50, "device": ["cpu"]}
    options = TrainingOptions(run_id="run", max_epochs=30)

    table.update(options)

    assert table == {"run_id": "run", "max_epochs": 30, "device": ["cpu"]}
    assert list(options.keys()) == []


def trained_models(folder: Path, released: bytes, replaced: bool = True) -> Path:
    """`models/` in which a training has, or has not, replaced the released weights."""
    folder.mkdir()
    (folder / "model.pt").write_bytes(released)
    record = read_record(folder)
    (folder / "model_until_1.pt").write_bytes(b"old")
    (folder / "model.pt").write_bytes(b"trained" if replaced else released)
    write_record(folder, {**record, "trainings": [{"time": "then", "replaced": replaced}]})
    return folder


def fresh_models(folder: Path, released: bytes) -> Path:
    folder.mkdir()
    (folder / "model.pt").write_bytes(released)
    return folder


def test_a_sites_weights_outlive_the_bundle_being_unpacked_anew(tmp_path: Path) -> None:
    old, new = trained_models(tmp_path / "old", b"release 1"), fresh_models(tmp_path / "new", b"release 1")

    assert carry_over(old, new) == "the weights are those of this site's training of then"
    assert {path.name: path.read_bytes() for path in new.iterdir()} == {
        path.name: path.read_bytes() for path in old.iterdir()
    }


def test_a_new_releases_weights_come_into_use_and_the_sites_stay_beside_them(tmp_path: Path) -> None:
    old, new = trained_models(tmp_path / "old", b"release 1"), fresh_models(tmp_path / "new", b"release 2")

    told = carry_over(old, new)

    assert "the weights are this release's" in told
    assert (new / "model.pt").read_bytes() == b"release 2"
    assert {path.read_bytes() for path in new.glob("model_until_*.pt")} == {b"old", b"trained"}
    assert told.split()[-1] in {path.name for path in new.iterdir()}


def test_kept_weights_and_the_record_outlive_every_start_after_a_new_release(tmp_path: Path) -> None:
    models = trained_models(tmp_path / "release 1", b"release 1")
    first = read_record(models)
    for start in range(3):
        new = fresh_models(tmp_path / f"start {start}", b"release 2")
        carry_over(models, new)
        models = new

    assert (models / "model.pt").read_bytes() == b"release 2"
    assert {path.read_bytes() for path in models.glob("model_until_*.pt")} == {b"old", b"trained"}
    assert read_record(models) == {**read_record(fresh_models(tmp_path / "new", b"release 2")), "earlier": [first]}

    last = fresh_models(tmp_path / "release 3", b"release 3")
    carry_over(models, last)
    assert [len(each["trainings"]) for each in read_record(last)["earlier"]] == [1, 0]


def test_weights_that_were_copied_back_after_a_new_release_stay_in_use_and_are_told_of(tmp_path: Path) -> None:
    models, new = fresh_models(tmp_path / "release 2", b"release 2"), fresh_models(tmp_path / "new", b"release 2")
    carry_over(trained_models(tmp_path / "release 1", b"release 1"), models)
    (models / "model.pt").write_bytes(b"trained")

    assert carry_over(models, new) == "the weights are those that were copied to models/model.pt"
    assert (new / "model.pt").read_bytes() == b"trained"


def test_kept_weights_stay_where_there_is_no_record(tmp_path: Path) -> None:
    old, new = trained_models(tmp_path / "old", b"release 1"), fresh_models(tmp_path / "new", b"release 1")
    (old / "site_training.json").unlink()

    assert carry_over(old, new) == ""
    assert (new / "model_until_1.pt").read_bytes() == b"old"


def test_without_a_training_that_replaced_them_the_released_weights_are_used(tmp_path: Path) -> None:
    new = fresh_models(tmp_path / "new", b"release 2")

    assert carry_over(tmp_path / "none", new) == ""
    assert carry_over(trained_models(tmp_path / "old", b"release 1", replaced=False), new) == ""
    assert (new / "model.pt").read_bytes() == b"release 2"


def test_weights_of_a_training_that_was_killed_before_its_record_are_kept(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    released = (root / "models" / "model.pt").read_bytes()

    def killed(training: SiteTraining, folder: Path) -> dict[str, object]:
        (training.root / "models" / "model.pt").write_bytes(b"trained")
        raise KeyboardInterrupt

    monkeypatch.setattr(SiteTraining, "_prepare", lambda *_: {"training": 2, "validation": 1})
    monkeypatch.setattr(SiteTraining, "_train", killed)
    with pytest.raises(KeyboardInterrupt):
        SiteTraining(root, "cpu", entries(3), [], 2).run()
    same, later = fresh_models(tmp_path / "same", released), fresh_models(tmp_path / "later", b"later")

    assert carry_over(root / "models", same) == "the weights are those that were copied to models/model.pt"
    carry_over(root / "models", later)

    assert (same / "model.pt").read_bytes() == b"trained"
    assert (later / "model.pt").read_bytes() == b"later"
    assert [path.read_bytes() for path in later.glob("model_until_*.pt")] == [b"trained"]
