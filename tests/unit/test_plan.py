"""The plan's numbers against hand calculations."""

import shutil

import pytest

from data_pipeline.manifest import manifest_path
from service.models.build import build_model
from service.plan import WORKER_BASE_BYTES, format_plan, make_plan
from service.spec.errors import BadInputError
from service.spec.loading import parse_job
from service.training.schedules import learning_rate


def test_steps_rates_and_costs(make_content):
    plan = make_plan(parse_job(make_content()))
    # 256 images in batches of 64; the rate falls to a tenth after the first of two epochs.
    assert plan.num_steps_per_epoch == 4
    assert plan.rates == ((0.0, 0.05), (1.0, pytest.approx(0.005)), (2.0, pytest.approx(0.005)))
    # Three 3x3 convolutions with stride 2 on 16 pixels, and the classifier; 2 per multiply-add.
    convolutions = 9 * (3 * 8 * 64 + 8 * 16 * 16 + 16 * 32 * 4)
    assert plan.models[0].flops_per_image == 2 * (convolutions + 32 * 4)
    parameters = sum(p.numel() for p in build_model("cifar:tiny_cnn", 4).parameters())
    assert plan.models[0].num_parameters == parameters


def test_memory_grows_with_the_micro_batch(make_content):
    # One micro-batch in each pass.
    single = {"max_activation_bytes": 1}
    small = make_plan(parse_job(make_content(training={"micro_batch_size": 16, **single})))
    large = make_plan(parse_job(make_content(training={"micro_batch_size": 32, **single})))
    growth = large.memory_bytes - small.memory_bytes
    # At least each convolution's float32 output is kept for each image.
    assert growth > 16 * 4 * (8 * 64 + 16 * 16 + 32 * 4)
    # A much larger growth would mean that weights are counted once per image.
    assert growth < 16 * 4 * 10 * (8 * 64 + 16 * 16 + 32 * 4)


def test_plan_warns_about_likely_mistakes(make_content):
    teacher = {"model": "cifar:resnet8", "weights": {"source": "models:/t@champion"}}
    content = make_content(teacher=teacher, training={"global_batch_size": 96})
    text = format_plan(make_plan(parse_job(content)))
    assert "2 epochs x 2 steps = 4 steps of 96 images" in text
    assert "2 workers x 3 micro-batches of 16 images per step" in text
    assert "drops 64 images" in text
    assert "min_top1 is not set" in text


def test_plan_of_a_range_of_workers(make_content):
    plan = make_plan(parse_job(make_content(resources={"num_workers": [1, 3]})))
    assert "1 to 3 workers share 4 micro-batches of 16 images per step" in format_plan(plan)
    assert any("no multiple of 3 workers" in warning for warning in plan.warnings)


def memory_of(make_content, **sections):
    return make_plan(parse_job(make_content(**sections))).memory_bytes


@pytest.fixture
def parameter_bytes():
    """float32 parameters of the student of make_content."""
    return 4 * sum(p.numel() for p in build_model("cifar:tiny_cnn", 4).parameters())


@pytest.mark.parametrize(
    ("sections", "weight_in_sums"),
    [
        # Weights, gradients and momentum are counted always; Adam has two moments.
        ({"training": {"ema_decay": 0.99}}, 1),
        ({"optimizer": {"kind": "adamw", "learning_rate": 0.001}}, 1),
        ({"optimizer": {"kind": "adamw"}, "training": {"ema_decay": 0.99}}, 2),
    ],
)
def test_memory_counts_copies_of_the_parameters(
    make_content, parameter_bytes, sections, weight_in_sums
):
    added = memory_of(make_content, **sections) - memory_of(make_content)
    assert added == weight_in_sums * parameter_bytes


def test_memory_has_the_teachers_weights(make_content, teacher):
    added = memory_of(make_content, teacher=teacher) - memory_of(make_content)
    unused = {"teacher": teacher, "losses": {"ce": {}}}
    assert memory_of(make_content, **unused) == memory_of(make_content)
    assert added == 4 * sum(p.numel() for p in build_model("cifar:resnet8", 4).parameters())


def test_activations_in_bfloat16_are_half_as_large(make_content, parameter_bytes):
    fixed = WORKER_BASE_BYTES + 3 * parameter_bytes
    full = memory_of(make_content) - fixed
    half = memory_of(make_content, training={"precision": "bfloat16"}) - fixed
    assert half == full // 2
    # Nothing but parameters and activations: those of half the global batch are half as large.
    assert memory_of(make_content, training={"global_batch_size": 32}) - fixed == full // 2


