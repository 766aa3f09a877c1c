"""Where a run came from: digests of its inputs, the code's revision, the script and the Ray job."""

from collections.abc import Mapping

from service.run.folder import VERSION_TAG
from service.run.state_files import service_version
from service.spec.loading import LoadedJob
from service.tracking.dataset_inputs import dataset_tags
from service.tracking.source_tags import source_tags


def provenance_tags(job: LoadedJob, weights_tags: Mapping[str, str], script: str) -> dict[str, str]:
    """MLflow tags that tell two runs of one spec apart, or prove that they are the same.

    ``weights_tags``: digests of the weights and of the teacher's classes, such as teacher_sha256.
    ``script``: what was started, such as jobs/distill.py.
    """
    return {
        "spec_hash": job.spec.content_hash(),
        **dataset_tags("train", job.train),
        **dataset_tags("val", job.val),
        VERSION_TAG: service_version(),
        **source_tags(script),
        **weights_tags,
    }
