#!/bin/bash
# Training as a SageMaker job, run where the job's sources lie: the folders beside the tower (photos, checkpoints) stay behind.
set -eu
work=${GAVEL_WORK:-/opt/ml/work}
output=${GAVEL_OUTPUT:-/opt/ml/processing/output}
python -m pip install -q -r processing/requirements-train.txt
python -m processing.train_towers --output "$work" "$@" &
training=$!
trap 'kill -TERM "$training"' TERM # a container's first process gets the signal alone; training ends with a checkpoint
status=0
wait "$training" || status=$?
kill -0 "$training" 2>/dev/null && { status=0; wait "$training" || status=$?; } # the signal ended the first wait
trap - TERM
[ "$status" -eq 0 ] || exit "$status"
mkdir -p "$output"
for tower in "$work"/*/; do # hidden folders do not match
    cp -r "$tower" "$output/"
done
