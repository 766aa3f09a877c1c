"""What is wrong with a comparison is said at once: where, what, and the remedy."""

import shutil

import pytest

from service.compare.jobs import other_recipe, run_specs
from service.compare.loading import parse_comparison
from service.compare.spec import Variant
from service.spec.errors import BadInputError

KD = {"losses": {"ce": {}, "kd": {}}}


def problems_of(content):
    with pytest.raises(BadInputError) as caught:
        parse_comparison(content)
    return caught.value.problems


@pytest.mark.parametrize(
    ("fields", "where", "text"),
    [
        ({"seeds": [3]}, "seeds", "fewer than two seeds for an interval"),
        ({"seeds": [1, 2, 1]}, "seeds", "has 1 twice"),
        ({"variants": {}}, "variants", "is empty"),
        ({"variants": {"a/b": KD}}, "variants.a/b", "use 1 to 40 letters"),
        ({"variants": {"base": KD}}, "base_label", "is a variant too"),
        ({"variants": {"KD": KD, "kd": {"losses.ce.weight": 2}}}, "variants", "same folder"),
        ({"variants": {"a": {"losses.kd.wieght": 2}}}, "variants.a.losses.kd.wieght", "kd.weight?"),
        ({"variants": {"a": {"seed": 2}}}, "variants.a.seed", "set seeds of the comparison"),
        ({"variants": {"a": {"evaluation.crop_size": 8}}}, "variants.a.evaluation.crop_size", "ev"),
        ({"variants": {"a": {"dataset.val": "v"}}}, "variants.a.dataset.val", "other images"),
        ({"variants": {"a": {"dataset": {}}}}, "variants.a.dataset", "replaces dataset.val too"),
        (
            {"variants": {"a": {"losses": {"ce": {}}, "losses.ce.weight": 2}}},
            "variants.a.losses.ce.weight",
            "is a part of losses",
        ),
        ({"variants": {"a": {}}}, "variants.a", "is the same as base"),
        ({"variants": {"a": {"losses.ce.weight": 1}}}, "variants.a", "is the same as base"),
        ({"variants": {"a": KD, "b": {"losses.kd": {}}}}, "variants.b", "is the same as a"),
        ({"variants": {"a": {"losses": {"kdd": {}}}}}, "variants.a: losses.kdd", "losses.kd?"),
        ({"variants": {"a": {**KD, "teacher": None}}}, "variants.a: losses.kd", "teacher"),
        ({"base": {"losses": {"ke": {}}}}, "base.losses.ke", "mean"),
        ({"base": {"dataset": {"held_out": {"num_images": 4}}}}, "base.dataset.held_out", "tuned"),
        ({"pairs": {"p": {"optimizer.momentum": 0}}}, "pairs.p.optimizer.momentum", "no part of"),
        ({"pairs": {"p": {}}}, "pairs.p", "changes nothing"),
        ({"pairs": {"p": {"student.modle": "x"}}}, "pairs.p.student.modle", "student.model?"),
        (
            {"tuned": {"trials": 2, "held_out": {"num_images": 999}}},
            "tuned.held_out.num_images",
            "999",
        ),
        (
            {"tuned": {"trials": 2, "held_out": {"num_images": 200}}},
            "tuned.held_out.num_images",
            "training.global_batch_size is 64 but",
        ),
        ({"resources": {"num_workers": 2}}, "resources.num_workers", "micro-batches"),
    ],
)
def test_problem_names_the_field_and_the_remedy(make_compare_content, fields, where, text):
    (problem,) = problems_of(make_compare_content(**fields))
    assert problem.where == where
    assert text in str(problem)


def test_invalid_job_of_many_variants_is_one_problem(make_compare_content):
    content = make_compare_content(
        variants={f"v{n}": {"losses.ce.weight": n, "optimizer.momentum": 2} for n in (2, 3, 4)}
    )
    (problem,) = problems_of(content)
    assert problem.where == "variants.v2: optimizer.momentum"


def test_names_of_pairs_and_variants_must_not_meet_in_a_folder(make_compare_content):
    pairs = {"a": {"student.model": "cifar:small_cnn"}, "a-b": {"student.model": "cifar:resnet8"}}
    content = make_compare_content(pairs=pairs, variants={"c": KD, "b-c": {"losses.kd": {}}})
    (problem,) = problems_of(content)
    assert (problem.where, problem.remedy) == ("pairs.a-b", "rename one of them")
    assert "a/b-c and a-b/c the same folder, a-b-c-seed-0" in problem.wrong


def test_pairs_that_are_alike_are_one_problem(make_compare_content):
    pairs = {name: {"student.model": "cifar:small_cnn"} for name in ("p", "q")}
    (problem,) = problems_of(make_compare_content(pairs=pairs))
    assert (problem.where, problem.wrong) == ("pairs.q", "is the same as p")


