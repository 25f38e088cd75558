"""The Kubernetes manifests as kustomize renders them: closed, limited, whole; and the scripts of the training job, run.

`kubectl kustomize` needs no cluster. The schemas of Kubernetes are tests/operations/test_infra_lint.py's.
"""

from __future__ import annotations

import inspect
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import prefect.cli.worker as worker_command
import prefect_kubernetes
import pytest
import yaml
from prefect import settings
from prefect_kubernetes.settings import KubernetesSettings

from flows.graph import read_graph
from tests.helpers.paths import ROOT
from world2act.training.launch import read_hostfile

KUBERNETES = ROOT / "infra/kubernetes"
APPLIED = ["cpu", "gpu", "training"]
pytestmark = pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not on PATH")

Manifest = dict[str, Any]


def render(name: str) -> list[Manifest]:
    done = subprocess.run(["kubectl", "kustomize", KUBERNETES / name], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return list(yaml.safe_load_all(done.stdout))


@pytest.fixture(scope="module")
def applied() -> dict[str, list[Manifest]]:
    return {name: render(name) for name in APPLIED}


def of_kind(manifests: list[Manifest], *kinds: str) -> dict[str, Manifest]:
    return {each["metadata"]["name"]: each for each in manifests if each["kind"] in kinds}


def work_pools() -> dict[str, Manifest]:
    """The jobs that Prefect will make, with the defaults of their variables filled in."""
    jobs = {}
    for path in (ROOT / "infra/work_pools").glob("kubernetes*.json"):
        template = json.loads(path.read_text())
        text = json.dumps(template["job_configuration"]["job_manifest"])
        for name, variable in template["variables"]["properties"].items():
            text = text.replace(f'"{{{{ {name} }}}}"', json.dumps(variable.get("default")))
        jobs[path.stem] = json.loads(text)
    return jobs


def pods(applied: dict[str, list[Manifest]]) -> dict[str, Manifest]:
    """Every pod that runs in the namespace: workers, the training job, and the jobs that workers make."""
    specs = {name: each["spec"]["template"] for name, each in of_kind(applied["gpu"], "Deployment").items()}
    specs |= {name: each["spec"]["template"] for name, each in of_kind(applied["training"], "Job").items()}
    return specs | {f"work pool {name}": job["spec"]["template"] for name, job in work_pools().items()}


def containers(pod: Manifest) -> list[Manifest]:
    return [*pod["spec"].get("initContainers", ()), *pod["spec"]["containers"]]


def test_no_pod_is_root_or_may_become_it(applied: dict[str, list[Manifest]]) -> None:
    assert len(pods(applied)) == 5
    for name, pod in pods(applied).items():
        security = pod["spec"]["securityContext"]
        assert security["runAsNonRoot"] is True and security["runAsUser"] >= 1000, name
        assert security["seccompProfile"] == {"type": "RuntimeDefault"}, name
        assert not {"hostNetwork", "hostPID", "hostIPC"} & set(pod["spec"]), name
        assert all("hostPath" not in volume for volume in pod["spec"]["volumes"]), name
        for container in containers(pod):
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }, name
            assert container["resources"]["requests"]["memory"] and container["resources"]["limits"]["memory"], name
            # what is not a volume cannot be written
            assert {"/tmp", "/home/world2act"} <= {mount["mountPath"] for mount in container["volumeMounts"]}, name
            assert "world2act:" in container["image"], name
    for manifests in (applied["cpu"], applied["gpu"]):
        labels = of_kind(manifests, "Namespace")["world2act"]["metadata"]["labels"]
        assert labels["pod-security.kubernetes.io/enforce"] == "restricted"


