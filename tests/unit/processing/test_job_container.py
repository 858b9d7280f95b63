"""How a job's container is prepared, and the check that a GPU instance has a GPU."""

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from processing import command_line
from processing.check_accelerator import check_accelerator, main, read_instance_type
from retrieval.errors import MissingPrerequisite

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def config(tmp_path):
    def write(name, values):
        (tmp_path / name).write_text(json.dumps(values))

    write("resourceconfig.json", {"current_host": "algo-1", "hosts": ["algo-1"]})
    write("processingjobconfig.json", {"ProcessingResources": {"ClusterConfig": {"InstanceType": "ml.g5.xlarge"}}})
    return tmp_path


def test_the_instance_type_is_that_of_the_jobs_configuration(config):
    assert read_instance_type(config) == "ml.g5.xlarge"


def test_the_resource_config_knows_better_where_it_names_the_type(config):
    (config / "resourceconfig.json").write_text(json.dumps({"current_instance_type": "ml.g6.xlarge"}))
    assert read_instance_type(config) == "ml.g6.xlarge"


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"ProcessingResources": {}}'])
def test_without_a_type_there_is_none(config, text):
    (config / "processingjobconfig.json").write_text(text)
    assert read_instance_type(config) is None


@pytest.mark.parametrize("instance", ["ml.p3.2xlarge", "ml.p4d.24xlarge", "ml.g4dn.2xlarge", "ml.g5.xlarge", "ml.g6e.xlarge"])
def test_a_gpu_type_on_which_torch_sees_no_gpu_is_refused_with_the_remedy(instance):
    with pytest.raises(MissingPrerequisite, match=rf"{instance} has a GPU, and torch sees none: .*instance_ladder"):
        check_accelerator(instance, sees_gpu=False)
    check_accelerator(instance, sees_gpu=True)


@pytest.mark.parametrize("instance", [None, "ml.m5.xlarge", "ml.c5.large", "local"])
def test_other_types_may_compute_on_their_cpu(instance):
    check_accelerator(instance, sees_gpu=False)


def test_a_refusal_is_the_exit_message_of_the_job(monkeypatch, tmp_path, capsys):
    """SageMaker shows that file in the job's description, which the night's notice quotes."""
    monkeypatch.setattr(command_line, "CONTAINER", tmp_path)
    monkeypatch.setattr(command_line, "EXIT_MESSAGE", tmp_path / "output" / "message")
    monkeypatch.setattr("processing.check_accelerator.read_instance_type", lambda: "ml.g5.xlarge")
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert main([]) == 2
    message = (tmp_path / "output" / "message").read_text()
    assert message.startswith("ml.g5.xlarge has a GPU, and torch sees none")
    assert capsys.readouterr().err == f"gavel: {message}"


@pytest.mark.parametrize("with_compatibility", [True, False])
def test_the_script_prepares_the_container_and_becomes_the_command(tmp_path, with_compatibility):
    """The image's script reads unset variables and ends with an error; its path must reach the command all the same."""
    packages, compatibility = tmp_path / "packages", tmp_path / "compat.sh"
    packages.mkdir()
    with zipfile.ZipFile(packages / "wheels.zip", "w") as wheels:
        wheels.writestr("only_here.py", "VALUE = 7")
    if with_compatibility:
        compatibility.write_text('export LD_LIBRARY_PATH="/cuda/compat:$SURELY_UNSET"; false\n')
    show = 'import os, sys, only_here; print(only_here.VALUE, os.environ.get("LD_LIBRARY_PATH"), sys.argv[1:])'
    env = {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "GAVEL_PACKAGES": str(packages),
        "GAVEL_CUDA_COMPAT": str(compatibility),
    }
    run = subprocess.run(
        ["bash", "processing/job_container.sh", "python", "-c", show, "a b"], cwd=ROOT, env=env, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout == f"7 {'/cuda/compat:' if with_compatibility else None} ['a b']\n"
