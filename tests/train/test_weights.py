"""Weights are written whole, as a plain state dict."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from bundle.skull_implant.model.network import SkullCompleter
from bundle.skull_implant.train.weights import save_weights
from tests.small_models import small_network


@pytest.fixture
def network() -> SkullCompleter:
    return small_network()


def test_a_model_is_written_whole_or_not_at_all(
    network: SkullCompleter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "deep" / "model.pt"
    save_weights(network, path)
    before = path.read_bytes()

    def fill_the_disk(state: object, name: Path) -> None:
        name.write_bytes(b"half a file")
        raise OSError("no space left on device")

    monkeypatch.setattr(torch, "save", fill_the_disk)
    with pytest.raises(OSError, match="no space left"):
        save_weights(network, path)
    assert path.read_bytes() == before


def test_a_model_file_is_a_plain_state_dict_on_the_cpu(network: SkullCompleter, tmp_path: Path) -> None:
    save_weights(network, tmp_path / "model.pt")
    state = torch.load(tmp_path / "model.pt", weights_only=True)

    assert state.keys() == network.state_dict().keys()
    assert {value.device.type for value in state.values()} == {"cpu"}
    torch.testing.assert_close(state["dev"], network.dev)
    assert [file.name for file in tmp_path.iterdir()] == ["model.pt"]
