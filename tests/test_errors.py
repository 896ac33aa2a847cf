"""Errors arrive whole, also from another process."""

from __future__ import annotations

import errno
import os
import pickle
from concurrent.futures import ProcessPoolExecutor

import pytest

from bundle.skull_implant.errors import CaseRefused, InputError, as_input_error


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


def _wrapped(cause: Exception) -> RuntimeError:
    """As MONAI wraps what a transform raises."""
    try:
        raise RuntimeError("applying transform") from cause
    except RuntimeError as error:
        return error


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS])
def test_a_disk_that_takes_no_more_is_something_a_user_can_act_on(number: int) -> None:
    found = as_input_error(_wrapped(OSError(number, os.strerror(number))))

    assert found is not None
    assert os.strerror(number) in str(found)


def test_an_input_error_is_found_in_a_chain_and_another_error_is_none() -> None:
    bad = InputError("scan7: bad")

    assert as_input_error(_wrapped(bad)) is bad
    assert as_input_error(_wrapped(KeyError("bug"))) is None


def test_a_chain_that_bites_its_tail_ends() -> None:
    error = RuntimeError("bug")
    error.__cause__ = error

    assert as_input_error(error) is None
