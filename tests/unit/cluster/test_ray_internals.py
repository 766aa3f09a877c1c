"""Private names of Ray are used in one file only."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
INTERNALS = ROOT / "service" / "cluster" / "ray_internals.py"


def private_imports(source):
    """Modules and names that start with an underscore, of all imports from Ray."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.Attribute):
            names = [ast.unparse(node)]
        else:
            continue
        yield from (
            name
            for name in names
            if name.split(".")[0] == "ray" and any(part[0] == "_" for part in name.split("."))
        )


@pytest.mark.parametrize("folder", ["service", "jobs", "data_pipeline", "deploy"])
def test_only_one_file_uses_private_names(folder):
    found = {
        str(path.relative_to(ROOT)): names
        for path in sorted((ROOT / folder).rglob("*.py"))
        if path != INTERNALS and (names := list(private_imports(path.read_text())))
    }

    assert found == {}


def test_private_names_are_detected():
    source = "from ray.train.v2._internal.constants import X\nimport ray\nray._private.state.state"

    assert list(private_imports(source)) != []
    assert list(private_imports(INTERNALS.read_text())) != []
