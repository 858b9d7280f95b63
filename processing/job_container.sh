#!/bin/bash
# Prepare the container of a job, then become the command in the arguments; run where the job's sources lie.
set -eu
packages=${GAVEL_PACKAGES:-/opt/ml/processing/input/packages}
compatibility=${GAVEL_CUDA_COMPAT:-/usr/local/bin/start_cuda_compat.sh}
# the image's own script, which its entry point would run: it adds CUDA's compatibility library where the driver is older than CUDA
if [ -f "$compatibility" ]; then
    set +eu # it reads variables that may be unset
    # shellcheck disable=SC1090
    . "$compatibility"
    set -eu
fi
(cd "$packages" && python -m zipfile -e ./*.zip src)
export PYTHONPATH="$packages/src" # precedes the packages of the image, which has torch and torch's dependencies
python -m processing.check_accelerator
exec "$@"
