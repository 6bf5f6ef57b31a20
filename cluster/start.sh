#!/usr/bin/env bash
# What every launcher here starts on the head of a Ray cluster: look whether the cluster is fit, then do the run.
#   start.sh CONFIG RUN [ADDRESS] [more arguments of `semievol run`]
# RUN is a folder that all nodes share, or s3://bucket/runs/name. ADDRESS: `auto`, or HOST:PORT.
# Ends with the exit code of `semievol run`: 0 done, 1 stopped, 2 something you wrote has to change, 130 interrupted.
# The same line again goes on with what is missing.
set -euo pipefail
config=${1:?usage: start.sh CONFIG RUN [ADDRESS] [more arguments]}
run=${2:?usage: start.sh CONFIG RUN [ADDRESS] [more arguments]}
address=${3:-auto}
if [[ $run == *://* ]]; then
  storage=${run%/*}
else
  storage=$(dirname "$run")
  mkdir -p "$storage" # where only this node sees it, the doctor says so
fi
overrides=() # of the run's arguments: the doctor looks at what will run
for ((i = 4; i <= $#; i++)); do
  if [[ ${!i} == -o ]]; then
    i=$((i + 1))
    overrides+=(-o "${@:i:1}")
  elif [[ ${!i} == -o* ]]; then
    overrides+=("${!i}")
  fi
done
semievol doctor --address "$address" --storage "$storage" --config "$config" "${overrides[@]}"
exec semievol run "$config" --address "$address" --run "$run" "${@:4}"