def test_everything_named_is_there(applied: dict[str, list[Manifest]]) -> None:
    there = applied["gpu"] + applied["training"]
    # secrets alone stand in no file: the README makes them
    readme = (KUBERNETES / "README.md").read_text()
    made = dict(re.findall(r"create secret generic (\S+) ((?:.|\n)*?)(?=\nkubectl|```)", readme))
    secrets = {name: set(re.findall(r"--from-literal=([\w-]+)=", text)) for name, text in made.items()}
    assert set(secrets) == {"world2act-prefect", "world2act-store"}
    assert not of_kind(there, "Secret")
    for name, pod in pods(applied).items():
        spec = pod["spec"]
        assert spec["serviceAccountName"] in of_kind(there, "ServiceAccount"), name
        assert set(spec["serviceAccountName"].split("-")) & {"worker", "stage"}
        for volume in spec["volumes"]:
            if claim := volume.get("persistentVolumeClaim"):
                assert claim["claimName"] in of_kind(there, "PersistentVolumeClaim"), name
            if config := volume.get("configMap"):
                assert config["name"] in of_kind(there, "ConfigMap"), name
        for container in containers(pod):
            mounted = {mount["name"] for mount in container["volumeMounts"]}
            assert mounted == {volume["name"] for volume in spec["volumes"]}, name
            for source in container["envFrom"]:
                assert "secretRef" not in source or source["secretRef"]["name"] in secrets, name
                assert "configMapRef" not in source or source["configMapRef"]["name"] in of_kind(there, "ConfigMap")
            # a work pool's variables are a mapping, and hold no secret
            for variable in container["env"] if isinstance(container["env"], list) else ():
                if reference := variable.get("valueFrom", {}).get("secretKeyRef"):
                    assert reference["key"] in secrets[reference["name"]], name
    assert {each["metadata"]["namespace"] for each in there if each["kind"] != "Namespace"} == {"world2act"}


def test_workers_poll_the_work_pools_that_there_are(applied: dict[str, list[Manifest]]) -> None:
    polled = {}
    for name, worker in of_kind(applied["gpu"], "Deployment").items():
        (container,) = worker["spec"]["template"]["spec"]["containers"]
        options = dict(each.removeprefix("--").partition("=")[::2] for each in container["args"][3:])
        polled[options["pool"]] = name
        assert container["args"][:3] == ["prefect", "worker", "start"] and options["type"] == "kubernetes"
        selector = worker["spec"]["selector"]["matchLabels"]
        assert selector.items() <= worker["spec"]["template"]["metadata"]["labels"].items()
        budget = of_kind(applied["gpu"], "PodDisruptionBudget")[name]["spec"]
        assert budget["selector"]["matchLabels"] == selector and budget["minAvailable"] < worker["spec"]["replicas"]
        (port,) = container["ports"]
        health = {each["name"]: each.get("value") for each in container["env"]}["PREFECT_WORKER_WEBSERVER_PORT"]
        assert str(port["containerPort"]) == health and container["livenessProbe"]["httpGet"]["port"] == port["name"]
    assert set(polled) == set(work_pools())
    selectors = [w["spec"]["selector"]["matchLabels"] for w in of_kind(applied["gpu"], "Deployment").values()]
    assert selectors[0] != selectors[1], "two workers would fight for the same pods"
    source, known = inspect.getsource(worker_command), inspect.signature(worker_command.start).parameters
    for option in options:
        assert f'"--{option}"' in source or option.removeprefix("no-").replace("-", "_") in known, option


def test_variables_are_ones_that_prefect_reads(applied: dict[str, list[Manifest]]) -> None:
    known = {
        f"PREFECT_INTEGRATIONS_KUBERNETES_{group}_{field}".upper()
        for group, model in KubernetesSettings.model_fields.items()
        for field in getattr(model.annotation, "model_fields", {})
    }
    for worker in of_kind(applied["gpu"], "Deployment").values():
        for container in containers(worker["spec"]["template"]):
            for variable in container["env"]:
                assert hasattr(settings, variable["name"]) or variable["name"] in known, variable
    names = set(of_kind(applied["gpu"], "ConfigMap")["world2act-settings"]["data"])
    assert names == {"PREFECT_API_URL", "WORLD2ACT_STORE", "AWS_DEFAULT_REGION"}


