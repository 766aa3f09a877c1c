"""An evaluation's figures are those of plain torch and numpy, and bad input leaves nothing."""

import json
import math
import os
import signal

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from support.finished_runs import write_finished_run
from support.image_makers import converted, write_folder
from support.spec_contents import NUM_CLASSES, SIZE

from data_pipeline.beton import open_beton
from data_pipeline.manifest import manifest_path
from jobs.evaluate import main
from service.evaluate import job, latency
from service.models.build import build_model
from service.run.folder import STUDENT_NAME
from service.spec.errors import EXIT_STOPPED
from service.spec.fields import IMAGENET_MEAN, IMAGENET_STD

NUM_IMAGES = 101
BARE = ["--resize", str(SIZE), "--crop", str(SIZE), "--mean", "0.1", "0.2", "0.3"]
BARE += ["--std", "0.4", "0.5", "0.6", "--architecture", "cifar:tiny_cnn"]


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setattr(latency, "WARM_UP_S", 0.0)
    monkeypatch.setattr(latency, "MEASURED_S", 0.0)


@pytest.fixture
def bare(tmp_path):
    """A file of random weights that says nothing about itself, and its network."""
    torch.manual_seed(5)
    network = build_model("cifar:tiny_cnn", NUM_CLASSES).eval()
    # Not near 0, so that predictions differ between images.
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(3)
    save_file(network.state_dict(), tmp_path / "bare.safetensors")
    return tmp_path / "bare.safetensors", network


def stripes():
    """Pixels [N, H, W, 3] and labels [N] of val.beton, drawn as they were when it was written."""
    generator, pixels = np.random.default_rng(2), []
    labels = np.arange(NUM_IMAGES) % NUM_CLASSES
    for label in labels:
        image = generator.integers(0, 130, (SIZE, SIZE, 3))
        image[4 * label : 4 * label + 4] += 60
        pixels.append(image)
    return np.stack(pixels), labels


def plain_logits(network, mean, std):
    """Logits in float64 of all images."""
    pixels, _ = stripes()
    images = (pixels / 255 - np.array(mean)) / np.array(std)
    with torch.inference_mode():
        found = network.double()(torch.from_numpy(images.transpose(0, 3, 1, 2).copy()))
    network.float()
    return found.numpy()


def evaluate(tmp_path, *arguments):
    """The JSON report of an evaluation that succeeds."""
    path = tmp_path / "report.json"
    path.unlink(missing_ok=True)
    assert main([*map(str, arguments), "--json", str(path), "--batch-size", "32"]) == 0
    return json.loads(path.read_text())