def test_checkpointing_keeps_a_fraction_of_the_activations(make_content):
    """One of resnet20's largest blocks has 4/21 of all; the inputs of all blocks come on top."""
    student, fixed = {"model": "cifar:resnet20"}, WORKER_BASE_BYTES
    fixed += 3 * 4 * sum(p.numel() for p in build_model("cifar:resnet20", 4).parameters())
    plain = memory_of(make_content, student=student) - fixed
    training = {"checkpoint_activations": True}
    checkpointed = memory_of(make_content, student=student, training=training) - fixed
    assert 0.2 * plain < checkpointed < 0.5 * plain


def test_checkpointing_of_a_network_without_blocks_is_refused(make_content):
    with pytest.raises(BadInputError, match=r"checkpoint_activations: .*tiny_cnn has no sequence"):
        memory_of(make_content, training={"checkpoint_activations": True})


def test_layer_decay_of_a_network_without_known_blocks_is_refused(make_content):
    sections = {
        "student": {"model": "timm:poolformer_s12"},
        "optimizer": {"layer_decay": 0.7},
        "augmentation": {"crop": "random_resized", "size": 32},
    }
    with pytest.raises(BadInputError, match=r"optimizer.layer_decay: .*poolformer_s12"):
        memory_of(make_content, **sections)


def test_two_views_keep_twice_as_much_for_the_gradient(make_content, parameter_bytes):
    losses = {"ce": {"views": "both"}}
    fixed = WORKER_BASE_BYTES + 3 * parameter_bytes
    one = memory_of(make_content) - fixed
    strong = {"strong": {"rand_augment": {}}}
    assert memory_of(make_content, losses=losses, augmentation=strong) - fixed == 2 * one


def test_plan_says_what_is_trained(make_content, teacher):
    losses = {"ce": {}, "dkd": {"weight": 0.5}, "kd": {"weight": 0}, "warmup_epochs": 1}
    text = format_plan(make_plan(parse_job(make_content(teacher=teacher, losses=losses))))
    assert "losses: ce 1, dkd 0.5; all but ce rise to their weights over 1 epochs\n" in text
    both = {"losses": {"ce": {"views": "both"}}, "augmentation": {"strong": {}}}
    text = format_plan(make_plan(parse_job(make_content(**both))))
    assert "losses: ce 1; of two views of each image\n" in text


def test_held_out_images_are_evaluated_and_not_trained_on(make_content):
    content = make_content()
    content["dataset"]["held_out"] = {"num_images": 56}
    plan = make_plan(parse_job(content))
    assert (plan.num_train_images, plan.num_evaluated_images) == (200, 56)
    # 200 images in batches of 64, the last of which is incomplete.
    assert plan.num_steps_per_epoch == 3 + (not plan.spec.training.drop_last)
    assert "200 train and 56 held-out images" in format_plan(plan).replace("_", "-")


def test_rates_of_a_cosine_after_a_warmup(make_content):
    schedule = {"kind": "cosine", "num_epochs": 8, "warmup_epochs": 1}
    content = make_content(schedule=schedule, optimizer={"learning_rate": 0.4})
    rates = dict(make_plan(parse_job(content)).rates)
    assert list(rates) == [0.0, 1.0, 2.0, 4.0, 6.0, 8.0]
    assert rates[0.0] == pytest.approx(0.4 / 4)
    assert rates[1.0] == pytest.approx(0.4, rel=0.1)
    schedule = parse_job(content).spec.schedule
    assert rates[8.0] == learning_rate(schedule, 0.4, 8 * 4 - 1, 4)
    assert rates[8.0] < rates[6.0] < rates[4.0] < rates[2.0] < rates[1.0]


def weights(**of_losses):
    return {"ce": {}} | {name: {"weight": weight} for name, weight in of_losses.items()}


@pytest.mark.parametrize(
    ("sections", "warning", "is_warned"),
    [
        ({"losses": weights(dtkd=0, kd=0)}, "needs the teacher: it is not used", True),
        ({"losses": weights(dtkd=0, kd=0.5)}, "needs the teacher: it is not used", False),
        ({"losses": weights(dtkd=0.5, kd=0)}, "needs the teacher: it is not used", False),
        ({"losses": {"ce": {}}}, "needs the teacher: it is not used", True),
        ({}, "needs the teacher: it is not used", False),
        ({"training": {"micro_batch_size": None}}, "micro_batch_size is not set", True),
        ({"training": {"micro_batch_size": 16}}, "micro_batch_size is not set", False),
        ({"training": {"global_batch_size": 96, "micro_batch_size": 32}}, "no multiple of", True),
        ({"training": {"micro_batch_size": 32}}, "no multiple of 2 workers", False),
    ],
)
def test_warnings_at_their_bounds(make_content, teacher, sections, warning, is_warned):
    resources = {"num_workers": 2}
    plan = make_plan(parse_job(make_content(teacher=teacher, resources=resources, **sections)))
    assert any(warning in text for text in plan.warnings) == is_warned


