#!/bin/bash
#SBATCH --job-name=ketcycle-worker
#SBATCH --ntasks=1
#SBATCH --output=ketcycle-worker-%j.log
# One Slurm job: Dask workers of the scheduler that KETCYCLE_DASK_ADDRESS names, one for each CPU of the job.
#   sbatch --array=1-8 --cpus-per-task=4 deployments/clusters/slurm.sh
# The state folder (setting home) is on a disk of the node; HOME/tls with the certificates is copied there before.
set -euo pipefail
: "${KETCYCLE_DASK_ADDRESS:?set it to the address of the scheduler, e.g. tls://10.0.0.5:8786}"
exec ketcycle up --role worker \
  --address "${KETCYCLE_WORKER_ADDRESS:-$(hostname -i)}" \
  --scheduler "$KETCYCLE_DASK_ADDRESS" \
  --workers "${SLURM_CPUS_PER_TASK:-1}"
