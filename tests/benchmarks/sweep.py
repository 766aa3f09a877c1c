"""Cost of a sweep: trials per hour with and without ASHA, and the overhead per trial.

    python tests/benchmarks/sweep.py [--trials N] [--epochs N] [--stub-trials N] [--json FILE]

The first two sweeps train on generated images, with the same space and seed. The last one runs many
stub trials, which end at once without training, to measure the time and memory of each.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).parents[1]))

import psutil
import ray
import torch
from ray import tune
from safetensors.torch import save_file
from support.spec_contents import NUM_CLASSES, spec_content, write_stripes
from table import Ratio, add_json_option, at_least, at_most, report

from service.models.build import build_model
from service.run.status import State
from service.spec.job import JobSpec
from service.sweep.loading import parse_sweep
from service.sweep.spec import SweepSpec
from service.sweep.study import Search
from service.sweep.trials import SearchTrials
from service.tracking.mlflow_run import tracking_uri
from service.trials.capacity import plan_concurrency, trial_resources
from service.trials.run_trackers import RunTrackers, find_parent
from service.trials.runner import run_trials
from service.trials.trainable import Trial

MIN_SPEED_UP = 2.0
# Of trials of one worker, and of two; the first ones aside.
MAX_OVERHEADS_S = {1: 3.0, 2: 12.0}


class Measured(NamedTuple):
    """Wall time of a sweep, and the time per trial beyond its training; both in seconds."""

    num_trials: int
    wall_s: float
    overhead_s: float


class Stub(tune.Trainable):  # type: ignore[misc]
    """A trial that ends at once."""

    def setup(self, config: dict[str, Any]) -> None:
        self._spec = JobSpec.model_validate_json(config["spec"])

    def step(self) -> dict[str, Any]:
        dtkd = self._spec.effective_losses().dtkd
        assert dtkd is not None
        score = (dtkd.weight - 3) ** 2 + (dtkd.base_temperature - 2) ** 2
        return {"epoch": self._spec.schedule.num_epochs, "held_out/loss": score, "done": True}

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self.setup(new_config)
        return True


class StubTrackers(RunTrackers):
    """Publishes no students: stubs have none."""

    def end(self, spec: JobSpec, state: State) -> None:
        super().end(spec, "stopped")


def main(arguments: list[str]) -> int:
    """Measure and report."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--trials", type=int, default=24, help="real trials of each sweep")
    parser.add_argument("--epochs", type=int, default=27, help="epochs of a real trial")
    parser.add_argument("--pairs", type=int, default=6, help="real trials of two workers")
    parser.add_argument("--stub-trials", type=int, default=1000, help="trials without training")
    add_json_option(parser)
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as temporary:
        ray.init("local", log_to_driver=False, logging_level="WARNING")
        bench = Bench(Path(temporary))
        ratios = real_sweeps(bench, options.trials, options.epochs) if options.trials else []
        ratios += trials_of_two_workers(bench, options.pairs) if options.pairs else []
        ratios += many_trials(bench, options.stub_trials)
        print(f"held in the cluster: {leftovers() or 'nothing'}")
    report(ratios, options.json)
    return 0


class Bench:
    """Images, a teacher, and sweeps over them."""

    def __init__(self, folder: Path):
        self.folder = folder
        write_stripes(folder / "train.beton", 2560, seed=1)
        write_stripes(folder / "val.beton", 64, seed=2)
        torch.manual_seed(9)
        model = build_model("cifar:resnet8", NUM_CLASSES)
        save_file(model.state_dict(), folder / "teacher.safetensors")

    def sweep(
        self, name: str, num_trials: int, num_epochs: int, num_workers: int = 1, **fields: Any
    ) -> SweepSpec:
        """A random search of the default space."""
        teacher = {"source": str(self.folder / "teacher.safetensors")}
        base = spec_content(
            self.folder,
            self.folder / "runs",
            teacher={"model": "cifar:resnet8", "weights": teacher},
            student={"model": "cifar:tiny_cnn"},
            schedule={"num_epochs": num_epochs, "milestones": []},
            training={"global_batch_size": 128, "micro_batch_size": 64},
            resources={"num_workers": num_workers, "cpus_per_worker": 1},
            tracking={"log_every_steps": 50},
        )
        content = {
            "name": name,
            "base": base,
            "held_out": {"num_images": 512},
            # Accuracy is soon 1 on these images, and trials with equal accuracy are not stopped.
            "metric": "loss",
            "budget": {"trials": num_trials},
            "algorithm": {"kind": "random"},
            **fields,
        }
        return parse_sweep(content)


