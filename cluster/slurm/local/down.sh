#!/usr/bin/env bash
# End the Slurm that up.sh started in a folder, by its process ids alone: local/down.sh FOLDER
set -uo pipefail
folder=$(realpath -m "${1:?usage: down.sh FOLDER}")
SLURM_CONF=$folder/slurm.conf scancel --full --quiet --me 2>/dev/null
sleep 2
for file in n1.pid n2.pid slurmctld.pid munge/pid; do
  [[ -s $folder/$file ]] && kill -TERM "$(<"$folder/$file")" 2>/dev/null
done
exit 0