def test_figures_are_those_of_plain_numpy(bare, data_folder, tmp_path, capsys):
    path, network = bare
    report = evaluate(tmp_path, path, data_folder / "val.beton", *BARE)
    logits = plain_logits(network, (0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    _, labels = stripes()
    log_softmax = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    are_right = logits.argmax(1) == labels
    assert 0.05 < are_right.mean() < 0.95
    assert report["top1"]["value"] == pytest.approx(are_right.mean())
    assert report["top5"]["value"] == 1.0
    assert report["nll"] == pytest.approx(-log_softmax[range(NUM_IMAGES), labels].mean(), rel=1e-5)
    per_class = [are_right[labels == label].mean() for label in range(NUM_CLASSES)]
    assert [each["top1"] for each in report["per_class"]] == pytest.approx(per_class)
    confidences, gap = np.exp(log_softmax).max(1), 0.0
    for low in np.arange(15) / 15:
        inside = (confidences > low) & (confidences <= low + 1 / 15)
        if inside.any():
            gap += abs(are_right[inside].mean() - confidences[inside].mean()) * inside.mean()
    assert report["ece"] == pytest.approx(gap, abs=1e-5)
    for each in report["confusions"]:
        true, predicted = (int(each[key].split()[1]) for key in ("true", "predicted"))
        count = ((labels == true) & (logits.argmax(1) == predicted)).sum()
        assert each["num_images"] == count
        assert each["share"] == pytest.approx(count / (labels == true).sum())
    output = capsys.readouterr().out
    assert f"top-1   {are_right.mean():.2%} (" in output
    assert "mean 0.1 0.2 0.3, std 0.4 0.5 0.6: options" in output


def test_a_run_is_evaluated_as_its_spec_says(make_content, data_folder, tmp_path):
    spec = write_finished_run(make_content())
    report = evaluate(tmp_path, spec.run_path, data_folder / "val.beton")
    network = build_model("cifar:tiny_cnn", NUM_CLASSES).eval()
    network.load_state_dict(load_file(spec.run_path / STUDENT_NAME))
    logits = plain_logits(network, IMAGENET_MEAN, IMAGENET_STD)
    assert report["top1"]["value"] == pytest.approx((logits.argmax(1) == stripes()[1]).mean())
    assert report["model"]["preprocessing_origin"] == "the run's spec"
    assert report["data"]["num_images"] == NUM_IMAGES


def test_agreement_is_with_a_teacher_that_prepares_its_images_itself(
    bare, make_content, data_folder, tmp_path
):
    path, network = bare
    spec = write_finished_run(make_content())
    report = evaluate(tmp_path, path, data_folder / "val.beton", *BARE, "--teacher", spec.run_path)
    teacher = build_model("cifar:tiny_cnn", NUM_CLASSES).eval()
    teacher.load_state_dict(load_file(spec.run_path / STUDENT_NAME))
    own = plain_logits(network, (0.1, 0.2, 0.3), (0.4, 0.5, 0.6)).argmax(1)
    others = plain_logits(teacher, IMAGENET_MEAN, IMAGENET_STD).argmax(1)
    assert report["agreement"]["share"] == pytest.approx((own == others).mean())
    assert report["agreement"]["top1"]["value"] == pytest.approx((others == stripes()[1]).mean())


def test_logits_that_are_not_finite_count_as_errors(bare, data_folder, tmp_path, capsys):
    """Finite weights, but so large that logits overflow."""
    path, network = bare
    weights = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    last = [name for name, tensor in weights.items() if tensor.ndim == 2][-1]
    weights[last] = torch.full_like(weights[last], 3e38)
    save_file(weights, path)
    report = evaluate(tmp_path, path, data_folder / "val.beton", *BARE)
    assert report["num_nonfinite"] == NUM_IMAGES
    assert report["top1"]["value"] == report["top1"]["low"] == 0.0
    assert report["nll"] is None
    assert report["ece"] is None
    assert report["confusions"][0]["predicted"] == "not finite"
    assert f"logits of {NUM_IMAGES} images, which count as wrong" in capsys.readouterr().out


def test_corruptions_and_page_are_there_if_asked_for(bare, data_folder, tmp_path):
    path, _ = bare
    page = tmp_path / "page.html"
    arguments = [path, data_folder / "val.beton", *BARE, "--corruptions", "--html", page]
    report = evaluate(tmp_path, *arguments)
    assert len(report["corruptions"]) == 20
    mean = sum(each["top1"]["value"] for each in report["corruptions"]) / 20
    assert report["mean_corrupted_top1"] == pytest.approx(mean)
    assert math.isclose(report["latency"][1]["batch_size"], 32)
    assert page.read_text().startswith("<!DOCTYPE html>")


BAD_INPUT = [
    (["--json", "{folder}/there.json"], "--json: {folder}/there.json exists"),
    (["--html", "{folder}/nowhere/page.html"], "--html: {folder}/nowhere is no folder"),
    (["--crop", "17"], "--crop: is 17, more than --resize, 16"),
    (["--architecture", "resnet19"], "--architecture: is 'resnet19', not a known model"),
    (["--num-classes", "9"], "--num-classes: is 9, but bare.safetensors has 4 classes"),
    (["--weights", "any.pth"], "--weights: is set, but MODEL is a file of weights"),
    (["--classes", "by_name"], "--classes: is by_name, but val.beton has no manifest"),
    (["--teacher", "resnet19"], "--teacher: resnet19 is no file"),
    (["--mlflow"], "--mlflow: is set, but no server is given"),
    (["--teacher-crop", "16"], "--teacher-crop: is set, but there is no --teacher"),
]


@pytest.mark.parametrize(("more", "message"), BAD_INPUT)
def test_bad_input_is_named_and_writes_nothing(more, message, bare, data_folder, tmp_path, capsys):
    path, _ = bare
    (tmp_path / "there.json").write_text("{}")
    before = sorted(tmp_path.iterdir())
    more = [text.format(folder=tmp_path) for text in more]
    json_option = [] if "--json" in more else ["--json", str(tmp_path / "new.json")]
    arguments = [str(path), str(data_folder / "val.beton"), *BARE, *json_option, *more]
    assert main(arguments) == 2
    assert message.format(folder=tmp_path) in capsys.readouterr().err
    assert sorted(tmp_path.iterdir()) == before
    assert (tmp_path / "there.json").read_text() == "{}"


def test_classes_are_compared_before_a_download(tmp_path, monkeypatch, capsys):
    data = tmp_path / "named.beton"
    converted(write_folder(tmp_path / "images", NUM_CLASSES, 3), data)

    def download(*_, **__):
        raise AssertionError("the classes are others")

    monkeypatch.setattr(torch.hub, "download_url_to_file", download)
    assert main(["squeezenet1_1", str(data)]) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert "MODEL: torchvision:squeezenet1_1 DEFAULT has 1000 classes" in line


def test_data_that_cannot_be_read_is_refused(bare, tmp_path, capsys):
    path, _ = bare
    assert main([str(path), str(tmp_path / "none.beton"), *BARE]) == 2
    assert "DATA: " in capsys.readouterr().err
    assert main([str(path), str(path), *BARE]) == 2
    assert f"DATA: {path} is not a .beton file; make one" in capsys.readouterr().err


def test_an_image_that_does_not_decode_is_named(bare, tmp_path, capsys):
    """Found while images are read; neither of the files is written."""
    path, _ = bare
    data = tmp_path / "damaged.beton"
    converted(write_folder(tmp_path / "images", NUM_CLASSES, 3), data)
    file = open_beton(data)
    with data.open("r+b") as stream:
        stream.seek(int(file.samples["image"]["data_ptr"][7]))
        stream.write(bytes(int(file.data_sizes[7])))
    # Without it, samples are not compared with their digests before.
    manifest_path(data).unlink()
    outputs = [tmp_path / "report.json", tmp_path / "page.html"]
    options = ["--json", str(outputs[0]), "--html", str(outputs[1])]
    assert main([str(path), str(data), *BARE, *options]) == 2
    assert f"DATA: {data}: sample 7 does not decode; convert it again" in capsys.readouterr().err
    assert not any(output.exists() for output in outputs)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_in_one_line(number, bare, data_folder, tmp_path, monkeypatch, capsys):
    def interrupt(*_):
        os.kill(os.getpid(), number)
        raise AssertionError("the signal interrupts it")

    monkeypatch.setattr(job, "predict", interrupt)
    output = tmp_path / "report.json"
    arguments = [str(bare[0]), str(data_folder / "val.beton"), *BARE, "--json", str(output)]
    assert main(arguments) == EXIT_STOPPED
    assert capsys.readouterr().err == "stopped\n"
    assert not output.exists()


def test_bfloat16_is_near_float32_and_says_so(bare, data_folder, tmp_path):
    """Its numbers have 8 bits: a loss of about 1 differs by some hundredths, but does differ."""
    arguments = [bare[0], data_folder / "val.beton", *BARE]
    exact = evaluate(tmp_path, *arguments)
    rounded = evaluate(tmp_path, *arguments, "--precision", "bfloat16")
    assert (exact["precision"], rounded["precision"]) == ("float32", "bfloat16")
    assert rounded["nll"] != exact["nll"]
    assert rounded["nll"] == pytest.approx(exact["nll"], rel=0.03)
    assert rounded["top1"]["value"] == pytest.approx(exact["top1"]["value"], abs=0.05)
