"""Parameters of the embedding job for SageMaker Processing. The machine's state holds date, items, tower_id and release_id."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

State = dict[str, Any]
VOLUME_GB = 100  # disk of an instance, for the day's photos
REBUILD_VOLUME_GB = 200  # disk for all photos in the bucket; the smallest local disk of the ladder (g4dn.2xlarge) has 225
FOLDER = "/opt/ml/processing"
# everything else is in a script of the sources, because a word of the entry may have 256 characters
START = (
    f"cd {FOLDER}/input/code && python -m zipfile -e *.zip src && cd src && "
    'exec bash processing/job_container.sh python -m processing.embed_items "$@"'
)


@dataclass(frozen=True, slots=True)
class Places:
    """The resources that the state machines use.

    Attributes:
        new_items: name of the bucket of new items.
        embeddings: name of the bucket of embeddings.
        towers: name of the bucket of towers.
        releases: name of the bucket of records of releases.
        code_uri: s3:// URI of the zip that holds the job's sources.
        packages_uri: s3:// URI of the zip that holds the Python packages which the image lacks.
        job_role_arn: ARN of the job's role.
        image: container image of the job.
        isolated: True if the job's container has no network.
        indexer_arn: ARN of the bulk-index function.
        snapshot_arn: ARN of the function that renews the query function's snapshot.
        notices_arn: ARN of the topic for the results of the nights.
        partition: AWS partition, such as "aws".
        reading: environment variables that tell the job how to read catalogue files.
    """

    new_items: str
    embeddings: str
    towers: str
    releases: str
    code_uri: str
    packages_uri: str
    job_role_arn: str
    image: str
    isolated: bool
    indexer_arn: str
    snapshot_arn: str
    notices_arn: str
    partition: str
    reading: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class JobSize:
    """The size of a job.

    Attributes:
        ladder: instance types; the first with capacity is used.
        instances: number of instances that share the run.
        hours: hours after which the job is stopped.
        volume_gb: disk of each instance in GB.
    """

    ladder: Sequence[str]
    instances: int
    hours: int
    volume_gb: int = VOLUME_GB


def job_parameters(places: Places, instance: str, size: JobSize) -> State:
    """Build the parameters of CreateProcessingJob. Every try gets a new job name, because SageMaker keeps the old names.

    Args:
        places: names and ARNs of the stage's resources.
        instance: instance type.
        size: number of instances, time limit and disk; its ladder is not read.
    """
    output = {"S3Uri": f"s3://{places.embeddings}/", "LocalPath": f"{FOLDER}/output", "S3UploadMode": "EndOfJob"}
    resources = {"InstanceCount": size.instances, "InstanceType": instance, "VolumeSizeInGB": size.volume_gb}
    return {
        "ProcessingJobName.$": "States.Format('gavel-{}-{}', $.date, States.UUID())",
        "RoleArn": places.job_role_arn,
        "AppSpecification": {
            "ImageUri": places.image,
            "ContainerEntrypoint": ["bash", "-ec", START, "embed_items"],
            "ContainerArguments.$": "States.Array('--release-id', $.release_id)",
        },
        "Environment": {"HF_HUB_OFFLINE": "1", **places.reading},  # the job loads only the tower
        "ProcessingResources": {"ClusterConfig": resources},
        "ProcessingInputs": [
            # every instance gets every file, and embeds only its own share of them (docs/adr/0004)
            _input("items", {"S3Uri.$": f"States.Format('s3://{places.new_items}/{{}}', $.items)"}),
            _input("tower", {"S3Uri.$": f"States.Format('s3://{places.towers}/{{}}/', $.tower_id)"}),
            _input("code", {"S3Uri": places.code_uri}),
            _input("packages", {"S3Uri": places.packages_uri}),
        ],
        "ProcessingOutputConfig": {"Outputs": [{"OutputName": "embeddings", "S3Output": output}]},
        "StoppingCondition": {"MaxRuntimeInSeconds": size.hours * 3600},
        "NetworkConfig": {
            "EnableInterContainerTrafficEncryption": size.instances > 1,
            "EnableNetworkIsolation": places.isolated,
        },
    }


def _input(name: str, uri: dict[str, str]) -> State:
    where = {"LocalPath": f"{FOLDER}/input/{name}", "S3DataType": "S3Prefix", "S3InputMode": "File"}
    return {"InputName": name, "S3Input": {**uri, **where, "S3DataDistributionType": "FullyReplicated"}}
