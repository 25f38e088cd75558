"""Server, worker and deployments on one machine, until Ctrl-C: `make serve`, or `python -m flows.serve`.

Input: infra/work_pools/*.json, prefect.yaml, and Prefect's own variables:

    PREFECT_SERVER_API_PORT                 port of server and UI (4200)
    PREFECT_SERVER_API_HOST                 where they listen (127.0.0.1); elsewhere only with a key
    PREFECT_SERVER_API_AUTH_STRING          the key, `user:password`, passed on to the worker and its flow runs
    PREFECT_API_DATABASE_CONNECTION_URL     PostgreSQL instead of SQLite: postgresql+asyncpg://user:password@host/name

It may be stopped and started at any time; setting up again changes nothing that is already there.
"""

from __future__ import annotations

import ipaddress
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import httpx
import psutil

from flows.set_up import HEARTBEAT_S
from world2act.core.errors import BadInput, InfrastructureError, World2ActError
from world2act.processes.dvc_command import stage_environment
from world2act.processes.lifetime import child_command

WORKED_HERE = "process"
_START_S = 300
_STOP_S = 15


def main() -> None:
    """Run until Ctrl-C or SIGTERM, or until a part ends by itself. Exits with 1 when something is wrong."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt)
    try:
        host, port = _address(os.environ)
        environment = server_environment(os.environ, host, port)
        with running_server(environment, host, port) as server:
            set_up(environment)
            start = ("worker", "start", "--pool", WORKED_HERE, "--type", "process", "--install-policy", "never")
            with _running("worker", child_command("prefect", *start), environment) as worker:
                print(f"\nPrefect runs on http://{host}:{port} with its worker. Ctrl-C ends both.\n", flush=True)
                _wait_for_any({"server": server, "worker": worker})
    except KeyboardInterrupt:
        print("stopped", flush=True)
    except World2ActError as error:
        sys.exit(str(error))


def _interrupt(_signal: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _address(variables: Mapping[str, str]) -> tuple[str, int]:
    """Where the server will listen. Raises: `BadInput`, where it may not or cannot."""
    host = variables.get("PREFECT_SERVER_API_HOST", "127.0.0.1")
    port = variables.get("PREFECT_SERVER_API_PORT", "4200")
    if not port.isdigit():
        raise BadInput("PREFECT_SERVER_API_PORT", "", port, "a port number", "correct it")
    if not _is_loopback(host) and not variables.get("PREFECT_SERVER_API_AUTH_STRING"):
        raise BadInput(
            "PREFECT_SERVER_API_HOST",
            "",
            f"{host}, which others can reach, and no key",
            "127.0.0.1, or a key",
            "set PREFECT_SERVER_API_AUTH_STRING to user:password: who reaches the API runs code here",
        )
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, int(port)))
        except OSError as error:
            raise BadInput(
                f"{host}:{port}",
                "",
                _holder(int(port)) or error.strerror,
                "a free port",
                "stop that process, or set PREFECT_SERVER_API_PORT to another port",
            ) from error
    return host, int(port)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _holder(port: int) -> str:
    """The process that listens on a port, if this user may see it; else empty."""
    for connection in psutil.net_connections("tcp"):
        if connection.status == psutil.CONN_LISTEN and connection.laddr.port == port and connection.pid:
            return f"process {connection.pid} listens there: {' '.join(psutil.Process(connection.pid).cmdline())}"
    return ""


def server_environment(variables: Mapping[str, str], host: str, port: int) -> dict[str, str]:
    """The variables of a server, and of whatever talks to it."""
    reached = "127.0.0.1" if host == "0.0.0.0" else host
    settings = {
        "PREFECT_API_URL": f"http://{reached}:{port}/api",
        "PREFECT_SERVER_UI_API_URL": variables.get("PREFECT_SERVER_UI_API_URL", f"http://{reached}:{port}/api"),
        "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": str(HEARTBEAT_S),
        # what the stages print shows in the UI
        "PREFECT_LOGGING_LOG_PRINTS": "true",
        "PREFECT_LOGGING_LEVEL": "INFO",
        "PYTHONPATH": os.pathsep.join(filter(None, [str(Path.cwd()), variables.get("PYTHONPATH")])),
    }
    if key := variables.get("PREFECT_SERVER_API_AUTH_STRING"):
        settings["PREFECT_API_AUTH_STRING"] = key
    return stage_environment() | settings


@contextmanager
def running_server(environment: dict[str, str], host: str, port: int) -> Iterator[subprocess.Popen[bytes]]:
    """A Prefect server that answers, while the block runs. Raises: `InfrastructureError`, when it does not start."""
    command = child_command("prefect", "server", "start", "--host", host, "--port", str(port))
    with _running("server", command, environment) as server:
        _wait_until_healthy(server, environment)
        yield server


@contextmanager
def _running(name: str, command: list[str], environment: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """A part of the service while the block runs; then it and all that it started has ended."""
    # a new session: Ctrl-C reaches only this process, which ends the parts in order
    process = subprocess.Popen(command, env=environment, start_new_session=True)
    try:
        yield process
    finally:
        end(name, process)


def end(name: str, process: subprocess.Popen[bytes]) -> None:
    """End a process and all that it started; what does not end in time is killed."""
    try:
        everything = [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]
    except psutil.NoSuchProcess:
        return
    for running in everything:
        if running.is_running():
            running.terminate()
    _, left = psutil.wait_procs(everything, timeout=_STOP_S)
    for remaining in left:
        print(f"{name}: process {remaining.pid} did not end within {_STOP_S} s; killed", flush=True)
        remaining.kill()
    process.wait()


def _wait_until_healthy(server: subprocess.Popen[bytes], environment: Mapping[str, str]) -> None:
    deadline = time.monotonic() + _START_S
    while time.monotonic() < deadline:
        if server.poll() is not None:
            break
        try:
            if httpx.get(f"{environment['PREFECT_API_URL']}/health", timeout=2).is_success:
                return
        except httpx.TransportError:
            time.sleep(0.5)
    raise InfrastructureError(
        f"the Prefect server\n  found:    no answer from {environment['PREFECT_API_URL']} within {_START_S} s"
        "\n  expected: a running server\n  remedy:   read its messages above"
    )


def _wait_for_any(parts: Mapping[str, subprocess.Popen[bytes]]) -> None:
    while True:
        for name, process in parts.items():
            if (code := process.poll()) is not None:
                raise InfrastructureError(
                    f"the Prefect {name}\n  found:    it ended with exit status {code}\n  expected: a running process"
                    "\n  remedy:   read its messages above, then start again; no work is lost"
                )
        time.sleep(1)


def set_up(environment: dict[str, str]) -> None:
    """Make the work pools, the automation and the deployments, or bring them up to date.

    Raises:
        InfrastructureError: Prefect refused; the message includes its output.
    """
    for command in (
        [sys.executable, "-m", "flows.set_up"],
        [sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--all"],
    ):
        done = subprocess.run(command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True)
        if done.returncode:
            raise InfrastructureError(
                f"{' '.join(command[2:])}\n  found:    {done.stdout}{done.stderr}\n  expected: success"
                "\n  remedy:   correct prefect.yaml or infra/work_pools; see the message"
            )


if __name__ == "__main__":
    main()
