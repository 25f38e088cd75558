#!/usr/bin/env bash
# LeRobot with lerobot_policy_world2act in an environment of its own, .venv-lerobot: it wants a newer Python and an older
# torch than the pipeline. Idempotent. PYTHON=/path/to/python3.12 picks the interpreter.
set -euo pipefail
cd "$(dirname "$0")/../.."

PLUGIN=lerobot_policy_world2act
LOCK=$PLUGIN/requirements.lock
VENV=.venv-lerobot
# the newest that LeRobot 0.6 takes
TORCH=(torch==2.11.0 torchvision==0.26.0)
TORCH_CPU_INDEX=${TORCH_CPU_INDEX:-https://download.pytorch.org/whl/cpu}

say() { printf 'lerobot: %s\n' "$*"; }
die() { printf 'lerobot: %s\n' "$*" >&2; exit 1; }

find_python() {
    local candidate
    for candidate in ${PYTHON:+"$PYTHON"} python3.12 python3.13 python3; do
        if "$candidate" -c 'import sys; sys.exit(not (3, 12) <= sys.version_info < (3, 14))' 2>/dev/null; then
            command -v "$candidate"
            return
        fi
    done
    die "needs Python 3.12 or 3.13, as LeRobot does; name it: make lerobot PYTHON=/path/to/python3.12"
}

has_cuda() { command -v nvidia-smi >/dev/null && nvidia-smi >/dev/null 2>&1; }

reachable() { $VENV/bin/python -c 'import sys, urllib.request as r; r.urlopen(sys.argv[1], timeout=5)' "$1/torch/" 2>/dev/null; }

stamp=$({ pwd; cat infra/lerobot/setup.sh "$LOCK"; } | sha256sum | cut -d' ' -f1)
if [ "$(cat $VENV/stamp 2>/dev/null)" = "$stamp" ]; then exit 0; fi

python=$(find_python)
rm -f $VENV/stamp
say "making $VENV with $("$python" --version)"
"$python" -m venv --clear $VENV
export PIP_DISABLE_PIP_VERSION_CHECK=1
index=()
# PyPI's torch for Linux on x86 is the CUDA build, gigabytes larger; the CPU build stands on PyTorch's own index.
if ! has_cuda && reachable "$TORCH_CPU_INDEX"; then index=(--extra-index-url "$TORCH_CPU_INDEX"); fi
say "installing ${TORCH[*]}"
$VENV/bin/python -m pip install --quiet "${TORCH[@]}" "${index[@]}"
say "installing the $(grep -c '^[^ #]*==' $LOCK) packages of $LOCK"
$VENV/bin/python -m pip install --quiet --no-deps --require-hashes -r $LOCK
$VENV/bin/python -m pip install --quiet --no-deps --no-build-isolation -e . -e $PLUGIN
# what a user's pip sees: every dependency is there, in a version that all agree to
$VENV/bin/python -m pip check || die "the lock does not satisfy a dependency: run \`make lock\`"
echo "$stamp" >$VENV/stamp
say "done: $(du -sh $VENV | cut -f1) in $VENV"
