"""What auto means: decided once for all runs that depend on the same things, and kept."""

import pytest
import torch
from support.training_runs import CPU

from service.run import execution as stored
from service.run.claim import CHECKPOINT_PATTERN
from service.run.execution import Execution, StudentForm, TeacherForm, read_execution
from service.spec.errors import BadInputError
from service.spec.loading import parse_spec
from service.training import execution, student_trial
from service.training.data import WorkerData
from service.training.distributed import World
from service.training.execution import decide_execution
from service.training.student_trial import decide_student, half_precision

WORLD = World(0, 1, CPU, 1)
STUDENT, TEACHER = StudentForm("bfloat16", True), TeacherForm("compiled", True)


@pytest.fixture
def decisions(monkeypatch):
    """What is decided, without timing anything; the calls are collected."""
    calls = []

    def decide(name, form):
        return lambda *_: calls.append(name) or form

    monkeypatch.setattr(execution, "decide_student", decide("student", STUDENT))
    monkeypatch.setattr(execution, "decide_teacher", decide("teacher", TEACHER))
    return calls


def decided(content):
    """The execution of a run, and its messages."""
    spec, messages = parse_spec(content), []
    spec.run_path.mkdir(parents=True, exist_ok=True)
    data = WorkerData(spec, WORLD, print)
    try:
        return decide_execution(spec, WORLD, data, messages.append), messages
    finally:
        data.close()


def test_runs_of_a_storage_path_share_what_depends_on_the_same(make_content, teacher, decisions):
    expected = Execution("bfloat16", True, "compiled", True, "highest")
    assert decided(make_content(name="one", teacher=teacher)) == (expected, [])
    losses = {"losses": {"kd": {}}, "seed": 7}
    found, (message,) = decided(make_content(name="other", teacher=teacher, **losses))
    assert found == expected
    assert "as an earlier run of" in message
    assert decisions == ["student", "teacher"]
    # Labels alone: no teacher, and the same arithmetic of the student.
    found, _ = decided(make_content(name="labels", losses={"ce": {}}))
    assert found == Execution("bfloat16", True)
    assert decisions == ["student", "teacher"]


@pytest.mark.parametrize(
    "changes",
    [
        {"training": {"micro_batch_size": 8}},
        {"training": {"compile": "off"}},
        {"schedule": {"num_epochs": 9}},
        {"student": {"model": "cifar:resnet14"}},
        {"training": {"matmul_precision": "high"}},
    ],
)
def test_what_a_decision_depends_on_is_decided_anew(make_content, teacher, decisions, changes):
    decided(make_content(name="one", teacher=teacher))
    decided(make_content(name="other", teacher=teacher, **changes))
    assert decisions == ["student", "teacher"] * 2


@pytest.mark.parametrize(
    "changes",
    [
        {"training": {"micro_batch_size": 8}},
        {"schedule": {"num_epochs": 9}},
        {"student": {"model": "cifar:resnet14"}},
    ],
)
def test_runs_that_share_logits_have_the_same_form_of_the_teacher(
    make_content, teacher, decisions, changes
):
    cached = {**teacher, "cache": {}}
    decided(make_content(name="one", teacher=cached))
    decided(make_content(name="other", teacher=cached, **changes))
    assert decisions == ["student", "teacher", "student"]


def test_students_of_other_precisions_share_the_teachers_logits(make_content, teacher, monkeypatch):
    """Without a cache, the teacher has the student's precision; with one, that of the first run."""
    precisions = {"cifar:tiny_cnn": "float32", "cifar:resnet14": "bfloat16"}
    monkeypatch.setattr(
        execution, "decide_student", lambda spec, *_: StudentForm(precisions[spec.student.model])
    )
    monkeypatch.setattr(
        execution,
        "decide_teacher",
        lambda _spec, _world, _data, precision, *_: TeacherForm("folded", precision=precision),
    )
    auto = {"training": {"precision": "auto"}}
    for section, expected in (
        ({**teacher, "cache": {}}, ["float32", "float32"]),
        (teacher, ["float32", "bfloat16"]),
    ):
        contents = [
            make_content(name=f"run-{number}", teacher=section, student={"model": model}, **auto)
            for number, model in enumerate(precisions)
        ]
        found = [decided(content)[0] for content in contents]
        assert [each.precision for each in found] == list(precisions.values())
        assert [each.teacher_precision for each in found] == expected
    # A precision that the spec names is the teacher's, too.
    named = {"training": {"precision": "bfloat16"}, "student": {"model": "cifar:resnet14"}}
    other, _ = decided(make_content(name="named", teacher={**teacher, "cache": {}}, **named))
    assert other.teacher_precision == "bfloat16"


