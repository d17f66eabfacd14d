"""The examples of deploy/ as far as they can be checked without Docker and Kubernetes."""

from __future__ import annotations

import subprocess
from typing import Any

from ruamel.yaml import YAML

from tests.graph import ROOT

DEPLOY = ROOT / "deploy"


def test_what_the_compose_file_names_is_in_it() -> None:
    content: dict[str, Any] = YAML(typ="safe").load(DEPLOY / "compose.yaml")
    services = content["services"]
    assert set(services) == {"bucket", "scheduler", "worker", "client"}
    for name, service in services.items():
        assert set(service.get("depends_on", ())) <= set(services), name
        assert set(service["networks"]) <= set(content["networks"]), name
        for volume in service["volumes"]:
            source = volume.rpartition(":")[0]
            assert source.startswith("${") or source in content["volumes"], name
        for port in service.get("ports", ()):
            assert port.startswith("127.0.0.1:"), "nobody else may reach it"
    assert services["worker"]["deploy"]["replicas"] == 2
    assert content["networks"]["cluster"]["internal"] is True
    endpoint = services["worker"]["environment"]["AWS_ENDPOINT_URL"]
    assert services["client"]["environment"]["AWS_ENDPOINT_URL"] == endpoint == "http://bucket:9000"
    build = services["worker"]["build"]
    assert (DEPLOY / build["context"] / build["dockerfile"]).is_file()
    assert all(f"ARG {name}" in (DEPLOY / "Dockerfile").read_text() for name in build["args"])


def test_the_manifests_of_kubernetes_fit_together() -> None:
    objects = list(YAML(typ="safe").load_all(DEPLOY / "kubernetes.yaml"))
    assert all({"apiVersion", "kind", "metadata", "spec"} <= set(o) for o in objects)
    claims = {o["metadata"]["name"] for o in objects if o["kind"] == "PersistentVolumeClaim"}
    pods = [o["spec"]["template"] for o in objects if "template" in o["spec"]]
    assert len(pods) == 3
    for pod in pods:
        volumes = {v["name"]: v for v in pod["spec"].get("volumes", ())}
        assert {v["persistentVolumeClaim"]["claimName"] for v in volumes.values()} <= claims
        for container in pod["spec"]["containers"]:
            assert {m["name"] for m in container.get("volumeMounts", ())} <= set(volumes)
    services = [o["spec"]["selector"] for o in objects if o["kind"] == "Service"]
    labels = [pod["metadata"]["labels"] for pod in pods]
    assert all(any(s.items() <= label.items() for label in labels) for s in services)


def test_the_script_of_slurm_is_bash() -> None:
    subprocess.run(["bash", "-n", str(DEPLOY / "slurm.sh")], check=True)
