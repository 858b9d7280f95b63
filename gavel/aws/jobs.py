"""Start processing jobs by hand with the SageMaker Python SDK: embed a day's items, train towers."""

import hashlib
import logging
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from datetime import date as Date
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from gavel.aws.account import DeployedStage, aws_errors, client, session
from gavel.aws.buckets import Bucket
from gavel.aws.night_job import NightJob, night_job
from gavel.aws.towers import tower_in_bucket
from retrieval.errors import GavelError, InvalidInput, MissingPrerequisite

if TYPE_CHECKING:
    from sagemaker.core.helper.session_helper import Session

CATALOGS = "catalogs"  # in the towers bucket: the training role reads there (infra/machine_roles.py)
CATALOG_PATH = "/opt/ml/processing/input/catalog"
OUTPUT_PATH = "/opt/ml/processing/output"
QUIET = {"SchemaVersion": "1.0", "SageMaker": {"PythonSDK": {"Modules": {"TelemetryOptOut": True}}}}


@dataclass(frozen=True, slots=True)
class LaunchOptions:
    """Options for starting a job.

    Attributes:
        instance: instance type; None takes the first type of the stage's ladder.
        wait: True waits until the job ends and shows the job's log.
    """

    instance: str | None = None
    wait: bool = True


@dataclass(frozen=True, slots=True)
class JobSpec:
    """Settings of a job. Settings that are not listed here are those of the nightly job.

    Attributes:
        name: name of the job.
        role: ARN of the role that the job runs under.
        command: words of the command line before the path of the code.
        arguments: words of the command line after the path of the code.
        inputs: input name -> (path in the container, s3:// URI).
        output: (output name, path in the container, s3:// URI).
        instances: number of instances; None takes the nightly job's.
        isolated: True runs the job without a network; None takes the nightly job's setting.
        environment: environment variables; None takes the nightly job's.
    """

    name: str
    role: str
    command: Sequence[str]
    arguments: Sequence[str]
    inputs: Mapping[str, tuple[str, str]]
    output: tuple[str, str, str]
    instances: int | None = None
    isolated: bool | None = None
    environment: Mapping[str, str] | None = None


@dataclass(frozen=True, slots=True)
class StartedJob:
    """A started job.

    Attributes:
        job: name of the job.
        instance: instance type.
        output: s3:// URI of the job's output.
        release_id: id of the release that an embedding job writes; None for other jobs.
    """

    job: str
    instance: str
    output: str
    release_id: str | None = None


def check_date(date: str) -> str:
    """Return the date in ISO format.

    Raises:
        InvalidInput: `date` is not a date.
    """
    try:
        return Date.fromisoformat(date).isoformat()
    except ValueError:
        raise InvalidInput(f"{date!r} is no date; write it as 2026-11-21") from None


def items_of(stage: DeployedStage, date: str) -> str:
    """Return the s3:// URI of a date's items: one file or one folder, as the nightly run takes them.

    Raises:
        InvalidInput: the date has neither a file nor a folder, or has both.
    """
    bucket = Bucket(stage.output("NewItemsBucket"))
    sources = [key for key in (f"{check_date(date)}.parquet", f"{date}/") if next(bucket.list_keys(key), None) is not None]
    if not sources:
        raise InvalidInput(f"there are no items for {date}: put {date}.parquet into {bucket}, or files below {date}/")
    if len(sources) > 1:
        raise InvalidInput(f"{bucket} has both {sources[0]} and {sources[1]}; put the file into the folder")
    return f"{bucket}/{sources[0]}"