def test_runs_of_two_storage_paths_that_share_logits_have_the_same_form(
    make_content, teacher, decisions, tmp_path
):
    cached = {**teacher, "cache": {"path": str(tmp_path / "logits")}}
    for name in ("one", "other"):
        checkpoints = {"storage_path": str(tmp_path / name)}
        decided(make_content(teacher=cached, checkpoints=checkpoints))
    assert decisions == ["student", "teacher", "student"]


def test_a_cache_that_cannot_be_written_ends_no_run(make_content, teacher, decisions):
    cached = {**teacher, "cache": {"path": "/proc/no/logits"}}
    found = [decided(make_content(name=name, teacher=cached))[0] for name in ("one", "other")]
    assert found == [Execution("bfloat16", True, "compiled", True, "highest")] * 2
    assert decisions[:2] == ["student", "teacher"]


def test_resumed_run_goes_on_as_it_began(make_content, teacher, decisions):
    content = make_content(teacher=teacher)
    first, _ = decided(content)
    spec = parse_spec(content)
    assert read_execution(spec.run_path) == first
    other = Execution("float16", False, "folded", False, "high")
    stored.write_execution(spec.run_path, other)
    # Before its first step a run may still be another one.
    assert decided(content)[0] == first
    stored.write_execution(spec.run_path, other)
    (spec.run_path / CHECKPOINT_PATTERN.replace("*", "5")).mkdir()
    assert decided(content) == (other, [])
    (spec.run_path / stored.EXECUTION_NAME).write_text("[]")
    with pytest.raises(BadInputError, match="the run would go on with other arithmetic"):
        decided(content)


@pytest.mark.parametrize(
    ("half_s", "compiled_s", "num_steps", "expected"),
    [
        (0.5, 0.4, 10**6, StudentForm("bfloat16", True)),
        (0.5, 0.49, 10**6, StudentForm("bfloat16")),
        (0.97, 0.4, 10**6, StudentForm("float32", True)),
        (0.5, 0.4, 1, StudentForm("bfloat16")),
    ],
)
def test_student_is_computed_as_is_fastest(
    make_content, monkeypatch, half_s, compiled_s, num_steps, expected
):
    """Compiled only where the run is long enough; a gain of a few percent is none."""
    times_s = {"float32": 1.0, "bfloat16": half_s, "eager": 0.5, "compiled": compiled_s}
    monkeypatch.setattr(student_trial, "median_times_s", lambda names, _: times_s)
    monkeypatch.setattr(student_trial, "CompiledForward", lambda network, *_: Usable(network))
    spec = parse_spec(make_content(training={"precision": "auto"}))
    messages = []
    assert decide_student(spec, WORLD, num_steps, messages.append) == expected
    assert f"precision {expected.precision}: " in messages[0]
    assert len(messages) == (1 if num_steps == 1 else 2)


class Usable:
    is_usable = True

    def __init__(self, network):
        self.network = network

    def __call__(self, images):
        return self.network(images)


def test_nothing_is_timed_where_the_spec_says_all(make_content, monkeypatch):
    monkeypatch.setattr(student_trial, "_StudentTrial", None)
    training = {"precision": "float16", "compile": "on", "micro_batch_size": 64}
    spec = parse_spec(make_content(training=training, resources={"num_workers": 1}))
    assert decide_student(spec, WORLD, 10, print) == StudentForm("float16", True)


@pytest.mark.parametrize(("limit_bytes", "is_compiled"), [(1, False), (10**9, True)])
def test_a_student_of_several_passes_is_not_compiled(make_content, limit_bytes, is_compiled):
    training = {"compile": "on", "micro_batch_size": 16, "max_activation_bytes": limit_bytes}
    spec, lines = parse_spec(make_content(training=training)), []
    form = decide_student(spec, WORLD, 10, lines.append)
    assert form == StudentForm("float32", is_compiled)
    assert ["4 forward passes" in line for line in lines] == [True] * (not is_compiled)


def test_what_fits_only_in_16_bits_is_computed_in_16_bits(make_content, monkeypatch):
    passes = student_trial._StudentTrial._passes

    def limited(trial, student, precision, forward=None):
        if precision == "float32":
            raise torch.OutOfMemoryError("CUDA out of memory")
        return passes(trial, student, precision, forward)

    monkeypatch.setattr(student_trial._StudentTrial, "_passes", limited)
    spec = parse_spec(make_content(training={"precision": "auto", "compile": "off"}))
    assert decide_student(spec, WORLD, 10, print) == StudentForm("bfloat16")


@pytest.mark.parametrize(("capability", "expected"), [((7, 5), "float16"), ((9, 0), "bfloat16")])
def test_older_gpus_compute_in_float16(monkeypatch, capability, expected):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    assert half_precision(torch.device("cuda")) == expected
    assert half_precision(CPU) == "bfloat16"
