"""The sections of a job spec. Each field says what it means and in which unit.

Defaults are ImageNet's usual recipe: 100 epochs, global batch 512, SGD at 0.2 divided by ten after
epochs 30, 60 and 90, 224-pixel random resized crops, evaluation at 256 / 224.
"""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Positive = Annotated[float, Field(gt=0.0)]
NonNegative = Annotated[float, Field(ge=0.0)]
Count = Annotated[int, Field(ge=1)]
ImageSize = Annotated[int, Field(ge=8, le=1024)]
Share = Annotated[float, Field(gt=0, le=1)]
Location = Annotated[str, Field(min_length=1)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Section(BaseModel):
    """Immutable; refuses fields it does not know and numbers that are not finite."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True
    )


class Normalization(Section):
    """Per-channel (x - mean) / std of RGB pixels scaled to [0, 1]."""

    mean: tuple[Fraction, Fraction, Fraction] = IMAGENET_MEAN
    """Mean of red, green and blue, on the scale 0 to 1."""
    std: tuple[Positive, Positive, Positive] = IMAGENET_STD
    """Standard deviation of red, green and blue, on the scale 0 to 1."""


class DatasetCache(Section):
    """Copies of datasets on each node's own disk."""

    path: Path
    """Folder on every node's own disk; it is made if it is not there."""
    limit_bytes: Annotated[int, Field(ge=1)] | None = None
    """Greatest size of the folder; what was used least recently goes first. Absent: the disk's."""


class Dataset(Section):
    """Training and validation images in FFCV's format."""

    train: Location
    """The .beton file to train on: a path that every node sees, or s3://bucket/key or
    gs://bucket/key with its manifest beside it."""
    val: Location
    """The .beton file that is evaluated; no gradient ever sees it."""
    num_classes: Annotated[int, Field(ge=2)]
    """Number of classes; labels run from 0 to num_classes - 1."""
    normalization: Normalization = Normalization()
    """Applied to the student's input, and to the teacher's unless it has its own."""
    cache: DatasetCache | None = None
    """Copy both files to each node's own disk before training. Needed for s3:// and gs://; of use
    for a slow mount."""
    max_undecodable: Annotated[int, Field(ge=0)] = 0
    """Images of a file that may fail to decode before the job stops. In training another image
    takes the place, in an evaluation it is left out; the metric undecodable counts them."""


class SizeStage(Section):
    """From an epoch on, another size."""

    from_epoch: Count
    """Epoch, counted from 0, from which on the size holds."""
    size: ImageSize
    """Side of the training image, in pixels."""


class RandAugment(Section):
    """Randomly chosen operations, Cubuk et al., arXiv 1909.13719."""

    num_ops: Annotated[int, Field(ge=1, le=10)] = 2
    """Operations applied to each image."""
    magnitude: Annotated[int, Field(ge=0, le=30)] = 9
    """Strength of the operations."""


class ColourJitter(Section):
    """Random changes of colour; a factor is uniform in 1 +- strength, the hue in +- strength."""

    brightness: Annotated[float, Field(ge=0, le=10)] = 0.4
    """Strength of the change of brightness."""
    contrast: Annotated[float, Field(ge=0, le=10)] = 0.4
    """Strength of the change of contrast."""
    saturation: Annotated[float, Field(ge=0, le=10)] = 0.4
    """Strength of the change of saturation."""
    hue: Annotated[float, Field(ge=0, le=0.5)] = 0.0
    """Greatest turn of the hue, as a share of the circle."""


class Erasing(Section):
    """A random box is painted over, Zhong et al., arXiv 1708.04896."""

    probability: Fraction = 0.25
    """Chance that an image loses a box."""
    scale: tuple[Share, Share] = (0.02, 0.33)
    """Least and greatest share of the image's area."""
    ratio: tuple[Positive, Positive] = (0.3, 3.3)
    """Least and greatest height / width of the box."""
    fill: Literal["mean", "noise"] = "mean"
    """mean: the dataset's mean colour, which normalisation turns into 0. noise: random pixels."""


class Mixing(Section):
    """Pairs of images are mixed, labels too; the student and the teacher see the mixture."""

    mixup_alpha: NonNegative = 0.0
    """Parameter of the Beta distribution of mixup's shares, arXiv 1710.09412; 0: no mixup."""
    cutmix_alpha: NonNegative = 0.0
    """Parameter of the Beta distribution of CutMix's areas, arXiv 1905.04899; 0: no CutMix. With
    both, each has half of the pairs."""
    probability: Fraction = 1.0
    """Chance that a pair is mixed."""


class Augmentation(Section):
    """How a training image is cut and changed before the student and the teacher both see it."""

    crop: Literal["random_resized", "pad_and_crop"] = "random_resized"
    """random_resized: a box of random area and shape, resized to size (ImageNet's recipe).
    pad_and_crop: zero padding, then a random window of size (CIFAR's recipe; the images must
    all be size x size)."""
    size: ImageSize = 224
    """Side of the training image, in pixels."""
    size_stages: tuple[SizeStage, ...] = ()
    """Progressive resolution: later epochs with other sizes, in rising order of from_epoch."""
    scale: tuple[Share, Share] = (0.08, 1.0)
    """random_resized: least and greatest share of the image's area that a box covers."""
    ratio: tuple[Positive, Positive] = (3 / 4, 4 / 3)
    """random_resized: least and greatest width / height of a box."""
    padding: Annotated[int, Field(ge=0, le=64)] = 4
    """pad_and_crop: pixels added on each side."""
    flip_probability: Fraction = 0.5
    """Chance that an image is mirrored left to right."""
    rand_augment: RandAugment | None = None
    """Absent: none. These three are applied after the crop, in this order."""
    colour_jitter: ColourJitter | None = None
    """Absent: none."""
    erasing: Erasing | None = None
    """Absent: none."""
    mixing: Mixing | None = None
    """Absent: none."""


class Weights(Section):
    """Where a model's weights come from."""

    source: Annotated[str, Field(min_length=1)]
    """A .safetensors file, a .pth or .pt state dict (read with weights_only), an MLflow model URI
    (models:/name@alias, runs:/id/path), or torchvision:ENUM such as torchvision:IMAGENET1K_V1."""
    sha256: Sha256 | None = None
    """If given, the file must have this SHA-256 digest (64 hexadecimal digits)."""
    match: Literal["names", "order"] = "names"
    """names: keys must be equal. order: the n-th tensor of the file fills the n-th of the model,
    whatever its key, every shape checked (for state dicts of another code base)."""


class Student(Section):
    """The network that is trained."""

    model: str
    """torchvision classifier (resnet18), cifar:NAME (cifar:resnet20) or timm:NAME."""
    weights: Weights | None = None
    """Weights to start from; random ones if absent."""


class Teacher(Section):
    """The frozen network whose outputs the student learns from."""

    model: str
    """torchvision classifier (resnet34), cifar:NAME (cifar:resnet56) or timm:NAME."""
    weights: Weights
    """The teacher's trained weights."""
    num_classes: Annotated[int, Field(ge=2)] | None = None
    """Classes the teacher knows; must be those of the dataset, which is also the default."""
    normalization: Normalization | None = None
    """The normalisation the teacher was trained with; the dataset's if absent."""
    min_top1: Fraction | None = None
    """Least top-1 accuracy (0 to 1) of the teacher on a slice of val; below it the job stops."""
    min_top1_images: Count = 2048
    """Number of val images that min_top1 is measured on."""


class Method(Section):
    """Total loss = warm-up x (alpha DTKD + beta KD) + gamma cross-entropy."""

    alpha: NonNegative = 3.0
    """Weight of the DTKD loss."""
    beta: NonNegative = 1.0
    """Weight of the plain KD loss at the base temperature."""
    gamma: NonNegative = 1.0
    """Weight of the cross-entropy with the labels."""
    base_temperature: Annotated[float, Field(gt=0, le=1000)] = 4.0
    """tau: the two temperatures of a sample sum to 2 tau. KD uses tau itself."""
    sharpness: Literal["max", "norm", "logsumexp"] = "max"
    """What is matched: the greatest logit (the authors' code), the greatest absolute logit (their
    paper), or the logsumexp itself, solved exactly."""
    detach: bool = False
    """Treat the temperatures as constants; the authors' code does not."""
    floor: Annotated[float, Field(gt=0, lt=0.5)] = 0.05
    """Least share of 2 tau that either temperature may take; beyond it a sample is guarded."""
    warmup_epochs: NonNegative = 20.0
    """Epochs over which the distillation losses rise linearly to their full weight."""


class Sgd(Section):
    """Stochastic gradient descent with momentum."""

    kind: Literal["sgd"] = "sgd"
    learning_rate: Positive = 0.2
    """Peak learning rate, for the global batch as it is; nothing rescales it."""
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """Momentum."""
    nesterov: bool = False
    """Nesterov's momentum."""
    weight_decay: NonNegative = 1e-4
    """L2 penalty, added to the gradient."""
    decay_norms_and_biases: bool = True
    """Whether weight decay also applies to normalisation layers and biases."""


class AdamW(Section):
    """Adam with decoupled weight decay."""

    kind: Literal["adamw"]
    learning_rate: Positive = 1e-3
    """Peak learning rate, for the global batch as it is; nothing rescales it."""
    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] = (
        0.9,
        0.999,
    )
    """Decay of the first and second moment."""
    weight_decay: NonNegative = 0.05
    """Decoupled weight decay."""
    decay_norms_and_biases: bool = False
    """Whether weight decay also applies to normalisation layers and biases."""


