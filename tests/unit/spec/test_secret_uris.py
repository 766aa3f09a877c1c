"""URIs with secrets: refused wherever they may be given, and never repeated."""

import json
import traceback

import pytest
from support.spec_contents import spec_content

from data_pipeline.uris import redacted
from jobs.convert import main as convert
from jobs.distill import main as distill
from jobs.sweep import main as sweep
from jobs.sync import main as sync
from jobs.verify import main as verify
from service.spec.errors import BadInputError
from service.spec.loading import parse_spec
from service.sweep.loading import parse_sweep

CANARY = "canary-7f3a"
HTTP = f"http://user:{CANARY}@host:5000/x"


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        (f"http://user:{CANARY}@host:5000/x", "http://***@host:5000/x"),
        (f"https://{CANARY}@host", "https://***@host"),
        (f"s3://key:{CANARY}/more@bucket/a.beton", "s3://***@bucket/a.beton"),
        (f"s3:/key:{CANARY}@bucket/a.beton", "s3:/***@bucket/a.beton"),
        (f"http://user:{CANARY}@{CANARY}@host/", "http://***@host/"),
        (f"postgresql+psycopg2://u:{CANARY}@h/db", "postgresql+psycopg2://***@h/db"),
        (f"s3://b/k?X-Amz-Signature={CANARY}&part=1", "s3://b/k?X-Amz-Signature=***&part=1"),
        (f"http://h/?a=1&access_token={CANARY}", "http://h/?a=1&access_token=***"),
        (f"https://h/x?sig={CANARY}#top", "https://h/x?sig=***#top"),
        (f"is 'http://u:{CANARY}@h' or so", "is 'http://***@h' or so"),
    ],
)
def test_secrets_of_uris_are_replaced(uri, shown):
    assert redacted(uri) == shown


@pytest.mark.parametrize(
    "text",
    [
        "models:/name@alias",
        "runs:/0123/a@b",
        "s3://bucket/data@v1/train.beton",
        "http://host:5000/a@b",
        "http://[::1]:5000",
        "sqlite:////data/mlflow.db",
        "torchvision:IMAGENET1K_V1",
        "/data/a?token=b/train.beton",
        "user@host:/path",
        "http://host/?page=3",
    ],
)
def test_other_texts_are_unchanged(text):
    assert redacted(text) == text


@pytest.mark.parametrize(
    ("path", "uri"),
    [
        ("dataset.train", f"s3://key:{CANARY}@bucket/train.beton"),
        ("dataset.val", f"s3://bucket/val.beton?X-Amz-Signature={CANARY}"),
        ("dataset.cache.path", f"http://user:{CANARY}@host/"),
        ("teacher.weights.source", HTTP),
        ("student.weights.source", f"https://host/w.pth?token={CANARY}"),
        ("tracking.uri", HTTP),
        ("checkpoints.storage_path", f"s3://key:{CANARY}@bucket/runs"),
        # Fields of the wrong type, which pydantic repeats in full.
        ("tracking", HTTP),
        ("dataset.train", [HTTP]),
        ("teacher", {"weights": HTTP}),
    ],
)
@pytest.mark.parametrize("of_sweep", [False, True])
def test_secrets_in_specs_are_refused_with_the_field(make_sweep_content, path, uri, of_sweep):
    content = make_sweep_content()
    section = content["base"]
    *parents, leaf = path.split(".")
    for parent in parents:
        section = section.setdefault(parent, {})
    section[leaf] = uri

    with pytest.raises(BadInputError) as caught:
        parse_sweep(content) if of_sweep else parse_spec(content["base"])

    text = "".join(traceback.format_exception(caught.value))
    where = f"base.{path}" if of_sweep else path
    (line,) = [line for line in str(caught.value).splitlines() if "password" in line]
    assert line.strip().startswith(where)
    assert "AWS_SECRET_ACCESS_KEY" in line or "MLFLOW_TRACKING_PASSWORD" in line
    assert CANARY not in text


@pytest.mark.parametrize(
    ("variable", "remedy"),
    [
        ("MLFLOW_TRACKING_URI", "MLFLOW_TRACKING_PASSWORD"),
        ("AWS_ENDPOINT_URL", "AWS_SECRET_ACCESS_KEY"),
    ],
)
@pytest.mark.parametrize("mode", [["--validate"], ["--plan"], []])
def test_secrets_in_uris_of_the_environment_are_refused(
    write_spec, monkeypatch, capfd, variable, remedy, mode
):
    monkeypatch.setenv(variable, HTTP)

    assert distill([str(write_spec()), *mode]) == 2

    output = capfd.readouterr()
    assert variable in output.err
    assert remedy in output.err
    assert CANARY not in output.out + output.err


def test_sync_refuses_a_secret_in_the_tracking_uri(make_content, monkeypatch, capfd, tmp_path):
    spec = parse_spec(make_content())
    spec.run_path.mkdir(parents=True)
    (spec.run_path / "spec.json").write_text(spec.model_dump_json())
    monkeypatch.setenv("MLFLOW_TRACKING_URI", HTTP)

    assert sync([str(spec.run_path)]) != 0

    output = capfd.readouterr()
    assert "MLFLOW_TRACKING_USERNAME" in output.err
    assert CANARY not in output.out + output.err


@pytest.mark.parametrize(
    ("script", "arguments"),
    [
        (distill, [HTTP]),
        (sweep, [HTTP]),
        (sync, [HTTP]),
        (verify, [HTTP]),
        (convert, [HTTP, "out.beton"]),
        (convert, ["images", HTTP]),
        (convert, ["images", "out.beton", "--labels", HTTP]),
        (distill, ["--new", "--train", HTTP, "--val", "v", "--student", "resnet18"]),
        (distill, ["--new", "--train", "t", "--val", HTTP, "--student", "resnet18"]),
        (distill, ["--new", "--train", "t", "--val", "v", "--student", "m", "--storage", HTTP]),
    ],
)
def test_secrets_in_arguments_are_refused(capfd, script, arguments):
    try:
        status = script(arguments)
    except SystemExit as end:
        status = end.code

    output = capfd.readouterr()
    assert status == 2
    assert "password" in output.err
    assert CANARY not in output.out + output.err


def test_a_base_file_with_a_secret_is_refused(make_sweep_content, tmp_path, capfd):
    content = make_sweep_content()
    base = {**content["base"], "tracking": {"uri": HTTP}}
    (tmp_path / "base.json").write_text(json.dumps(base))
    path = tmp_path / "sweep.json"
    path.write_text(json.dumps({**content, "base": str(tmp_path / "base.json")}))

    assert sweep([str(path), "--validate"]) == 2

    error = capfd.readouterr().err
    assert "base.tracking.uri" in error
    assert CANARY not in error


def test_credentials_of_the_environment_are_not_refused(data_folder, tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://host:5000")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", CANARY)
    spec = parse_spec(spec_content(data_folder, tmp_path))
    assert CANARY not in spec.model_dump_json()
