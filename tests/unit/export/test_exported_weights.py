"""pt2 and safetensors files answer as the network does; the lines that are printed run them."""

import json

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from support.exported_runs import MEAN, NAMES, expected_logits, from_0_to_1, write_run

from jobs.export import main
from service.evaluate.options import ModelOptions
from service.evaluate.source import find_model
from service.run.folder import STUDENT_NAME


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return write_run(tmp_path_factory.mktemp("run"))


def export(run_path, path, file_format):
    assert main([str(run_path), "--format", file_format, "--out", str(path)]) == 0


def usage(printed):
    """The lines of Python that were printed."""
    return "\n".join(line.strip() for line in printed.split("To run it:\n")[1].splitlines())


def test_pt2_answers_for_batches_of_any_size(run, tmp_path):
    run_path, pixels = run
    export(run_path, tmp_path / "student.pt2", "pt2")
    extra_files = {"metadata.json": ""}
    program = torch.export.load(tmp_path / "student.pt2", extra_files=extra_files)
    for batch_size in (1, 2, 7):
        images = torch.from_numpy(from_0_to_1(pixels[:batch_size]))
        expected = expected_logits(run_path, pixels[:batch_size])
        logits = program.module()(images).detach().numpy()
        np.testing.assert_allclose(logits, expected, atol=1e-5 * np.abs(expected).max())
    assert b".py" not in (tmp_path / "student.pt2").read_bytes()
    metadata = json.loads(extra_files["metadata.json"])
    assert json.loads(metadata["classes"]) == list(NAMES)
    assert (metadata["normalization"], json.loads(metadata["mean"])) == ("inside", list(MEAN))


def test_safetensors_are_the_weights_and_are_found_like_a_students(run, tmp_path):
    run_path, _ = run
    path = tmp_path / "copy.safetensors"
    export(run_path, path, "safetensors")
    weights, own = load_file(path), load_file(run_path / STUDENT_NAME)
    assert weights.keys() == own.keys()
    assert all(torch.equal(weights[name], own[name]) for name in own)
    with safe_open(path, "pt") as file:
        assert file.metadata()["normalization"] == "outside"
    found, original = (
        find_model(str(source), ModelOptions("RUN"), None, tmp_path) for source in (path, run_path)
    )
    assert found.preprocessing == original.preprocessing
    assert found.class_names == original.class_names


@pytest.mark.parametrize("file_format", ["onnx", "pt2", "safetensors"])
def test_the_printed_lines_classify_an_image(run, file_format, tmp_path, capsys):
    export(run[0], tmp_path / f"student.{file_format}", file_format)
    lines = usage(capsys.readouterr().out)
    assert len(lines.splitlines()) == 3
    names = {}
    exec(lines, names)
    assert tuple(names["logits"].shape) == (1, len(NAMES))
