#!/usr/bin/env bash
# A command on one of the hosts that up.sh made: local/on.sh FOLDER HOST COMMAND...
set -euo pipefail
folder=${1:?usage: on.sh FOLDER HOST COMMAND...} host=${2:?}
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH # as the cluster has it
RAY_AUTH_TOKEN_PATH=$(realpath "$folder")/token
unset RAY_AUTH_TOKEN
exec ip netns exec "$(cat "$folder/name")-$host" "${@:3}"
