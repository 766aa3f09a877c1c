"""A run of one epoch with its folder, trained without Ray."""

from pathlib import Path

from support.spec_contents import spec_content, write_stripes
from support.training_runs import run_alone

from service.spec.loading import LoadedJob, parse_job

NUM_IMAGES = {"train": 16, "val": 4}
NUM_EPOCHS = 1


def train_once(folder: Path) -> LoadedJob:
    """A job that has trained to its end in the folder."""
    for number, (name, count) in enumerate(NUM_IMAGES.items()):
        write_stripes(folder / f"{name}.beton", count, seed=number)
    job = parse_job(
        spec_content(
            folder,
            folder / "runs",
            schedule={"num_epochs": NUM_EPOCHS, "milestones": []},
            training={"global_batch_size": 8, "micro_batch_size": 8},
            resources={"num_workers": 1},
            tracking={"log_every_steps": 1},
        )
    )
    run_alone(job.spec)
    return job