class Schedule(Section):
    """Length of the training and the course of the learning rate."""

    num_epochs: Count = 100
    """Passes over the training set."""
    kind: Literal["multistep", "cosine", "linear"] = "multistep"
    """multistep: x decay_factor after each milestone. cosine, linear: down to final_fraction."""
    milestones: tuple[Count, ...] = (30, 60, 90)
    """multistep: epochs after which the learning rate is multiplied by decay_factor."""
    decay_factor: Annotated[float, Field(gt=0, le=1)] = 0.1
    """multistep: the multiplier."""
    final_fraction: Fraction = 0.0
    """cosine, linear: last learning rate as a share of the peak."""
    warmup_epochs: NonNegative = 0.0
    """Epochs over which the learning rate rises linearly from 0; fractions are allowed."""


class Training(Section):
    """Batches, precision and what regularises a step."""

    global_batch_size: Count = 512
    """Images per optimizer step over all workers."""
    micro_batch_size: Count | None = None
    """Images per forward pass: the unit BatchNorm sees. Absent: global batch / workers. Set it, and
    the arithmetic of a step does not depend on the number of workers."""
    last_batch: Literal["drop", "keep"] = "drop"
    """What happens to the images that fill no global batch at the end of an epoch. drop: they have
    their turn in other epochs. keep: they make a smaller step; each image counts the same in it."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """bfloat16: autocast in the forward passes; weights, losses and gradients stay float32."""
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Label smoothing of the cross-entropy."""
    max_grad_norm: Positive | None = None
    """Gradients are scaled down to this global L2 norm; absent: they are left alone."""
    ema_decay: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Decay per step of an exponential moving average of the weights. If given, the averaged
    student is the one that is evaluated and exported."""


class Resources(Section):
    """What the job takes from the Ray cluster."""

    num_workers: Count = 1
    """Training processes, each with its share of every global batch."""
    cpus_per_worker: Count = 4
    """CPU cores reserved for each worker; its decoding threads and torch's share them."""
    gpu: bool = False
    """One GPU per worker, NCCL between them; otherwise CPUs and gloo."""
    max_failures: Annotated[int, Field(ge=0)] = 3
    """Failures of a worker after which the run goes on from its last checkpoint."""
    collective_timeout_s: Count = 300
    """Seconds after which a collective operation with a silent peer is an error."""


