"""Everything in infra/ before the tools that know its formats: hadolint, Compose, Kubernetes' schemas, Terraform.

The tools carry binaries and schemas of 250 MB, so they get an environment of their own and the tests are slow ones.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.helpers.paths import ROOT
from tests.operations.test_infra_kubernetes import APPLIED, KUBERNETES, work_pools
from tests.operations.test_infra_terraform import ROLES, needs_terraform, rendered

INFRA = ROOT / "infra"
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def tools(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the tools' commands."""
    folder = tmp_path_factory.mktemp("tools")
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    pip = [folder / "bin/python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    done = subprocess.run([*pip, "-r", INFRA / "lint-requirements.txt"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder / "bin"


def passes(*command: str | Path, **environment: str) -> str:
    done = subprocess.run(command, env=os.environ | environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_images_pass_hadolint(tools: Path) -> None:
    files = sorted((INFRA / "images").glob("*ockerfile"))
    assert passes(tools / "hadolint", "--failure-threshold", "info", *files) == ""


def test_compose_renders_with_the_example_filled_in_and_not_without(tools: Path) -> None:
    example = (INFRA / ".env.example").read_text()
    values = {name: value or "/filled-in" for name, value in re.findall(r"^(\w+)=(.*)$", example, re.MULTILINE)}
    for files in (["compose.yaml"], ["compose.yaml", "compose.cuda.yaml"]):
        options = [part for file in files for part in ("-f", INFRA / file)]
        # the program itself: the package's command ends with 0 whatever it says
        (program,) = tools.parent.glob("lib/python*/site-packages/compose/docker-compose")
        command = [program, "--env-file", os.devnull, *options, "config"]
        rendered = yaml.safe_load(passes(*command, **values))
        assert set(rendered["services"]) >= {"server", "postgres", "worker", "s3"}
        for name in values:
            if re.search(rf"\$\{{{name}:\?", (INFRA / "compose.yaml").read_text()):
                left = {key: value for key, value in (os.environ | values).items() if key != name}
                done = subprocess.run(command, env=left, capture_output=True, text=True)
                assert done.returncode != 0 and name in done.stderr, name
    assert rendered["services"]["worker"]["deploy"]["resources"]["reservations"]["devices"]


@pytest.mark.parametrize("version", ["1.31", "1.37"])
def test_manifests_fit_the_schemas_of_kubernetes(tools: Path, tmp_path: Path, version: str) -> None:
    files = []
    for name in APPLIED:
        files.append(tmp_path / f"{name}.yaml")
        files[-1].write_text(passes("kubectl", "kustomize", KUBERNETES / name))
    for name, job in work_pools().items():
        (container,) = job["spec"]["template"]["spec"]["containers"]
        # as the Prefect worker fills them in
        job["metadata"] = {"name": name, "namespace": "world2act"}
        container["args"] = ["prefect"]
        container["env"] = [{"name": key, "value": value} for key, value in container["env"].items()]
        for group, amounts in container["resources"].items():
            container["resources"][group] = {key: str(value) for key, value in amounts.items() if value is not None}
        files.append(tmp_path / f"{name}.yaml")
        files[-1].write_text(yaml.safe_dump(job))
    passes(tools / "kubernetes-validate", "--strict", "--kubernetes-version", version, *files)
    broken = files[0].read_text().replace("replicas:", "replica:")
    (tmp_path / "broken.yaml").write_text(broken)
    done = subprocess.run([tools / "kubernetes-validate", "--strict", tmp_path / "broken.yaml"], capture_output=True)
    assert done.returncode != 0, "the check checks nothing"


@pytest.fixture
def terraform(tools: Path, tmp_path: Path) -> Iterator[Callable[..., subprocess.CompletedProcess[str]]]:
    """Runs terraform in a copy of infra/terraform, with AWS's schema and without AWS."""
    shutil.copytree(INFRA / "terraform", tmp_path / "terraform")
    versions = tmp_path / "terraform/versions.tf"
    versions.write_text(re.sub(r'  backend "s3" \{.*?\n  \}\n', "", versions.read_text(), flags=re.DOTALL))
    # a short path of its own: the name of a Unix socket may have 107 bytes
    with tempfile.TemporaryDirectory(prefix="tf-") as folder:
        command = [tools / "python", ROOT / "tests/helpers/terraform_provider.py", f"{folder}/socket"]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as provider:
            assert provider.stdout and provider.stdout.readline() == "ready\n"
            address = {"Network": "unix", "String": f"{folder}/socket"}
            attach = {"Protocol": "grpc", "ProtocolVersion": 6, "Pid": provider.pid, "Test": True, "Addr": address}
            variables = {name: value for name, value in os.environ.items() if not name.startswith("TF_")} | {
                "TF_REATTACH_PROVIDERS": json.dumps({"registry.terraform.io/hashicorp/aws": attach}),
                "CHECKPOINT_DISABLE": "1",
            }

            def run(*arguments: str) -> subprocess.CompletedProcess[str]:
                return subprocess.run(
                    ["terraform", *arguments], cwd=tmp_path / "terraform", env=variables, capture_output=True, text=True
                )

            run("init").check_returncode()
            yield run


@needs_terraform
def test_terraform_is_valid_and_plans_what_it_should(
    terraform: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    valid = json.loads(terraform("validate", "-json").stdout)
    assert valid["valid"] and not valid["diagnostics"], valid
    oidc = "arn:aws:iam::123456789012:oidc-provider/oidc.example.com/id/A"
    people = {role: ["arn:aws:iam::123456789012:user/a"] for role in ("publisher", "robot", "collector")}
    given = {
        "region": "eu-central-1",
        "bucket": "our-store",
        "prefix": "team",
        "principals": json.dumps(people),
        "kubernetes": json.dumps({"oidc_provider_arn": oidc}),
    }

    def plan(**more: str) -> dict[str, Any]:
        options = [f"-var={name}={value}" for name, value in (given | more).items()]
        done = terraform("plan", "-input=false", "-out=plan", *options)
        assert done.returncode == 0, done.stderr
        shown = json.loads(terraform("show", "-json", "plan").stdout)["planned_values"]
        made = {each["address"]: each["values"] for each in shown["root_module"]["resources"]}
        return made | {"store": shown["outputs"].get("store", {}).get("value")}

    made = plan()
    assert {name for name in made if name.startswith("aws_iam_role.")} == {f'aws_iam_role.role["{r}"]' for r in ROLES}
    for role in ROLES:
        document = json.loads(made[f'aws_iam_role_policy.store["{role}"]']["policy"])
        assert document == rendered(role, "our-store", "team")
    assert oidc in made['aws_iam_role.role["worker"]']["assume_role_policy"]
    assert (
        "system:serviceaccount:world2act:world2act-stage" in made['aws_iam_role.role["worker"]']["assume_role_policy"]
    )
    assert oidc not in made['aws_iam_role.role["robot"]']["assume_role_policy"]
    block = made["aws_s3_bucket_public_access_block.store"]
    assert all(block[name] for name in block if name.startswith(("block", "ignore", "restrict")))
    assert json.loads(made["aws_s3_bucket_policy.store"]["policy"]) == rendered("bucket", "our-store", "team")
    assert made["aws_s3_bucket_versioning.store"]["versioning_configuration"][0]["status"] == "Enabled"
    rules = {rule["id"]: rule for rule in made["aws_s3_bucket_lifecycle_configuration.store"]["rule"]}
    assert rules["handover"]["filter"][0]["prefix"] == "team/handover/"
    assert rules["handover"]["expiration"][0]["days"] == 14
    assert rules["noncurrent-versions"]["noncurrent_version_expiration"][0]["noncurrent_days"] == 30
    assert rules["unfinished-uploads"]["abort_incomplete_multipart_upload"][0]["days_after_initiation"] == 7

    def encryption(made: dict[str, Any]) -> str:
        (rule,) = made["aws_s3_bucket_server_side_encryption_configuration.store"]["rule"]
        return rule["apply_server_side_encryption_by_default"][0]["sse_algorithm"]

    assert encryption(made) == "AES256" and not any("log" in name or "key" in name for name in made)
    made = plan(kms_key_arn="arn:aws:kms:eu-central-1:123456789012:key/1", log_bucket="logs")
    assert encryption(made) == "aws:kms" and made["aws_s3_bucket_logging.store[0]"]["target_bucket"] == "logs"
    keys = {role: made[f'aws_iam_role_policy.key["{role}"]']["policy"] for role in ROLES}
    assert {role for role, policy in keys.items() if "GenerateDataKey" in policy} == {"publisher", "worker"}
    assert all("kms:Decrypt" in policy for policy in keys.values())

    bucket = tmp_path / "terraform/bucket.tf"
    bucket.write_text(bucket.read_text().replace("days_after_initiation", "days_after_start"))
    assert "days_after_start" in terraform("validate", "-json").stdout, "the check checks nothing"
