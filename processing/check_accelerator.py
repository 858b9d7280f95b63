"""`python -m processing.check_accelerator`: fail at once on a GPU instance whose GPU torch does not see."""

import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from processing.command_line import run_job
from retrieval.errors import MissingPrerequisite

CONFIG = Path("/opt/ml/config")
RESOURCES, JOB = "resourceconfig.json", "processingjobconfig.json"  # of SageMaker; the second one is documented to name the type
GPU_TYPE = re.compile(r"ml\.[gp]\d")


def read_instance_type(config: Path = CONFIG) -> str | None:
    """Return the instance type of this container, such as "ml.g5.xlarge", from SageMaker's configuration; None outside a job."""
    resources, job = (_read(config / name) for name in (RESOURCES, JOB))
    cluster = job.get("ProcessingResources", {}).get("ClusterConfig", {})
    instance = resources.get("current_instance_type") or cluster.get("InstanceType")
    return instance if isinstance(instance, str) else None


def check_accelerator(instance: str | None, *, sees_gpu: bool) -> None:
    """Check that torch sees the GPU of a GPU instance. On a CPU the job would run for hours, at a GPU's price.

    Args:
        instance: instance type; None for a container outside SageMaker, where any device will do.
        sees_gpu: True if torch sees a GPU.

    Raises:
        MissingPrerequisite: the instance type has a GPU, and torch sees none.
    """
    if instance is not None and GPU_TYPE.match(instance) and not sees_gpu:
        raise MissingPrerequisite(
            f"{instance} has a GPU, and torch sees none: the image's CUDA needs a newer driver than the instance has, or has no "
            f"kernels for its GPU. Take another processing_image, or {instance} out of instance_ladder (both in cdk.json), and "
            'deploy; docs/operations.md, "The job\'s image", says what to check'
        )


def run_check() -> int:
    """Fail on a GPU instance whose GPU torch does not see."""
    import torch

    check_accelerator(read_instance_type(), sees_gpu=torch.cuda.is_available())
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the check from a command line."""
    return run_job(run_check, arguments, "gavel")


def _read(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return values if isinstance(values, dict) else {}


if __name__ == "__main__":
    sys.exit(main())