def test_students_alone_may_be_the_same_in_pairs_of_other_teachers(make_compare_content, teacher):
    source = teacher["weights"]["source"]
    other = source.replace("teacher", "other")
    shutil.copy(source, other)
    pairs = {name: {"teacher.weights.source": path} for name, path in (("p", source), ("q", other))}
    variants = {"alone": {"teacher": None, "losses": {"ce": {}}}}
    content = make_compare_content({"losses": KD["losses"]}, variants=variants, pairs=pairs)
    assert [variant.label for variant in parse_comparison(content).jobs] == [
        "p-base", "p-alone", "q-base", "q-alone"
    ]  # fmt: skip


def test_of_three_pairs_with_one_student_alone_the_two_alike_are_found(
    make_compare_content, teacher
):
    source = teacher["weights"]["source"]
    other = source.replace("teacher", "other")
    shutil.copy(source, other)
    sources = {"p": source, "q": other, "r": other}
    pairs = {name: {"teacher.weights.source": path} for name, path in sources.items()}
    variants = {"alone": {"teacher": None, "losses": {"ce": {}}}}
    content = make_compare_content({"losses": KD["losses"]}, variants=variants, pairs=pairs)
    (problem,) = problems_of(content)
    assert (problem.where, problem.wrong) == ("pairs.r", "is the same as q")


def test_jobs_are_the_base_with_the_patches_and_the_seeds(make_compare_content):
    base = {
        "seed": 9,
        "tracking": {"register_as": "student", "promote": {"alias": "best"}},
        "schedule": {"num_epochs": 10, "milestones": [3, 6, 9]},
    }
    variants = {
        "none": {"teacher": None},
        "kd": {"losses": {"ce": {}, "kd": {"weight": 2}}},
        "long": {"schedule.num_epochs": 20},
    }
    pairs = {"s": {"student.model": "cifar:small_cnn"}, "t": {"student.model": "cifar:tiny_cnn"}}
    resources = {"num_workers": 1, "cpus_per_worker": 2}
    content = make_compare_content(base, variants=variants, pairs=pairs, resources=resources)
    loaded = parse_comparison(content)
    specs = {key.name: spec for key, spec in run_specs(loaded.compare).items()}

    names = [
        f"{pair}-{variant}-seed-{seed}"
        for seed in (0, 1)
        for pair in "st"
        for variant in ("base", *variants)
    ]
    assert list(specs) == names
    assert {spec.name: spec.seed for spec in specs.values()} == {n: int(n[-1]) for n in names}
    for name, spec in specs.items():
        assert spec.run_path == loaded.compare.compare_path / "runs" / name
        assert spec.student.model == f"cifar:{'small' if name[0] == 's' else 'tiny'}_cnn"
        assert (spec.tracking.register_as, spec.tracking.promote) == (None, None)
        assert spec.resources.cpus_per_worker == 2
    assert specs["s-none-seed-1"].teacher is None
    assert specs["s-kd-seed-1"].losses.kd.weight == 2
    # As default milestones they move with the epochs.
    assert specs["t-long-seed-0"].schedule.milestones == (6, 12, 18)


def test_other_recipes_are_named(make_compare_content):
    variants = {
        "kd": KD,
        "long": {"schedule.num_epochs": 4, "optimizer.learning_rate": 0.05, **KD},
    }
    compare = parse_comparison(make_compare_content(variants=variants)).compare
    assert other_recipe(compare, Variant("", "kd")) == []
    # The learning rate is the base's own.
    assert other_recipe(compare, Variant("", "long")) == ["schedule.num_epochs"]


def test_rows_that_repeat_other_epochs_than_the_base_are_named(make_compare_content, teacher):
    base = {
        "teacher": {**teacher, "cache": {"epochs": 1}},
        "losses": {"ce": {}},
        "schedule": {"num_epochs": 2, "milestones": []},
    }
    kd = {"losses": {"ce": {}, "kd": {}}}
    variants = {"kd": kd, "live": {**kd, "teacher.cache": None}}
    compare = parse_comparison(make_compare_content(base, variants=variants)).compare
    # The base needs no teacher, so that it repeats nothing.
    assert other_recipe(compare, Variant("", "kd")) == ["teacher.cache.epochs"]
    assert other_recipe(compare, Variant("", "live")) == []


def test_pairs_may_have_the_teachers_that_the_base_lacks(make_compare_content, teacher):
    base = {"teacher": None, "losses": {"ce": {}, "kd": {}}}
    pairs = {"a": {"teacher": teacher}, "b": {"teacher": teacher, "student.model": "cifar:resnet8"}}
    content = make_compare_content(base, variants={}, pairs=pairs)
    assert len(parse_comparison(content).jobs) == 2
    (problem,) = problems_of({**content, "pairs": {**pairs, "c": {"student.model": "cifar:vgg8"}}})
    assert problem.where == "base.losses.kd"


def test_file_that_is_missing_is_one_problem_of_the_base(make_compare_content):
    content = make_compare_content({"dataset": {"train": "/missing.beton"}})
    (problem,) = problems_of(content)
    assert problem.where == "base.dataset.train"
