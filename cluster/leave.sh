#!/usr/bin/env bash
# What a node does before it goes away (preStop of a pod, a spot notice): nothing new comes to it, engines store
# what they have in hand, then Ray leaves. The engines take at most 25 s, and the whole of it at most 45 s.
#   leave.sh [SECONDS]   how long engines may take (default 27)
set -uo pipefail
seconds=${1:-27}
proc=${PROC:-/proc} # another folder in tests

engines() { # ids of the processes in which engines run, by the titles that Ray gives them
  local folder title
  for folder in "$proc"/[0-9]*; do
    title=$(tr '\0' ' ' 2>/dev/null <"$folder/cmdline") || continue
    [[ $title == ray::*EngineWorker* ]] && echo "${folder##*/}"
  done
}

timeout 5 ray drain-node --reason DRAIN_NODE_REASON_PREEMPTION --reason-message "this node goes away" \
  --deadline-remaining-seconds "$seconds" || echo "leave: the node could not be drained; engines are told all the same" >&2
for id in $(engines); do
  kill -TERM "$id" 2>/dev/null
done
end=$((SECONDS + seconds))
while [[ -n $(engines) ]] && ((SECONDS < end)); do
  sleep 0.2
done
timeout 10 ray stop --grace-period 5 || true
