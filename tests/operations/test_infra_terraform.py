"""The store by Terraform: its own checks, and what each role may do, tried out on a real S3 server.

The policy documents are templates that Terraform renders without any provider; the same text goes to the gateway,
which evaluates it as AWS does.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError
from world2act_client.signing import make_key_pair

from tests.helpers.ceph import REGION, S3, User
from tests.helpers.paths import ROOT
from tests.helpers.release_pipeline import Pipeline, environment, make_pipeline

TERRAFORM = ROOT / "infra/terraform"
needs_terraform = pytest.mark.skipif(shutil.which("terraform") is None, reason="terraform is not on PATH")

PLACES = ("releases", "files/md5", "handover", "evaluations", "incoming", "collections", "elsewhere")
EVERYWHERE = frozenset(PLACES) | {""}
READS = {
    "robot": {"releases", "files/md5"},
    "publisher": {"releases", "files/md5", "collections"},
    "worker": {"releases", "files/md5", "handover", "evaluations", "incoming"},
    "collector": {"releases", "files/md5", "handover", "collections"},
}
WRITES = {
    "robot": set(),
    "publisher": {"releases", "files/md5"},
    "worker": {"files/md5", "handover", "evaluations"},
    "collector": {"collections"},
}
DELETES = {"robot": set(), "publisher": set(), "worker": set(), "collector": {"files/md5", "collections"}}
# whoever runs DVC must hear "not found" rather than "forbidden", which S3 says only to who may list
LISTS = {"robot": {"releases"}, "publisher": EVERYWHERE, "worker": EVERYWHERE, "collector": EVERYWHERE}
ROLES = sorted(READS)


def terraform(folder: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("TF_")}
    options = [f"-var={name}={value}" for name, value in variables.items()]
    return subprocess.run(
        ["terraform", *arguments, *options],
        cwd=folder,
        capture_output=True,
        text=True,
        env=kept | {"CHECKPOINT_DISABLE": "1", "TF_IN_AUTOMATION": "1"},
    )


def refused(folder: Path, **variables: str) -> str:
    """What Terraform says of variables that it must not accept, in one line."""
    done = terraform(folder, "plan", "-input=false", "-no-color", **variables)
    assert done.returncode == 1, done.stdout
    return " ".join(done.stderr.replace("│", " ").split())


def rendered(role: str, bucket: str, prefix: str = "") -> dict[str, Any]:
    template = (TERRAFORM / "policies" / f"{role}.json.tftpl").read_text()
    return json.loads(Template(template).substitute(bucket=bucket, prefix=prefix and f"{prefix}/"))


@needs_terraform
def test_files_are_formatted() -> None:
    assert terraform(TERRAFORM, "fmt", "-check", "-recursive", "-diff").stdout == ""


@needs_terraform
@pytest.mark.parametrize("prefix", ["", "team/robots"])
def test_terraform_renders_the_policies_that_are_tried_out_here(prefix: str, tmp_path: Path) -> None:
    module = shutil.copytree(TERRAFORM / "policies", tmp_path / "policies")
    terraform(module, "init").check_returncode()
    terraform(module, "validate").check_returncode()
    terraform(module, "apply", "-auto-approve", bucket="our-store", prefix=prefix).check_returncode()
    outputs = {name: each["value"] for name, each in json.loads(terraform(module, "output", "-json").stdout).items()}
    roles = {role: json.loads(text) for role, text in outputs["roles"].items()}
    assert roles == {role: rendered(role, "our-store", prefix) for role in ROLES}
    assert json.loads(outputs["bucket"]) == rendered("bucket", "our-store", prefix)


@needs_terraform
def test_names_that_would_widen_a_policy_are_refused(tmp_path: Path) -> None:
    module = shutil.copytree(TERRAFORM / "policies", tmp_path / "policies")
    terraform(module, "init").check_returncode()
    for bucket in ("*", "Store", "a.b"):
        assert "3 to 63 lower-case letters" in refused(module, bucket=bucket), bucket
    for prefix in ("*", "a/", "../x", "${aws:username}"):
        assert "single slashes between folders" in refused(module, bucket="our-store", prefix=prefix), prefix


@needs_terraform
def test_variables_are_checked(tmp_path: Path) -> None:
    shutil.copy(TERRAFORM / "variables.tf", tmp_path)
    user, provider = "arn:aws:iam::123456789012:user/a", "arn:aws:iam::123456789012:oidc-provider/oidc.example.com/id/A"
    good = {"region": "eu-central-1", "bucket": "our-store", "principals": json.dumps({"robot": [user]})}
    terraform(tmp_path, "init").check_returncode()
    assert terraform(tmp_path, "plan", **good).returncode == 0
    cluster = {"principals": "{}", "kubernetes": json.dumps({"oidc_provider_arn": provider})}
    assert terraform(tmp_path, "plan", **good | cluster).returncode == 0
    assert "at least one role" in refused(tmp_path, **good | {"principals": "{}"})
    assert "whole ARN" in refused(tmp_path, **good | {"principals": json.dumps({"robot": ["*"]})})
    bad = good | {
        "kms_key_arn": "arn:aws:kms:eu-central-1:123456789012:alias/a",
        "kubernetes": json.dumps({"oidc_provider_arn": user}),
        "noncurrent_days": "1",
        "handover_days": "0.5",
    }
    said = refused(tmp_path, **bad)
    for message in ("not of an alias", "OIDC provider", "At least 7", "At least 1 whole day"):
        assert message in said


def test_nobody_writes_over_or_deletes_a_release() -> None:
    """AWS alone knows `s3:if-none-match`, so this policy can only be read here."""
    statements = {each["Sid"]: each for each in rendered("bucket", "our-store", "team")["Statement"]}
    assert all(each["Effect"] == "Deny" and each["Principal"] == "*" for each in statements.values())
    assert statements["TlsOnly"]["Condition"] == {"Bool": {"aws:SecureTransport": "false"}}
    once, stay = statements["ReleasesAreWrittenOnce"], statements["ReleasesStay"]
    assert once["Condition"] == {"Null": {"s3:if-none-match": "true"}} and once["Action"] == "s3:PutObject"
    assert set(stay["Action"]) == {"s3:DeleteObject", "s3:DeleteObjectVersion"}
    assert once["Resource"] == stay["Resource"] == "arn:aws:s3:::our-store/team/releases/*"


@dataclass(frozen=True)
class Staff:
    """A bucket, and one user a role, with the policy of that role and no other right."""

    s3: S3
    bucket: str
    prefix: str
    users: dict[str, User]

    @property
    def store(self) -> str:
        return f"s3://{self.bucket}/{self.prefix}".rstrip("/")

    def environment(self, role: str, keys: tuple[Path, Path]) -> dict[str, str]:
        variables = self.s3.environment(self.users[role]) | {
            "WORLD2ACT_STORE": self.store,
            "WORLD2ACT_TRUSTED_KEYS": str(keys[1]),
        }
        return variables | ({"WORLD2ACT_SIGNING_KEY": str(keys[0])} if role == "publisher" else {})


@pytest.fixture(scope="module")
def hire(s3: S3) -> Callable[[str], Staff]:
    """Make a bucket and a user of every role, who gets the role's policy as Terraform attaches it."""
    subprocess.run(
        ["radosgw-admin", "caps", "add", f"--uid={s3.admin.name}", "--caps=user-policy=*"],
        env=os.environ | {"CEPH_CONF": str(s3.folder / "ceph.conf")},
        check=True,
        capture_output=True,
    )
    iam = boto3.client(
        "iam",
        endpoint_url=s3.endpoint,
        region_name=REGION,
        aws_access_key_id=s3.admin.access_key,
        aws_secret_access_key=s3.admin.secret_key,
    )

    def make(prefix: str) -> Staff:
        staff = Staff(s3, s3.make_bucket(), prefix, {role: s3.make_user() for role in ROLES})
        for role, user in staff.users.items():
            document = json.dumps(rendered(role, staff.bucket, prefix))
            iam.put_user_policy(UserName=user.name, PolicyName="store", PolicyDocument=document)
        return staff

    return make


