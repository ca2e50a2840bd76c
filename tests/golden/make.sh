#!/bin/sh
# Makes every folder of this directory anew: each preset of the reference in each storage type, f32 under plain names,
# bf16 under names with the `model.` prefix, f16 without config.json where the tensors tell everything.
# Needs Python 3 with NumPy.
set -eu
cd "$(dirname "$0")"
for preset in mamba2 mamba2-groups mla gqa mha gqa-moe hybrid; do
  make="python3 ../reference/hybrid_reference.py --preset $preset --lengths 5,70,140 --new 16"
  case $preset in mamba2 | mla | hybrid) no_config=--no-config ;; *) no_config= ;; esac
  $make --dtype f32 --seed 2 "$preset-f32"
  $make --dtype bf16 --seed 3 --prefix model. "$preset-bf16"
  $make --dtype f16 --seed 4 $no_config "$preset-f16"
done
