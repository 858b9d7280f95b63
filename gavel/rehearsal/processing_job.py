"""A processing job on this machine: fetch the inputs, run the container's module without the container, upload the outputs."""

import os
import subprocess
import sys
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from retrieval.errors import ReleaseError

CONTAINER = Path("/opt/ml/processing")
PACKAGES = "packages"  # input for the container's Python; this Python has its own packages
# runs the container's main() for each instance in turn, with the folders and the instance number that SageMaker would give it
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
    """Runs jobs with the parameters of CreateProcessingJob on this process's Python; no image is pulled.

    Args:
        client: (name of a service, ARN of a role) -> boto3 client that calls with the role.
        credentials: ARN of a role -> variables with its access key.
        work: folder for the files of jobs.
        ran: list that receives the parameters of every job.
    """

    def __init__(
        self,
        client: Callable[[str, str], Any],
        credentials: Callable[[str], Mapping[str, str]],
        work: Path,
        ran: list[Mapping[str, Any]],
    ) -> None:
        self._client, self._credentials, self._work, self._ran = client, credentials, work, ran

    def run(self, parameters: Mapping[str, Any]) -> None:
        """Run one job to its end.

        Raises:
            ReleaseError: the job failed; the message ends with the last output of the job.
        """
        self._ran.append(parameters)
        s3 = self._client("s3", parameters["RoleArn"])
        root = self._work / parameters["ProcessingJobName"]
        for given in parameters["ProcessingInputs"]:
            if given["InputName"] == PACKAGES:
                continue
            self._fetch(s3, given["S3Input"]["S3Uri"], root / _below(given["S3Input"]["LocalPath"]))
        sources = self._unpack(root / "input" / "code")
        outputs = parameters["ProcessingOutputConfig"]["Outputs"]
        for output in outputs:
            (root / _below(output["S3Output"]["LocalPath"])).mkdir(parents=True)
        self._embed(root, sources, parameters)
        for output in outputs:
            self._lay_down(s3, root / _below(output["S3Output"]["LocalPath"]), output["S3Output"]["S3Uri"])

    def _embed(self, root: Path, sources: Path, parameters: Mapping[str, Any]) -> None:
        """Run the container's module with its folders below `root`; in the container the same folders are absolute paths."""
        instances = str(parameters["ProcessingResources"]["ClusterConfig"]["InstanceCount"])
        ran = subprocess.run(
            [sys.executable, "-c", MAIN, str(root), instances, *parameters["AppSpecification"]["ContainerArguments"]],
            cwd=sources,
            env={**os.environ, **self._credentials(parameters["RoleArn"]), "PYTHONPATH": str(sources), "HF_HUB_OFFLINE": "1"},
            capture_output=True,
            text=True,
            check=False,
        )
        if ran.returncode:
            raise ReleaseError(f"the embedding job ended with status {ran.returncode}: {ran.stderr[-2000:]}")

    def _fetch(self, s3: Any, uri: str, folder: Path) -> None:
        """Download every object below a URI into `folder`.

        If the URI names a folder, paths are relative to it. Otherwise they are relative to the folder that the last part is in.
        """
        bucket, _, prefix = uri.removeprefix("s3://").partition("/")
        folder.mkdir(parents=True)
        for page in s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix):
            for entry in page.get("Contents", []):
                inside = f"{prefix.rstrip('/')}/"
                before = inside if entry["Key"].startswith(inside) else prefix[: prefix.rfind("/") + 1]
                place = folder / entry["Key"].removeprefix(before)
                place.parent.mkdir(parents=True, exist_ok=True)
                s3.download_file(bucket, entry["Key"], str(place))

    def _unpack(self, folder: Path) -> Path:
        sources = folder / "src"
        for packed in folder.glob("*.zip"):
            zipfile.ZipFile(packed).extractall(sources)
        return sources

    def _lay_down(self, s3: Any, folder: Path, uri: str) -> None:
        """Upload the job's output files; manifests come last, so that the index has the parts before a manifest arrives."""
        bucket, _, prefix = uri.removeprefix("s3://").partition("/")
        files = [path for path in folder.rglob("*") if path.is_file()]
        for path in sorted(files, key=lambda path: (path.name.startswith("manifest"), str(path))):
            s3.upload_file(str(path), bucket, f"{prefix}{path.relative_to(folder)}")


def _below(container_path: str) -> Path:
    return Path(container_path).relative_to(CONTAINER)
