"""The bundle's own weights are the ones that its metadata names; a user's own model file needs no entry."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import pytest

from bundle.skull_implant.archive.batch import Resources, run_batch
from bundle.skull_implant.errors import InputError
from bundle.skull_implant.model import shipped_weights
from bundle.skull_implant.model.network import SkullCompleter
from bundle.skull_implant.model.shipped_weights import KEY, check_weights, register_weights
from tests.end_to_end import ROOT, untrained_model


@pytest.fixture
def bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A bundle of its own whose weights are not yet registered."""
    root = tmp_path / "bundle"
    for name in ("configs", "models"):
        (root / name).mkdir(parents=True)
    shutil.copy(ROOT / "configs" / "metadata.json", root / "configs")
    shutil.copy(untrained_model(tmp_path / "unknown.pt"), root / "models" / "model.pt")
    for function in (check_weights, register_weights, shipped_weights.is_own):
        monkeypatch.setattr(function, "__defaults__", (root,))
    return root


def test_the_shipped_weights_are_those_of_the_metadata() -> None:
    if not (ROOT / "models" / "model.pt").is_file():
        pytest.skip("no weights: models/model.pt is not there yet")
    check_weights(ROOT / "models" / "model.pt")  # after new weights: python -m scripts.register_weights


def test_other_weights_in_their_place_are_refused_in_one_line_until_they_are_registered(bundle: Path) -> None:
    model_file = bundle / "models" / "model.pt"
    with pytest.raises(
        InputError, match=r"^model\.pt: .*SHA-256.* arrived; copy it again, or .*register_weights"
    ) as one:
        SkullCompleter.from_file(model_file)
    assert "\n" not in str(one.value)
    before = (bundle / "configs" / "metadata.json").read_text()

    found = register_weights()

    SkullCompleter.from_file(model_file)
    after = (bundle / "configs" / "metadata.json").read_text()
    assert json.loads(after)[KEY] == found
    assert after.replace(found, json.loads(before)[KEY]) == before  # nothing else changed, the layout neither
    assert sorted(path.name for path in (bundle / "configs").iterdir()) == ["metadata.json"]


def test_a_users_own_model_file_needs_no_entry(bundle: Path, tmp_path: Path) -> None:
    SkullCompleter.from_file(untrained_model(tmp_path / "mine.pt"))


def test_what_training_writes_in_the_bundles_place_is_registered(bundle: Path) -> None:
    SkullCompleter.from_file(untrained_model(bundle / "models" / "model.pt"))


def test_weights_that_training_replaces_stay_beside_them(bundle: Path) -> None:
    weights = bundle / "models" / "model.pt"
    weights.write_bytes(b"shipped")
    kept = weights.with_name(f"model_before_{hashlib.sha256(b'shipped').hexdigest()[:8]}.pt")
    untrained_model(weights)

    assert kept.read_bytes() == b"shipped"
    SkullCompleter.from_file(weights)


def test_a_batch_with_other_weights_in_their_place_ends_before_any_work(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "head.nrrd").write_text("never read")
    (bundle / "models" / "model.pt").write_bytes(b"other weights")
    settings = {"gamma": 1.0, "defect_class": "auto", "threshold_hu": 300.0}
    with pytest.raises(InputError, match="SHA-256"):
        run_batch(
            tmp_path / "in",
            tmp_path / "out",
            settings,
            bundle / "models" / "model.pt",
            resources=Resources(workers=1),
        )
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("content", ["{}", "no json", '{"weights_sha256": "short"}', '{"weights_sha256": 7}', "[]"])
def test_metadata_without_a_hash_is_one_line(bundle: Path, content: str) -> None:
    (bundle / "configs" / "metadata.json").write_text(content)
    for function in (check_weights, lambda _: register_weights()):
        with pytest.raises(InputError, match=r"must hold weights_sha256, 64 hexadecimal digits"):
            function(bundle / "models" / "model.pt")


def test_a_bundle_without_weights_has_nothing_to_register(bundle: Path) -> None:
    (bundle / "models" / "model.pt").unlink()
    with pytest.raises(InputError, match=r"bundle: models/model\.pt must be there"):
        register_weights()
