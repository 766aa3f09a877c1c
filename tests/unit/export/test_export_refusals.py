"""Bad input of an export: one line each with field and remedy, exit status 2, no file."""

import importlib.util

import pytest
from support.exported_runs import write_images, write_run
from torch.onnx._constants import ONNX_MAX_OPSET

from jobs.export import main
from service.evaluate.options import ModelOptions
from service.evaluate.source import find_model
from service.export import network, onnx_file
from service.export.images import data_images
from service.export.options import OPSETS, ExportOptions, check_options, default_out
from service.spec.errors import BadInputError


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return write_run(tmp_path_factory.mktemp("run"))


@pytest.fixture
def refused(run, tmp_path, capsys):
    """A function that exports with options, and returns the lines of its problems."""

    def export(*options, file_format="onnx", out="out.pt2", source=run[0]):
        before = set(tmp_path.iterdir())
        path = tmp_path / out
        assert main([str(source), "--format", file_format, "--out", str(path), *options]) == 2
        assert set(tmp_path.iterdir()) == before
        printed = capsys.readouterr()
        assert printed.out == ""
        return [line.strip() for line in printed.err.splitlines()[1:]]

    return export


def test_unknown_format(refused):
    assert refused(file_format="tflite") == [
        "--format: is 'tflite', which is no format; give one of onnx, pt2, safetensors, int8"
    ]


def test_output_that_exists_or_cannot_be(refused, tmp_path):
    (tmp_path / "there").write_text("x")
    (line,) = refused(out="there")
    assert line.startswith("--out: ")
    assert line.endswith("exists; give the path of a new file, or remove it")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    assert "exists" in refused(out="link")[0]
    assert "is no folder; create it" in refused(out="none/out.onnx")[0]
    assert refused(file_format="pt2", out="out.pt") == [
        "--out: is out.pt, and torch warns of a pt2 file with another ending; end its name with "
        ".pt2"
    ]


def test_a_folder_is_no_output(run, tmp_path, capsys):
    with pytest.raises(SystemExit, match="2"):
        main([str(run[0]), "--format", "onnx", "--out", f"{tmp_path}/new/"])
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith("/new/', a folder; give the path of a file in it")
    assert list(tmp_path.iterdir()) == []


def test_options_of_other_formats(refused):
    lines = refused("--opset", "18", "--normalization", "inside", file_format="safetensors")
    assert [line.split(":")[0] for line in lines] == ["--opset", "--normalization"]
    assert lines[0].endswith("leave it out: it is for onnx and int8")
    assert lines[1].endswith("leave it out: it is for onnx, int8 and pt2")
    assert "--max-drop" in refused("--max-drop", "2", file_format="pt2")[0]
    assert "give inside or outside" in refused("--normalization", "both")[0]


def test_missing_packages(monkeypatch, tmp_path, refused):
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        "service.export.options.find_spec",
        lambda name: None if name == "onnxruntime" else find_spec(name),
    )
    for file_format in ("onnx", "int8"):
        assert refused(file_format=file_format) == [
            f"--format: is {file_format}, which needs what is not installed: onnxruntime; "
            "pip install 'dtkd-service[export]'"
        ]
    check_options(ExportOptions("pt2", tmp_path / "out.pt2"))


@pytest.mark.parametrize("opset", ["17", "24", "-1"])
def test_an_opset_that_torch_does_not_write(refused, opset):
    assert refused("--opset", opset) == [
        f"--opset: is {opset}, which torch does not write; give one from 18 to 23, or leave it out"
    ]


def test_the_last_opset_is_torchs_own():
    assert OPSETS[-1] == ONNX_MAX_OPSET