def embed_date(stage: DeployedStage, date: str, tower_id: str | None, options: LaunchOptions) -> StartedJob:
    """Embed a day's items by hand; the deployed indexer indexes the release.

    Args:
        stage: deployed stage.
        date: date of the items, such as 2026-11-21.
        tower_id: tower to embed with; None takes the current one.
        options: instance type, and if to wait.

    Raises:
        InvalidInput: the date is invalid or has no items, or the tower does not exist.
        GavelError: AWS refused the job, or the job failed.
    """
    items = items_of(stage, date)
    tower_id = tower_in_bucket(stage, tower_id)
    job, run = night_job(stage), uuid4().hex[:8]
    release_id = f"{date}-{tower_id}-by-hand-{run}"  # the nightly job's is <date>-<tower_id>
    tower = f"s3://{stage.output('TowersBucket')}/{tower_id}/"
    (output,) = job.parameters["ProcessingOutputConfig"]["Outputs"]
    destination = output["S3Output"]
    spec = JobSpec(
        name=f"gavel-{date}-by-hand-{run}",
        role=stage.output("JobRole"),
        command=job.command,
        arguments=["--release-id", release_id],
        inputs=job.inputs(items=items, tower=tower),
        output=(output["OutputName"], destination["LocalPath"], destination["S3Uri"]),
    )
    instance = _run(job, spec, options)
    return StartedJob(spec.name, instance, destination["S3Uri"] + release_id, release_id)


def train(stage: DeployedStage, catalog: str, flags: Sequence[str], options: LaunchOptions) -> StartedJob:
    """Train towers on a catalogue in a job, which writes the towers to the towers bucket.

    Args:
        stage: deployed stage.
        catalog: s3:// URI of the catalogue, as upload_catalog() returns it.
        flags: command-line flags of processing.training.towers_job.
        options: instance type, and if to wait.

    Raises:
        GavelError: AWS refused the job, or the job failed.
    """
    job = night_job(stage)
    towers = f"s3://{stage.output('TowersBucket')}"
    inputs = job.inputs(items="", tower="")
    del inputs["items"], inputs["tower"]
    spec = JobSpec(
        name=f"gavel-train-{uuid4().hex[:12]}",
        role=stage.output("TrainingRole"),
        command=job.training_command,
        arguments=["--input", CATALOG_PATH, *flags],
        inputs=inputs | {"catalog": (CATALOG_PATH, catalog)},
        output=("towers", OUTPUT_PATH, towers),
        instances=1,
        isolated=False,  # the job downloads its packages
        environment={},  # the nightly job's environment forbids downloads of encoders
    )
    return StartedJob(spec.name, _run(job, spec, options), towers)


