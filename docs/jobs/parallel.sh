#!/bin/bash
# Scores SOURCE on this machine in as many shares as it has cores, with GNU parallel, and makes one file of them:
#
#     parallel.sh SOURCE RESULTS [SHARES]
#
# With --sshloginfile and a shared RESULTS the shares run on other machines.
set -eu
source=$1 results=$2 shares=${3:-$(nproc)}
mkdir -p "$results"
seq 0 $((shares - 1)) | parallel --halt now,fail=1 --jobs "$shares" \
    metaqap-fast score "$source" --shard "{}/$shares" -o "$results/part-{}.h5" --resume --threads 1 --quiet
exec metaqap-fast merge "$results"/part-*.h5 -o "$results/scores.h5" --overwrite
