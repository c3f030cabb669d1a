"""The manifests are valid, agree with each other and with what is installed, and leave no cluster open."""

from __future__ import annotations

import copy
import json
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

DEPLOY = Path(str(files("cluster") / "deploy"))
RAY_UP = sorted(path.name for path in DEPLOY.glob("ray-up-*.yaml"))
KUBERAY = ("kuberay-cluster.yaml", "kuberay-job.yaml")
SCHEMA = json.loads(Path(__file__).with_name("kuberay.schema.json").read_text())


def documents(name: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((DEPLOY / name).read_text()))


def ray_object(name: str) -> dict[str, Any]:
    (result,) = (document for document in documents(name) if document["apiVersion"] == "ray.io/v1")
    return result


def cluster_spec(name: str) -> dict[str, Any]:
    spec = ray_object(name)["spec"]
    cluster: dict[str, Any] = spec.get("rayClusterSpec", spec)
    return cluster


def pods(name: str) -> list[dict[str, Any]]:
    spec = cluster_spec(name)
    return [group["template"]["spec"] for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"])]


@pytest.mark.parametrize("name", RAY_UP)
def test_ray_up_files_pass_rays_own_validation(name: str) -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    (config,) = documents(name)
    validate_config(prepare_config(copy.deepcopy(config)))
    with pytest.raises(jsonschema.ValidationError):
        validate_config(prepare_config(config | {"idle_timeout": 5}))


@pytest.mark.parametrize("name", RAY_UP)
def test_ray_up_clusters_have_a_token_and_a_loopback_dashboard(name: str) -> None:
    text = (DEPLOY / name).read_text()
    (config,) = documents(name)
    assert "RAY_AUTH_MODE=token" in text
    (token,) = config["file_mounts"]
    assert token.endswith("/.lab/cluster/token")
    assert "RAY_AUTH_TOKEN_PATH=" in text
    start = next(line for line in config["head_start_ray_commands"] if "ray start" in line)
    assert "--dashboard-host=127.0.0.1" in start
    assert "LAB_RUNS=/mnt/lab" in text


def test_the_aws_cluster_scales_cpu_and_gpu_workers_from_none() -> None:
    (config,) = documents("ray-up-aws.yaml")
    types = config["available_node_types"]
    assert types[config["head_node_type"]]["resources"] == {"CPU": 0}
    workers = [node for name, node in types.items() if name != config["head_node_type"]]
    assert sorted(bool(node["resources"].get("GPU")) for node in workers) == [False, True]
    assert all(node["min_workers"] == 0 < node["max_workers"] <= config["max_workers"] for node in workers)


@pytest.mark.parametrize("name", KUBERAY)
def test_kuberay_objects_have_only_fields_that_kuberay_knows(name: str) -> None:
    manifest = ray_object(name)
    jsonschema.validate(manifest, SCHEMA)
    for wrong in ({"autoScaling": True}, {"rayVersion": 2.6}):
        broken = copy.deepcopy(manifest)
        broken["spec"].get("rayClusterSpec", broken["spec"]).update(wrong)
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(broken, SCHEMA)


@pytest.mark.parametrize("name", KUBERAY)
def test_kuberay_clusters_have_a_token_autoscaling_and_storage_that_all_share(name: str) -> None:
    spec = cluster_spec(name)
    assert spec["authOptions"]["mode"] == "token"
    assert spec["enableInTreeAutoscaling"] is True
    for pod in pods(name):
        volumes = {volume["name"]: volume["persistentVolumeClaim"]["claimName"] for volume in pod["volumes"]}
        (container,) = pod["containers"]
        mounts = {mount["mountPath"]: volumes[mount["name"]] for mount in container["volumeMounts"]}
        assert mounts == {"/mnt/lab": "lab-storage"}
        environment = {item["name"]: item["value"] for item in container["env"]}
        assert environment["LAB_RUNS"].startswith("/mnt/lab/")
        assert container["resources"]["limits"] == container["resources"]["requests"]
    claims = [each for each in documents("kuberay-cluster.yaml") if each["kind"] == "PersistentVolumeClaim"]
    assert [claim["metadata"]["name"] for claim in claims] == ["lab-storage"]
    assert claims[0]["spec"]["accessModes"] == ["ReadWriteMany"]


def test_the_kuberay_cluster_has_cpu_and_gpu_workers() -> None:
    groups = cluster_spec("kuberay-cluster.yaml")["workerGroupSpecs"]
    gpus = {
        group["groupName"]: group["template"]["spec"]["containers"][0]["resources"]["limits"].get("nvidia.com/gpu")
        for group in groups
    }
    assert gpus == {"cpu": None, "gpu": "1"}
    assert all(group["minReplicas"] == 0 < group["maxReplicas"] for group in groups)


def test_a_kuberay_job_that_is_tried_again_goes_on() -> None:
    spec = ray_object("kuberay-job.yaml")["spec"]
    out = "/mnt/lab/runs/dqn"
    assert f"if [ -f {out}/sweep.yaml ]; then lab resume {out}; else lab sweep" in " ".join(spec["entrypoint"].split())
    assert f"--out {out}" in spec["entrypoint"]
    assert spec["backoffLimit"] > 0


def test_all_name_the_ray_that_is_installed() -> None:
    installed = version("ray")
    assert {cluster_spec(name)["rayVersion"] for name in KUBERAY} == {installed}
    assert f"rayproject/ray:{installed}-py311" in (DEPLOY / "Dockerfile").read_text()
