#!/usr/bin/env bash
# The main job from end to end, command by command: text → tokens → a trained RWKV-4 → text.
# Called by `make demo`, which says where the programs (BIN) and the results (DEMO) are.
set -euo pipefail
BIN=${BIN:-.venv/bin}
DEMO=${DEMO:-runs/demo}
PATH="$BIN:$PATH"

say() { printf '\n\033[1m%s\033[0m\n' "$*"; }
run() { printf '\033[2m$ receptance %s\033[0m\n' "$*"; receptance "$@"; }

# The text is what every machine with Python has: the sources of its standard library.
library=$(python -c 'import sysconfig; print(sysconfig.get_path("stdlib"))')
rm -rf "$DEMO"

say "1. Python's standard library becomes tokens; a byte-pair vocabulary is learnt from it"
run prepare "$library" --include '*.py' --exclude 'site-packages/*' --exclude 'test/*' --exclude '*/test*/*' \
  --exclude 'lib2to3/*' --exclude 'idlelib/*' --exclude 'encodings/*' --exclude 'pydoc_data/*' \
  --errors skip --tokenizer bpe:2048 --output "$DEMO/data"

say "2. A small RWKV-4 learns them, in parallel over the whole text"
run train recipes/demo.toml "--data.folder=$DEMO/data" "--run.folder=$DEMO/run"

say "3. The same model writes on, token by token, as an RNN with a state of constant size"
run generate "$DEMO/run" --prompt $'class Stack:\n    """' --max-tokens 160 --temperature 0.8 --top-p 0.9 --seed 4

say "4. In parallel and token by token, the model gives the same numbers (its weights in float32)"
run verify "$DEMO/run" --dtype float32

say "The run folder: $DEMO/run (config.toml, metrics.jsonl, loss.png, model.safetensors)"
