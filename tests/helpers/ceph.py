"""A real S3 server for the tests: one Ceph monitor, one OSD and an RGW gateway on free loopback ports.

Comes in: a folder to keep everything in. Goes out: an endpoint, users, buckets. Where Ceph is not installed, tests
that need it are skipped; on Debian, `apt-get install --no-install-recommends radosgw ceph-mon ceph-osd ceph-base
ceph-common` brings it.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3

PROGRAMS = ("ceph-mon", "ceph-osd", "radosgw", "ceph", "ceph-authtool", "monmaptool", "radosgw-admin")
REGION = "us-east-1"
_PATIENCE_S = 180  # other work may share the machine


def missing_programs() -> list[str]:
    """The programs of Ceph that are not on PATH."""
    return [program for program in PROGRAMS if shutil.which(program) is None]


@dataclass(frozen=True)
class User:
    """A user of the gateway."""

    name: str
    access_key: str
    secret_key: str

    def environment(self, endpoint: str) -> dict[str, str]:
        """The variables under which boto3, DVC and the AWS command line act as this user."""
        return {
            "AWS_ENDPOINT_URL": endpoint,
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_DEFAULT_REGION": REGION,
            "AWS_EC2_METADATA_DISABLED": "true",
            # no such file: dvc-s3 refuses the null device
            "AWS_CONFIG_FILE": "/nonexistent",
            "AWS_SHARED_CREDENTIALS_FILE": "/nonexistent",
        }


@dataclass(frozen=True)
class S3:
    """A running server. `admin` owns every bucket that `make_bucket` makes."""

    folder: Path
    endpoint: str
    admin: User

    def environment(self, user: User | None = None) -> dict[str, str]:
        """The AWS_* variables of a user, by default the admin's."""
        return (user or self.admin).environment(self.endpoint)

    def client(self, user: User | None = None) -> Any:
        """A boto3 client of a user's, by default the admin's."""
        who = user or self.admin
        return boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            aws_access_key_id=who.access_key,
            aws_secret_access_key=who.secret_key,
            region_name=REGION,
        )

    def make_bucket(self) -> str:
        """A new, empty bucket of the admin's."""
        name = f"test-{secrets.token_hex(6)}"
        self.client().create_bucket(Bucket=name)
        return name

    def make_user(self) -> User:
        """A user who may do nothing on the admin's buckets until `allow` lets them."""
        return _make_user(self.folder, f"user-{secrets.token_hex(4)}")

    def allow(self, user: User, bucket: str, *actions: str, prefix: str = "") -> None:
        """Let a user do these actions (`s3:GetObject`, ...) on a bucket and on what is below a prefix, and no other."""
        self._put_policy(user, bucket, "Allow", actions, prefix)

    def deny(self, user: User, bucket: str, *actions: str, prefix: str = "") -> None:
        """Forbid a user these actions, whatever else allows them. Prior statements stay."""
        self._put_policy(user, bucket, "Deny", actions, prefix)

    def wrong_keys(self) -> User:
        """The admin's access key with another secret: the server answers 403, SignatureDoesNotMatch."""
        return User(self.admin.name, self.admin.access_key, secrets.token_hex(20))

    def unknown_user(self) -> User:
        """Keys that the server has never seen: 403, InvalidAccessKeyId."""
        return User("nobody", secrets.token_hex(10), secrets.token_hex(20))

    def _put_policy(self, user: User, bucket: str, effect: str, actions: tuple[str, ...], prefix: str) -> None:
        client = self.client()
        statements = []
        with suppress(client.exceptions.ClientError):  # no policy yet
            statements = json.loads(client.get_bucket_policy(Bucket=bucket)["Policy"])["Statement"]
        statement = {
            "Effect": effect,
            "Principal": {"AWS": [f"arn:aws:iam:::user/{user.name}"]},
            "Action": list(actions),
            "Resource": [f"arn:aws:s3:::{bucket}", f"arn:aws:s3:::{bucket}/{prefix}*"],
        }
        policy = {"Version": "2012-10-17", "Statement": [*statements, statement]}
        client.put_bucket_policy(Bucket=bucket, Policy=json.dumps(policy))


@contextmanager
def running_s3(folder: Path, objectstore: str = "memstore", gigabytes: int = 4) -> Iterator[S3]:
    """Start the server in an empty folder, and stop it, gateway first, however the block ends.

    Args:
        folder: where its data and logs lie; the logs tell what went wrong.
        objectstore: "memstore" keeps objects in memory and starts faster, "bluestore" writes a file.
        gigabytes: room for objects.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "log").mkdir()
    gateway, monitor_v2, monitor_v1 = _free_ports(3)
    addresses = f"[v2:127.0.0.1:{monitor_v2},v1:127.0.0.1:{monitor_v1}]"
    _write_configuration(folder, addresses, gateway, objectstore, gigabytes)
    with ExitStack() as daemons:
        _make_monitor(folder, addresses)
        daemons.enter_context(_daemon(folder, "ceph-mon", "-i", "a"))
        _make_osd(folder)
        daemons.enter_context(_daemon(folder, "ceph-osd", "-i", "0"))
        process = daemons.enter_context(_daemon(folder, "radosgw", "-n", "client.rgw"))
        endpoint = f"http://127.0.0.1:{gateway}"
        _wait_until_it_answers(endpoint, process, folder)
        yield S3(folder, endpoint, _make_user(folder, "admin"))


def _free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def _write_configuration(folder: Path, addresses: str, gateway: int, objectstore: str, gigabytes: int) -> None:
    (folder / "ceph.conf").write_text(f"""
