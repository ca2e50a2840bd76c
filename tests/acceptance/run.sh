#!/usr/bin/env bash
# Runs the official clients, and tools that build on them, against a built blazr:
# `bash tests/acceptance/run.sh target/debug/blazr`.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
blazr=$(realpath "$1")
place=$here/../../target/acceptance

# A virtual environment with what the file of requirements names.
environment() {
  [ -x "$1/bin/python" ] || python3 -m venv "$1"
  "$1/bin/pip" install --quiet --disable-pip-version-check -r "$2"
}

run() {
  echo "== ${*: -1}"
  "$place/bin/python" "$here/server.py" "$blazr" "$@"
}

environment "$place" "$here/requirements.txt"
environment "$place/litellm" "$here/requirements-litellm.txt"
cp "$here/package.json" "$here/node_sdk.mjs" "$place/"
(cd "$place" && npm install --silent --no-audit --no-fund)
run node "$place/node_sdk.mjs"
run "$place/litellm/bin/python" "$here/litellm_client.py"
for client in python_sdk langchain_client lm_eval_harness scraped schema; do
  run "$place/bin/python" "$here/$client.py"
done
echo "== hub_cache.py"
"$place/bin/python" "$here/hub_cache.py" "$blazr"
