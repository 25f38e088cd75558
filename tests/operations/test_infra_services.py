"""Images and compose: what they name exists, nothing is open or unlimited, and what they run runs here too."""

from __future__ import annotations

import json
import os
import pwd
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import boto3
import httpx
import pytest
import yaml
from dvc.repo import Repo
from prefect import settings

from tests.helpers.ceph import REGION, S3, missing_programs
from tests.helpers.paths import ROOT

INFRA = ROOT / "infra"
IMAGES = {path.name: path for path in sorted((INFRA / "images").glob("*ockerfile"))}
COMPOSE = yaml.safe_load((INFRA / "compose.yaml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
EXAMPLE = dict(re.findall(r"^(\w+)=(.*)$", (INFRA / ".env.example").read_text(), re.MULTILINE))
SECRETS = {"POSTGRES_PASSWORD": "a/b:c@d#e", "PREFECT_AUTH": "admin:s3cret", "WORLD2ACT_KEYS": "/nowhere"}
SECRETS |= {"AWS_ACCESS_KEY_ID": "owner", "AWS_SECRET_ACCESS_KEY": "s3cret"}
POSTGRES = sorted(Path("/usr/lib/postgresql").glob("*/bin"))


def instructions(name: str) -> list[tuple[str, str]]:
    """A Dockerfile's instructions with their arguments, continued lines joined."""
    text = re.sub(r"^\s*#.*\n", "", IMAGES[name].read_text(), flags=re.MULTILINE).replace("\\\n", " ")
    return [(line.split(None, 1)[0], line.split(None, 1)[1]) for line in text.splitlines() if line.strip()]


def arguments(name: str, instruction: str) -> list[str]:
    return [rest for key, rest in instructions(name) if key == instruction]


@pytest.fixture(scope="module")
def context(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a build sees: the files that git knows or would know and .dockerignore lets through."""
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    kept = [line[1:] for line in lines if line.startswith("!")]
    assert "*" in lines, "it has to name what goes in, not what stays out"
    assert all((ROOT / path).exists() for path in kept)
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split("\0")
    folder = tmp_path_factory.mktemp("context")
    for name in filter(None, listed):
        if any(name == path or name.startswith(f"{path}/") for path in kept) and (ROOT / name).exists():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    return folder


def test_images_copy_what_there_is(context: Path) -> None:
    for name in IMAGES:
        for copied in arguments(name, "COPY"):
            if "--from" not in copied:
                *sources, _ = shlex.split(copied)
                assert all((context / source).exists() for source in sources), (name, copied)
    assert not [path for path in context.rglob("*") if path.suffix in {".pem", ".key"} or path.name == ".env"]


def test_image_holds_all_that_the_stages_are_made_of(context: Path) -> None:
    with Repo(str(ROOT)) as repository:
        named = {os.path.relpath(dep.fs_path, ROOT) for stage in repository.index.stages for dep in stage.deps}
    ours = {dep for dep in named if dep.split("/")[0] not in {"artifacts", "reports", "metrics", "data"}}
    assert ours and all((context / dep).exists() for dep in ours), [dep for dep in ours if not (context / dep).exists()]
    code = "import flows.pipeline, flows.placement, stages.evaluate, world2act, world2act_client; print(flows.__file__)"
    paths = os.pathsep.join([str(context), str(context / "client")])
    done = subprocess.run(
        [sys.executable, "-P", "-c", code],
        cwd=context,
        env=os.environ | {"PYTHONPATH": paths},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(str(context)), "it imported another tree's code"


def test_images_install_what_set_up_installs() -> None:
    set_up, project = (INFRA / "setup.sh").read_text(), (ROOT / "pyproject.toml").read_text()
    (torch,) = set(re.findall(r"torch==[\d.]+", IMAGES["Dockerfile"].read_text()))
    assert f'TORCH="{torch}"' in set_up and f'"{torch}"' in project
    run = " ".join(arguments("Dockerfile", "RUN"))
    assert "--require-hashes -r requirements.lock" in run
    rendering = re.findall(r"\blib\w+", re.search(r"echo python3 python3-venv (.*)", set_up)[1])
    assert rendering and {*rendering, "git", "tini"} <= set(run.split())
    server = re.search(r"missing_test_packages\(\) \{(.*?)\n\}", set_up, re.DOTALL)[1]
    packages = set(re.findall(r"\b(?:ceph-\w+|radosgw)\b", " ".join(re.findall(r"echo (.*)", server))))
    assert packages and packages <= set(" ".join(arguments("s3.Dockerfile", "RUN")).split())


def test_client_is_locked_as_the_project_is() -> None:
    def locked(path: Path) -> dict[str, set[str]]:
        entries = re.findall(r"^([\w.-]+==[^ \\]+)[^\\\n]*\\\n((?:    --hash.*\n)+)", path.read_text(), re.MULTILINE)
        return {name: set(re.findall(r"sha256:\w+", hashes)) for name, hashes in entries}

    whole, client = locked(ROOT / "requirements.lock"), locked(ROOT / "client/requirements.lock")
    assert {name.split("==")[0] for name in client} >= {"boto3", "cryptography", "tqdm"}
    # Windows' own package is in no lock of a Linux project
    differing = {name for name, hashes in client.items() if not whole.get(name, {""}) <= hashes} - {"colorama==0.4.6"}
    assert not differing, "write it again: make lock"


def test_no_image_runs_as_root_and_every_base_is_pinned() -> None:
    for name in IMAGES:
        user = arguments(name, "USER")[-1]
        uid = dict(each.split("=") for each in arguments(name, "ARG") if "=" in each)["UID"] if user == "$UID" else user
        assert int(uid) >= 1000, name
        for base in arguments(name, "FROM"):
            assert re.search(r":(\$\{PYTHON\}|[\w.-]*\d[\w.-]*)( AS \w+)?$", base), (name, base)
        labels = set(re.findall(r"org\.opencontainers\.image\.(\w+)=", " ".join(arguments(name, "LABEL"))))
        assert {"title", "description", "licenses"} <= labels, name


@pytest.mark.slow
def test_client_image_holds_what_a_robot_needs_and_no_more(context: Path, tmp_path: Path) -> None:
    venv = tmp_path / "venv"
    path = os.pathsep.join([str(venv / "bin"), str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | {"PATH": path}
    for run in arguments("client.Dockerfile", "RUN"):
        if not run.startswith("useradd"):
            command = run.replace("/opt/venv", shlex.quote(str(venv)))
            done = subprocess.run(command, shell=True, cwd=context, env=environment, capture_output=True, text=True)
            assert done.returncode == 0, done.stderr
    program = json.loads(arguments("client.Dockerfile", "ENTRYPOINT")[0])
    default = json.loads(arguments("client.Dockerfile", "CMD")[0])
    done = subprocess.run([*program, *default], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0 and "get" in done.stdout, done.stderr
    listed = subprocess.run([venv / "bin/pip", "list", "--format=json"], capture_output=True, text=True).stdout
    packages = {package["name"].lower() for package in json.loads(listed)}
    assert {"world2act-client", "boto3", "cryptography", "tqdm"} <= packages
    assert not packages & {"torch", "dvc", "pandas", "numpy", "world2act"} and len(packages) < 20


def interpolated(value: Any, variables: Mapping[str, str]) -> Any:
    """Compose's ${NAME}, ${NAME:-default} and ${NAME:?message}. Raises KeyError where compose would stop."""
    if isinstance(value, dict):
        return {key: interpolated(each, variables) for key, each in value.items()}
    if isinstance(value, list):
        return [interpolated(each, variables) for each in value]
    if not isinstance(value, str):
        return value

    def replace(match: re.Match[str]) -> str:
        name, default = match[1], match[2]
        return variables.get(name) or (default[2:] if default and default.startswith(":-") else variables[name])

    return re.sub(r"\$\{(\w+)(:[-?][^}]*)?\}", replace, value)


def test_example_names_every_variable_that_compose_requires() -> None:
    text = (INFRA / "compose.yaml").read_text()
    required = set(re.findall(r"\$\{(\w+):\?", text))
    optional = set(re.findall(r"\$\{(\w+):-", text))
    assert required <= set(EXAMPLE) and set(EXAMPLE) <= required | optional
    assert {"POSTGRES_PASSWORD", "PREFECT_AUTH", "AWS_SECRET_ACCESS_KEY"} <= required
    # a secret has no value anybody could forget to change
    assert all(not EXAMPLE[name] for name in required - {"WORLD2ACT_STORE"})
    for name in optional - set(EXAMPLE):
        assert name in (INFRA / ".env.example").read_text(), f"{name} is nowhere explained"
    ignored = subprocess.run(["git", "check-ignore", "--quiet", "infra/.env"], cwd=ROOT)
    assert ignored.returncode == 0


@pytest.mark.parametrize("name", SERVICES)
def test_service_is_closed_limited_and_kept_up(name: str) -> None:
    service = SERVICES[name]
    once = service["restart"] == "on-failure"
    assert once or service["restart"] == "unless-stopped"
    assert service["cap_drop"] == ["ALL"] and "no-new-privileges:true" in service["security_opt"]
    assert not {"privileged", "network_mode", "pid", "ipc"} & set(service)
    assert service["mem_limit"] and service["pids_limit"]
    for port in service.get("ports", ()):
        assert port.startswith("127.0.0.1:"), port
    own = arguments(Path(service["build"]["dockerfile"]).name, "HEALTHCHECK") if "build" in service else []
    assert once or "healthcheck" in service or (own and own[0] != "NONE")
    if "build" not in service:
        assert re.search(r":\d", service["image"]), "pin it"
    for upstream, wanted in service.get("depends_on", {}).items():
        ends = SERVICES[upstream]["restart"] == "on-failure"
        assert wanted["condition"] == ("service_completed_successfully" if ends else "service_healthy")
    for key, value in service["environment"].items():
        if re.search(r"PASSWORD|SECRET|AUTH_STRING|ACCESS_KEY", key):
            assert value.startswith("${"), f"{key} is written down"


def test_variables_are_ones_that_somebody_reads() -> None:
    source = "".join(
        path.read_text() for folder in ("world2act", "flows", "client") for path in (ROOT / folder).rglob("*.py")
    )
    script = (INFRA / "images/s3.sh").read_text()
    for name, service in SERVICES.items():
        for variable in service["environment"]:
            if variable.startswith("PREFECT_"):
                assert hasattr(settings, variable), (name, variable)
            elif variable.startswith("WORLD2ACT_"):
                assert f'"{variable}"' in source or "removeprefix" in str(service["command"]), (name, variable)
            elif variable.startswith("S3_"):
                assert variable in script
            else:
                assert variable.startswith(("AWS_", "POSTGRES_")) or variable == "PYTHONPATH", (name, variable)


def test_ports_agree() -> None:
    server, worker, s3 = SERVICES["server"], SERVICES["worker"], SERVICES["s3"]
    port = server["command"][server["command"].index("--port") + 1]
    assert server["ports"] == [f"127.0.0.1:{port}:{port}"]
    assert f":{port}/api/health" in server["healthcheck"]["test"][-1]
    assert worker["environment"]["PREFECT_API_URL"] == f"http://server:{port}/api"
    assert server["environment"]["PREFECT_SERVER_UI_API_URL"] == f"http://127.0.0.1:{port}/api"
    health = worker["environment"]["PREFECT_WORKER_WEBSERVER_PORT"]
    assert f":{health}/health" in worker["healthcheck"]["test"][-1]
    listens = s3["environment"]["S3_PORT"]
    assert s3["ports"] == [f"127.0.0.1:{listens}:{listens}"] and arguments("s3.Dockerfile", "EXPOSE") == [listens]
    assert worker["environment"]["AWS_ENDPOINT_URL"] == f"http://s3:{listens}"
    assert f":{listens}/" in arguments("s3.Dockerfile", "HEALTHCHECK")[0]
    pool = worker["command"][worker["command"].index("--pool") + 1]
    assert (INFRA / f"work_pools/{pool}.json").exists()


def free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


@contextmanager
def running(command: list[str], log: Path, environment: Mapping[str, str], cwd: Path) -> Iterator[subprocess.Popen]:
    with log.open("wb") as stream:
        process = subprocess.Popen(command, env=environment, cwd=cwd, stdout=stream, stderr=subprocess.STDOUT)
        try:
            yield process
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(timeout=60)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def until(ready: Callable[[], bool], process: subprocess.Popen, log: Path, seconds: float = 150) -> None:
    deadline = time.monotonic() + seconds
    while not ready():
        assert process.poll() is None and time.monotonic() < deadline, log.read_text()[-3000:]
        time.sleep(0.5)


def healthy(test: list[str], replaced: Mapping[str, str]) -> bool:
    kind, *command = test
    assert kind == "CMD"
    command = [translated(each, replaced) for each in command]
    return subprocess.run([sys.executable if command[0] == "python" else command[0], *command[1:]]).returncode == 0


def translated(text: str, replaced: Mapping[str, str]) -> str:
    """Names and ports between containers become loopback and free ports; nothing else changes."""
    for before, after in replaced.items():
        text = text.replace(before, after)
    return text


@pytest.fixture(scope="module")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """A PostgreSQL of Debian's with the user, password and database of compose. Returns its port."""
    if not POSTGRES:
        pytest.skip("PostgreSQL is not installed (apt-get install postgresql)")
    environment = interpolated(SERVICES["postgres"]["environment"], EXAMPLE | SECRETS)
    folder = tmp_path_factory.mktemp("postgres")
    folder.chmod(0o755)
    for parent in folder.parents[:3]:
        parent.chmod(parent.stat().st_mode | 0o011)
    user = {"user": "postgres", "group": "postgres", "extra_groups": []} if os.getuid() == 0 else {}
    if user:
        os.chown(folder, pwd.getpwnam("postgres").pw_uid, pwd.getpwnam("postgres").pw_gid)
    password, data, (port,) = folder / "password", folder / "data", free_ports(1)
    password.write_text(environment["POSTGRES_PASSWORD"])
    password.chmod(0o644)
    command = [POSTGRES[-1] / "initdb", f"--pgdata={data}", f"--username={environment['POSTGRES_USER']}"]
    subprocess.run([*command, "--auth=scram-sha-256", f"--pwfile={password}"], check=True, capture_output=True, **user)
    options = ["-D", data, "-p", str(port), "-c", "listen_addresses=127.0.0.1", "-k", folder]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([POSTGRES[-1] / "postgres", *options], stdout=log, stderr=log, cwd=folder, **user)
        try:
            test = SERVICES["postgres"]["healthcheck"]["test"]
            check = [POSTGRES[-1] / test[1], *test[2:], "--host=127.0.0.1", f"--port={port}"]
            until(lambda: subprocess.run(check, capture_output=True).returncode == 0, process, folder / "log")
            made = {"PGPASSWORD": environment["POSTGRES_PASSWORD"], "PGHOST": "127.0.0.1", "PGPORT": str(port)}
            createdb = [POSTGRES[-1] / "createdb", "-U", environment["POSTGRES_USER"], environment["POSTGRES_DB"]]
            subprocess.run(createdb, env=os.environ | made, check=True)
            yield port
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(timeout=60)


@pytest.mark.slow
def test_server_deployments_and_worker_run_as_compose_runs_them(postgres: int, tmp_path: Path) -> None:
    port, health = free_ports(2)
    replaced = {
        "http://server:4200": f"http://127.0.0.1:{port}",
        "127.0.0.1:4200": f"127.0.0.1:{port}",
        "127.0.0.1:8080": f"127.0.0.1:{health}",
        "/workspace": str(ROOT),
        "0.0.0.0": "127.0.0.1",
    }
    own = {"PREFECT_SERVER_DATABASE_HOST": "127.0.0.1", "PREFECT_SERVER_DATABASE_PORT": str(postgres)}
    own |= {"PREFECT_WORKER_WEBSERVER_PORT": str(health), "PREFECT_HOME": str(tmp_path / "prefect")}
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    kept["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), kept["PATH"]])

    def of(name: str) -> tuple[list[str], dict[str, str]]:
        service = interpolated(
            SERVICES[name], EXAMPLE | SECRETS | {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b"}
        )
        command = [translated(each, replaced) for each in service["command"]]
        command = [str(port) if each == "4200" else each for each in command]
        variables = {key: translated(value, replaced) for key, value in service["environment"].items()}
        return command, kept | variables | {
            key: value for key, value in own.items() if key in variables or "HOME" in key
        }

    api = httpx.Client(base_url=f"http://127.0.0.1:{port}/api", timeout=10)
    command, environment = of("server")
    with running(command, tmp_path / "server.log", environment, tmp_path) as server:
        check = SERVICES["server"]["healthcheck"]["test"]
        until(lambda: healthy(check, replaced), server, tmp_path / "server.log")
        assert api.get("/admin/version").status_code == 401, "the API answers without a key"
        api.auth = tuple(SECRETS["PREFECT_AUTH"].split(":"))
        assert api.get("/admin/version").status_code == 200

        command, environment = of("deploy")
        done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        pools = {pool["name"] for pool in api.post("/work_pools/filter", json={}).json()}
        assert pools == {path.stem for path in (INFRA / "work_pools").glob("*.json")}
        assert len(api.post("/deployments/filter", json={}).json()) == len(
            yaml.safe_load((ROOT / "prefect.yaml").read_text())["deployments"]
        )
        # nothing shall fall due in this test
        for deployment in api.post("/deployments/filter", json={}).json():
            api.patch(f"/deployments/{deployment['id']}", json={"paused": True}).raise_for_status()

        command, environment = of("worker")
        with running(command, tmp_path / "worker.log", environment, tmp_path) as worker:
            check = SERVICES["worker"]["healthcheck"]["test"]
            until(lambda: healthy(check, replaced), worker, tmp_path / "worker.log")

            def is_online() -> bool:
                return api.get("/work_pools/process").json()["status"] == "READY"

            until(is_online, worker, tmp_path / "worker.log")
        assert worker.returncode == 0, (tmp_path / "worker.log").read_text()[-2000:]
    for log in ("server.log", "worker.log"):
        assert SECRETS["POSTGRES_PASSWORD"] not in (tmp_path / log).read_text()


def test_bucket_is_made_once_and_versioned(s3: S3) -> None:
    name = f"compose-{free_ports(1)[0]}"
    service = SERVICES["bucket"]
    environment = os.environ | s3.environment() | {"WORLD2ACT_STORE": f"s3://{name}/team"}
    assert set(service["environment"]) - {"AWS_DEFAULT_REGION"} <= set(environment)
    for _ in range(2):
        program, *rest = service["command"]
        assert program == "python"
        subprocess.run([sys.executable, *rest], env=environment, check=True)
    assert s3.client().get_bucket_versioning(Bucket=name)["Status"] == "Enabled"


@pytest.mark.slow
def test_s3_server_keeps_what_it_holds_and_takes_a_new_secret(tmp_path_factory: pytest.TempPathFactory) -> None:
    if missing_programs():
        pytest.skip("Ceph is not installed")
    port, first, second = free_ports(3)
    command = json.loads(arguments("s3.Dockerfile", "CMD")[0])
    assert command == ["s3"] and "infra/images/s3.sh /usr/local/bin/s3" in arguments("s3.Dockerfile", "COPY")
    with tempfile.TemporaryDirectory(prefix="s3-") as name:
        data, log = Path(name) / "data", Path(name) / "log"
        own = {"S3_DATA": str(data), "S3_ADDRESS": "127.0.0.1", "S3_PORT": str(port), "S3_GIGABYTES": "2"}
        own |= {"S3_MONITOR_PORTS": f"{first} {second}", "AWS_ACCESS_KEY_ID": "OWNER"}
        for start, secret in enumerate(("first-secret", "second-secret")):
            environment = os.environ | own | {"AWS_SECRET_ACCESS_KEY": secret}
            with running([str(INFRA / "images/s3.sh")], log, environment, Path(name)) as server:
                check = json.loads(arguments("s3.Dockerfile", "HEALTHCHECK")[0].split("CMD ")[1])
                until(
                    lambda check=check: healthy(["CMD", *check], {"127.0.0.1:9000": f"127.0.0.1:{port}"}), server, log
                )
                client = boto3.client(
                    "s3",
                    endpoint_url=f"http://127.0.0.1:{port}",
                    region_name=REGION,
                    aws_access_key_id="OWNER",
                    aws_secret_access_key=secret,
                )
                if start == 0:
                    client.create_bucket(Bucket="store")
                    client.put_object(Bucket="store", Key="a", Body=b"kept", IfNoneMatch="*")
                else:
                    assert client.get_object(Bucket="store", Key="a")["Body"].read() == b"kept"
                    with pytest.raises(client.exceptions.ClientError, match="PreconditionFailed"):
                        client.put_object(Bucket="store", Key="a", Body=b"lost", IfNoneMatch="*")
            assert server.returncode == 0, log.read_text()[-3000:]
            assert not (data / "ceph.conf").stat().st_mode & 0o077 and secret not in log.read_text()
