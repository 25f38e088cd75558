# The first node runs the stage by DVC, whose command starts its share of the ranks; the others start theirs as soon as
# it trains (world2act.training.launch). What it wrote goes to the store, what DVC recorded stays in its dvc.lock.
set -eu
cd training
if [ "$WORLD2ACT_NODE_RANK" != 0 ]; then
    exec python -m world2act.training.launch "stages.$STAGE"
fi
dvc repro --single-item "$STAGE"
dvc push --quiet "$STAGE"
