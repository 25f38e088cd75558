#!/usr/bin/env bash
# Everything the pipeline needs on Debian or Ubuntu: system libraries, then .venv from requirements.lock.
# Idempotent: a second run finds its stamp and ends at once. PYTHON=/path/to/python3 picks the interpreter.
# With the argument `test`, also what only the tests start: an S3 server (Ceph's gateway) and a browser.
set -euo pipefail
cd "$(dirname "$0")/.."

TORCH="torch==2.13.0"
TORCH_CPU_INDEX=${TORCH_CPU_INDEX:-https://download.pytorch.org/whl/cpu}

say() { printf 'setup: %s\n' "$*"; }
die() { printf 'setup: %s\n' "$*" >&2; exit 1; }

in_range() { "$1" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null; }

find_python() {
    local candidate
    for candidate in ${PYTHON:+"$PYTHON"} python3.11 python3.12 python3.13 python3; do
        if in_range "$candidate"; then echo "$candidate"; return; fi
    done
}

loads() { "$python" -c 'import ctypes, sys; ctypes.CDLL(sys.argv[1])' "$1" 2>/dev/null; }

missing_packages() {
    command -v git >/dev/null || echo git
    if [ -z "$python" ]; then
        echo python3 python3-venv libosmesa6 libgl1 libegl1
        return
    fi
    "$python" -c 'import ensurepip, venv' 2>/dev/null || echo "$(basename "$(readlink -f "$(command -v "$python")")")-venv"
    loads libOSMesa.so.8 || echo libosmesa6
    loads libGL.so.1 || echo libgl1
    loads libEGL.so.1 || echo libegl1
}

missing_test_packages() {
    # the gateway, its monitor and its store; each is a package of its own
    command -v radosgw >/dev/null || echo radosgw
    command -v ceph-osd >/dev/null || echo ceph-osd
    command -v ceph-mon >/dev/null || echo ceph-mon ceph-base ceph-common
    command -v chromium >/dev/null || echo chromium
}

install_packages() {
    local -a as_root=()
    local command="apt-get update && apt-get install -y --no-install-recommends $*"
    say "missing system packages: $*"
    if [ "$(id -u)" != 0 ]; then
        if ! { command -v sudo && sudo -n true; } >/dev/null 2>&1; then
            die "they need root. Run this, then make again:  sudo sh -c '$command'"
        fi
        as_root=(sudo -n)
    fi
    command -v apt-get >/dev/null || die "no apt-get on this system: install what provides these by its own means"
    { "${as_root[@]}" apt-get update -qq && "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
        apt-get install -y -qq --no-install-recommends "$@"; } || die "apt-get failed. Run it yourself:  sudo sh -c '$command'"
}

has_cuda() { command -v nvidia-smi >/dev/null && nvidia-smi >/dev/null 2>&1; }

reachable() { .venv/bin/python -c 'import sys, urllib.request as r; r.urlopen(sys.argv[1], timeout=5)' "$1/torch/" 2>/dev/null; }

install_torch() {
    local -a index=()
    # PyPI's torch for Linux on x86 is the CUDA build, gigabytes larger; the CPU build stands on PyTorch's own index.
    if ! has_cuda && reachable "$TORCH_CPU_INDEX"; then index=(--extra-index-url "$TORCH_CPU_INDEX"); fi
    say "installing $TORCH"
    .venv/bin/python -m pip install --quiet "$TORCH" "${index[@]}"
    if ! has_cuda && [ -n "$(.venv/bin/python -W ignore -c 'import torch; print(torch.version.cuda or "")')" ]; then
        say "note: no CUDA device here, but pip found only the CUDA build of torch. It works; it is only larger."
    fi
}

python=$(find_python)
mapfile -t packages < <(missing_packages | tr ' ' '\n')
if [ ${#packages[@]} -gt 0 ]; then
    install_packages "${packages[@]}"
    python=$(find_python)
fi
if [ "${1:-}" = test ]; then
    mapfile -t packages < <(missing_test_packages | tr ' ' '\n')
    if [ ${#packages[@]} -gt 0 ]; then
        # the tests that need them skip, and say so
        (install_packages "${packages[@]}") || say "going on without ${packages[*]}"
    fi
fi
if [ -z "$python" ]; then
    die "needs Python 3.11, 3.12 or 3.13; found ${PYTHON:-$(python3 --version 2>&1)}." \
        "Install one (on Ubuntu 22.04: sudo apt-get install python3.11 python3.11-venv), or name it: make PYTHON=/path/to/python3.11"
fi
git rev-parse --verify --quiet HEAD >/dev/null || die "$PWD is not a git clone with a commit, and DVC needs one: clone the project, or run git init and commit here"

stamp=$({ pwd; cat infra/setup.sh requirements.lock pyproject.toml client/pyproject.toml; } | sha256sum | cut -d' ' -f1)
if [ "$(cat .venv/stamp 2>/dev/null)" = "$stamp" ]; then exit 0; fi

rm -f .venv/stamp
# An environment that was copied or moved still runs the scripts of the old place: make it anew.
if [[ "$(.venv/bin/pip --version 2>/dev/null)" != *" $PWD/.venv/"* ]]; then
    say "making .venv with $("$python" --version)"
    "$python" -m venv --clear .venv
fi
export PIP_DISABLE_PIP_VERSION_CHECK=1
install_torch
say "installing the $(grep -c '^[^ #]*==' requirements.lock) packages of requirements.lock (about two minutes)"
.venv/bin/python -m pip install --quiet --no-deps --use-pep517 --require-hashes -r requirements.lock
.venv/bin/python -m pip install --quiet --no-deps --no-build-isolation -e client -e .
echo "$stamp" >.venv/stamp
say "done: $(du -sh .venv | cut -f1) in .venv. Activate it with:  source .venv/bin/activate"
