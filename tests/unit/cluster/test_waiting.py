"""What a run waits for, in the words of its log and status."""

import pytest

from service.cluster.launch import process_group_timeout_s
from service.cluster.waiting import need_text
from service.run import waiting
from service.run.status import Status
from service.run.waiting import clear_waiting, report_waiting
from service.spec.sections import Resources
from service.tracking.waiting_viewer import WaitingViewer


@pytest.mark.parametrize(
    ("num_workers", "per_worker", "free", "total", "text"),
    [
        (2, {"CPU": 1}, [{}], {"CPU": 2}, "waiting for 2 CPUs, 0 of 2 free"),
        (1, {"CPU": 1}, [{"memory": 9}], {"CPU": 4}, "waiting for 1 CPU, 0 of 4 free"),
        (2, {"CPU": 4, "GPU": 1}, [{"CPU": 8}], {"CPU": 8, "GPU": 2},
         "waiting for 2 GPUs, 0 of 2 free"),
        (2, {"CPU": 4, "GPU": 1}, [{"CPU": 1, "GPU": 1}], {"CPU": 8, "GPU": 2},
         "waiting for 8 CPUs, 1 of 8 free and 2 GPUs, 1 of 2 free"),
        (2, {"CPU": 2}, [{"CPU": 3}, {"CPU": 1}], {"CPU": 8},
         "waiting for 4 CPUs, 4 of 8 free, but not 2 CPUs on a node for each worker"),
    ],
)  # fmt: skip
def test_need_names_what_is_short(num_workers, per_worker, free, total, text):
    assert need_text(num_workers, per_worker, free, total) == text


def test_lines_come_at_growing_intervals_with_the_time_waited(tmp_path, monkeypatch):
    now_s, lines, texts = [1000.0], [], []
    monkeypatch.setattr(waiting.time, "time", lambda: now_s[0])
    viewer = WaitingViewer(tmp_path, lines.append, texts.append)
    viewer.close()
    report_waiting(tmp_path, "waiting for 2 CPUs, 0 of 2 free")
    for second in range(3601):
        now_s[0] = 1000.0 + second
        if second == 70:
            report_waiting(tmp_path, "waiting for 2 CPUs, 1 of 2 free")
        viewer._poll()

    waited = [line.rpartition(" ")[2] for line in lines]
    assert waited[:7] == [
        "0:00:00", "0:00:15", "0:00:30", "0:01:00", "0:02:00", "0:04:00", "0:08:00",
    ]  # fmt: skip
    assert lines[3] == "waiting for 2 CPUs, 0 of 2 free, waited 0:01:00"
    assert lines[4] == "waiting for 2 CPUs, 1 of 2 free, waited 0:02:00"
    assert waited[-3:] == ["0:36:00", "0:46:00", "0:56:00"]
    clear_waiting(tmp_path)
    viewer._poll()
    assert texts[-1] is None


def test_status_returns_to_what_it_was_before_the_wait():
    status = Status("run")
    status.state = "restarting"

    assert status.update_waiting("waiting for 2 CPUs, 0 of 2 free, waited 0:00:00")
    assert not status.update_waiting("waiting for 2 CPUs, 0 of 2 free, waited 0:00:01")
    assert (status.state, status.last_failure) == ("waiting", None)
    assert status.update_waiting(None)
    assert (status.state, status.waiting) == ("restarting", None)


def test_nccl_is_the_last_to_give_up():
    on_cpus, on_gpus = (Resources(gpu=gpu, collective_timeout_s=40) for gpu in (False, True))

    assert process_group_timeout_s(on_cpus) == 40
    assert process_group_timeout_s(on_gpus) > 40
