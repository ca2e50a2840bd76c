"""Schemathesis against a running blazr, whose address is in BLAZR_URL: all its checks, with what /openapi.json says, or
the file or address that is given instead."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import schemathesis

URL = os.environ["BLAZR_URL"]
CASES = 2000
CASES_PER_OPERATION = 400
TIMEOUT_SECONDS = 60
LONGEST_ANSWER = 16
MOST_ANSWERS = 2
ANSWERS_ALLOWED = range(1, 17)


@schemathesis.hook
def before_call(context: schemathesis.HookContext, case: schemathesis.Case, **arguments: object) -> None:
    """Valid requests for much text become valid requests for less, so that the cases take minutes and not hours."""
    if not isinstance(case.body, dict):
        return
    for key in ["max_tokens", "max_completion_tokens"]:
        if type(case.body.get(key)) is int and case.body[key] > LONGEST_ANSWER:
            case.body[key] = LONGEST_ANSWER
    if case.body.get("n") in ANSWERS_ALLOWED and case.body["n"] > MOST_ANSWERS:
        case.body["n"] = MOST_ANSWERS


def run(location: str, report: Path) -> int:
    """Schemathesis reads its hooks from this very file, and writes beside the report."""
    program = Path(sys.executable).with_name("st")
    flags = ["--url", URL, "--checks", "all", "--phases", "examples,coverage,fuzzing,stateful"]
    flags += ["--max-examples", str(CASES_PER_OPERATION), "--request-timeout", str(TIMEOUT_SECONDS), "--seed", "1"]
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
    operations, cases = said["operations"], said["test_cases"]
    if code or operations["tested"] < operations["total"] or cases["errored"]:
        raise SystemExit(f"schemathesis ended with {code}: {operations}, {cases}")
    if cases["generated"] < CASES:
        raise SystemExit(f"{cases['generated']} cases are fewer than {CASES}")
    print(f"{cases['generated']} cases, {operations['tested']} operations ... ok\n1 passed, 0 failed")


if __name__ == "__main__":
    main()
