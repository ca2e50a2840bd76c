#!/usr/bin/env bash
# Runs the official clients against a built blazr: `bash tests/acceptance/run.sh target/debug/blazr`.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
blazr=$(realpath "$1")
place=$here/../../target/acceptance
[ -x "$place/bin/python" ] || python3 -m venv "$place"
"$place/bin/pip" install --quiet --disable-pip-version-check -r "$here/requirements.txt"
cp "$here/package.json" "$here/node_sdk.mjs" "$place/"
(cd "$place" && npm install --silent --no-audit --no-fund)
"$place/bin/python" "$here/server.py" "$blazr" "$place/bin/python" "$here/python_sdk.py"
"$place/bin/python" "$here/server.py" "$blazr" node "$place/node_sdk.mjs"
"$place/bin/python" "$here/server.py" "$blazr" "$place/bin/python" "$here/scraped.py"
