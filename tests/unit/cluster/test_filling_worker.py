"""A process that fills the teacher's cache computes as the workers of the runs that read it."""

import torch

from service.cluster import cache_filling
from service.spec.loading import parse_spec
from service.training import cache_filling as training
from service.training import distributed


def test_settings_are_those_of_the_runs(make_content, teacher, monkeypatch):
    settings, worlds = [], []

    def fill_epoch(_spec, epoch, world):
        worlds.append(world)
        return 10 + epoch

    monkeypatch.setattr(distributed, "prepare_process", lambda *a, **k: settings.append((a, k)))
    monkeypatch.setattr(training, "fill_epoch", fill_epoch)
    choices = {"deterministic": True, "matmul_precision": "high"}
    spec = parse_spec(
        make_content(teacher=teacher, training=choices, resources={"cpus_per_worker": 3})
    )
    assert cache_filling._fill(spec.model_dump_json(), 4) == 14
    assert settings == [((torch.device("cpu"),), choices)]
    assert worlds == [distributed.World(0, 1, torch.device("cpu"), 3)]
