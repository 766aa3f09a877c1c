"""Warnings about a comparison, each once whatever the number of rows that it is about."""

from service.compare.loading import LoadedComparison
from service.spec.image_warnings import small_image_warnings
from service.spec.overlap import overlap_warnings


def comparison_warnings(loaded: LoadedComparison) -> list[str]:
    """What a run would warn about that also matters here: small images, images in two places."""
    tuned, warnings, seen = loaded.compare.tuned, [], []
    for job in loaded.jobs.values():
        warnings += small_image_warnings(*job)
        if job.spec.dataset not in seen:
            seen.append(job.spec.dataset)
            held_out = None if tuned is None else tuned.held_out
            warnings += overlap_warnings(job.spec.dataset, held_out)
    return list(dict.fromkeys(warnings))
