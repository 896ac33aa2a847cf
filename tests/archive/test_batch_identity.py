"""What a finished case is recognized by."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from bundle.skull_implant.archive.batch_case import (
    run_case,
)
from bundle.skull_implant.archive.batch_identity import Identity
from bundle.skull_implant.hashes import bundle_state
from tests.batch_requests import request
from tests.batch_stand_in import act


def test_other_settings_are_named() -> None:
    made = {
        "input_sha256": "i",
        "weights_sha256": "w",
        "settings": {"gamma": 1.0},
        "version": "0.1.0",
        "config_sha256": "c",
    }
    same = Identity("i", {"gamma": 1.0}, "w", "0.1.0", "c")
    assert same.difference({"batch": made}) == ""
    assert replace(same, settings={"gamma": 1.0, "new": 2}).difference({"batch": made}).endswith("(new None, now 2)")
    assert replace(same, version="0.2.0").difference({"batch": made}) == "the result of version 0.1.0, now 0.2.0"
    assert "configs/inference.yaml" in replace(same, config_sha256="d").difference({"batch": made})


def test_a_new_version_and_an_edited_config_are_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "good.nrrd").write_text("good")
    case = request(tmp_path / "good.nrrd")
    assert run_case(case, act).status == "ok"
    assert run_case(case, act).finished_before
    version, config = bundle_state()
    for state, message in (
        (("9.9.9", config), f"the result of version {version}, now 9.9.9"),
        ((version, "edited"), "the result of another configs/inference.yaml"),
    ):
        monkeypatch.setattr("bundle.skull_implant.archive.batch_case.bundle_state", lambda state=state: state)
        assert message in run_case(case, act).reasons[0]
        assert run_case(replace(case, overwrite=True), act).status == "ok"
        monkeypatch.undo()
        assert run_case(replace(case, overwrite=True), act).status == "ok"
