"""jobs/compare.py: what it prints, and its exit status."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from support.confirm_runs import write_result
from support.spec_contents import KD

from jobs.compare import main
from service.compare.jobs import run_specs
from service.compare.loading import load_comparison
from service.models.build import build_model

ROOT = Path(__file__).parents[3]


@pytest.fixture
def write(make_compare_content, tmp_path):
    """A function that writes a comparison to a file and returns its path."""

    def write(**fields):
        path = tmp_path / "compare.json"
        path.write_text(json.dumps(make_compare_content(**fields)))
        return str(path)

    return write


def test_validate_needs_neither_torch_nor_ray(write):
    code = (
        "import sys; from jobs.compare import main; status = main(sys.argv[1:]); "
        "assert not {'torch', 'ray', 'mlflow'} & set(sys.modules); sys.exit(status)"
    )
    tuned = {"trials": 2, "held_out": {"num_images": 64}}
    command = [sys.executable, "-c", code, write(tuned=tuned), "--validate"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "compare.json: valid, comparison cmp, 4 runs" in done.stdout


def test_base_may_be_a_file(make_compare_content, tmp_path, capsys):
    content = make_compare_content()
    (tmp_path / "base.json").write_text(json.dumps(content["base"]))
    path = tmp_path / "compare.json"
    path.write_text(json.dumps({**content, "base": str(tmp_path / "base.json")}))
    assert main([str(path), "--validate"]) == 0
    path.write_text(json.dumps({**content, "base": str(tmp_path / "missing.json")}))
    assert main([str(path), "--validate"]) == 2
    assert "base: " in capsys.readouterr().err


@pytest.mark.parametrize("mode", ["--validate", "--plan", None])
def test_bad_comparison_exits_with_2_and_a_line_for_each_problem(write, capsys, mode):
    path = write(variants={"a": {"losses.kd.wieght": 1}, "b": {"seed": 3}})
    assert main([path, *([mode] if mode else [])]) == 2
    first, *lines = capsys.readouterr().err.splitlines()
    assert first.endswith("compare.json: 2 problems")
    assert [line.split(":")[0].strip() for line in lines] == [
        "variants.a.losses.kd.wieght",
        "variants.b.seed",
    ]


@pytest.mark.parametrize("mode", ["--validate", "--plan"])
def test_classifier_of_weights_by_order_is_checked(write, tmp_path, capsys, mode):
    weights = {
        str(n): t for n, t in enumerate(build_model("cifar:resnet8", 9).state_dict().values())
    }
    torch.save(weights, tmp_path / "nine.pth")
    source = {"source": str(tmp_path / "nine.pth"), "match": "order"}
    teacher = {"model": "cifar:resnet8", "weights": source}
    assert main([write(base={"teacher": teacher}), mode]) == 2
    _, line = capsys.readouterr().err.splitlines()
    assert line.strip().startswith("base.teacher.weights.source: ")
    assert "has a classifier for 9 classes" in line
    assert "set teacher.classes" in line


def test_plan_checks_that_weights_fit(write, tmp_path, capsys):
    save_file(build_model("cifar:resnet14", 4).state_dict(), tmp_path / "deep.safetensors")
    weights = {"source": str(tmp_path / "deep.safetensors")}
    path = write(variants={"kd": {**KD, "teacher.weights": weights}})
    assert main([path, "--validate"]) == 0
    assert main([path, "--plan"]) == 2
    assert "variants.kd: teacher.weights.source: " in capsys.readouterr().err


def test_damaged_result_is_found_without_torch(write, tmp_path, capsys):
    path = write()
    for key, spec in run_specs(load_comparison(Path(path)).compare).items():
        write_result(spec, 0.5)
        if key.seed == 1:
            (spec.run_path / "result.json").write_text("{")
    compare = load_comparison(Path(path)).compare
    (compare.compare_path / "compare.json").write_text(compare.model_dump_json())
    (compare.compare_path / "spec.json").write_text(compare.as_job().model_dump_json())
    assert main([path, "--validate"]) == 2
    _, *lines = capsys.readouterr().err.splitlines()
    assert [line.split(":")[0].strip() for line in lines] == [
        "runs/base-seed-1/result.json",
        "runs/kd-seed-1/result.json",
    ]


def test_reference(capsys):
    assert main(["--fields"]) == 0
    assert "tuned.held_out.num_images" in capsys.readouterr().out
    assert main(["--schema"]) == 0
    assert "variants" in json.loads(capsys.readouterr().out)["properties"]


def test_spec_is_needed(capsys):
    with pytest.raises(SystemExit) as caught:
        main([])
    assert caught.value.code == 2
    assert "give a spec, or --fields" in capsys.readouterr().err
