"""A case from end to end, where the ways of running it do not show."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from bundle.skull_implant.commands import completion


def test_freed_memory_is_kept_before_a_case_takes_any(monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []
    monkeypatch.setattr(completion, "keep_freed_memory", lambda: done.append("kept"))

    completion.run_inference(cast(Any, SimpleNamespace(run=lambda: done.append("run"))), cast(Any, None))

    assert done == ["kept", "run"]
