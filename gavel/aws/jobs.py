"""Processing jobs by hand, through the SageMaker Python SDK: a day's lots embedded, towers trained."""

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

from gavel.aws.account import DeployedStage, asking_aws, client, session
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
class Launch:
    """How a job is started.

    Attributes:
        instance: instance type; None takes the first of the stage's ladder.
        wait: until the job ends, its log shown.
    """

    instance: str | None = None
    wait: bool = True


@dataclass(frozen=True, slots=True)
class Order:
    """What is asked for; everything else is as the night has it.

    Attributes:
        name: of the job.
        role: ARN that it runs as.
        command: ScriptProcessor's, before the path of the code.
        arguments: after it.
        inputs: name -> (path in the container, s3:// URI).
        output: name, path in the container, s3:// URI.
        instances: how many; None for as many as the night.
        isolated: without a network; None for as the night.
        environment: variables; None for the night's.
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
class Started:
    """A job that was started.

    Attributes:
        job: its name.
        instance: instance type.
        output: s3:// URI that its output goes to.
        release_id: of an embedding job.
    """

    job: str
    instance: str
    output: str
    release_id: str | None = None


def check_date(date: str) -> str:
    """The date as it was given.

    Raises:
        InvalidInput: it is none.
    """
    try:
        return Date.fromisoformat(date).isoformat()
    except ValueError:
        raise InvalidInput(f"{date!r} is no date; write it as 2026-11-21") from None


def items_of(stage: DeployedStage, date: str) -> str:
    """The s3:// URI of a date's lots: one file, or one folder, as the night takes them.

    Raises:
        InvalidInput: there are none, or both.
    """
    bucket = Bucket(stage.output("NewItemsBucket"))
    there = [key for key in (f"{check_date(date)}.parquet", f"{date}/") if next(bucket.listed(key), None) is not None]
    if not there:
        raise InvalidInput(f"there are no items for {date}: put {date}.parquet into {bucket}, or files below {date}/")
    if len(there) > 1:
        raise InvalidInput(f"{bucket} has both {there[0]} and {there[1]}; put the file into the folder")
    return f"{bucket}/{there[0]}"


def embed_date(stage: DeployedStage, date: str, tower_id: str | None, launch: Launch) -> Started:
    """Embed a day's lots by hand; the deployed indexer takes the release in.

    Args:
        stage: where.
        date: of the lots, such as 2026-11-21.
        tower_id: None takes the current one.
        launch: how.

    Raises:
        InvalidInput: no such date, lots or tower.
        GavelError: AWS refused the job, or it failed.
    """
    items = items_of(stage, date)
    tower_id = tower_in_bucket(stage, tower_id)
    job, run = night_job(stage), uuid4().hex[:8]
    release_id = f"{date}-{tower_id}-by-hand-{run}"  # a night's is <date>-<tower_id>
    tower = f"s3://{stage.output('TowersBucket')}/{tower_id}/"
    (output,) = job.parameters["ProcessingOutputConfig"]["Outputs"]
    where = output["S3Output"]
    order = Order(
        name=f"gavel-{date}-by-hand-{run}",
        role=stage.output("JobRole"),
        command=job.command,
        arguments=["--release-id", release_id],
        inputs=job.inputs(items=items, tower=tower),
        output=(output["OutputName"], where["LocalPath"], where["S3Uri"]),
    )
    instance = _run(job, order, launch)
    return Started(order.name, instance, where["S3Uri"] + release_id, release_id)


def train(stage: DeployedStage, catalog: str, flags: Sequence[str], launch: Launch) -> Started:
    """Train towers on a catalogue as a job; their folders land in the towers bucket.

    Args:
        stage: where.
        catalog: what put_up_catalog() returned.
        flags: of processing.training.towers_job.
        launch: how.

    Raises:
        GavelError: AWS refused the job, or it failed.
    """
    job = night_job(stage)
    towers = f"s3://{stage.output('TowersBucket')}"
    inputs = job.inputs(items="", tower="")
    del inputs["items"], inputs["tower"]
    order = Order(
        name=f"gavel-train-{uuid4().hex[:12]}",
        role=stage.output("TrainingRole"),
        command=job.training_command,
        arguments=["--input", CATALOG_PATH, *flags],
        inputs=inputs | {"catalog": (CATALOG_PATH, catalog)},
        output=("towers", OUTPUT_PATH, towers),
        instances=1,
        isolated=False,  # it fetches its packages
        environment={},  # the night's keeps encoders from being fetched by name
    )
    return Started(order.name, _run(job, order, launch), towers)


def put_up_catalog(stage: DeployedStage, catalog: str, progress: Callable[[int, int], None] | None = None) -> str:
    """Have a catalogue where a training job can read it.

    Args:
        stage: where.
        catalog: its folder, which is uploaded under its name and a hash of its files unless it is there; or its s3:// URI.
        progress: called with (files uploaded, files in all).

    Returns:
        Its s3:// URI, with a slash at the end.

    Raises:
        InvalidInput: the folder holds no catalogue, or the training role cannot read that URI.
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