def test_plan_says_what_each_worker_needs(make_content):
    plan = make_plan(parse_job(make_content()))
    text = format_plan(plan)
    assert f"about {plan.memory_bytes / 1e9:.1f} GB of memory" in text
    (cost,) = plan.models
    assert f"{cost.num_parameters / 1e6:.2f} M parameters" in text
    assert "4 steps of 64 images" not in text
    assert "2 epochs x 4 steps = 8 steps of 64 images" in text


@pytest.mark.parametrize(
    ("sections", "warning", "is_warned"),
    [
        ({"resources": {"gpu": True}}, "precision is float32 on a GPU", True),
        ({"resources": {"gpu": False}}, "precision is float32 on a GPU", False),
        (
            {"resources": {"gpu": True}, "training": {"precision": "auto"}},
            "precision is float32 on a GPU",
            False,
        ),
        (
            {"resources": {"gpu": False}, "training": {"precision": "float16"}},
            "float16 on CPUs",
            True,
        ),
        (
            {"resources": {"num_workers": 1}, "training": {"micro_batch_size": None}},
            "micro_batch_size is not set",
            False,
        ),
        ({"training": {"global_batch_size": 64}}, "each epoch drops", False),
        ({"training": {"global_batch_size": 96, "drop_last": False}}, "each epoch drops", False),
    ],
)
def test_warnings_about_a_run_without_a_teacher(make_content, sections, warning, is_warned):
    plan = make_plan(parse_job(make_content(**sections)))
    assert any(warning in text for text in plan.warnings) == is_warned
    assert not any("teacher" in text for text in plan.warnings)


def test_warnings_about_the_datasets(make_content, data_folder, tmp_path):
    for split in ("train", "val"):
        shutil.copy(data_folder / f"{split}.beton", tmp_path)
    path = str(tmp_path / "train.beton")
    plan = make_plan(parse_job(make_content(dataset={"train": path, "val": path})))
    texts = "\n".join(plan.warnings)
    for split in ("train", "val"):
        assert f"dataset.{split} has no manifest: damage would not be noticed" in texts
    assert "its accuracy will say nothing" in texts or "are also in dataset.train" in texts
    plan = make_plan(parse_job(make_content()))
    assert ("no manifest" in "\n".join(plan.warnings)) == (
        not manifest_path(data_folder / "train.beton").exists()
    )


def test_minimum_accuracy_of_the_teacher_is_recommended(make_content, teacher):
    for min_top1, is_warned in ((None, True), (0.5, False)):
        section = {**teacher, "min_top1": min_top1}
        plan = make_plan(parse_job(make_content(teacher=section)))
        assert any("min_top1 is not set" in text for text in plan.warnings) == is_warned


def test_workers_share_micro_batches_unequally(make_content):
    training = {"global_batch_size": 80, "micro_batch_size": 16}
    plan = make_plan(parse_job(make_content(training=training, resources={"num_workers": 2})))
    assert "2 workers x 2 or 3 micro-batches of 16 images per step" in format_plan(plan)


def test_plan_says_what_an_image_costs(make_content):
    plan = make_plan(parse_job(make_content(student={"model": "cifar:resnet20"})))
    (cost,) = plan.models
    assert f"{cost.flops_per_image / 1e9:.3f} GFLOPs per image of 16 px" in format_plan(plan)
    assert cost.flops_per_image > 5_000_000
    assert not any("will say nothing" in warning for warning in plan.warnings)


def test_plan_says_what_the_teachers_cache_takes_and_saves(make_content, teacher):
    cached = {**teacher, "cache": {"epochs": 1}}
    schedule = {"num_epochs": 5, "milestones": []}
    lines = format_plan(make_plan(parse_job(make_content(teacher=cached, schedule=schedule))))
    # 256 images, with 4 logits of 2 bytes and a checksum of 4 bytes each.
    assert "teacher.cache: logits of 1 epoch, 3.07 kB, in " in lines
    assert "it saves 4 of 5 passes of the teacher over the images in this run, " in lines
    assert "teacher.cache" not in format_plan(make_plan(parse_job(make_content(teacher=teacher))))
