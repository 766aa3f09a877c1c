"""The section of a job spec about a training step: batch sizes, precision, regularization."""

from typing import Annotated, Literal

from pydantic import Field

from service.spec.fields import Count, Positive, Section


class Training(Section):
    """Batch sizes, precision, and regularization of a step."""

    global_batch_size: Count = 512
    """Images per optimizer step over all workers."""
    micro_batch_size: Count | None = None
    """Images over which BatchNorm computes its statistics. Absent: global batch /
    workers. If it is set, the arithmetic of a step does not depend on the number of workers."""
    max_activation_bytes: Count = 2_000_000_000
    """Bytes that a forward pass of the student may keep for its backward pass: as many of a
    worker's micro-batches as fit go through the student together, at least one. BatchNorm's
    statistics are still those of each micro-batch; results differ by rounding only."""
    drop_last: bool = True
    """Whether the images that fill no global batch at the end of an epoch are dropped; they are
    different ones in each epoch. false: they make a smaller step, in which each image counts the
    same."""
    precision: Literal["float32", "bfloat16", "float16", "auto"] = "float32"
    """bfloat16, float16: autocast in the forward passes of all layers but the last; logits,
    weights, losses and gradients stay float32. float16 is for GPUs without bfloat16: its narrow
    range needs a scaled loss, and a step whose scaled gradient overflows makes no update but halves
    the scale. auto: bfloat16 (float16 on such GPUs) where a few timed steps of the student are
    faster with it, else float32."""
    matmul_precision: Literal["highest", "high"] = "highest"
    """Of float32 convolutions and matrix products on GPUs. highest: float32, equal to a CPU's but
    for rounding. high: TF32, whose inputs have 10 bits after the point, faster from Ampere on.
    evaluate.py never uses TF32."""
    compile: Literal["auto", "on", "off"] = "auto"
    """Whether torch.compile makes the student and the teacher faster code. auto: where the run is
    long enough to pay for compiling, both are timed for a few steps, and what is faster is used.
    Without a compiler, training is eager."""
    deterministic: bool = False
    """On GPUs, use deterministic algorithms alone, where there are some, and do not choose them by
    their time: a resumed run then equals an uninterrupted one bit for bit, as it does on CPUs."""
    checkpoint_activations: bool = False
    """Whether the activations within the student's blocks are computed again in the backward pass
    instead of being kept: less memory for about a third more time, and the same gradient. For
    networks that are sequences of blocks."""
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Label smoothing of the cross-entropy."""
    max_grad_norm: Positive | None = None
    """Gradients are clipped to this global L2 norm; absent: they are not clipped."""
    on_nonfinite: Literal["stop", "skip", "roll_back"] = "stop"
    """What happens when a loss or gradient is not finite. In any case it makes no update, and the
    step's samples are written to the run's folder. stop: the run is aborted. skip: training
    continues with the next step. roll_back: it continues with the next step, from the weights of
    the last checkpoint."""
    max_skipped_steps: Annotated[int, Field(ge=1)] = 10
    """skip, roll_back: how often that may happen in a run before it is aborted."""
    ema_decay: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Decay per step of an exponential moving average (EMA) of the weights, which it rises to from
    0.1 during the first steps. If it is set, the EMA is evaluated and exported."""
