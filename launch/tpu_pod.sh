#!/usr/bin/env bash
# One command on every worker of a Cloud TPU slice: create, install, run, resume, delete.
set -euo pipefail

usage() {
  cat <<'TEXT'
launch/tpu_pod.sh [--dry-run] --name=NAME --zone=ZONE --type=TYPE --bucket=BUCKET -- FLAGS

  --name=NAME      of the queued resource and of the slice
  --zone=ZONE      such as us-west4-a
  --type=TYPE      accelerator type, such as v5litepod-16, v5p-512 or v6e-16
  --bucket=BUCKET  Cloud Storage bucket that every worker mounts; the run lives in BUCKET/NAME
  --runtime=IMAGE  software version; the default follows the type
  --spot           cheap and preemptible: the slice is made again and the run continues
  --keep           do not delete the slice at the end
  --dry-run        print every command and do nothing
  FLAGS            of python -m gptjax.main, such as --config=experiments/gpt3_175b.py
TEXT
}

dry=false spot=false keep=false name='' zone='' type='' bucket='' runtime=''
while (($#)); do
  case $1 in
    --name=*) name=${1#*=} ;;
    --zone=*) zone=${1#*=} ;;
    --type=*) type=${1#*=} ;;
    --bucket=*) bucket=${1#*=} ;;
    --runtime=*) runtime=${1#*=} ;;
    --spot) spot=true ;;
    --keep) keep=true ;;
    --dry-run) dry=true ;;
    --help | -h) usage; exit 0 ;;
    --) shift; break ;;
    *) echo "tpu_pod.sh: $1 is not an option; see --help" >&2; exit 2 ;;
  esac
  shift
done
for option in name zone type bucket; do
  if [[ -z ${!option} ]]; then
    echo "tpu_pod.sh: --$option is missing; see --help" >&2
    exit 2
  fi
done
if (($# == 0)); then
  echo "tpu_pod.sh: no flags for gptjax after --; give at least --config=FILE" >&2
  exit 2
fi
if [[ -z $runtime ]]; then
  case $type in
    v5litepod-*) runtime=v2-alpha-tpuv5-lite ;;
    v5p-*) runtime=v2-alpha-tpuv5 ;;
    v6e-*) runtime=v2-alpha-tpuv6e ;;
    *) runtime=tpu-ubuntu2204-base ;;
  esac
fi
repository=$(cd "$(dirname "$0")/.." && pwd)

run() {
  printf '+'
  printf ' %q' "$@"
  printf '\n'
  if ! $dry; then "$@"; fi
}

state() {
  gcloud compute tpus queued-resources describe "$name" --zone="$zone" \
    --format='value(state.state)' 2>/dev/null || echo ABSENT
}

create() {
  local options=(--node-id="$name" --zone="$zone" --accelerator-type="$type"
    --runtime-version="$runtime")
  if $spot; then options+=(--spot); fi
  run gcloud compute tpus queued-resources create "$name" "${options[@]}"
  if $dry; then return; fi
  until [[ $(state) == ACTIVE ]]; do
    case $(state) in
      FAILED | SUSPENDED | ABSENT) echo "tpu_pod.sh: no slice ($(state))" >&2; return 1 ;;
    esac
    echo "waiting for $name: $(state)"
    sleep "${GPTJAX_POLL_SECONDS:-30}"
  done
}

delete() {
  run gcloud compute tpus queued-resources delete "$name" --zone="$zone" --force --quiet
}

on_all_workers() {
  run gcloud compute tpus tpu-vm ssh "$name" --zone="$zone" --worker=all --command="$1"
}

install_there() {
  run tar -czf "/tmp/$name.tar.gz" -C "$repository" --exclude=.git --exclude=runs .
  run gcloud compute tpus tpu-vm scp "/tmp/$name.tar.gz" "$name:gptjax.tar.gz" --zone="$zone" \
    --worker=all
  on_all_workers "mkdir -p gptjax bucket && tar -xzf gptjax.tar.gz -C gptjax && cd gptjax \
&& python3 -m venv .venv && .venv/bin/pip install --quiet -e '.[tpu]' \
&& (mountpoint -q ~/bucket || gcsfuse --implicit-dirs $bucket ~/bucket)"
}

# 75: the state is saved, the same command continues.
train() {
  local flags
  printf -v flags ' %q' "$@"
  on_all_workers "cd gptjax && while true; do .venv/bin/python -m gptjax.main$flags \
--config.distributed=true --workdir=\$HOME/bucket/$name; s=\$?; [ \$s -eq 75 ] || exit \$s; done"
}

while true; do
  create
  install_there
  status=0
  train "$@" || status=$?
  if $dry || ((status == 0)) || [[ $(state) == ACTIVE ]]; then break; fi
  echo "the slice was taken ($(state)); making it again, the run continues from its checkpoint"
  delete
done
if ! $keep; then delete; fi
exit "$status"
