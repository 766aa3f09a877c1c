"""An ONNX file answers in onnxruntime as the network does in float64, for batches of any size."""

import hashlib
import json

import numpy as np
import onnx
import onnxruntime
import pytest
from support.exported_runs import MEAN, NAMES, STD, expected_logits, from_0_to_1, write_run
from support.spec_contents import SIZE

from jobs.export import main
from service.run.folder import STUDENT_NAME, read_spec


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The folder of a run, and pixels of its val."""
    return write_run(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def exported(run, tmp_path_factory):
    path = tmp_path_factory.mktemp("out") / "student.onnx"
    assert main([str(run[0]), "--format", "onnx", "--out", str(path)]) == 0
    return path


def answers(path, images):
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return session.run(["logits"], {"images": images})[0]


@pytest.mark.parametrize("batch_size", [1, 2, 7, 70])
def test_logits_are_those_of_the_network(run, exported, batch_size):
    run_path, pixels = run
    expected = expected_logits(run_path, pixels[:batch_size])
    logits = answers(exported, from_0_to_1(pixels[:batch_size]))
    np.testing.assert_allclose(logits, expected, atol=1e-5 * np.abs(expected).max())
    assert logits.argmax(1).tolist() == expected.argmax(1).tolist()


def test_it_is_one_valid_file_without_paths_of_this_machine(exported):
    model = onnx.load(exported)
    onnx.checker.check_model(model, full_check=True)
    assert [path.name for path in exported.parent.iterdir()] == [exported.name]
    assert b".py" not in exported.read_bytes()


def test_metadata_says_what_the_file_needs(run, exported):
    metadata = {each.key: each.value for each in onnx.load(exported).metadata_props}
    spec = read_spec(run[0])
    assert json.loads(metadata["classes"]) == list(NAMES)
    assert json.loads(metadata["class_names"]) == ["tench", "dog", "cow", "hen"]
    assert metadata["architecture"] == "cifar:tiny_cnn"
    assert metadata["normalization"] == "inside"
    assert json.loads(metadata["mean"]) == list(MEAN)
    assert json.loads(metadata["std"]) == list(STD)
    assert metadata["center_crop"] == metadata["resize_shorter_side"] == str(SIZE)
    assert metadata["interpolation"] == metadata["checked_with"] == "bilinear"
    assert metadata["spec_hash"] == spec.content_hash()
    assert metadata["weights_sha256"] == (
        hashlib.sha256((run[0] / STUDENT_NAME).read_bytes()).hexdigest()
    )


def test_normalization_may_be_outside_and_the_opset_chosen(run, tmp_path):
    run_path, pixels = run
    path = tmp_path / "student.onnx"
    options = ["--normalization", "outside", "--opset", "18", "--out", str(path)]
    assert main([str(run_path), "--format", "onnx", *options]) == 0
    mean, std = (np.float32(values).reshape(1, 3, 1, 1) for values in (MEAN, STD))
    logits = answers(path, (from_0_to_1(pixels) - mean) / std)
    expected = expected_logits(run_path, pixels)
    np.testing.assert_allclose(logits, expected, atol=1e-5 * np.abs(expected).max())
    model = onnx.load(path)
    assert [each.version for each in model.opset_import] == [18]
    metadata = {each.key: each.value for each in model.metadata_props}
    assert metadata["normalization"] == "outside"
    assert "(x - mean) / std" in metadata["input"]
