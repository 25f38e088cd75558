# Prepares one workspace for all nodes, on the shared volume: the first node checks out $REVISION of $SOURCE and pulls the
# outputs of the stages $INPUTS; the other nodes wait for it.
set -eu
ready=training.ready
if [ "$WORLD2ACT_NODE_RANK" != 0 ]; then
    until [ "$(cat "$ready" 2>/dev/null)" = "$RUN" ]; do sleep 2; done
    exit
fi
[ -d training ] || git init --quiet training
cd training
git fetch --quiet --force "$SOURCE" "$REVISION"
git checkout --quiet --force --detach FETCH_HEAD
dvc remote add --quiet --local --force --default store "$WORLD2ACT_STORE"
# shellcheck disable=SC2086 # several stages
dvc pull --quiet $INPUTS
echo "$RUN" >"../$ready"
