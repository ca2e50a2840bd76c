#!/usr/bin/env bash
# Writes what is in the binary as a CycloneDX 1.5 bill of materials, the same for the same commit:
# `bash docker/sbom.sh blazr.cdx.json`, `bash docker/sbom.sh blazr-cuda.cdx.json --features cuda`.
# It takes `cargo install --locked cargo-cyclonedx@0.5.9`, and checks its result where Python has the validator
# (`pip install 'cyclonedx-python-lib[json-validation]'`).
set -euo pipefail
out=$(realpath "$1")
shift
cd "$(dirname "$0")/.."
SOURCE_DATE_EPOCH=$(git log -1 --format=%ct)
export SOURCE_DATE_EPOCH

name=sbom-$$
trap 'rm -f "$name.json"' EXIT
cargo cyclonedx --quiet --format json --spec-version 1.5 --target x86_64-unknown-linux-gnu \
  --override-filename "$name" "$@"
# Where the sources lay is of no interest.
sed "s|path+file://$PWD|path+file:///blazr|g" "$name.json" > "$out"

python3 - "$out" << 'PYTHON'
import json
import sys
from pathlib import Path

text = Path(sys.argv[1]).read_text()
try:
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator
except ImportError:
    result = "not validated: there is no cyclonedx-python-lib"
else:
    error = JsonStrictValidator(SchemaVersion.V1_5).validate_str(text)
    if error:
        sys.exit(f"{sys.argv[1]}: not CycloneDX 1.5: {error}")
    result = "valid CycloneDX 1.5"
print(f"{sys.argv[1]}: {len(json.loads(text)['components'])} components, {result}")
PYTHON
