"""The embedding job as SageMaker Processing is asked for it; the state of the machine holds date, tower_id and release_id."""

from dataclasses import dataclass
from typing import Any

State = dict[str, Any]
VOLUME_GB = 100  # volume of an instance of the job: the day's photos


@dataclass(frozen=True, slots=True)
class Places:
    """What the machines work with.

    Attributes:
        new_items: bucket name.
        embeddings: bucket name.
        towers: bucket name.
        releases: bucket name.
        code_uri: s3:// URI of the zip that holds the job's sources.
        job_role_arn: what the job runs as.
        image: container image of the job.
        notices_arn: topic that is told how the night went.
        partition: such as "aws".
    """

    new_items: str
    embeddings: str
    towers: str
    releases: str
    code_uri: str
    job_role_arn: str
    image: str
    notices_arn: str
    partition: str


def job_parameters(places: Places, instance: str, instances: int, hours: int) -> State:
    """The parameters of CreateProcessingJob; a name is new at every try, for SageMaker keeps the old ones.

    Args:
        places: where things are.
        instance: instance type.
        instances: how many share the run.
        hours: when the job is stopped.
    """
    folder = "/opt/ml/processing"
    unpack = f"cd {folder}/input/code && python -m zipfile -e *.zip src && cd src && "
    run = 'python -m pip install -q -r processing/requirements.txt && exec python -m processing.embed_items "$@"'
    return {
        "ProcessingJobName.$": "States.Format('gavel-{}-{}', $.date, States.UUID())",
        "RoleArn": places.job_role_arn,
        "AppSpecification": {
            "ImageUri": places.image,
            "ContainerEntrypoint": ["bash", "-ec", unpack + run, "embed_items"],
            "ContainerArguments.$": "States.Array('--release-id', $.release_id)",
        },
        "ProcessingResources": {
            "ClusterConfig": {"InstanceCount": instances, "InstanceType": instance, "VolumeSizeInGB": VOLUME_GB}
        },
        "ProcessingInputs": [
            # every instance is given every file, and embeds those whose turn it is (docs/adr/0004)
            _input("items", {"S3Uri.$": f"States.Format('s3://{places.new_items}/{{}}', $.date)"}),
            _input("tower", {"S3Uri.$": f"States.Format('s3://{places.towers}/{{}}/', $.tower_id)"}),
            _input("code", {"S3Uri": places.code_uri}),
        ],
        "ProcessingOutputConfig": {
            "Outputs": [
                {
                    "OutputName": "embeddings",
                    "S3Output": {
                        "S3Uri": f"s3://{places.embeddings}/",
                        "LocalPath": f"{folder}/output",
                        "S3UploadMode": "EndOfJob",
                    },
                }
            ]
        },
        "StoppingCondition": {"MaxRuntimeInSeconds": hours * 3600},
        "NetworkConfig": {"EnableInterContainerTrafficEncryption": instances > 1},
    }


def _input(name: str, uri: dict[str, str]) -> State:
    where = {"LocalPath": f"/opt/ml/processing/input/{name}", "S3DataType": "S3Prefix", "S3InputMode": "File"}
    return {"InputName": name, "S3Input": {**uri, **where, "S3DataDistributionType": "FullyReplicated"}}
