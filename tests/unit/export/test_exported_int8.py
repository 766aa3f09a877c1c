"""int8: its accuracy is that of onnxruntime on the same images, and bounds what is written."""

import json

import numpy as np
import onnx
import onnxruntime
import pytest
from safetensors.torch import load_file, save_file
from support.exported_runs import expected_logits, from_0_to_1, write_images, write_run

from jobs.export import main
from service.export import side_by_side
from service.export.quantization import NUM_CALIBRATED, nodes_of_the_input
from service.run.folder import STUDENT_NAME

OUTLIER = 1e5


@pytest.fixture(autouse=True)
def _short_measurement(monkeypatch):
    """Latencies are measured in their own test."""
    monkeypatch.setattr(side_by_side, "MEASURED_S", 0.0)


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
    logits = answers(path, from_0_to_1(pixels))
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
    printed = capsys.readouterr()
    (line,) = printed.err.splitlines()
    assert line.startswith("--max-drop: int8 is ")
    assert "points of top-1 below float32 on 70 images" in line
    # A point of 70 images is less than one.
    assert "(allowed: 1, which of so few images is 0)" in line
    assert "; give more calibration images, or a larger --max-drop; " in line
    assert line.endswith("student.onnx was not written")
    rows = [row.split()[0] for row in printed.out.splitlines()[-5:]]
    assert rows == ["top-1", "95", "batch", "batch", "file"]
    assert list((tmp_path / "out").iterdir()) == []


def answers(path, images):
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return session.run(["logits"], {"images": images})[0]


def test_it_does_not_depend_on_the_last_bit_of_the_normalization(tmp_path):
    """Where mean = std = 0.5, an int8 input would have every second pixel between two values."""
    run_path, pixels = write_run(tmp_path, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    # So that the range of the images is from -1 to 1.
    pixels[0], pixels[1] = 0, 255
    write_images(tmp_path, pixels, [0] * len(pixels))
    paths = {where: tmp_path / f"{where}.onnx" for where in ("inside", "outside")}
    for where, path in paths.items():
        assert export(run_path, path, "--max-drop", "100", "--normalization", where) == 0
    images, whole = from_0_to_1(pixels), np.float32(pixels.transpose(0, 3, 1, 2))
    half, one = np.float32(0.5), np.float32(1)
    logits = [
        answers(paths["outside"], np.ascontiguousarray((images - half) / half)),
        answers(paths["outside"], np.ascontiguousarray(whole / np.float32(127.5) - one)),
        answers(paths["inside"], images),
    ]
    scale = np.abs(logits[0]).max()
    for others in logits[1:]:
        assert others.argmax(1).tolist() == logits[0].argmax(1).tolist()
        assert np.abs(others - logits[0]).mean() < 1e-4 * scale


def test_what_reads_the_images_stays_in_float32(run, tmp_path):
    path = tmp_path / "student.onnx"
    assert export(run[0], path, "--max-drop", "100") == 0
    graph = onnx.load(path).graph
    assert not [n for n in graph.node if n.op_type == "QuantizeLinear" and "images" in n.input]
    produced = {name: node.op_type for node in graph.node for name in node.output}
    convolutions = [node for node in graph.node if node.op_type == "Conv"]
    quantized = [produced.get(node.input[0]) == "DequantizeLinear" for node in convolutions]
    assert quantized == [False] + [True] * (len(convolutions) - 1)


def test_the_number_of_images_is_not_what_they_are():
    """A transformer expands its class token to as many; it stays quantized, as all that follows."""
    nodes = [
        ("shape", "Shape", ["images"], "count"),
        ("expand", "Expand", ["token", "count"], "tokens"),
        ("pad", "Pad", ["images"], "padded"),
        ("patches", "Conv", ["padded", "w"], "embedded"),
        ("concat", "Concat", ["tokens", "embedded"], "all"),
    ]
    made = [onnx.helper.make_node(op, of, [to], name=name) for name, op, of, to in nodes]
    assert nodes_of_the_input(onnx.helper.make_graph(made, "g", [], [])) == ["pad", "patches"]


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