def upload_catalog(stage: DeployedStage, catalog: str, progress: Callable[[int, int], None] | None = None) -> str:
    """Upload a catalogue to the towers bucket, where a training job can read it.

    Args:
        stage: deployed stage.
        catalog: folder or s3:// URI of the catalogue. A folder is uploaded under its name and a hash of its files, unless that
            key exists.
        progress: called with (files uploaded, files in all).

    Returns:
        The s3:// URI of the uploaded catalogue, with a slash at the end.

    Raises:
        InvalidInput: the folder holds no catalogue, or the training role cannot read the URI.
    """
    from catalog.folder import CATALOG_FILE, CatalogFolder

    bucket = Bucket(stage.output("TowersBucket"))
    if catalog.startswith("s3://"):
        if not catalog.startswith(f"{bucket}/{CATALOGS}/"):
            raise InvalidInput(
                f"{catalog} is out of the training role's reach; copy it to {bucket}/{CATALOGS}/NAME, or give its folder here"
            )
        return catalog.rstrip("/") + "/"
    folder = Path(catalog)
    name = CatalogFolder.load(folder).name
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        digest.update(f"{path.relative_to(folder)}\0{hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    key = f"{CATALOGS}/{name}-{digest.hexdigest()[:12]}"
    if not bucket.holds(f"{key}/{CATALOG_FILE}"):
        bucket.upload(folder, key, CATALOG_FILE, progress)
    return f"{bucket}/{key}/"


def _run(job: NightJob, spec: JobSpec, options: LaunchOptions) -> str:
    """Run a job with the nightly job's image, volume, network and sources; return the instance type."""
    processing = _sdk()
    cluster, parameters = job.cluster, job.parameters
    instance = options.instance or cluster["InstanceType"]
    with aws_errors(f"job {spec.name}"), redirect_stdout(sys.stderr):  # the SDK prints the log; stdout is for the answer
        processor = processing.ScriptProcessor(
            role=spec.role,
            image_uri=parameters["AppSpecification"]["ImageUri"],
            command=list(spec.command),
            instance_count=spec.instances or cluster["InstanceCount"],
            instance_type=instance,
            volume_size_in_gb=cluster["VolumeSizeInGB"],
            max_runtime_in_seconds=parameters["StoppingCondition"]["MaxRuntimeInSeconds"],
            env=parameters.get("Environment") if spec.environment is None else dict(spec.environment),
            network_config=_network(processing, job.network, spec.isolated),
            sagemaker_session=_session(),
        )
        try:
            processor.run(
                code=job.code_uri,
                inputs=[_input(processing, key, *place) for key, place in spec.inputs.items()],
                outputs=[_output(processing, *spec.output)],
                arguments=list(spec.arguments),
                wait=options.wait,
                logs=options.wait,
                job_name=spec.name,
            )
        except (ValueError, AttributeError) as error:  # AttributeError: sagemaker-core 2.27 misses its own class for a failed job
            if processor.latest_job is None:
                raise GavelError(f"job {spec.name} was not started: {error}") from error
            _check_ended(spec.name)
            raise
        if options.wait:
            _check_ended(spec.name)
    return str(instance)


def _check_ended(name: str) -> None:
    """Raise a GavelError unless the job's status is Completed."""
    job = client("sagemaker").describe_processing_job(ProcessingJobName=name)
    if job["ProcessingJobStatus"] != "Completed":
        reason = job.get("FailureReason") or job.get("ExitMessage") or "SageMaker gives no reason"
        raise GavelError(f"job {name} is {job['ProcessingJobStatus']}: {reason}; its log is in /aws/sagemaker/ProcessingJobs")


def _network(processing: Any, night: Mapping[str, Any], isolated: bool | None) -> Any:
    inside = night.get("VpcConfig", {})
    return processing.NetworkConfig(
        enable_network_isolation=night.get("EnableNetworkIsolation") if isolated is None else isolated,
        security_group_ids=inside.get("SecurityGroupIds"),
        subnets=inside.get("Subnets"),
        encrypt_inter_container_traffic=night.get("EnableInterContainerTrafficEncryption"),
    )


def _input(processing: Any, name: str, path: str, uri: str) -> Any:
    place = processing.ProcessingS3Input(
        s3_uri=uri,
        local_path=path,
        s3_data_type="S3Prefix",
        s3_input_mode="File",
        s3_data_distribution_type="FullyReplicated",
    )
    return processing.ProcessingInput(input_name=name, s3_input=place)


def _output(processing: Any, name: str, path: str, uri: str) -> Any:
    from sagemaker.core.shapes import ProcessingS3Output

    place = ProcessingS3Output(s3_uri=uri, local_path=path, s3_upload_mode="EndOfJob")
    return processing.ProcessingOutput(output_name=name, s3_output=place)


def _session() -> "Session":
    """Open the SDK's session in the shell's account, without the SDK's defaults and telemetry."""
    from sagemaker.core.helper.session_helper import Session

    logging.getLogger("sagemaker.config").setLevel(logging.WARNING)  # it logs every default
    return Session(boto_session=session(), sagemaker_config=QUIET)


def _sdk() -> Any:
    """Import the SDK's module for processing jobs; the import takes seconds."""
    try:
        from sagemaker.core import processing
    except ImportError as error:
        raise MissingPrerequisite(
            f"the SageMaker SDK is not installed ({error}); `.venv/bin/uv pip install -e '.[aws]'`, or `make .venv/installed-dev`"
        ) from error
    return processing
