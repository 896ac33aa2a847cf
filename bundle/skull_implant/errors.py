"""What a user did wrong, or a case that is not fit for the method, in one line."""

from __future__ import annotations

from collections.abc import Sequence


class InputError(Exception):
    """Input that cannot be used: the message names the file, the rule, what arrived and the way out, on one line."""


class CaseRefused(InputError):
    """A readable case that is unfit for the method, such as a chest CT.

    Args:
        case: name of the file or folder.
        reasons: one sentence each: the rule, what arrived, the way out.
    """

    def __init__(self, case: str, reasons: Sequence[str]) -> None:
        super().__init__(f"{case}: refused: {'; '.join(reasons)}")
        self.case = case
        self.reasons = list(reasons)

    def __reduce__(self) -> tuple[type[CaseRefused], tuple[str, list[str]]]:
        # Else pickle, and so a worker process, hands over the message as the case, and no reasons.
        return type(self), (self.case, self.reasons)
