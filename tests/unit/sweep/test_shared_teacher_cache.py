"""All runs of a sweep, or of a comparison, have the teacher's logits in one folder."""

from service.compare.jobs import run_specs
from service.compare.loading import parse_comparison
from service.sweep.confirm import confirm_specs
from service.sweep.loading import parse_sweep
from service.sweep.trials import trial_spec


def cached(content, **cache):
    """The content of many jobs whose base has a teacher.cache."""
    content["base"]["teacher"] = {**content["base"]["teacher"], "cache": cache}
    return content


def test_trials_and_confirming_runs_of_a_sweep_share_it(make_sweep_content, tmp_path):
    for cache, path in (({}, "runs/.teacher_cache"), ({"path": "other"}, "other")):
        cache = {name: str(tmp_path / value) for name, value in cache.items()}
        sweep = parse_sweep(cached(make_sweep_content(), **cache))
        trials = [trial_spec(sweep, sweep.base, n, {"losses.dtkd.weight": 1.0 + n}) for n in (0, 1)]
        confirming = confirm_specs(sweep, sweep.base, {"losses.dtkd.weight": 1.5}, num_seeds=2)
        found = {spec.teacher_cache_path for spec in (*trials, *confirming.values())}
        assert found == {tmp_path / path}


def test_runs_of_a_comparison_share_it_and_those_without_a_teacher_have_none(
    make_compare_content, tmp_path
):
    variants = {
        "kd": {"losses": {"ce": {}, "kd": {}}},
        "dtkd": {"losses": None},
        "plain": {"teacher": None, "losses": None},
    }
    content = cached(make_compare_content(variants=variants), epochs=1)
    specs = run_specs(parse_comparison(content).compare)
    assert {spec.teacher_cache_path for key, spec in specs.items() if spec.uses_teacher} == {
        tmp_path / "runs" / ".teacher_cache"
    }
    assert {key.variant.name for key, spec in specs.items() if spec.teacher_cache} == {"kd", "dtkd"}