def may(call: Callable[..., Any], **arguments: Any) -> bool:
    try:
        call(**arguments)
    except ClientError as error:
        assert error.response["Error"]["Code"] == "AccessDenied", error
        return False
    return True


@pytest.mark.parametrize("prefix", [pytest.param("", marks=pytest.mark.slow), "team/robots"])
def test_every_role_may_do_its_work_and_nothing_else(hire: Callable[[str], Staff], prefix: str) -> None:
    staff = hire(prefix)
    owner, bucket, folder = staff.s3.client(), staff.bucket, prefix and f"{prefix}/"
    for role, user in staff.users.items():
        client = staff.s3.client(user)
        may_read, may_write, may_delete, may_list = set(), set(), set(), set()
        for place in PLACES:
            there = {"Bucket": bucket, "Key": f"{folder}{place}/there-{role}"}
            owner.put_object(**there, Body=b"kept")
            may_read |= {place} if may(client.get_object, **there) else set()
            may_list |= {place} if may(client.list_objects_v2, Bucket=bucket, Prefix=f"{folder}{place}/") else set()
            written = {may(client.put_object, Bucket=bucket, Key=f"{folder}{place}/new-{role}", Body=b"new")}
            written.add(may(client.put_object, **there, Body=b"new"))
            assert len(written) == 1
            may_write |= {place} if written.pop() else set()
            may_delete |= {place} if may(client.delete_object, **there) else set()
            doomed = {"Objects": [{"Key": f"{folder}{place}/there-{role}"}]}
            owner.put_object(**there, Body=b"kept")
            # a role that may delete something may ask; each object is looked at
            if may(client.delete_objects, Bucket=bucket, Delete=doomed):
                left = owner.list_objects_v2(Bucket=bucket, Prefix=there["Key"])["KeyCount"]
                assert (left == 0) == (place in may_delete), (role, place)
        may_list |= {""} if may(client.list_objects_v2, Bucket=bucket) else set()
        assert (may_read, may_write, may_delete) == (READS[role], WRITES[role], DELETES[role]), role
        assert may_list == LISTS[role], role
        assert not may(client.get_bucket_policy, Bucket=bucket)
        assert not may(client.put_bucket_versioning, Bucket=bucket, VersioningConfiguration={"Status": "Suspended"})
        assert not may(client.delete_bucket, Bucket=bucket)


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return make_key_pair(tmp_path_factory.mktemp("keys"))


