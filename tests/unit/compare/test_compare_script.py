"""jobs/compare.py: what it prints, and its exit status."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from jobs.compare import main

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
