"""Nothing in the package runs what a user, a file or an archive hands it: no eval, no pickle, no shell."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.end_to_end import ROOT

FILES = sorted([*(ROOT / "bundle" / "skull_implant").rglob("*.py"), *(ROOT / "scripts").glob("*.py")])
RUNS_TEXT = {
    "eval",
    "exec",
    "compile",
    "__import__",
    "os.system",
    "os.popen",
    "yaml.load",
    "pickle.load",
    "pickle.loads",
}
UNPICKLES = {"pickle", "cPickle", "dill", "joblib", "shelve", "marshal"}


def faults(source: str) -> Iterator[str]:
    """What may run foreign text, by its line."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else [each.name for each in node.names]
            yield from (f"line {node.lineno}: imports {name}" for name in names if name.split(".")[0] in UNPICKLES)
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func)
        given = {each.arg: ast.unparse(each.value) for each in node.keywords}
        allowed = any(given.get(keyword, "False") != "False" for keyword in ("shell", "allow_pickle"))
        if name in RUNS_TEXT or allowed or (name == "torch.load" and given.get("weights_only") != "True"):
            yield f"line {node.lineno}: {name}"


@pytest.mark.parametrize("path", FILES, ids=[path.stem for path in FILES])
def test_a_module_runs_no_foreign_text(path: Path) -> None:
    assert list(faults(path.read_text())) == []


def test_the_search_finds_what_it_looks_for() -> None:
    bad = "import pickle\nfrom joblib import load\neval(x)\nsubprocess.run(a, shell=True)\ntorch.load(f)\n"
    bad += "np.load(f, allow_pickle=True)\n"
    assert [each.split(":")[0] for each in faults(bad)] == [f"line {number}" for number in range(1, 7)]
    assert list(faults("torch.load(f, weights_only=True)\nnp.load(f)\nnetwork.eval()")) == []
