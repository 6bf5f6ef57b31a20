#!/usr/bin/env bash
# End the hosts that up.sh made: what runs in their namespaces, and nothing else. local/down.sh FOLDER
set -uo pipefail
folder=${1:?usage: down.sh FOLDER}
name=$(cat "$folder/name") || exit 1
for signal in TERM KILL; do
  for space in $(ip netns list | cut -d ' ' -f 1 | grep "^$name-"); do
    for id in $(ip netns pids "$space"); do
      kill -"$signal" "$id" 2>/dev/null
    done
  done
  [[ $signal == TERM ]] && sleep 2
done
for space in $(ip netns list | cut -d ' ' -f 1 | grep "^$name-"); do
  ip netns delete "$space"
  [[ $space != *-switch ]] && rm -rf "/tmp/${space:?}"
done
exit 0
