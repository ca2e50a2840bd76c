"""Schemathesis against a running blazr, whose address is in SERVER_URL: all its checks, with what /openapi.json says, or
the file or address that is given instead."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import schemathesis

URL = os.environ["SERVER_URL"]
CASES = 2000
CASES_PER_OPERATION = 220
TIMEOUT_SECONDS = 60
LONGEST = 8
MOST_ANSWERS = 2


@schemathesis.hook
def before_call(context: schemathesis.HookContext, case: schemathesis.Case, **arguments: object) -> None:
    """Valid requests for much text become valid requests for less, so that the cases take minutes and not hours."""
    if case.meta.generation.mode.is_positive and case.path.endswith("completions"):
        limits = {key: LONGEST for key in ["max_completion_tokens", "max_tokens"] if is_above(case.body.get(key), LONGEST)}
        if is_above(case.body.get("n"), MOST_ANSWERS):
            limits["n"] = MOST_ANSWERS
        if not any(case.body.get(key) is not None for key in ["max_completion_tokens", "max_tokens"]):
            limits["max_tokens"] = LONGEST
        case.body.update(limits)


def is_above(value: object, most: int) -> bool:
    return isinstance(value, int | float) and value > most


def run(location: str, report: Path) -> int:
    """Schemathesis reads its hooks from this very file, and writes beside the report."""
    program = Path(sys.executable).with_name("st")
    flags = ["--url", URL, "--checks", "all", "--phases", "examples,coverage,fuzzing,stateful"]
    flags += ["--max-examples", str(CASES_PER_OPERATION), "--seed", "1"]
    flags += ["--request-timeout", str(TIMEOUT_SECONDS), "--max-response-time", str(TIMEOUT_SECONDS)]
    flags += ["--generation-database", "none", "--output-sanitize", "false", "--continue-on-failure", "--no-color"]
    flags += ["--report", "json", "--report-json-path", str(report)]
    hooks = {**os.environ, "SCHEMATHESIS_HOOKS": __file__}
    return subprocess.run([program, "run", location, *flags], env=hooks, cwd=report.parent).returncode


def main() -> None:
    location = sys.argv[1] if len(sys.argv) > 1 else f"{URL}/openapi.json"
    with tempfile.TemporaryDirectory() as place:
        report = Path(place, "report.json")
        code = run(location, report)
        said = json.loads(report.read_text())
    operations, cases, dangling = said["operations"], said["test_cases"], said["warnings"]["unresolvable_reference"]
    if code or operations["tested"] < operations["total"] or cases["errored"] or dangling:
        raise SystemExit(f"schemathesis ended with {code}: {operations}, {cases}, unresolvable: {dangling}")
    if cases["generated"] < CASES:
        raise SystemExit(f"{cases['generated']} cases are fewer than {CASES}")
    print(f"{cases['generated']} cases, {operations['tested']} operations ... ok\n1 passed, 0 failed")


if __name__ == "__main__":
    main()