@pytest.fixture(scope="module")
def shop(
    hire: Callable[[str], Staff], keys: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Staff, Pipeline]]:
    """A pipeline and its store, where everyone acts in the role that the infrastructure gives them."""
    staff = hire("team/robots")
    yield staff, make_pipeline(tmp_path_factory.mktemp("shop") / "pipeline", staff.store)


def attempt(shop: tuple[Staff, Pipeline], keys: tuple[Path, Path], role: str, *command: str) -> tuple[int, str]:
    staff, pipeline = shop
    done = pipeline.attempt(*command, env=staff.environment(role, keys))
    return done.returncode, done.stdout + done.stderr


def test_worker_pushes_publisher_publishes_robot_gets(
    shop: tuple[Staff, Pipeline], keys: tuple[Path, Path], tmp_path: Path
) -> None:
    dvc, fetch = (sys.executable, "-m", "dvc"), (sys.executable, "-m", "world2act_client.cli", "get", "policy@prod")
    staff, _ = shop

    code, said = attempt(shop, keys, "robot", *dvc, "push")
    assert code != 0 and "Forbidden" in said
    code, said = attempt(shop, keys, "worker", *dvc, "push")
    assert code == 0, said
    code, said = attempt(shop, keys, "worker", "world2act", "publish", "policy")
    assert code != 0, "a worker has no key to sign with, and may not write releases"
    code, said = attempt(shop, keys, "publisher", "world2act", "publish", "policy")
    assert code == 0, said
    code, said = attempt(shop, keys, "publisher", "world2act", "promote", "policy@v1", "prod")
    assert code == 0, said

    robot = environment() | staff.environment("robot", keys) | {"WORLD2ACT_CACHE": str(tmp_path / "cache")}
    done = subprocess.run([*fetch, str(tmp_path / "policy")], env=robot, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "policy/deep/config.json").read_text()) == {"family": "post_train"}

    code, said = attempt(shop, keys, "publisher", "world2act", "collect-garbage", "--delete", "--grace-days", "0")
    assert code != 0 and "AccessDenied" in said


def test_collector_deletes_what_nothing_names_and_nothing_else(
    shop: tuple[Staff, Pipeline], keys: tuple[Path, Path]
) -> None:
    staff, pipeline = shop
    pipeline.set(post_train={"seeds": [7, 0, 0, 0]}).repro()
    assert attempt(shop, keys, "worker", sys.executable, "-m", "dvc", "push")[0] == 0
    pipeline.set(post_train={"seeds": [0, 0, 0, 0]}).repro()
    before = {each["Key"] for each in staff.s3.client().list_objects_v2(Bucket=staff.bucket)["Contents"]}
    code, said = attempt(shop, keys, "collector", "world2act", "collect-garbage", "--delete", "--grace-days", "0")
    assert code == 0, said
    after = {each["Key"] for each in staff.s3.client().list_objects_v2(Bucket=staff.bucket)["Contents"]}
    assert after < before and all("/files/md5/" in key for key in before - after)
