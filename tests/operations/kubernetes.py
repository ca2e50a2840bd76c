"""Holds docker/kubernetes against the schemas of Kubernetes, and against what no schema knows: its parts fit together,
a blazr that is started with the environment of the pods answers their probes, Prometheus reads the pods under the job
that its rules ask for, and the autoscaler's metric is one that blazr has. Needs kubernetes-validate and promtool.

`python3 tests/operations/kubernetes.py target/release/blazr`
"""

import json
import os
import re
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import yaml
from kubernetes_validate import ValidationError, validate
from kubernetes_validate.utils import all_versions

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests/load"))

from harness import Address, Report, arguments, ask, get, series, wait_for  # noqa: E402

MANIFESTS = ROOT / "docker/kubernetes"
DOCKERFILE = ROOT / "docker/Dockerfile"
RULES = ROOT / "docker/prometheus/rules.yml"
METRICS_PATH = "/metrics"

# The first one with `sleep` as a hook; all from there on.
FIRST_VERSION = (1, 30)
# src/api/serve.rs, LAST_WORDS
LAST_WORDS_SECONDS = 2
# opentelemetry_sdk, SpanProcessor::shutdown
TRACES_SECONDS = 5
START_SECONDS = 30
HOST = "127.0.0.1"

Manifest = dict
Environment = dict[str, str]


def read(name: str) -> Manifest:
    return yaml.safe_load((MANIFESTS / name).read_text())


@contextmanager
def written(content: object) -> Iterator[str]:
    """The name of a YAML file with that."""
    with tempfile.NamedTemporaryFile("w", prefix="blazr-kubernetes-", suffix=".yml") as file:
        yaml.safe_dump(content, file)
        yield file.name


def promtool(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["promtool", *arguments], capture_output=True, text=True)


class Pod:
    """What the Deployment makes pods of."""

    def __init__(self, deployment: Manifest) -> None:
        template = deployment["spec"]["template"]
        self.labels: dict[str, str] = template["metadata"]["labels"]
        self.spec: Manifest = template["spec"]
        (self.container,) = self.spec["containers"]
        self.ports = {port["name"]: port["containerPort"] for port in self.container["ports"]}
        self.probes = {name: self.container[name]["httpGet"] for name in self.container if name.endswith("Probe")}

    def environment(self) -> Environment:
        return {entry["name"]: entry["value"] for entry in self.container["env"]}

    def mounts(self) -> dict[str, str]:
        return {mount["name"]: mount["mountPath"] for mount in self.container["volumeMounts"]}


# --------------------------------------------------------------------------- what is written


def check_schemas(report: Report, resources: list[str]) -> None:
    versions = [version for version in all_versions() if minor(version) >= FIRST_VERSION]
    for name in resources:
        complaints = {version: complaint for version in versions if (complaint := violation(read(name), version))}
        report.equal(f"{name} against the schemas of {versions[0]} to {versions[-1]}", complaints, {})


def minor(version: str) -> tuple[int, int]:
    major, minor, *_ = version.split(".")
    return int(major), int(minor)


def violation(manifest: Manifest, version: str) -> str | None:
    try:
        validate(manifest, version, strict=True)
    except ValidationError as error:
        return error.message
    return None


def check_kustomization(report: Report, kustomization: Manifest, pod: Pod) -> None:
    others = {"kustomization.yaml", "prometheus-adapter.yaml"}
    manifests = {path.name for path in MANIFESTS.glob("*.yaml")} - others
    report.equal("resources of the kustomization", set(kustomization["resources"]), manifests)
    (image,) = kustomization["images"]
    report.equal("the image that it names", image["name"], pod.container["image"])


def check_references(report: Report, deployment: Manifest, pod: Pod) -> None:
    service, budget = read("service.yaml"), read("poddisruptionbudget.yaml")
    autoscaler = read("horizontalpodautoscaler.yaml")
    selectors = {
        "Deployment": deployment["spec"]["selector"]["matchLabels"],
        "Service": service["spec"]["selector"],
        "PodDisruptionBudget": budget["spec"]["selector"]["matchLabels"],
        "spread": pod.spec["topologySpreadConstraints"][0]["labelSelector"]["matchLabels"],
    }
    for name, labels in selectors.items():
        report.check(f"{name} selects the pods", labels, labels.items() <= pod.labels.items(), pod.labels)
    (port,) = service["spec"]["ports"]
    report.check("the Service's port", port["targetPort"], port["targetPort"] in pod.ports, list(pod.ports))
    target = {key: deployment[key] for key in ("apiVersion", "kind")} | {"name": deployment["metadata"]["name"]}
    report.equal("what the autoscaler scales", autoscaler["spec"]["scaleTargetRef"], target)
    report.check("replicas of the Deployment", deployment["spec"].get("replicas"), "replicas" not in deployment["spec"],
                 "none: the autoscaler says how many")  # fmt: skip
    # Links to services are variables such as BLAZR_PORT.
    report.equal("links to services", pod.spec.get("enableServiceLinks"), False)