[global]
fsid = {uuid.uuid4()}
mon host = {addresses}
mon initial members = a
ms bind ipv6 = false
public addr = 127.0.0.1
auth cluster required = cephx
auth service required = cephx
auth client required = cephx
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 4
osd pool default pgp num = 4
osd pool default pg autoscale mode = off
osd crush chooseleaf type = 0
mon allow pool size one = true
mon max pg per osd = 2000
# the gateway makes its pools by many rounds of agreement, each of which would wait a second for more to agree on
paxos propose interval = 0.01
paxos min wait = 0.01
mon data avail warn = 1
mon data avail crit = 1
osd objectstore = {objectstore}
bluestore block size = {gigabytes * 2**30}
memstore device bytes = {gigabytes * 2**30}
osd memory target = 939524096
run dir = {folder}/run
pid file = {folder}/run/$type.$id.pid
admin socket = {folder}/run/$name.asok
log file = {folder}/log/$name.log
mon cluster log file = {folder}/log/cluster.log
mon data = {folder}/mon
osd data = {folder}/osd
keyring = {folder}/keyring
[client.rgw]
rgw frontends = beast endpoint=127.0.0.1:{gateway} tcp_nodelay=1
rgw data = {folder}/rgw
rgw dns name = 127.0.0.1
rgw thread pool size = 64
""")
    for name in ("mon", "osd", "rgw", "run"):
        (folder / name).mkdir()


def _make_monitor(folder: Path, addresses: str) -> None:
    keyring, monitor_map = str(folder / "keyring"), str(folder / "monmap")
    _ceph(folder, "ceph-authtool", "--create-keyring", keyring, "--gen-key", "-n", "mon.", "--cap", "mon", "allow *")
    everything = [part for service in ("mon", "osd", "mgr") for part in ("--cap", service, "allow *")]
    _ceph(folder, "ceph-authtool", keyring, "--gen-key", "-n", "client.admin", *everything)
    fsid = (folder / "ceph.conf").read_text().split("fsid = ")[1].split()[0]
    _ceph(folder, "monmaptool", "--create", "--addv", "a", addresses, "--fsid", fsid, monitor_map)
    _ceph(folder, "ceph-mon", "--mkfs", "-i", "a", "--monmap", monitor_map, "--keyring", keyring)


def _make_osd(folder: Path) -> None:
    identity = str(uuid.uuid4())
    secret = _ceph(folder, "ceph-authtool", "--gen-print-key").strip()
    _ceph(
        folder, "ceph", "-n", "client.admin", "osd", "new", identity, "-i", "-", stdin=f'{{"cephx_secret": "{secret}"}}'
    )
    _ceph(folder, "ceph-authtool", str(folder / "keyring"), "-n", "osd.0", "--add-key", secret)
    rights = ("mon", "allow rwx", "osd", "allow rwx", "mgr", "allow rw")
    gateway_key = _ceph(folder, "ceph", "auth", "get-or-create", "client.rgw", *rights)
    with (folder / "keyring").open("a") as stream:
        stream.write(gateway_key)
    _ceph(folder, "ceph-osd", "-i", "0", "--mkfs", "--osd-uuid", identity)


def _make_user(folder: Path, name: str) -> User:
    made = _ceph(folder, "radosgw-admin", "user", "create", f"--uid={name}", f"--display-name={name}")
    keys = json.loads(made)["keys"][0]
    return User(name, keys["access_key"], keys["secret_key"])


def _ceph(folder: Path, *command: str, stdin: str = "") -> str:
    """Run one of Ceph's commands to its end. Returns: what it printed."""
    done = subprocess.run(
        command, env=_environment(folder), input=stdin, capture_output=True, text=True, timeout=_PATIENCE_S
    )
    assert done.returncode == 0, f"{command}: {done.stdout}\n{done.stderr}"
    return done.stdout


@contextmanager
def _daemon(folder: Path, *command: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run a daemon in the foreground, so that it is ours to end, and end it."""
    log = (folder / "log" / f"{command[0]}.out").open("wb")
    with log, subprocess.Popen([*command, "-f"], env=_environment(folder), stdout=log, stderr=log) as process:
        try:
            yield process
        finally:
            process.send_signal(signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                process.wait(timeout=5)
            process.kill()


def _environment(folder: Path) -> dict[str, str]:
    return os.environ | {"CEPH_CONF": str(folder / "ceph.conf")}


def _wait_until_it_answers(endpoint: str, process: subprocess.Popen[bytes], folder: Path) -> None:
    deadline = time.monotonic() + _PATIENCE_S
    while time.monotonic() < deadline and process.poll() is None:
        with suppress(urllib.error.URLError, ConnectionError, TimeoutError):
            urllib.request.urlopen(endpoint, timeout=5).close()
            return
        time.sleep(0.1)
    raise RuntimeError(f"the gateway did not start: see {folder / 'log'}")
