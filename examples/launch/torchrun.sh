#!/usr/bin/env bash
# Trains on several machines, by torchrun: run it on each of them, the first with NODE_RANK=0.
#
#     NODES=2 NODE_RANK=0 MASTER_ADDR=10.0.0.1 GPUS=8 examples/launch/torchrun.sh pretrain \
#         --preset bili_500k-bert --data_dir /shared/NineRec --output_dir /shared/outputs/model
#
# The data, the cache of Hugging Face (HF_HOME) and the outputs lie in a folder that all machines see. Without variables
# it trains on this machine's one GPU. On CPUs, GPUS is the number of processes, and --use_cpu true is given beside.
set -euo pipefail
command=${1:?the command: pretrain or finetune}
shift
exec torchrun \
    --nnodes "${NODES:-1}" \
    --node-rank "${NODE_RANK:-0}" \
    --nproc-per-node "${GPUS:-1}" \
    --master-addr "${MASTER_ADDR:-127.0.0.1}" \
    --master-port "${MASTER_PORT:-29500}" \
    -m "modeling_transrec.cli.$command" "$@"