def check_end(report: Report, pod: Pod) -> None:
    """SIGKILL comes when all have been served or told that they aren't, and a collector of traces has hung."""
    grace = pod.spec["terminationGracePeriodSeconds"]
    pre_stop = pod.container["lifecycle"]["preStop"]["sleep"]["seconds"]
    drain = float(pod.environment()["BLAZR_DRAIN_TIMEOUT"])
    least = pre_stop + drain + LAST_WORDS_SECONDS + TRACES_SECONDS
    report.check("grace period", f"{grace} s", grace > least, f"more than {least:g} s")


def check_confinement(report: Report, pod: Pod) -> None:
    """The restricted Pod Security Standard, and nothing to write to but the cache of models."""
    user, own = pod.spec["securityContext"], pod.container["securityContext"]
    found = {
        "non-root": user["runAsNonRoot"],
        "seccomp": user["seccompProfile"]["type"],
        "privileges": own["allowPrivilegeEscalation"],
        "capabilities": own["capabilities"],
        "read-only": own["readOnlyRootFilesystem"],
        "service account": pod.spec["automountServiceAccountToken"],
    }
    expected = {"non-root": True, "seccomp": "RuntimeDefault", "privileges": False, "capabilities": {"drop": ["ALL"]},
                "read-only": True, "service account": False}  # fmt: skip
    report.equal("confinement", found, expected)
    (image_user,) = re.findall(r"(?m)^USER (\S+)$", DOCKERFILE.read_text())
    report.equal("the user", f"{user['runAsUser']}:{user['runAsGroup']}", image_user)
    writable = [mount["mountPath"] for mount in pod.container["volumeMounts"] if not mount.get("readOnly")]
    report.equal("what can be written", writable, [pod.environment()["HF_HOME"]])


# --------------------------------------------------------------------------- what blazr makes of it


def check_settings(report: Report, blazr: str, pod: Pod) -> None:
    """Each BLAZR_* is a flag of `blazr serve`, and ports are those that are named."""
    helped = subprocess.run([blazr, "serve", "--help"], capture_output=True, text=True, check=True).stdout
    flags = set(re.findall(r"--[a-z-]+", helped))
    environment = pod.environment()
    unknown = [name for name in environment if name.startswith("BLAZR_") and flag(name) not in flags]
    report.equal("settings that blazr doesn't know", unknown, [])
    metrics_port = environment["BLAZR_METRICS_PORT"]
    report.equal("ports", pod.ports, {"http": int(environment["BLAZR_PORT"]), "metrics": int(metrics_port)})
    keys = Path(environment["BLAZR_API_KEY_FILE"])
    report.equal("where keys are", str(keys.parent), pod.mounts()["keys"])


def flag(variable: str) -> str:
    return variable.replace("BLAZR_", "--", 1).lower().replace("_", "-")


@contextmanager
def started(blazr: str, pod: Pod) -> Iterator[dict[str, Address]]:
    """A blazr with the pod's environment, but for ports that are free here, and keys. Yields its addresses by the names
    of the ports."""
    addresses = {name: (HOST, free_port()) for name in pod.ports}
    with tempfile.NamedTemporaryFile("w", prefix="blazr-keys-") as keys, tempfile.TemporaryFile("w+") as log:
        keys.write("key\n")
        keys.flush()
        own = {"BLAZR_PORT": str(addresses["http"][1]), "BLAZR_METRICS_PORT": str(addresses["metrics"][1]),
               "BLAZR_API_KEY_FILE": keys.name}  # fmt: skip
        command, environment = [blazr, *pod.container["args"]], os.environ | pod.environment() | own
        process = subprocess.Popen(command, env=environment, stderr=log)
        try:
            wait_for("blazr answers, or ends", lambda: process.poll() is not None or is_there(addresses), START_SECONDS)
            log.seek(0)
            assert process.poll() is None, log.read()
            yield addresses
        finally:
            process.kill()
            process.wait()


def free_port() -> int:
    with socket.create_server((HOST, 0)) as listener:
        return listener.getsockname()[1]


def is_there(addresses: dict[str, Address]) -> bool:
    try:
        return ask(addresses["http"], get("/health")).status == 200
    except OSError:
        return False


def check_running(report: Report, pod: Pod, addresses: dict[str, Address], metric: str) -> None:
    for name, probe in pod.probes.items():
        status = ask(addresses[probe["port"]], get(probe["path"])).status
        report.equal(f"{name} {probe['path']}, without a key", status, 200)
    report.equal("/v1/models without a key", ask(addresses["http"], get("/v1/models")).status, 401)
    exposition = ask(addresses["metrics"], get(METRICS_PATH)).body.decode()
    report.check("the autoscaler's metric is exported", metric, metric in series(exposition), "one that blazr has")


