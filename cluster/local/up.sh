#!/usr/bin/env bash
# A Ray cluster of several hosts on one machine: each a network namespace with an address of its own, on one switch.
#   local/up.sh FOLDER [HOSTS]    FOLDER keeps what belongs to it, and has to be a new one; 3 hosts by default
# Host 1 is the head. Then, as `local/on.sh` has it (all of these need root):
#   local/on.sh FOLDER 1 semievol run CONFIG --address ADDRESS --run DIR    ADDRESS is what this script prints
#   local/cut.sh FOLDER 3                                                   pull the plug of host 3, or put it back
#   local/down.sh FOLDER                                                    end everything
# The network of the machine itself is left alone: the switch is a namespace too, and no host reaches anything outside.
# FOLDER/own is a disk of each host's own: what one writes there no other sees. All else is shared, as on an NFS.
# What the environment may say: SEMIEVOL_CPUS (of each host, default 2), SEMIEVOL_RAY (more arguments of `ray start`).
# Exit code 3: this machine does not allow network namespaces.
set -euo pipefail
folder=$(realpath -m "${1:?usage: up.sh FOLDER [HOSTS]}") hosts=${2:-3}
here=$(dirname "$(realpath "${BASH_SOURCE[0]}")")
mkdir -p "$(dirname "$folder")"
mkdir "$folder" # fails where one stands: it may be in use
mkdir "$folder/own"
name=sev$(printf %s "$folder" | cksum | cut -d ' ' -f 1 | tail -c 7)
echo "$name" >"$folder/name"
trap 'code=$?; ((code)) && "$here/down.sh" "$folder" >&2; exit $code' EXIT

ip netns add "$name-switch" || {
  echo "up.sh: this machine allows no network namespaces (root and CAP_SYS_ADMIN are needed)" >&2
  exit 3
}
ip -n "$name-switch" link add name switch type bridge
ip -n "$name-switch" link set switch up
for ((i = 1; i <= hosts; i++)); do
  ip netns add "$name-$i"
  ip -n "$name-switch" link add "port$i" type veth peer name eth0 netns "$name-$i"
  ip -n "$name-switch" link set "port$i" master switch up
  ip -n "$name-$i" addr add "10.87.0.$i/24" dev eth0
  ip -n "$name-$i" link set lo up
  ip -n "$name-$i" link set eth0 up
done

# a host that is cut off is given up within seconds, not half a minute
export RAY_health_check_initial_delay_ms=2000 RAY_health_check_period_ms=1000 RAY_health_check_timeout_ms=3000
export RAY_health_check_failure_threshold=3 RAY_USAGE_STATS_ENABLED=0 RAY_enable_worker_prestart=false
(umask 077 && od -An -N32 -tx1 /dev/urandom | tr -d ' \n' >"$folder/token")
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH=$folder/token
unset RAY_AUTH_TOKEN # it would go before the file
read -r -a more <<<"${SEMIEVOL_RAY:---object-store-memory=80000000}"
for ((i = 1; i <= hosts; i++)); do
  joins=(--address=10.87.0.1:6379)
  ((i == 1)) && joins=(--head --port=6379 --include-dashboard=false)
  # a short folder of its own for each: Ray's sockets lie in it, and their paths may have 107 letters
  # shellcheck disable=SC2016
  ip netns exec "$name-$i" bash -c 'mount -t tmpfs own "$0" && exec "$@"' "$folder/own" \
    ray start --block "${joins[@]}" --node-ip-address="10.87.0.$i" --num-cpus="${SEMIEVOL_CPUS:-2}" \
    --temp-dir="/tmp/$name-$i" "${more[@]}" >"$folder/host-$i.log" 2>&1 </dev/null &
  if ((i == 1)); then
    for ((tries = 0; tries < 240; tries++)); do
      ip netns exec "$name-1" bash -c 'exec 3<>/dev/tcp/10.87.0.1/6379' 2>/dev/null && break
      sleep 0.5
    done
  fi
done
ip netns exec "$name-1" "${PYTHON:-python}" "$here/../nodes.py" 10.87.0.1:6379 "$hosts" 180
echo 10.87.0.1:6379 | tee "$folder/address"
