"""What was decided is stored once, whoever is first, and is read again or refused."""

import errno
import os
import threading

import pytest

from service.run.execution import (
    EXECUTION_NAME,
    FOLDER_NAME,
    Execution,
    StudentForm,
    TeacherForm,
    precision_text,
    read_execution,
    shared_decision,
    write_execution,
)
from service.spec.errors import BadInputError
from service.spec.loading import parse_spec

IDENTITY = {"networks": ["a", "b"], "size": 32}


def test_all_who_decide_at_the_same_time_use_what_was_stored_first(tmp_path):
    barrier, found = threading.Barrier(8), []

    def decide(index):
        barrier.wait()
        return TeacherForm("folded", is_cast=bool(index % 2))

    def run(index):
        found.append(shared_decision(tmp_path, IDENTITY, TeacherForm, lambda: decide(index)))

    threads = [threading.Thread(target=run, args=(index,)) for index in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8
    assert len({form for form, _ in found}) == 1
    assert [is_earlier for _, is_earlier in found].count(False) == 1
    assert len(list((tmp_path / FOLDER_NAME).iterdir())) == 1


def test_storage_without_links_has_the_decision_too(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError(errno.EPERM, "no links here")

    monkeypatch.setattr(os, "link", refuse)
    decide, known = (lambda: StudentForm("bfloat16")), (lambda: pytest.fail("is known"))
    assert shared_decision(tmp_path, IDENTITY, StudentForm, decide) == (decide(), False)
    assert shared_decision(tmp_path, IDENTITY, StudentForm, known) == (decide(), True)


def test_folder_that_is_a_link_is_not_used(tmp_path):
    (tmp_path / "other").mkdir()
    (tmp_path / FOLDER_NAME).symlink_to(tmp_path / "other")
    for _ in range(2):
        decided = shared_decision(tmp_path, IDENTITY, StudentForm, lambda: StudentForm("float32"))
        assert decided == (StudentForm("float32"), False)
    assert not list((tmp_path / "other").iterdir())


def test_decision_is_another_one_where_what_it_depends_on_differs(tmp_path):
    first = shared_decision(tmp_path, IDENTITY, StudentForm, lambda: StudentForm("bfloat16"))
    other = IDENTITY | {"size": 64}
    second = shared_decision(tmp_path, other, StudentForm, lambda: StudentForm("float32"))
    again = shared_decision(tmp_path, IDENTITY, StudentForm, lambda: pytest.fail("is known"))
    assert first == (StudentForm("bfloat16"), False)
    assert second == (StudentForm("float32"), False)
    assert again == (StudentForm("bfloat16"), True)


def test_damaged_decision_is_made_again(tmp_path):
    shared_decision(tmp_path, IDENTITY, StudentForm, lambda: StudentForm("bfloat16"))
    (path,) = (tmp_path / FOLDER_NAME).iterdir()
    path.write_text('{"precision": "float8"}')
    decided = shared_decision(tmp_path, IDENTITY, StudentForm, lambda: StudentForm("float32"))
    assert decided == (StudentForm("float32"), False)
    again = shared_decision(tmp_path, IDENTITY, StudentForm, lambda: pytest.fail("is known"))
    assert again == (StudentForm("float32"), True)


def test_execution_of_a_run_is_read_as_it_was_written(tmp_path):
    assert read_execution(tmp_path) is None
    execution = Execution("float16", True, "compiled", True, "high")
    write_execution(tmp_path, execution)
    assert read_execution(tmp_path) == execution
    (tmp_path / EXECUTION_NAME).write_text("{}")
    with pytest.raises(BadInputError, match="restore the file, or use another name"):
        read_execution(tmp_path)


def test_people_read_the_precision_that_auto_was_found_to_mean(make_content):
    spec = parse_spec(make_content(training={"precision": "auto"}))
    assert precision_text(spec) == "auto"
    assert Execution.plain(spec).precision == "float32"
    spec.run_path.mkdir(parents=True)
    write_execution(spec.run_path, Execution("bfloat16"))
    assert precision_text(spec) == "bfloat16"
