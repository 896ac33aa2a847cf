"""Lets torchvision import beside a PyTorch that its compiled operators do not fit, such as a CPU build.

MONAI Label needs of torchvision how it writes pictures, and none of its operators. Run by `make label`, in its
environment, this file copies itself there if `import torchvision` fails, with a `.pth` that imports it at the start of
every Python, because the server works in several processes.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

KEPT: list[Any] = []  # a library that is collected takes its operators with it


class DeclareOperators:
    """Declares what torchvision expects of its compiled part, at the moment when it asks; a finder of no module."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> None:
        """Part of importing: called before each module is looked for."""
        if name == "torchvision._meta_registrations":
            sys.meta_path.remove(self)  # type: ignore[arg-type]
            import torch

            library = torch.library.Library("torchvision", "DEF")
            for operator in ("nms", "qnms"):
                library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
            KEPT.append(library)


def repair() -> None:
    """Install this file in the running environment if torchvision does not import without it."""
    if subprocess.run([sys.executable, "-c", "import torchvision"], capture_output=True, check=False).returncode == 0:
        return
    folder = Path(sysconfig.get_path("purelib"))
    shutil.copy(__file__, folder / "torchvision_operators.py")
    (folder / "torchvision_operators.pth").write_text("import torchvision_operators\n")
    subprocess.run([sys.executable, "-c", "import torchvision"], check=True)


if __name__ == "__main__":
    repair()
else:
    sys.meta_path.insert(0, DeclareOperators())  # type: ignore[arg-type]