# --------------------------------------------------------------------------- what Prometheus reads


def check_scrape(report: Report, pod: Pod, job: Manifest) -> None:
    """The rules' job has the pods that run, each with one port."""
    name = job["job_name"]
    report.equal("the job that the rules read", set(re.findall(r'job="([^"]*)"', RULES.read_text())), {name})
    report.equal("where it finds pods", job["kubernetes_sd_configs"], [{"role": "pod"}])
    # Debian's promtool can't ask Kubernetes: it is told what Kubernetes would say.
    told = {key: value for key, value in job.items() if key != "kubernetes_sd_configs"}
    other = pod.labels | {"app.kubernetes.io/name": "other"}
    pods = ("runs", "Running", pod.labels), ("is-over", "Failed", pod.labels), ("other", "Running", other)
    told["static_configs"] = [listed(pod, port, *one) for port in pod.ports for one in pods]
    with written({"scrape_configs": [told]}) as config:
        ran = promtool("check", "service-discovery", "--timeout=1s", config, name)
    report.check("the job", "as promtool understands it", ran.returncode == 0, ran.stderr)
    expected = {"__address__": f"{HOST}:{pod.environment()['BLAZR_METRICS_PORT']}", "__metrics_path__": METRICS_PATH,
                "job": name, "namespace": "here", "pod": "runs", "instance": "runs"}  # fmt: skip
    kept = [target["labels"] for target in json.loads(ran.stdout or "[]") if target["labels"]]
    report.equal("what it reads", [{label: labels.get(label) for label in expected} for labels in kept], [expected])


def listed(pod: Pod, port: str, name: str, phase: str, labels: dict[str, str]) -> Manifest:
    """What Kubernetes says of a port."""
    said = {"namespace": "here", "pod_name": name, "pod_phase": phase, "pod_container_port_name": port}
    said |= {"pod_label_" + re.sub(r"\W", "_", label): value for label, value in labels.items()}
    said = {f"__meta_kubernetes_{label}": value for label, value in said.items()}
    return {"targets": [f"{HOST}:{pod.ports[port]}"], "labels": said}


# --------------------------------------------------------------------------- the autoscaler's metric


def check_adapter(report: Report, metric: str, job: str) -> None:
    (rule,) = read("prometheus-adapter.yaml")["rules"]["custom"]
    report.equal("the adapter's metric", rule["name"]["as"], metric)
    start = f'{metric}{{job="{job}",'
    report.check("what it reads", rule["seriesQuery"], rule["seriesQuery"].startswith(start), start)
    query = rule["metricsQuery"]
    for placeholder, value in {"GroupBy": "pod", "Series": metric, "LabelMatchers": 'namespace="here"'}.items():
        query = query.replace(f"<<.{placeholder}>>", value)
    # Two pods here, of which one has a queue that fills and empties and the other is read by somebody else too, and one
    # elsewhere.
    test = {
        "evaluation_interval": "15s",
        "tests": [{
            "interval": "15s",
            "input_series": [
                {"series": f'{metric}{{job="{job}",namespace="here",pod="a"}}', "values": "8x8"},
                {"series": f'{metric}{{job="other",namespace="here",pod="a"}}', "values": "8x8"},
                {"series": f'{metric}{{job="{job}",namespace="here",pod="b"}}', "values": "0 0 0 0 4 0 8 0 8"},
                {"series": f'{metric}{{job="{job}",namespace="there",pod="c"}}', "values": "64x8"},
            ],
            "promql_expr_test": [{
                "expr": query,
                "eval_time": "2m",
                "exp_samples": [{"labels": '{pod="a"}', "value": 8}, {"labels": '{pod="b"}', "value": 4}],
            }],
        }],
    }  # fmt: skip
    with written(test) as file:
        ran = promtool("test", "rules", file)
    report.check(f"{query} for each pod", "as promtool computes it", ran.returncode == 0, ran.stdout + ran.stderr)


def main() -> None:
    options = arguments(__doc__)
    report = Report()
    kustomization, deployment = read("kustomization.yaml"), read("deployment.yaml")
    pod = Pod(deployment)
    (metric,) = read("horizontalpodautoscaler.yaml")["spec"]["metrics"]
    metric = metric["pods"]["metric"]["name"]
    check_schemas(report, kustomization["resources"])
    check_kustomization(report, kustomization, pod)
    check_references(report, deployment, pod)
    check_end(report, pod)
    check_confinement(report, pod)
    (job,) = read("scrape.yml")
    check_scrape(report, pod, job)
    check_adapter(report, metric, job["job_name"])
    check_settings(report, options.blazr, pod)
    with started(options.blazr, pod) as addresses:
        check_running(report, pod, addresses, metric)
    report.end()


if __name__ == "__main__":
    main()
