#!/bin/bash
#SBATCH --job-name=anomalyncd --ntasks=8 --cpus-per-task=1 --mem-per-cpu=4G --time=04:00:00
# Run in the project's folder, on a disk that all nodes share: sbatch deploy/slurm.sh
# With GPUs: one worker for each (--gpus-per-task=1) and processors of one kind (--constraint).
set -euo pipefail
file=$PWD/.dask-$SLURM_JOB_ID.json
trap 'rm -f "$file"' EXIT
dask scheduler --scheduler-file "$file" --no-dashboard &
srun --overlap dask worker --scheduler-file "$file" --nthreads 1 --no-dashboard \
  --local-directory "${TMPDIR:-/tmp}" &
dvc exp run -S compute.engine=dask -S compute.address="$file"
