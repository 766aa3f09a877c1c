"""Students without a teacher are measured beside the only teacher of their pair."""

import numpy as np
from support.comparison_records import make_predictions

from service.compare.reading import with_teacher_of_pair
from service.compare.records import RunRecord

RNG = np.random.default_rng(0)
STUDENT, FIRST, SECOND = (make_predictions(0.5, RNG, 50, 4) for _ in range(3))


def record(variant, pair="", *, student=STUDENT, teacher=None):
    state = "waiting" if student is None else "finished"
    return RunRecord(pair, variant, 0, state, 10, student=student, teacher=teacher)


def test_the_only_teacher_of_a_pair_is_beside_all_its_students():
    records = [
        record("alone", "a"),
        record("kd", "a", teacher=FIRST),
        # The same network on a GPU, with other rounding.
        record("dtkd", "a", teacher=SECOND),
        record("not yet", "a", student=None),
        record("alone", "b"),
        record("kd", "b", teacher=SECOND),
    ]
    teachers = [None, "network", "network", "network", None, "other"]
    found = [run.teacher for run in with_teacher_of_pair(records, teachers)]
    assert [teacher is FIRST for teacher in found] == [True, True, False, False, False, False]
    assert found[2] is SECOND
    assert found[3] is None
    assert found[4] is found[5] is SECOND


def test_where_variants_have_several_teachers_none_is_chosen():
    records = [record("alone"), record("kd", teacher=FIRST), record("other", teacher=FIRST)]
    assert with_teacher_of_pair(records, [None, "one", "two"]) == records
    assert with_teacher_of_pair(records[:1], [None]) == records[:1]