def test_worker_may_do_what_its_code_asks_of_the_cluster(applied: dict[str, list[Manifest]]) -> None:
    """The calls stand in prefect_kubernetes: a release that asks for more shows here, not in a cluster."""
    allowed = {
        (verb, resource)
        for rule in of_kind(applied["gpu"], "Role")["world2act-worker"]["rules"]
        for verb in rule["verbs"]
        for resource in rule["resources"]
    }
    assert not {verb for verb, _ in allowed} & {"*", "update", "patch", "deletecollection", "escalate"}
    source = "".join(path.read_text() for path in Path(prefect_kubernetes.__file__).parent.glob("[wo]*er.py"))
    calls = set(re.findall(r"\.(create|delete|list|read)_namespaced_(job|pod_log|pod)\b", source))
    watched = {("watch", name) for name in re.findall(r'@kopf\.on\.event\([^)]*?"(pods|jobs)"', source)}
    watched |= {("watch", "pods")} if re.search(r'kopf\.on\.event\(\s*"pods"', source) else set()
    plural = {"job": "jobs", "pod": "pods", "pod_log": "pods/log"}
    asked = {("get" if verb == "read" else verb, plural[resource]) for verb, resource in calls} | watched
    assert {("create", "jobs"), ("get", "pods/log"), ("watch", "jobs"), ("watch", "pods")} <= asked
    assert asked <= allowed
    assert not of_kind(applied["gpu"], "ClusterRole", "ClusterRoleBinding")


def test_stages_get_no_token_and_nobody_gets_in(applied: dict[str, list[Manifest]]) -> None:
    for name, pod in pods(applied).items():
        if pod["spec"]["serviceAccountName"] == "world2act-stage":
            assert pod["spec"]["automountServiceAccountToken"] is False, name
    policies = {name: each["spec"] for name, each in of_kind(applied["cpu"], "NetworkPolicy").items()}
    assert policies["world2act-default"]["podSelector"] == {} and "ingress" not in policies["world2act-default"]
    assert all(set(each["policyTypes"]) == {"Ingress", "Egress"} for each in policies.values())
    between = policies["world2act-training"]["podSelector"]
    assert policies["world2act-training"]["ingress"] == [{"from": [{"podSelector": between}]}]
    labels = of_kind(applied["training"], "Job")["world2act-training"]["spec"]["template"]["metadata"]["labels"]
    assert between["matchLabels"].items() <= labels.items()


def test_gpus_are_asked_for_and_counted(applied: dict[str, list[Manifest]]) -> None:
    jobs = work_pools()
    (stage,) = jobs["kubernetes-gpu"]["spec"]["template"]["spec"]["containers"]
    assert stage["resources"]["limits"]["nvidia.com/gpu"] >= 1 and stage["image"].endswith(":cuda")
    (stage,) = jobs["kubernetes"]["spec"]["template"]["spec"]["containers"]
    assert "nvidia.com/gpu" not in stage["resources"]["limits"] and stage["image"].endswith(":cpu")
    job = of_kind(applied["training"], "Job")["world2act-training"]["spec"]
    (train,) = job["template"]["spec"]["containers"]
    asked = job["parallelism"] * int(train["resources"]["limits"]["nvidia.com/gpu"])
    quota = of_kind(applied["gpu"], "ResourceQuota")["world2act-gpus"]["spec"]["hard"]
    assert asked <= int(quota["requests.nvidia.com/gpu"])


