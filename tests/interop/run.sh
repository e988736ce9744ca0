#!/usr/bin/env bash
# Takes checkpoints and adapters through transformers, peft and bitsandbytes and back; see README.md beside this.
set -euo pipefail
cd "$(dirname "$0")/../.."
python=${PYTHON:-python3}
"$python" -c 'import torch, transformers, peft, bitsandbytes, compressed_tensors' || {
  echo "interop: $python lacks torch, transformers, peft, bitsandbytes or compressed-tensors; tests/interop/README.md says how to install them" >&2
  exit 2
}
cargo build --release --example quantize --example logits --example train_qwen3_lora \
  --example evaluate_multiple_choice --example merge_lora --example export_gguf
exec "$python" -B tests/interop/interop.py "${CARGO_TARGET_DIR:-target}/release/examples"
