"""A finished job that is submitted again says where its result and its page are."""

from support.finished_runs import write_finished_run

from service.job import run_job
from service.run.result import read_result
from service.spec.errors import EXIT_DONE
from service.spec.loading import parse_job
from service.tracking.destination import publication_key
from service.tracking.mlflow_run import tracking_uri


def test_finished_job_prints_its_page(make_content, capsys):
    content = make_content()
    spec = write_finished_run(content)
    result = read_result(spec.run_path)
    result.address, result.published_as = "address", publication_key(spec, tracking_uri(spec))
    result.write(spec.run_path)
    (spec.run_path / "run.html").write_text("page")
    assert run_job(parse_job(content)) == EXIT_DONE
    lines = capsys.readouterr().out.splitlines()
    assert lines[-2:] == ["run: address", f"page: {spec.run_path / 'run.html'}"]