class Checkpoints(Section):
    """Where the run's state is kept."""

    storage_path: Path
    """Folder that every node sees; the run lives in storage_path/name."""
    every_epochs: Count = 1
    """Epochs between two checkpoints; the last epoch is always kept."""
    num_to_keep: Count = 2
    """Newest checkpoints kept."""


class Evaluation(Section):
    """How val is measured: every image once, whatever the number of workers."""

    resize_size: Annotated[int, Field(ge=8, le=2048)] = 256
    """Length the shorter side is resized to, in pixels."""
    crop_size: Annotated[int, Field(ge=8, le=2048)] = 224
    """Side of the centre crop that is classified, in pixels."""
    batch_size: Count = 256
    """Images per forward pass and worker; it changes speed and memory, no figure."""
    every_epochs: Count = 1
    """Epochs between two evaluations; the last epoch is always evaluated."""


class Tracking(Section):
    """What MLflow is told."""

    uri: str | None = None
    """MLflow server (http://host:port) or store; MLFLOW_TRACKING_URI overrides it. Absent: SQLite
    in storage_path."""
    experiment: Annotated[str, Field(min_length=1)] = "dtkd"
    """Experiment that the run belongs to."""
    log_every_steps: Count = 50
    """Optimizer steps between two progress lines and metric points."""
    register_as: Annotated[str, Field(pattern=r"^[^/:]+$")] | None = None
    """Registered model that the final student becomes a version of; absent: not registered."""
    alias: Annotated[str, Field(pattern=r"^[A-Za-z][\w-]*$")] | None = None
    """Alias, such as champion, that is moved to that version."""
