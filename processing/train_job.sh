#!/bin/bash
# Training as a SageMaker job, run where the job's sources lie: the folders beside the tower (photos, checkpoints) stay behind.
set -eu
python -m pip install -q -r processing/requirements-train.txt
python -m processing.train_towers --output /opt/ml/work "$@"
mkdir -p /opt/ml/processing/output
for tower in /opt/ml/work/*/; do
    cp -r "$tower" /opt/ml/processing/output/
done