def _run(job: NightJob, order: Order, launch: Launch) -> str:
    """Start a job on the night's image, volume, network and sources; returns the instance type."""
    processing = _sdk()
    cluster, parameters = job.cluster, job.parameters
    instance = launch.instance or cluster["InstanceType"]
    with asking_aws(f"job {order.name}"), redirect_stdout(sys.stderr):  # the SDK prints the log; stdout is for the answer
        processor = processing.ScriptProcessor(
            role=order.role,
            image_uri=parameters["AppSpecification"]["ImageUri"],
            command=list(order.command),
            instance_count=order.instances or cluster["InstanceCount"],
            instance_type=instance,
            volume_size_in_gb=cluster["VolumeSizeInGB"],
            max_runtime_in_seconds=parameters["StoppingCondition"]["MaxRuntimeInSeconds"],
            env=parameters.get("Environment") if order.environment is None else dict(order.environment),
            network_config=_network(processing, job.network, order.isolated),
            sagemaker_session=_session(),
        )
        try:
            processor.run(
                code=job.code_uri,
                inputs=[_input(processing, key, *place) for key, place in order.inputs.items()],
                outputs=[_output(processing, *order.output)],
                arguments=list(order.arguments),
                wait=launch.wait,
                logs=launch.wait,
                job_name=order.name,
            )
        except (ValueError, AttributeError) as error:  # AttributeError: sagemaker-core 2.27 misses its own class for a failed job
            if processor.latest_job is None:
                raise GavelError(f"job {order.name} was not started: {error}") from error
            _check_ended(order.name)
            raise
        if launch.wait:
            _check_ended(order.name)
    return str(instance)


def _check_ended(name: str) -> None:
    """Raise a GavelError unless a job that was waited for is complete."""
    told = client("sagemaker").describe_processing_job(ProcessingJobName=name)
    if told["ProcessingJobStatus"] != "Completed":
        why = told.get("FailureReason") or told.get("ExitMessage") or "SageMaker gives no reason"
        raise GavelError(f"job {name} is {told['ProcessingJobStatus']}: {why}; its log is in /aws/sagemaker/ProcessingJobs")


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
    """The SDK's session of the shell's account; it reads no defaults of its own and tells nobody of its use."""
    from sagemaker.core.helper.session_helper import Session

    logging.getLogger("sagemaker.config").setLevel(logging.WARNING)  # it tells of every default it takes
    return Session(boto_session=session(), sagemaker_config=QUIET)


def _sdk() -> Any:
    """The SDK's room of processing jobs; it takes seconds to import."""
    try:
        from sagemaker.core import processing
    except ImportError as error:
        raise MissingPrerequisite(
            f"the SageMaker SDK is not installed ({error}); `.venv/bin/uv pip install -e '.[aws]'`, or `make .venv/installed-dev`"
        ) from error
    return processing
