"""The process that watches the workers, which starts before they do, imports little."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]


def test_what_ray_train_is_given_refers_to_no_torch():
    code = (
        "import sys, service.cluster.process_group, service.cluster.worker_process; "
        "import ray.train.v2.api.data_parallel_trainer; sys.exit('torch' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_the_process_that_watches_the_workers_does_without_the_spec():
    code = (
        "import sys, service.cluster.process_group; "
        "sys.exit(any(name.startswith('service.spec') for name in sys.modules))"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
