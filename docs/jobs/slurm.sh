#!/bin/bash
#SBATCH --job-name=scores --array=0-15 --cpus-per-task=8 --time=04:00:00 --signal=TERM@60 --requeue
# Scores SOURCE in sixteen shares and makes one file of them:
#
#     shares=$(sbatch --parsable slurm.sh SOURCE RESULTS)
#     sbatch --dependency=afterok:$shares --wrap "metaqap-fast merge RESULTS/part-*.h5 -o RESULTS/scores.h5"
#
# A share that is preempted or runs out of time has committed what it scored, and goes on from there when it is queued
# again. The same command another night scores what is new or has changed.
set -eu
source=$1 results=$2
exec metaqap-fast score "$source" --shard "$SLURM_ARRAY_TASK_ID/$SLURM_ARRAY_TASK_COUNT" \
    -o "$results/part-$SLURM_ARRAY_TASK_ID.h5" --resume --threads "$SLURM_CPUS_PER_TASK" --json
