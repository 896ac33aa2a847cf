"""One request to MONAI Label's server: answered, without a server, refused."""

from __future__ import annotations

from typing import Any

import pytest

from bundle.skull_implant.errors import InputError
from bundle.skull_implant.slicer.label_client import ask


class FakeClient:
    """Answers as MONAI Label's client does, or raises."""

    def __init__(self, answer: tuple[str, dict[str, Any]] | Exception) -> None:
        self.answer = answer
        self.asked: list[tuple[str, str, dict[str, Any]]] = []

    def get_server_url(self) -> str:
        return "http://127.0.0.1:8000"

    def infer(self, model: str, image_id: str, params: dict[str, Any]) -> tuple[str, dict[str, Any]]:
        self.asked.append((model, image_id, params))
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


def test_the_answer_of_the_bundles_model_is_handed_over() -> None:
    client = FakeClient(("/tmp/label.nrrd", {"status": "ok"}))

    assert ask(client, "head", {"gamma": 0.5}) == ("/tmp/label.nrrd", {"status": "ok"})

    assert client.asked == [
        ("skull_implant", "head", {"result_extension": ".nrrd", "result_dtype": "uint8", "gamma": 0.5})
    ]


def test_without_a_server_one_line_says_how_to_start_it() -> None:
    client = FakeClient(ConnectionRefusedError(111, "Connection refused"))

    with pytest.raises(
        InputError,
        match=r"^http://127.0.0.1:8000: .* `make label` .* Connection refused; start it with the folder of head$",
    ):
        ask(client, "head", {})


def test_an_error_of_the_server_is_told_as_one_of_the_server() -> None:
    client = FakeClient(RuntimeError("Status: 500; Response: Internal Server Error"))

    with pytest.raises(InputError, match=r"no answer for head but RuntimeError Status: 500; .*; see its terminal$"):
        ask(client, "head", {})


def test_a_refused_scan_is_told_with_its_reasons() -> None:
    client = FakeClient(("", {"status": "refused", "reasons": ["no skull", "uneven slices"]}))

    with pytest.raises(InputError, match=r"^head: the server refused it: no skull; uneven slices$"):
        ask(client, "head", {})
