"""Errors arrive whole, also from another process."""

from __future__ import annotations

import pickle
from concurrent.futures import ProcessPoolExecutor

import pytest

from bundle.skull_implant.errors import CaseRefused, InputError


def _refuse(case: str) -> None:
    raise CaseRefused(case, ["no skull found; give a head CT", "no vault; scan all of it"])


def test_a_refusal_is_one_line_with_the_case_and_every_reason() -> None:
    with pytest.raises(InputError, match=r"^scan7: refused: no skull found; give a head CT; no vault; scan all of it$"):
        _refuse("scan7")


def test_a_refusal_keeps_its_reasons_through_a_pickle() -> None:
    back = pickle.loads(pickle.dumps(CaseRefused("scan7", ["too small", "too dark"])))

    assert str(back) == "scan7: refused: too small; too dark"
    assert back.reasons == ["too small", "too dark"]


def test_a_refusal_in_a_worker_process_reaches_the_caller() -> None:
    with ProcessPoolExecutor(1) as pool, pytest.raises(CaseRefused, match="scan8: refused: no skull found"):
        list(pool.map(_refuse, ["scan8"]))
