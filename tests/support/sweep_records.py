"""Records of invented trials, for tests of the pages and pictures of a sweep."""

import random

from service.sweep.analysis import TrialRecord

TEMPERATURE, WEIGHT, KIND = "losses.dtkd.base_temperature", "losses.dtkd.weight", "schedule.kind"
ATTACK = "</td><script>alert('x')</script><img src=\"http://evil.example/a.png\">"


def make_records(count=24, seed=7):
    rng = random.Random(seed)
    records = []
    for number in range(count):
        params = {
            TEMPERATURE: 2 * 8 ** rng.random(),
            WEIGHT: rng.uniform(0.1, 0.9),
            KIND: rng.choice(["cosine", "linear", "step"]),
        }
        if params[KIND] == "step":
            params["schedule.step_epochs"] = rng.randint(3, 9)
        state = ("finished", "stopped", "stopped", "failed")[number % 4]
        reached = {"finished": 9, "stopped": 3, "failed": 1}[state]
        top = rng.uniform(0.6, 0.75)
        curve = tuple((epoch, top * (1 - 0.5**epoch)) for epoch in range(1, reached + 1))
        error = "out of memory" if state == "failed" else None
        records.append(TrialRecord(number, state, params, curve[-1][1], curve, 60.0, 0, error))
    return records
