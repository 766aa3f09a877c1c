"""Sections of a job spec; below each field, its meaning and its unit.

Others are in data_sections.py, teacher_sections.py, training_section.py and optimization.py.
Defaults are ImageNet's usual recipe.
"""

from typing import Annotated, Literal

from pydantic import Discriminator, Field, Tag

from service.spec.fields import (
    Count,
    FolderPath,
    Fraction,
    Items,
    Pair,
    Positive,
    Section,
    Sha256,
)
from service.spec.model_options import ModelOptions
from service.spec.tracked_checkpoints import CheckpointsToTrack, TrackedCheckpoints

Replacement = Annotated[tuple[Annotated[str, Field(min_length=1)], str], Field(strict=False)]


class Weights(Section):
    """Where a model's weights come from."""

    source: Annotated[str, Field(min_length=1)]
    """A file of safetensors or of torch.save (.pth; nothing in it is executed), an MLflow address
    (models:/name@alias, models:/name/3, models:/m-id, runs:/id/student), or torchvision:ENUM such
    as torchvision:IMAGENET1K_V1."""
    sha256: Sha256 | None = None
    """Required SHA-256 digest of the file, 64 hexadecimal digits; absent: not checked."""
    key: Annotated[str, Field(min_length=1)] | None = None
    """Which weights of the file, if it has several: the name of what contains them, such as
    state_dict_ema or checkpoint.model. Absent: those that are no average."""
    match: Literal["names", "order"] = "names"
    """names: names must be equal, but for what contains the network, such as state_dict and module.
    order: the n-th tensor of a .pth file fills the n-th of the model, whatever its name, with every
    shape checked (for state dicts of another code base)."""
    rename: Items[Replacement] = ()
    """Parts of names in the file to replace, in this order, each one or several words between dots;
    an empty replacement removes them: [["head.fc", "fc"], ["backbone", ""]]."""
    transform_input: bool | None = None
    """googlenet and inception_v3: whether the network converts its images from ImageNet's
    normalization to (x - 0.5) / 0.5. Absent: as the file says; true for what torchvision publishes,
    otherwise false."""


MLFLOW_SCHEMES = ("models:/", "runs:/", "mlflow-artifacts:/")


def is_mlflow_source(source: str) -> bool:
    """Whether a weights source is an MLflow URI."""
    return source.startswith(MLFLOW_SCHEMES)


def is_file_source(source: str) -> bool:
    """Whether a weights source is a path, not an MLflow URI or a torchvision enum."""
    return not source.startswith((*MLFLOW_SCHEMES, "torchvision:"))


class Student(Section):
    """The network that is trained."""

    model: str
    """torchvision classifier (resnet18), cifar:NAME (cifar:resnet20), imagenet:mobilenet_v1 or
    timm:NAME."""
    weights: Weights | None = None
    """Weights to start from; random ones if absent."""
    options: ModelOptions = ModelOptions()
    """Dropout, stochastic depth and initial values of the network."""


def _workers_kind(value: object) -> str:
    """A range is a pair; anything else is taken as a number."""
    return "range" if isinstance(value, list | tuple) else "number"


Workers = Annotated[
    Annotated[Count, Tag("number")] | Annotated[Pair[Count], Tag("range")],
    Discriminator(_workers_kind),
]


