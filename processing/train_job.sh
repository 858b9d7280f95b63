#!/bin/bash
# Training as a SageMaker job, run where the job's sources lie: the folders beside the tower (photos, checkpoints) stay behind.
set -eu
work=${GAVEL_WORK:-/opt/ml/work}
output=${GAVEL_OUTPUT:-/opt/ml/processing/output}
python -m pip install -q -r processing/requirements-train.txt
python -m processing.train_towers --output "$work" "$@"
mkdir -p "$output"
for tower in "$work"/*/; do # hidden folders do not match
    cp -r "$tower" "$output/"
done
