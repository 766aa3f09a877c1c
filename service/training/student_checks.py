"""Whether a student has what fields of its training need, before the cluster is used."""

from torch import nn

from service.models.activation_checkpointing import blocks_of
from service.spec.errors import BadInputError, Problem
from service.spec.job import JobSpec
from service.training.parameter_groups import layers_of


def check_student(spec: JobSpec, network: nn.Module) -> None:
    """Check the student's network, which may be on the meta device.

    Raises:
        BadInputError: it has no blocks whose activations could be computed again, or none whose
            rates could differ.
    """
    name, problems = spec.student.model, []
    if spec.training.checkpoint_activations and next(blocks_of(network), None) is None:
        wrong = f"is on, but {name} has no sequence of blocks"
        remedy = "remove it, or make training.micro_batch_size smaller"
        problems.append(Problem("training.checkpoint_activations", wrong, remedy))
    if spec.optimizer.layer_decay < 1.0 and not layers_of(network):
        wrong = f"is set, but timm does not say what the blocks of {name} are"
        problems.append(Problem("optimizer.layer_decay", wrong, "remove it"))
    if problems:
        raise BadInputError("spec", problems)
