#!/usr/bin/env bash
# Ray on one node of a job, until a signal ends it: node.sh head|worker HOST:PORT NUM_CPUS
# A worker waits for at most 5 minutes until the head answers. SEMIEVOL_SETUP, _WRAP and _RAY: see semievol.sbatch.
set -uo pipefail
kind=${1:?usage: node.sh head|worker HOST:PORT NUM_CPUS} address=${2:?} cpus=${3:?}
host=${address%:*} port=${address##*:}
if [[ -n ${SEMIEVOL_SETUP:-} ]]; then
  # shellcheck disable=SC1090
  source "$SEMIEVOL_SETUP"
fi
read -r -a wrap <<<"${SEMIEVOL_WRAP:-}"
read -r -a more <<<"${SEMIEVOL_RAY:-}"
# a short folder of its own for each node and job: Ray's sockets lie in it, and their paths may have 107 letters
start=("${wrap[@]}" ray start --block --num-cpus="$cpus" \
  --temp-dir="/tmp/ray-$SLURM_JOB_ID-$SLURMD_NODENAME" "${more[@]}")

if [[ $kind == head ]]; then
  exec "${start[@]}" --head --node-ip-address="$host" --port="$port" --ray-client-server-port="$((port + 10000))" \
    --dashboard-host=127.0.0.1 # the dashboard writes where Prometheus finds the nodes
fi
for ((second = 0; second < 300; second += 2)); do
  (exec 3<>"/dev/tcp/$host/$port") 2>/dev/null && exec "${start[@]}" --address="$address"
  sleep 2
done
echo "node.sh: nobody answers at $address" >&2
exit 1
