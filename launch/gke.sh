#!/usr/bin/env bash
# One command on every host of a TPU slice on GKE, as a JobSet: apply, stream logs, delete.
set -euo pipefail

usage() {
  cat <<'TEXT'
launch/gke.sh [--dry-run] --name=NAME --image=IMAGE --accelerator=KIND --topology=4x4 --bucket=BUCKET
              [--chips=4] [--restarts=10] [--account=default] [--keep] -- FLAGS

  --image=IMAGE       container with gptjax[tpu] installed and the experiments in its folder
  --accelerator=KIND  such as tpu-v5-lite-podslice, tpu-v5p-slice or tpu-v6e-slice
  --topology=AxB      of the slice
  --chips=N           on one host
  --bucket=BUCKET     mounted at /runs; the run lives in /runs/NAME
  --restarts=N        times that Kubernetes starts the run again; it continues where it was
  --keep              leave the JobSet when it has ended
  --dry-run           print the JobSet and the commands and do nothing
  FLAGS               of python -m gptjax.main
TEXT
}

dry=false keep=false name='' image='' accelerator='' topology='' bucket=''
chips=4 restarts=10 account=default
while (($#)); do
  case $1 in
    --name=*) name=${1#*=} ;;
    --image=*) image=${1#*=} ;;
    --accelerator=*) accelerator=${1#*=} ;;
    --topology=*) topology=${1#*=} ;;
    --bucket=*) bucket=${1#*=} ;;
    --chips=*) chips=${1#*=} ;;
    --restarts=*) restarts=${1#*=} ;;
    --account=*) account=${1#*=} ;;
    --keep) keep=true ;;
    --dry-run) dry=true ;;
    --help | -h) usage; exit 0 ;;
    --) shift; break ;;
    *) echo "gke.sh: $1 is not an option; see --help" >&2; exit 2 ;;
  esac
  shift
done
for option in name image accelerator topology bucket; do
  if [[ -z ${!option} ]]; then
    echo "gke.sh: --$option is missing; see --help" >&2
    exit 2
  fi
done
if (($# == 0)); then
  echo "gke.sh: no flags for gptjax after --; give at least --config=FILE" >&2
  exit 2
fi
devices=$((${topology//x/*}))
if ((devices % chips)); then
  echo "gke.sh: --topology=$topology has $devices chips, no multiple of --chips=$chips" >&2
  exit 2
fi

arguments=''
for flag in "$@" --config.distributed=true "--workdir=/runs/$name"; do
  flag=${flag//\\/\\\\}
  arguments+="${arguments:+, }\"${flag//\"/\\\"}\""
done
manifest=$(<"$(dirname "$0")/gke_jobset.yaml")
fill() { manifest=${manifest//"@$1@"/"$2"}; }
fill NAME "$name"
fill IMAGE "$image"
fill ACCELERATOR "$accelerator"
fill TOPOLOGY "$topology"
fill BUCKET "$bucket"
fill CHIPS "$chips"
fill HOSTS "$((devices / chips))"
fill RESTARTS "$restarts"
fill ACCOUNT "$account"
fill ARGUMENTS "[$arguments]"

run() {
  printf '+'
  printf ' %q' "$@"
  printf '\n'
  if ! $dry; then "$@"; fi
}

if $dry; then printf '%s\n' "$manifest"; fi
echo "+ kubectl apply -f - <the JobSet"
if ! $dry; then kubectl apply -f - <<<"$manifest"; fi
pods="jobset.sigs.k8s.io/jobset-name=$name"
run kubectl wait --for=condition=Ready pod -l "$pods" --timeout=3600s
run kubectl logs -f --prefix --max-log-requests=256 -l "$pods"
status=0
run kubectl wait --for=condition=Completed "jobset/$name" --timeout=604800s || status=$?
if ! $keep; then run kubectl delete jobset "$name"; fi
exit "$status"
