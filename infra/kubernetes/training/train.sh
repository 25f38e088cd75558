# The first node runs the stage with DVC, which starts this node's ranks; the other nodes start theirs as soon as it trains
# (world2act.training.launch). The outputs go to the store; what DVC recorded stays in dvc.lock of the workspace.
set -eu
cd training
if [ "$WORLD2ACT_NODE_RANK" != 0 ]; then
    exec python -m world2act.training.launch "stages.$STAGE"
fi
dvc repro --single-item "$STAGE"
dvc push --quiet "$STAGE"
