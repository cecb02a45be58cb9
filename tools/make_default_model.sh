#!/usr/bin/env bash
# Makes the model that ships with the package: DeepLabV3+ with a MobileNetV2, from random weights,
# on CamVid's training split; a CPU is enough. First at half resolution, where a step costs less,
# then at full, then with stronger changes of colour and weights for rare classes. The test split is
# read once, at the end. The weights in the package left the third stage by SIGTERM after 1445 steps.
# Usage: tools/make_default_model.sh CAMVID_DIR [OUT_DIR]. Run again after an interruption, it
# continues.
set -euo pipefail
cd "$(dirname "$0")/.."
data=$(realpath "$1")
out=$(realpath -m "${2:-camvid-model}")

common=(--model deeplabv3plus --encoder mobilenet_v2 --batch-size 8 --resume --bf16
  --model-option decoder_aspp_dropout=0.1 --model-option 'decoder_atrous_rates=[3,6,9]')
mild=(--color 1.3 --ema 0.995)
strong=(--color 1.7 --class-weights sqrt-frequency --working-size 480 --crop 272 352
  --scale-range 0.6 1.6)

fastseg train "$data" --out "$out/half" "${common[@]}" "${mild[@]}" --working-size 240 \
  --crop 176 240 --scale-range 0.75 2.0 --iterations 1400 --lr 0.002 --warmup 200 \
  --validate-every 350

fastseg train "$data" --out "$out/full" "${common[@]}" "${mild[@]}" \
  --init "$out/half/last.pt" --working-size 480 --crop 272 352 --scale-range 0.6 1.4 \
  --iterations 1600 --lr 0.0015 --warmup 50 --validate-every 200

fastseg train "$data" --out "$out/strong" "${common[@]}" "${strong[@]}" \
  --init "$out/full/last.pt" --iterations 2800 --lr 0.002 --warmup 100 --ema 0.998 \
  --validate-every 700

fastseg train "$data" --out "$out/end" "${common[@]}" "${strong[@]}" \
  --init "$out/strong/last.pt" --iterations 800 --lr 0.0012 --warmup 20 --ema 0.995 \
  --validate-every 400 --seed 5

python - "$out/end/best.pt" fastseg/models/default <<'PYTHON'
import sys
from pathlib import Path

from fastseg.engine.architectures import load_model

load_model(Path(sys.argv[1])).half().save_pretrained(sys.argv[2])
PYTHON
fastseg eval "$data" --split test --out "$out/test"
