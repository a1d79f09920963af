#!/usr/bin/env bash
# A real SLURM of two nodes on the loopback address of one Debian machine, for tests/launch/test_slurm.py.
#   tests/launch/slurm_cluster.sh install        Debian's packages (root)
#   tests/launch/slurm_cluster.sh start FOLDER   prints nothing; FOLDER/slurm.conf is the SLURM_CONF
#   tests/launch/slurm_cluster.sh stop FOLDER
set -euo pipefail

ports=(17000 17001 17002)
hosts='127.0.0.1 n1 n2  # slurm_cluster.sh'

configure() {
  cat >"$1/slurm.conf" <<CONF
ClusterName=gptjax
SlurmctldHost=$(hostname -s)(127.0.0.1)
SlurmctldPort=${ports[0]}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
StateSaveLocation=$1/state
SlurmdSpoolDir=$1/spool.%n
SlurmctldPidFile=$1/slurmctld.pid
SlurmdPidFile=$1/slurmd.%n.pid
SlurmctldLogFile=$1/slurmctld.log
SlurmdLogFile=$1/slurmd.%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
MpiDefault=none
ReturnToService=2
NodeName=n1 NodeHostname=$(hostname -s) NodeAddr=127.0.0.1 Port=${ports[1]} CPUs=1
NodeName=n2 NodeHostname=$(hostname -s) NodeAddr=127.0.0.1 Port=${ports[2]} CPUs=1
PartitionName=all Nodes=n1,n2 Default=YES MaxTime=INFINITE State=UP
CONF
}

start() {
  mkdir -p "$1/state" "$1/spool.n1" "$1/spool.n2" /run/munge
  chown munge: /run/munge
  configure "$1"
  if ! munge </dev/null 2>/dev/null | unmunge >/dev/null 2>&1; then
    runuser -u munge -- munged
  fi
  if ! getent hosts n2 >/dev/null; then echo "$hosts" >>/etc/hosts; fi
  export SLURM_CONF=$1/slurm.conf
  slurmctld
  slurmd -N n1
  slurmd -N n2
  for _ in {1..60}; do
    if [[ $(sinfo --noheader --responding --states=idle --format=%D 2>/dev/null) == 2 ]]; then
      return
    fi
    sleep 0.5
  done
  echo "slurm_cluster.sh: the nodes do not answer; see the logs in $1" >&2
  exit 1
}

stop() {
  for name in slurmd.n1 slurmd.n2 slurmctld; do
    if [[ -s $1/$name.pid ]]; then kill "$(<"$1/$name.pid")" || true; fi
  done
  printf '%s\n' "$(grep -vxF "$hosts" /etc/hosts)" >/etc/hosts
}

case ${1:-} in
  install) DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends slurm-wlm munge ;;
  start | stop) "$1" "$(realpath "${2:?a folder}")" ;;
  *)
    echo "slurm_cluster.sh: install, start FOLDER or stop FOLDER" >&2
    exit 2
    ;;
esac
