"""Holds what the dashboard, the rules and the alerts read against what a running blazr exports: every metric, every label
that a query groups by, and every value of one that it names. A metric that was renamed would else leave a panel empty
and an alert silent.

`python3 tests/operations/dashboard.py target/release/blazr`
"""

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests/load"))

from harness import Report, Server, arguments, ask, completion, get  # noqa: E402

DASHBOARD = ROOT / "docker/grafana/dashboards/blazr.json"
RULES = ROOT / "docker/prometheus/rules.yml"

# Prometheus's own.
FROM_PROMETHEUS = {"up", "ALERTS"}
LABELS_FROM_PROMETHEUS = {"instance", "job", "alertname", "alertstate"}
WORDS = {"and", "or", "unless", "offset"}

# Values of labels that come with a fault of blazr.
OF_FAULTS = {"status": {"500"}}

STRING = re.compile(r'"(?:[^"\\]|\\.)*"')
SELECTOR = re.compile(r"([a-zA-Z_:][\w:]*)?\{([^}]*)\}")
MATCHER = re.compile(r'(\w+)\s*(=~|!~|=|!=)\s*"([^"]*)"')
GROUPING = re.compile(r"\b(?:by|without|on|ignoring|group_left|group_right)\s*\(([^)]*)\)")
WINDOW = re.compile(r"\[[^\]]*\]")
NAME = re.compile(r"(?<![\w:.$])[a-zA-Z_:][\w:]*(?!\s*\(|[\w:])")

Series = dict[str, dict[str, set[str]]]


def exported(text: str) -> Series:
    """The values of each label of each metric."""
    found: Series = {}
    for line in text.splitlines():
        if line and not line.startswith("#"):
            name, labels = re.fullmatch(r"([\w:]+)(?:\{(.*)\})? \S+", line).groups()
            values = found.setdefault(name, {})
            for label, value in re.findall(r'(\w+)="([^"]*)"', labels or ""):
                values.setdefault(label, set()).add(value)
    return found


def metrics(expression: str) -> set[str]:
    """The metrics that an expression in PromQL reads."""
    bare = re.sub(r"\{[^}]*\}", "", STRING.sub('""', expression))
    return set(NAME.findall(WINDOW.sub("", GROUPING.sub("", bare)))) - WORDS


def unknown_values(expression: str, known: Series) -> Iterator[str]:
    """The label values that it looks for and that its metric never has."""
    for name, matchers in SELECTOR.findall(expression):
        for label, how, pattern in MATCHER.findall(matchers):
            if label in LABELS_FROM_PROMETHEUS or name not in known:
                continue
            values = known[name].get(label, set()) | OF_FAULTS.get(label, set())
            for wanted in pattern.split("|") if how in ("=~", "!~") else [pattern]:
                if not any(re.fullmatch(wanted, value) for value in values):
                    yield f'{name}{{{label}="{wanted}"}}'


def unknown_groups(expression: str, known: Series) -> Iterator[str]:
    """The labels that it groups by and that none of its metrics has."""
    labels = LABELS_FROM_PROMETHEUS.union(*(known.get(name, {}) for name in metrics(expression)))
    for group in GROUPING.findall(expression):
        yield from set(re.findall(r"\w+", group)) - labels


def panels(dashboard: dict) -> list[dict]:
    return [panel for panel in dashboard["panels"] if panel["type"] != "row"]


def of_dashboard(dashboard: dict) -> Iterator[str]:
    """Its expressions: those of panels, annotations and variables."""
    for panel in panels(dashboard):
        yield from (target["expr"] for target in panel["targets"])
    yield from (annotation["expr"] for annotation in dashboard["annotations"]["list"])
    for variable in dashboard["templating"]["list"]:
        if variable["type"] == "query":
            yield re.fullmatch(r"label_values\((.*), \w+\)", variable["definition"])[1]


def of_rules(text: str) -> tuple[dict[str, str], dict[str, str]]:
    """The expressions of what is recorded and of the alerts, by their names."""
    found: dict[str, dict[str, str]] = {"record": {}, "alert": {}}
    rule = re.compile(r"- (record|alert): (\S+)\n +expr: (?:\|\n((?: {10,}.*\n)+)|(.*)\n)")
    for kind, name, block, line in rule.findall(text):
        found[kind][name] = block or line
    return found["record"], found["alert"]


def check_expressions(report: Report, what: str, expressions: list[str], known: Series) -> None:
    read = set().union(*map(metrics, expressions))
    report.equal(f"{what}: of {len(read)} metrics in {len(expressions)} expressions, not exported",
                 sorted(read - known.keys() - FROM_PROMETHEUS), [])  # fmt: skip
    unknown = {label for expression in expressions
               for find in (unknown_values, unknown_groups) for label in find(expression, known)}  # fmt: skip
    report.equal(f"{what}: labels and values that never come", sorted(unknown), [])


def check_panels(report: Report, dashboard: dict) -> None:
    """What each panel must have."""
    bare = [panel["title"] for panel in panels(dashboard)
            if not panel["description"] or not panel["fieldConfig"]["defaults"]["unit"]]  # fmt: skip
    report.equal("panels without a unit or a description", bare, [])
    deaf = [panel["title"] for panel in panels(dashboard) for target in panel["targets"]
            if 'instance=~"$instance"' not in target["expr"]]  # fmt: skip
    report.equal("panels that show other instances than the chosen ones", deaf, [])


def scrape(blazr: str) -> str:
    """What a blazr says that was asked for something."""
    with Server(blazr) as server:
        for request in completion(prompt="Once", max_tokens=2), get("/metrics"):
            ask(server.address, request)
        return ask(server.address, get("/metrics")).body.decode()


def main() -> None:
    options = arguments(__doc__)
    report = Report()
    known = exported(scrape(options.blazr))
    dashboard = json.loads(DASHBOARD.read_text())
    recorded, alerts = of_rules(RULES.read_text())
    known |= {name: {} for name in recorded}
    report.equal("rules that are read", len(recorded) + len(alerts), RULES.read_text().count(" expr: "))
    check_expressions(report, "the dashboard", list(of_dashboard(dashboard)), known)
    check_expressions(report, "what is recorded", list(recorded.values()), known)
    check_expressions(report, "the alerts", list(alerts.values()), known)
    check_panels(report, dashboard)
    report.end()


if __name__ == "__main__":
    main()
