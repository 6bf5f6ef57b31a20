#!/usr/bin/env bash
# What a node does before it goes away (preStop of a pod, a spot notice): nothing new comes to it, engines store
# what they have in hand, Ray Serve's replicas answer what they were asked, then Ray leaves. The whole of it takes at
# most 45 s.
#   leave.sh [SECONDS]   how long engines and replicas may take (default 27)
set -uo pipefail
seconds=${1:-27}
proc=${PROC:-/proc} # another folder in tests

titled() { # PATTERN: ids of processes, by the titles that Ray gives them
  local folder title
  for folder in "$proc"/[0-9]*; do
    title=$(tr '\0' ' ' 2>/dev/null <"$folder/cmdline") || continue
    # shellcheck disable=SC2053
    [[ $title == $1 ]] && echo "${folder##*/}"
  done
}
engines() { titled 'ray::*EngineWorker*'; }
replicas() { titled 'ray::ServeReplica*'; } # Serve's controller ends them, as it finds the node draining

timeout 5 ray drain-node --reason DRAIN_NODE_REASON_PREEMPTION --reason-message "this node goes away" \
  --deadline-remaining-seconds "$seconds" || echo "leave: the node could not be drained; engines are told all the same" >&2
for id in $(engines); do
  kill -TERM "$id" 2>/dev/null
done
end=$((SECONDS + seconds))
while [[ -n $(engines)$(replicas) ]] && ((SECONDS < end)); do
  sleep 0.2
done
timeout 10 ray stop --grace-period 5 || true