def real_sweeps(bench: Bench, num_trials: int, num_epochs: int) -> list[Ratio]:
    """The same sweep with ASHA and without a scheduler."""
    measured = {
        kind: run(bench.sweep(kind, num_trials, num_epochs, scheduler={"kind": kind}))
        for kind in ("asha", "none")
    }
    rates = {kind: 3600 * one.num_trials / one.wall_s for kind, one in measured.items()}
    name = f"trials per hour with ASHA / without ({rates['asha']:.0f} / {rates['none']:.0f})"
    ratios = [at_least(name, rates["asha"] / rates["none"], MIN_SPEED_UP)]
    for kind, one in measured.items():
        name = f"seconds per trial beyond its training, scheduler {kind}"
        ratios.append(at_most(name, one.overhead_s, MAX_OVERHEADS_S[1]))
    return ratios


def trials_of_two_workers(bench: Bench, num_trials: int) -> list[Ratio]:
    """Time per trial whose workers start anew."""
    one = run(bench.sweep("pairs", num_trials, 9, num_workers=2, scheduler={"kind": "none"}))
    name = "seconds per trial of two workers beyond its training"
    return [at_most(name, one.overhead_s, MAX_OVERHEADS_S[2])]


def many_trials(bench: Bench, num_trials: int) -> list[Ratio]:
    """Time and memory per stub trial."""
    before_bytes = psutil.Process().memory_info().rss
    one = run(bench.sweep("many", num_trials, 1, scheduler={"kind": "none"}), Stub)
    grown_kb = (psutil.Process().memory_info().rss - before_bytes) / num_trials / 1000
    return [
        Ratio(f"seconds per trial of {num_trials} stubs", round(one.overhead_s, 3), "-", None),
        Ratio(f"kB of memory per trial of {num_trials} stubs", round(grown_kb, 1), "-", None),
    ]


def run(sweep: SweepSpec, trainable: type[tune.Trainable] = Trial) -> Measured:
    """Run a sweep's search; starting the first trials' processes does not count as overhead."""
    sweep.sweep_path.mkdir(parents=True)
    search = Search(sweep)
    uri = tracking_uri(sweep.base)
    kind = RunTrackers if trainable is Trial else StubTrackers
    trackers = kind(uri, {}, find_parent(sweep.as_job(), uri))
    ends_s: list[float] = []
    trials = SearchTrials(sweep, sweep.as_job(), search, trackers, lambda: None)
    end = trials.end

    def end_and_record(*arguments: Any) -> None:
        end(*arguments)
        ends_s.append(time.perf_counter())

    trials.end = end_and_record  # type: ignore[method-assign]
    concurrency = plan_concurrency(sweep.base.resources, None)
    start_s = time.perf_counter()
    run_trials(
        trials,
        sweep.sweep_path,
        concurrency=concurrency,
        max_failures=0,
        must_stop=lambda: False,
        resources=trial_resources(sweep.base.resources),
        trainable=trainable,
    )
    wall_s = time.perf_counter() - start_s
    trackers.close()
    records = search.records()
    assert all(record.state in ("finished", "stopped") for record in records)
    # The time of all slots between the first end and the last, without the time of training.
    training_s = sum(record.seconds for record in records[concurrency:])
    slots_s = concurrency * (ends_s[-1] - ends_s[0])
    overhead_s = (slots_s - training_s) / max(1, len(records) - concurrency)
    print(
        f"{sweep.name}: {len(records)} trials, {concurrency} at a time, {wall_s:.0f} s, of which "
        f"{sum(record.seconds for record in records):.0f} s training in {concurrency} slots",
        flush=True,
    )
    return Measured(len(records), wall_s, overhead_s)


def leftovers() -> str:
    """Placement groups and CPUs that are still held; nothing should hold any now."""
    time.sleep(5)
    groups = [
        entry for entry in ray.util.placement_group_table().values() if entry["state"] != "REMOVED"
    ]
    busy = ray.cluster_resources().get("CPU", 0) - ray.available_resources().get("CPU", 0)
    parts = [f"{len(groups)} placement groups"] if groups else []
    return ", ".join([*parts, *([f"{busy:g} CPUs"] if busy else [])])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
