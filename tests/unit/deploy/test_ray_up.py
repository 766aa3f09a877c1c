"""deploy/ray-up.yaml is what Ray's launcher accepts: its schema, and options of its commands."""

import json
import re
import shlex
import subprocess
from importlib.resources import files
from pathlib import Path

import jsonschema
import pytest
import yaml
from ray.scripts.scripts import start

PATH = Path(__file__).parents[3] / "deploy" / "ray-up.yaml"
COMMANDS = ("initialization_commands", "head_start_ray_commands", "worker_start_ray_commands")


@pytest.fixture(scope="module")
def config():
    return yaml.safe_load(PATH.read_text())


@pytest.fixture(scope="module")
def schema():
    return json.loads((files("ray.autoscaler") / "ray-schema.json").read_text())


def test_fields_are_those_of_rays_schema(config, schema):
    jsonschema.validate(config, schema)
    with pytest.raises(jsonschema.ValidationError, match="head_type"):
        jsonschema.validate({**config, "head_type": "head"}, schema)


def test_node_types_agree(config):
    types = config["available_node_types"]
    assert config["head_node_type"] in types
    most = sum(each.get("max_workers", 0) for each in types.values())
    assert config["max_workers"] == most


def test_commands_are_shell_with_options_of_ray_start(config):
    known = {option for parameter in start.params for option in parameter.opts}
    commands = [command for name in COMMANDS for command in config[name]]
    for command in commands:
        subprocess.run(["bash", "-n", "-c", command], check=True)
    starts = [shlex.split(command) for command in commands if "ray start" in command]
    assert len(starts) == 2
    for words in starts:
        given = {word.partition("=")[0] for word in words if word.startswith("--")}
        assert given <= known


def test_every_process_of_ray_has_the_token(config):
    (path,) = config["file_mounts"]
    for command in (config[name][-1] for name in COMMANDS[1:]):
        assert re.search(rf"RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH={path} .*ray start", command)
