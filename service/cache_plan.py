"""What the teacher's cache takes and saves of many runs, for their plan and for what fills it."""

from collections.abc import Sequence

from service.models.flops import flops_per_image
from service.plan import build_models_on_meta
from service.spec.job import JobSpec
from service.spec.networks import STUDENT
from service.teacher_cache.demand import Runs
from service.teacher_cache.estimate import cache_lines


def many_cache_lines(runs: Sequence[Runs], *, are_concurrent: bool = False) -> list[str]:
    """Lines for a person; none where no run has a cache. See ``cache_lines``.

    Raises:
        BadInputError: a model that cannot be built, or does not take the images.
        OSError: a file of weights cannot be read.
    """
    counted: dict[str, int] = {}

    def teacher_flops(spec: JobSpec) -> int:
        size = spec.augmentation.largest_size
        key = repr((spec.teacher, spec.evaluation.crop_size, size))
        if key not in counted:
            counted[key] = sum(
                flops_per_image(model, spec.input_size(path, size))
                for path, model in build_models_on_meta(spec).items()
                if path != STUDENT
            )
        return counted[key]

    return list(cache_lines(runs, teacher_flops, are_concurrent=are_concurrent))
