#!/usr/bin/env bash
# Cut one host off the switch, or put it back: local/cut.sh FOLDER HOST [up]
set -euo pipefail
folder=${1:?usage: cut.sh FOLDER HOST [up]} host=${2:?}
ip -n "$(cat "$folder/name")-switch" link set "port$host" "${3:-down}"
