"""No file is unpickled, and no text of a file is run as code: calls of that kind are not in the package."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "wsikit"
OWN_BYTES = {
    "worker.py", "worker_pool.py", "batch/cluster_request.py", "testing/captioners.py", "testing/readers.py",
}  # fmt: skip
"""Modules that unpickle bytes (`loads`) which the same process, another one of the same run, or a trusted cluster made;
never a file."""
FORBIDDEN = {
    "pickle.load", "pickle.loads", "pickle.Unpickler", "dill.load", "dill.loads", "cloudpickle.load",
    "cloudpickle.loads", "joblib.load", "marshal.load", "marshal.loads", "shelve.open", "pd.read_pickle",
    "pandas.read_pickle", "yaml.load", "yaml.unsafe_load", "yaml.full_load", "eval", "exec", "os.system", "os.popen",
}  # fmt: skip


def dotted(node: ast.expr) -> str:
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    return ".".join(reversed([*parts, node.id])) if isinstance(node, ast.Name) else ""


def faults(text: str) -> Iterator[str]:
    """Forbidden calls and imports in the text of a module."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ImportFrom) and node.module in {"pickle", "dill", "cloudpickle", "joblib", "marshal"}:
            yield f"{node.lineno}: from {node.module}"
        if not isinstance(node, ast.Call):
            continue
        name = dotted(node.func)
        options = {word.arg: word.value for word in node.keywords}

        def says(option: str, wanted: object, options: dict[str | None, ast.expr] = options) -> bool:
            value = options.get(option)
            return isinstance(value, ast.Constant) and value.value is wanted

        if name in FORBIDDEN:
            yield f"{node.lineno}: {name}"
        elif name == "torch.load" and not says("weights_only", True):
            yield f"{node.lineno}: torch.load without weights_only=True"
        elif name in ("np.load", "numpy.load") and "allow_pickle" in options and not says("allow_pickle", False):
            yield f"{node.lineno}: np.load that may unpickle"
        elif "trust_remote_code" in options and not says("trust_remote_code", False):
            yield f"{node.lineno}: trust_remote_code"
        elif "shell" in options and not says("shell", False):
            yield f"{node.lineno}: a shell"


def test_the_package_unpickles_no_file_and_runs_no_code_of_one():
    found = [
        f"{path.relative_to(PACKAGE)}:{fault}"
        for path in sorted(PACKAGE.rglob("*.py"))
        for fault in faults(path.read_text(encoding="utf-8"))
        if path.relative_to(PACKAGE).as_posix() not in OWN_BYTES or not fault.endswith("pickle.loads")
    ]
    assert found == []


@pytest.mark.parametrize(
    "text",
    [
        "pickle.load(f)", "from pickle import load", "torch.load(p)", "torch.load(p, weights_only=False)",
        "torch.load(p, weights_only=flag)", "np.load(p, allow_pickle=True)", "yaml.load(t)", "eval(x)",
        "M.from_pretrained(p, trust_remote_code=True)", "subprocess.run(c, shell=True)",
    ],
)  # fmt: skip
def test_each_kind_would_be_found(text: str):
    assert list(faults(text))
