"""What a user did wrong, or a case that is not fit for the method, in one line."""

from __future__ import annotations

import errno
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

NOT_WRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG)


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


def chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error and what it was raised from, each once: MONAI wraps what its components raise."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def as_input_error(error: BaseException) -> InputError | None:
    """What a user can act on in a chain of errors: an InputError or a disk that takes no more; None if nothing is."""
    for each in chain(error):
        if isinstance(each, InputError):
            return each
        if isinstance(each, OSError) and each.errno in NOT_WRITABLE:
            return InputError(
                f"OUTPUT_DIR must have room and allow writing, got: {each.strerror}; free space or name another folder"
            )
    return None


def exit_if_refused(check: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
    """What a check returns; one line on stderr and exit status 1 where it raises what a user can act on.

    For configs: what MONAI raises from a component is a traceback of many lines.
    """
    try:
        return check(*arguments, **named)
    except Exception as error:
        expected = as_input_error(error)
        if expected is None:
            raise
        print(str(expected), file=sys.stderr)
        sys.exit(1)
