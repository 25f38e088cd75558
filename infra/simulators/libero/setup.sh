#!/usr/bin/env bash
# LIBERO in an environment of its own, .venv-libero: its robosuite is older than what others need. Idempotent.
# PYTHON=/path/to/python3.11 picks the interpreter. WORLD2ACT_LIBERO_ASSETS=/path/to/assets links LIBERO's meshes and
# textures, which its package does not bring; WORLD2ACT_LIBERO_ASSETS=download has them downloaded first.
set -euo pipefail
cd "$(dirname "$0")/../../.."

LOCK=infra/simulators/libero/requirements.lock
VENV=.venv-libero
ASSETS=${WORLD2ACT_LIBERO_ASSETS:-}
DOWNLOADED=.cache/libero-assets

say() { printf 'libero: %s\n' "$*"; }
die() { printf 'libero: %s\n' "$*" >&2; exit 1; }

find_python() {
    local candidate
    for candidate in ${PYTHON:+"$PYTHON"} python3.11 .venv/bin/python python3; do
        if "$candidate" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null; then
            command -v "$candidate"
            return
        fi
    done
    die "needs Python 3.11, which requirements.lock is made for; name it: make libero PYTHON=/path/to/python3.11"
}

stamp=$({ pwd; cat infra/simulators/libero/setup.sh "$LOCK"; } | sha256sum | cut -d' ' -f1)
if [ "$(cat $VENV/stamp 2>/dev/null)" != "$stamp" ]; then
    python=$(find_python)
    rm -f $VENV/stamp
    say "installing the $(grep -c '^[^ #]*==' $LOCK) packages of $LOCK into $VENV"
    [ -L $VENV/assets ] && kept=$(readlink $VENV/assets)
    "$python" -m venv --clear $VENV
    $VENV/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r $LOCK
    if [ -n "${kept:-}" ]; then ASSETS=${ASSETS:-$kept}; fi
    echo "$stamp" >$VENV/stamp
fi

site=$(echo "$PWD"/$VENV/lib/python3.*/site-packages)
root=$site/libero/libero
# without this file the first import of LIBERO asks on the terminal, and waits
mkdir -p $VENV/libero
cat >$VENV/libero/config.yaml <<EOF
benchmark_root: "$root"
bddl_files: "$root/bddl_files"
init_states: "$root/init_files"
datasets: "$root/../datasets"
assets: "$root/assets"
EOF

if [ "$ASSETS" = download ]; then
    say "downloading LIBERO's assets (about a gigabyte) into $DOWNLOADED"
    repository=$(sed -n 's/^HF_ASSETS_REPO_ID = "\(.*\)".*/\1/p' "$root/utils/download_utils.py")
    .venv/bin/hf download "$repository" --repo-type dataset --local-dir $DOWNLOADED >/dev/null ||
        die "the download failed; get the assets by other means and name their folder in WORLD2ACT_LIBERO_ASSETS"
    ASSETS=$PWD/$DOWNLOADED
fi
if [ -n "$ASSETS" ]; then
    [ -d "$ASSETS/scenes" ] || die "WORLD2ACT_LIBERO_ASSETS=$ASSETS is not LIBERO's assets folder: it has no scenes/"
    ln -sfn "$(realpath "$ASSETS")" $VENV/assets
    # LIBERO looks beside its own code, whatever its configuration says
    ln -sfn "$(realpath "$ASSETS")" "$root/assets"
fi
if [ -d "$root/assets/scenes" ]; then
    say "ready: $(du -sh $VENV | cut -f1) in $VENV, assets in $(readlink "$root/assets")"
else
    say "installed, but without assets no scene can be built. Now:"
    say "  make libero WORLD2ACT_LIBERO_ASSETS=/path/to/assets    (LIBERO's folder libero/libero/assets)"
    say "  make libero WORLD2ACT_LIBERO_ASSETS=download           (as hf-libero does, from Hugging Face)"
fi
