"""What the algorithms of a search learn from the trials before."""

import numpy as np
import pytest

from service.sweep.loading import parse_sweep
from service.sweep.study import Search, TrialEnd


@pytest.mark.parametrize(
    ("kind", "concentrates"), [("random", False), ("tpe", True), ("cmaes", True)]
)
def test_algorithms_that_learn_try_more_settings_near_the_best(
    make_sweep_content, kind, concentrates
):
    """DTKD's best weight is 3; without learning, a quarter of 0 to 4 is tried within 2.5 to 3.5."""
    content = make_sweep_content(
        algorithm={"kind": kind, "seed": 1},
        space={"losses.dtkd.weight": {"linear": [0, 4]}, "losses.kd.weight": {"linear": [0, 2]}},
        scheduler={"kind": "none"},
        budget={"trials": 80},
    )
    sweep = parse_sweep(content)
    sweep.sweep_path.mkdir(parents=True)
    search = Search(sweep)
    weights = []
    while (suggestion := search.next()) is not None:
        dtkd, kd = (suggestion.point[f"losses.{name}.weight"] for name in ("dtkd", "kd"))
        weights.append(dtkd)
        search.report(suggestion.number, 9, 0.9 - 0.1 * (dtkd - 3) ** 2 - 0.1 * (kd - 1) ** 2)
        search.end(suggestion.number, TrialEnd("finished", 1.0))
    share = np.mean(np.abs(np.array(weights[30:]) - 3) < 0.5)
    assert (share > 0.5) == concentrates, share