def test_data_that_is_missing_or_of_other_classes(refused, run, tmp_path):
    assert refused("--data", str(tmp_path / "none.beton"))[0].startswith("--data: ")
    write_images(tmp_path, run[1][:8], range(8))
    (line,) = refused("--data", str(tmp_path / "val.beton"), file_format="int8")
    assert line == "RUN: run run (last step) has 4 classes, the data 8; use data of its classes"
    (line,) = refused(
        "--data", str(tmp_path / "val.beton"), "--classes", "by_name", file_format="int8"
    )
    assert line.startswith("--classes: is by_name, but val.beton has no manifest")
    write_images(tmp_path, run[1][:3], [0, 1, 2])
    assert "has 3 images, fewer than 7" in refused("--data", str(tmp_path / "val.beton"))[0]
    (tmp_path / "text.beton").write_text("no dataset")
    assert refused("--data", str(tmp_path / "text.beton"))[0].startswith("--data: ")


def test_a_model_that_names_no_images_needs_data(refused, run):
    path = run[0] / "student.safetensors"
    options = ["--architecture", "cifar:tiny_cnn", "--resize", "16", "--crop", "16"]
    options += ["--mean", "0", "0", "0", "--std", "1", "1", "1"]
    (line,) = refused(*options, source=path)
    assert line.startswith("--data: is absent, and student.safetensors does not say")


def test_images_of_a_run_that_are_gone(tmp_path, capsys):
    run_path, _ = write_run(tmp_path)
    (tmp_path / "train.beton").unlink()
    out = tmp_path / "student.onnx"
    assert main([str(run_path), "--format", "int8", "--out", str(out)]) == 2
    (line,) = capsys.readouterr().err.splitlines()[1:]
    assert line.strip().startswith("--calibration: the run's train: ")
    assert line.endswith("give --calibration a .beton of such images")
    assert not out.exists()


def test_images_in_an_object_store_have_to_be_copied(run, tmp_path):
    found = find_model(str(run[0]), ModelOptions("RUN"), None, tmp_path)
    dataset = found.spec.dataset.model_copy(update={"val": "s3://bucket/val.beton"})
    found = found._replace(spec=found.spec.model_copy(update={"dataset": dataset}))
    with pytest.raises(BadInputError, match="object store, s3://bucket/val"):
        data_images(found, None)


def test_an_address_in_mlflow_without_a_server(refused, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert refused(source="models:/r18@champion") == [
        "RUN: models:/r18@champion is in MLflow, and no server is given; give --tracking-uri, or "
        "set MLFLOW_TRACKING_URI"
    ]


def test_a_run_that_has_not_finished(refused, run, tmp_path):
    (line,) = refused(source=tmp_path)
    assert line.startswith("RUN: ")


def test_weights_that_do_not_fit_into_one_onnx_file(refused, monkeypatch):
    monkeypatch.setattr(onnx_file, "MAX_BYTES", 10_000)
    (line,) = refused()
    assert line.endswith("use pt2 or safetensors")


def test_a_network_that_torch_cannot_trace_says_so_in_one_line(refused, monkeypatch):
    class Branches(network.NormalizedNetwork):
        def forward(self, images):
            return images if images.sum() > 0 else super().forward(images)

    monkeypatch.setattr(network, "NormalizedNetwork", Branches)
    (line,) = refused(file_format="pt2")
    assert line.startswith("--format: is pt2, to which torch cannot export cifar:tiny_cnn (")
    assert line.endswith("; use --format safetensors, which has the weights alone")


@pytest.mark.parametrize(
    ("source", "file_format", "name"),
    [
        ("/shared/runs/r18-dtkd/", "onnx", "r18-dtkd.onnx"),
        ("runs/r18.v2", "int8", "r18.v2-int8.onnx"),
        ("weights/r18.safetensors", "pt2", "r18.pt2"),
        ("models:/r18@champion", "safetensors", "r18-champion.safetensors"),
        ("models:/my model/3", "onnx", "my-model-3.onnx"),
        ("runs:/0123abcd/student", "onnx", "student.onnx"),
        ("timm:vit_tiny", "pt2", "timm-vit_tiny.pt2"),
        ("..", "onnx", "student.onnx"),
    ],
)
def test_a_file_without_a_path_is_named_after_its_model(source, file_format, name):
    assert str(default_out(source, file_format)) == name