def test_training_job_and_its_hostfile_agree(applied: dict[str, list[Manifest]], tmp_path: Path) -> None:
    service = of_kind(applied["training"], "Service")["world2act-training"]
    job = of_kind(applied["training"], "Job")["world2act-training"]
    spec, pod = job["spec"], job["spec"]["template"]["spec"]
    (train,), (prepare,) = pod["containers"], pod["initContainers"]
    slots = int(train["resources"]["limits"]["nvidia.com/gpu"])
    nodes = read_hostfile(KUBERNETES / "training/hostfile", spec["completions"] * slots)
    pod_names = [f"{job['metadata']['name']}-{index}" for index in range(spec["completions"])]
    assert nodes == {f"{name}.{service['metadata']['name']}": slots for name in pod_names}
    assert spec["completionMode"] == "Indexed" and spec["parallelism"] == spec["completions"]
    assert spec["successPolicy"] == {"rules": [{"succeededIndexes": "0"}]}
    assert pod["subdomain"] == service["metadata"]["name"] and service["spec"]["clusterIP"] == "None"
    assert service["spec"]["selector"].items() <= spec["template"]["metadata"]["labels"].items()
    variables = {each["name"]: each.get("value") for each in train["env"]}
    assert variables["MASTER_PORT"] == str(service["spec"]["ports"][0]["port"])
    configs = of_kind(applied["training"], "ConfigMap").values()
    files = next(each["data"] for each in configs if "hostfile" in each["data"])
    mounted = next(each["mountPath"] for each in train["volumeMounts"] if each["name"] == "training")
    assert variables["WORLD2ACT_HOSTFILE"] == f"{mounted}/hostfile"
    for container in (train, prepare):
        assert Path(container["command"][-1]).parent == Path(mounted)
        assert Path(container["command"][-1]).name in files


def test_training_job_pulls_what_its_stage_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    run = dict(line.split("=", 1) for line in (KUBERNETES / "training/run.env").read_text().split("\n") if line)
    assert sorted(run["INPUTS"].split()) == read_graph(run["STAGE"])[run["STAGE"]]
    assert (ROOT / f"stages/{run['STAGE']}.py").exists()


def test_nodes_prepare_one_workspace_and_start_their_share(tmp_path: Path) -> None:
    source, store, volume = tmp_path / "source", tmp_path / "store", tmp_path / "volume"
    (source / "world2act/training").mkdir(parents=True)
    store.mkdir()
    volume.mkdir()
    stages = {
        "first": {"cmd": "date +%N > first.txt", "outs": ["first.txt"]},
        "second": {"cmd": "cp first.txt second.txt", "deps": ["first.txt"], "outs": ["second.txt"]},
    }
    (source / "dvc.yaml").write_text(json.dumps({"stages": stages}))
    # what the other nodes start: packages, or the ones that are installed would come first
    for package in ("world2act", "world2act/training"):
        (source / package / "__init__.py").touch()
    (source / "world2act/training/launch.py").write_text("import sys; print('joins', sys.argv[1])")
    names = {"GIT_AUTHOR_NAME": "t", "GIT_AUTHOR_EMAIL": "t@localhost"}
    names |= {"GIT_COMMITTER_NAME": "t", "GIT_COMMITTER_EMAIL": "t@localhost"}
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    variables = os.environ | names | {"PATH": path, "STAGE": "second", "INPUTS": "first", "RUN": "job-1"}
    variables |= {"SOURCE": str(source), "REVISION": "HEAD", "WORLD2ACT_STORE": str(store)}
    for command in (
        "git init -q",
        "dvc init -q",
        "dvc repro -q first",
        "git add .",
        "git commit -qm made",
        f"dvc remote add -q --local s {shlex.quote(str(store))}",
        "dvc push -q -r s",
    ):
        subprocess.run(shlex.split(command), cwd=source, env=variables, check=True)

    def node(script: str, rank: int) -> subprocess.Popen[str]:
        return subprocess.Popen(
            ["sh", KUBERNETES / "training" / script],
            cwd=volume,
            env=variables | {"WORLD2ACT_NODE_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    other = node("prepare.sh", 1)
    time.sleep(1)
    assert other.poll() is None, "it did not wait for the main node"
    main = node("prepare.sh", 0)
    said, _ = main.communicate(timeout=120)
    assert main.returncode == 0, said
    assert other.wait(timeout=30) == 0
    workspace = volume / "training"
    assert (workspace / "first.txt").read_text() == (source / "first.txt").read_text()

    joined, _ = node("train.sh", 1).communicate(timeout=60)
    assert joined == "joins stages.second\n"
    main = node("train.sh", 0)
    said, _ = main.communicate(timeout=120)
    assert main.returncode == 0, said
    (entry,) = yaml.safe_load((workspace / "dvc.lock").read_text())["stages"]["second"]["outs"]
    assert (store / f"files/md5/{entry['md5'][:2]}/{entry['md5'][2:]}").exists(), "the output is not in the store"
