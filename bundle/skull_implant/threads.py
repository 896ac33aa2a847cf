"""How many threads a process takes."""

from __future__ import annotations

import SimpleITK as sitk
import torch


def single_thread() -> None:
    """One thread for this process: for the workers of a pool, which together take the cores."""
    torch.set_num_threads(1)
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
