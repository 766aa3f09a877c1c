"""int8: its accuracy is that of onnxruntime on the same images, and bounds what is written."""

import json

import onnx
import onnxruntime
import pytest
from safetensors.torch import load_file, save_file
from support.exported_runs import expected_logits, from_0_to_1, write_images, write_run

from jobs.export import main
from service.export.quantization import NUM_CALIBRATED
from service.run.folder import STUDENT_NAME

OUTLIER = 1e5


@pytest.fixture
def run(tmp_path):
    return write_run(tmp_path)


def export(run_path, path, *options):
    return main([str(run_path), "--format", "int8", "--out", str(path), *options])


def add_outlier(run_path):
    """Give a channel that nothing reads a range that leaves nothing of the others in int8."""
    weights = load_file(run_path / STUDENT_NAME)
    for name in ("features.1.weight", "features.1.bias"):
        weights[name][0] = OUTLIER * weights[name][0].abs().clamp(min=0.1)
    weights["features.3.weight"][:, 0] = 0
    save_file(weights, run_path / STUDENT_NAME)


def test_accuracy_beside_float32_is_that_of_onnxruntime(run, tmp_path, capsys):
    run_path, pixels = run
    path = tmp_path / "student.onnx"
    assert export(run_path, path, "--max-drop", "100") == 0
    model = onnx.load(path)
    kinds = {node.op_type for node in model.graph.node}
    assert {"QuantizeLinear", "DequantizeLinear", "Conv"} <= kinds
    stored = {each.name: each.data_type for each in model.graph.initializer}
    assert onnx.TensorProto.INT8 in stored.values()
    metadata = {each.key: each.value for each in model.metadata_props}
    accuracy = json.loads(metadata["accuracy"])
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    logits = session.run(["logits"], {"images": from_0_to_1(pixels)})[0]
    # The labels are the network's own predictions.
    labels = expected_logits(run_path, pixels).argmax(1)
    assert len(set(labels.tolist())) > 1
    assert accuracy["float32_top1"] == 1.0
    assert accuracy["int8_top1"] == pytest.approx(float((logits.argmax(1) == labels).mean()))
    assert accuracy["num_images"] == len(pixels)
    assert json.loads(metadata["calibration"])["num_images"] == min(NUM_CALIBRATED, len(pixels))
    assert [each["batch_size"] for each in json.loads(metadata["latency"])] == [1, 32]
    assert "top-1" in capsys.readouterr().out


def test_more_than_max_drop_is_refused_and_nothing_is_left(run, tmp_path, capsys):
    run_path, pixels = run
    add_outlier(run_path)
    write_images(tmp_path, pixels, expected_logits(run_path, pixels).argmax(1))
    (tmp_path / "out").mkdir()
    assert export(run_path, tmp_path / "out" / "student.onnx") == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "points of top-1 below float32 on 70 images" in line
    assert "(allowed: 1)" in line
    assert "student.onnx was not written" in line
    assert list((tmp_path / "out").iterdir()) == []


def test_accuracy_on_fewer_images_and_calibration_on_others(run, tmp_path):
    run_path, pixels = run
    (tmp_path / "others").mkdir()
    write_images(tmp_path / "others", pixels[:9], [0] * 9)
    others = ["--calibration", str(tmp_path / "others" / "train.beton"), "--max-images", "20"]
    path = tmp_path / "student.onnx"
    assert export(run_path, path, "--max-drop", "100", *others) == 0
    metadata = {each.key: each.value for each in onnx.load(path).metadata_props}
    assert json.loads(metadata["accuracy"])["num_images"] == 20
    assert json.loads(metadata["calibration"])["num_images"] == 9
