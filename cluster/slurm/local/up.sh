#!/usr/bin/env bash
# A Slurm of two nodes on this machine, for tries: local/up.sh FOLDER [FIRST_PORT]
# Needs slurmctld, slurmd, munged and the Slurm commands (Debian: slurmctld slurmd slurm-client munge), and root or a
# user of your own. All it writes lies in FOLDER; `export SLURM_CONF=FOLDER/slurm.conf` and sbatch works.
# `local/down.sh FOLDER` ends what this started, by the process ids in FOLDER.
set -euo pipefail
folder=$(realpath -m "${1:?usage: up.sh FOLDER [FIRST_PORT]}")
port=${2:-16817}
cpus=${SLURM_LOCAL_CPUS:-2}
mkdir -p "$folder"/{state,n1,n2,munge}
chmod 755 "$folder" "$folder/munge"

head -c 1024 /dev/urandom >"$folder/munge.key"
chmod 400 "$folder/munge.key"
munged --force --key-file="$folder/munge.key" --socket="$folder/munge/socket" --pid-file="$folder/munge/pid" \
  --log-file="$folder/munge/log" --seed-file="$folder/munge/seed"

cat >"$folder/slurm.conf" <<END
ClusterName=local
SlurmctldHost=localhost
SlurmctldPort=$port
SlurmUser=$(id -un)
SlurmdUser=$(id -un)
AuthType=auth/munge
AuthInfo=socket=$folder/munge/socket
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
ReturnToService=2
KillWait=10
StateSaveLocation=$folder/state
SlurmctldPidFile=$folder/slurmctld.pid
SlurmctldLogFile=$folder/slurmctld.log
SlurmdSpoolDir=$folder/%n
SlurmdPidFile=$folder/%n.pid
SlurmdLogFile=$folder/%n.log
NodeName=n1 NodeHostname=localhost NodeAddr=127.0.0.1 Port=$((port + 1)) CPUs=$cpus
NodeName=n2 NodeHostname=localhost NodeAddr=127.0.0.1 Port=$((port + 2)) CPUs=$cpus
PartitionName=all Nodes=n1,n2 Default=YES MaxTime=INFINITE State=UP OverSubscribe=NO
END

export SLURM_CONF=$folder/slurm.conf
slurmctld -f "$SLURM_CONF"
slurmd -N n1 -f "$SLURM_CONF"
slurmd -N n2 -f "$SLURM_CONF"
for ((second = 0; second < 60; second++)); do
  [[ $(sinfo --noheader --format=%D --states=idle 2>/dev/null | tr -d ' ') == 2 ]] && exit 0
  sleep 1
done
echo "up: the two nodes did not become idle; see the logs in $folder" >&2
exit 1
