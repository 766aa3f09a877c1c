"""deploy/skypilot.yaml is what SkyPilot accepts, by the schema of its wheel.

Only the module of schemas is loaded: SkyPilot itself needs packages that this project does not.
"""

import json
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest
import yaml

PATH = Path(__file__).parents[2] / "deploy" / "skypilot.yaml"
RELEASE = "skypilot==0.14.1"
DOWNLOAD_LIMIT_S = 120.0
# What the module imports in vain: descriptions of the server, of plugins and of packages.
PRINT_SCHEMAS = """
import json, sys, types, unittest.mock
sys.path.insert(0, sys.argv[1])
sky = types.ModuleType("sky")
sky.__path__, sky.__version__ = [sys.argv[1] + "/sky"], "0"
sys.modules["sky"] = sky
names = "setup_files", "setup_files.dependencies", "server", "server.plugins", "skylet.autostop_lib"
sys.modules |= {f"sky.{name}": unittest.mock.MagicMock() for name in names}
from sky.utils import schemas
found = [schemas.get_task_schema(), schemas.get_resources_schema()]
# The stand-ins above are no JSON.
print(json.dumps(found, default=lambda _: []))
"""


@pytest.fixture(scope="module")
def schemas(tmp_path_factory):
    """Of a task, and of its resources."""
    folder = tmp_path_factory.mktemp("wheel")
    download = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", str(folder)]
    try:
        subprocess.run(
            [*download, RELEASE], capture_output=True, timeout=DOWNLOAD_LIMIT_S, check=True
        )
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired):
        pytest.skip(f"pip cannot download {RELEASE} here")
    (wheel,) = folder.glob("*.whl")
    printed = subprocess.run(
        [sys.executable, "-c", PRINT_SCHEMAS, str(wheel)],
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(printed.stdout)


def test_task_and_resources_are_those_of_skypilots_schemas(schemas):
    task = yaml.safe_load(PATH.read_text())
    task_schema, resources_schema = schemas
    jsonschema.validate(task, task_schema)
    jsonschema.validate(task["resources"], resources_schema)
    with pytest.raises(jsonschema.ValidationError, match="spot"):
        jsonschema.validate({**task["resources"], "spot": True}, resources_schema)