class Resources(Section):
    """Resources of the Ray cluster, failures and timeouts."""

    num_workers: Workers = 1
    """Training processes, each with its share of every global batch. A pair [min, max]: as many as
    fit on the cluster at the time; the result is the same."""
    cpus_per_worker: Count = 4
    """CPU cores reserved for each worker. On CPUs its decoding threads use what torch's leave; with
    a GPU, two cores launch its work and the others decode."""
    gpu: bool = False
    """Whether each worker has a GPU, with NCCL between workers; otherwise CPUs and gloo."""
    max_failures: Annotated[int, Field(ge=0)] = 3
    """Failures of a worker or its node that are retried from the last checkpoint. Drained nodes and
    workers that receive SIGTERM do not count."""
    collective_timeout_s: Count = 300
    """Seconds after which a collective operation that waits for a peer is an error; NCCL's own
    timeout is twice as long."""
    heartbeat_timeout_s: Count = 60
    """Seconds without an answer after which a worker is taken for dead: its process hangs, its node
    died, or its network is down."""
    resize_interval_s: Count = 60
    """A range of workers: seconds between two checks whether more of them fit."""

    @property
    def min_workers(self) -> int:
        """Minimum number of workers."""
        return self.num_workers if isinstance(self.num_workers, int) else self.num_workers[0]

    @property
    def max_workers(self) -> int:
        """Maximum number of workers."""
        return self.num_workers if isinstance(self.num_workers, int) else self.num_workers[1]

    @property
    def is_elastic(self) -> bool:
        """Whether the number of workers may change."""
        return not isinstance(self.num_workers, int)


class Checkpoints(Section):
    """Where and when the run's state is saved."""

    storage_path: FolderPath
    """Folder that every node sees; the run lives in storage_path/name."""
    every_epochs: Count = 1
    """Epochs between two checkpoints; the last epoch is always saved."""
    every_steps: Count | None = None
    """Optimizer steps between two checkpoints within epochs; null: none."""
    every_minutes: Positive | None = 10.0
    """Minutes after a checkpoint until the next one is due within an epoch; null: none."""
    num_to_keep: Count = 2
    """Number of newest checkpoints that are kept."""


class Evaluation(Section):
    """How val is evaluated: every image once, whatever the number of workers."""

    resize_size: Annotated[int, Field(ge=8, le=2048)] = 256
    """Length the shorter side is resized to, in pixels."""
    crop_size: Annotated[int, Field(ge=8, le=2048)] = 224
    """Side of the center crop that is classified, in pixels."""
    batch_size: Count = 256
    """Images per forward pass and worker, for speed and memory. Logits depend on it by rounding
    only, by at most 1e-5 of the largest logit in float32 and 0.01 of it in bfloat16: only images
    whose best classes are closer than twice that can count differently. Ties count as errors."""
    every_epochs: Count = 1
    """Epochs between two evaluations; the last epoch is always evaluated."""


class Promotion(Section):
    """When a registered student gets an alias; decided once, when it is registered."""

    alias: str
    """Alias, such as champion, that is moved to the student's version if it passes the bar. MLflow
    reserves latest and v1, v2 and so on."""
    min_top1: Fraction | None = None
    """Minimum top-1 accuracy (0 to 1) on val after the last epoch; absent: none."""
    beats_current: bool = True
    """Whether that accuracy must be greater than that of the version that has the alias, measured
    on the same val. Where no version has it, there is nothing to beat."""


class Tracking(Section):
    """What is logged to MLflow, and how the student is registered."""

    uri: str | None = None
    """MLflow server (http://host:port) or store; MLFLOW_TRACKING_URI overrides it. Absent: SQLite
    in storage_path."""
    experiment: str = "dtkd"
    """Experiment that the run belongs to."""
    log_every_steps: Count = 50
    """Optimizer steps between two progress lines and metric points."""
    journal_limit_bytes: Annotated[int, Field(ge=10_000, le=128_000_000)] = 64_000_000
    """Largest size of the journal of metrics in the run's folder; beyond it, every other progress
    line is dropped, then every other one of the rest, and so on."""
    checkpoints: CheckpointsToTrack = "last"
    """Which of the run's students MLflow has as models, with their step and accuracy. last: the
    final one alone. best: also each that has the best top-1 so far, short for {"only_best": true}.
    Runs with held-out images, such as a sweep's trials, log none."""
    register_as: str | None = None
    """Registered model that the final student becomes a version of; absent: not registered."""
    promote: Promotion | None = None
    """Absent: no alias is moved."""

    @property
    def tracked_checkpoints(self) -> TrackedCheckpoints | None:
        """Which students are logged beside the final one; None for none."""
        if isinstance(self.checkpoints, TrackedCheckpoints):
            return self.checkpoints
        return TrackedCheckpoints(only_best=True) if self.checkpoints == "best" else None
