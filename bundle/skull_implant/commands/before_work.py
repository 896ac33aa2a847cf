"""What a command says, and can refuse, in the second before PyTorch and MONAI are loaded, which takes several."""

from __future__ import annotations

import logging
from pathlib import Path

from bundle.skull_implant.input.reading import case_name, checked_path

logger = logging.getLogger(__name__)


def tell_and_check(path: str | Path) -> None:
    """Name the case in the log, so that a user sees the command at work.

    Args:
        path: that a user gave.

    Raises:
        InputError: nothing can be read there.
    """
    checked_path(path)
    logger.info("%s: loading PyTorch and MONAI", case_name(path))
