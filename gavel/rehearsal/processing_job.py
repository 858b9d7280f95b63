"""A processing job run on this machine: inputs fetched, the container's module without the container, outputs laid down."""

import os
import subprocess
import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from retrieval.errors import ReleaseError

CONTAINER = Path("/opt/ml/processing")
PACKAGES = "packages"  # of the container's Python; this one has its own
# the container's main for each instance in turn, with the folders and the place among the others that SageMaker gives it
MAIN = """
import sys
from pathlib import Path
from processing.embedding import job as embed_items

embed_items.SAGEMAKER, instances = Path(sys.argv.pop(1)), int(sys.argv.pop(1))
for instance in range(instances):
    embed_items.read_instances = lambda: (instance, instances)
    if status := embed_items.main():
        sys.exit(status)
"""


class ProcessingJobs:
    """Runs jobs as CreateProcessingJob asks for them, on the Python that runs this; the image is not pulled.

    Args:
        s3: client of the account.
        work: folder for their files.
        ran: gets the parameters of every job.
    """

    def __init__(self, s3: Any, work: Path, ran: list[Mapping[str, Any]]) -> None:
        self._s3, self._work, self._ran = s3, work, ran

    def run(self, parameters: Mapping[str, Any]) -> None:
        """Run one job to its end.

        Raises:
            ReleaseError: the job failed; the message ends with what it said last.
        """
        self._ran.append(parameters)
        root = self._work / parameters["ProcessingJobName"]
        for given in parameters["ProcessingInputs"]:
            if given["InputName"] == PACKAGES:
                continue
            self._fetch(given["S3Input"]["S3Uri"], root / _below(given["S3Input"]["LocalPath"]))
        sources = self._unpack(root / "input" / "code")
        outputs = parameters["ProcessingOutputConfig"]["Outputs"]
        for output in outputs:
            (root / _below(output["S3Output"]["LocalPath"])).mkdir(parents=True)
        self._embed(root, sources, parameters)
        for output in outputs:
            self._lay_down(root / _below(output["S3Output"]["LocalPath"]), output["S3Output"]["S3Uri"])

    def _embed(self, root: Path, sources: Path, parameters: Mapping[str, Any]) -> None:
        """Run the container's module with its folders below `root`; in a container they are absolute."""
        instances = str(parameters["ProcessingResources"]["ClusterConfig"]["InstanceCount"])
        ran = subprocess.run(
            [sys.executable, "-c", MAIN, str(root), instances, *parameters["AppSpecification"]["ContainerArguments"]],
            cwd=sources,
            env={**os.environ, "PYTHONPATH": str(sources), "HF_HUB_OFFLINE": "1"},
            capture_output=True,
            text=True,
            check=False,
        )
        if ran.returncode:
            raise ReleaseError(f"the embedding job ended with status {ran.returncode}: {ran.stderr[-2000:]}")

    def _fetch(self, uri: str, folder: Path) -> None:
        """Everything below a prefix: what a folder holds without the folder's own path, other keys without that before them."""
        bucket, _, prefix = uri.removeprefix("s3://").partition("/")
        folder.mkdir(parents=True)
        for page in self._s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix):
            for entry in page.get("Contents", []):
                inside = f"{prefix.rstrip('/')}/"
                before = inside if entry["Key"].startswith(inside) else prefix[: prefix.rfind("/") + 1]
                place = folder / entry["Key"].removeprefix(before)
                place.parent.mkdir(parents=True, exist_ok=True)
                self._s3.download_file(bucket, entry["Key"], str(place))

    def _unpack(self, folder: Path) -> Path:
        sources = folder / "src"
        for packed in folder.glob("*.zip"):
            zipfile.ZipFile(packed).extractall(sources)
        return sources

    def _lay_down(self, folder: Path, uri: str) -> None:
        """Put the files where the job's output goes; manifests last, so that the index has their parts when they come."""
        bucket, _, prefix = uri.removeprefix("s3://").partition("/")
        files = [path for path in folder.rglob("*") if path.is_file()]
        for path in sorted(files, key=lambda path: (path.name.startswith("manifest"), str(path))):
            self._s3.upload_file(str(path), bucket, f"{prefix}{path.relative_to(folder)}")


def _below(container_path: str) -> Path:
    return Path(container_path).relative_to(CONTAINER)
