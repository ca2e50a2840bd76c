#!/usr/bin/env bash
# Checks docker/systemd/blazr.service, and runs it under a systemd of its own:
# `bash tests/operations/systemd.sh target/release/blazr`.
#
# The machine that systemd-nspawn boots is this one with a layer above it, which takes all that is written. Only what is
# needed is started in it, and its network ends in itself.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
# shellcheck source=tests/operations/checks.sh
. "$here/checks.sh"

# Points of exposure, in tenths, that `systemd-analyze security` may find.
MOST_EXPOSURE=15

# --------------------------------------------------------------------------- in the machine

state() { systemctl show --value --property "$1" blazr; }
has_failed() { [ "$(state ActiveState)" = failed ]; }
healthy() { /usr/local/bin/blazr healthcheck > /dev/null 2>&1; }
status() { curl --silent --output /dev/null --write-out '%{http_code}' "$@" http://127.0.0.1:8080/v1/models; }
restarted() { [ "$(state NRestarts)" -ge 1 ] && healthy; }

complete() {
  curl --silent --no-buffer --max-time 200 --header "Authorization: Bearer $key" \
    --header "Content-Type: application/json" --data "$1" http://127.0.0.1:8080/v1/completions
}

# Stops the unit while it streams an answer: the answer comes to its own end all the same.
drains() {
  complete '{"prompt": "Once upon a time", "max_tokens": 2000, "ignore_eos": true, "stream": true}' > /tmp/stream &
  local client=$!
  within 10 grep -q '^data:' /tmp/stream && kill -0 "$client" || return 1
  systemctl stop blazr && wait "$client" && grep -q '"finish_reason":"length"' /tmp/stream
}

inside() {
  local pid
  key=$(cat /etc/blazr/api-key)
  check "it starts" systemctl start blazr
  check "it gets healthy" within 10 healthy
  pid=$(state MainPID)
  check "it asks for a key" is 401 "$(status)"
  check "it takes the one that was given" is 200 "$(status --header "Authorization: Bearer $key")"
  check "it answers" grep -q '"completion_tokens":8' \
    <(complete '{"prompt": "Once upon a time", "max_tokens": 8, "ignore_eos": true}')
  check "its user is nobody's" test "$(field "$pid" Uid | cut -f 1)" -ge 61184
  check "it has no capability" is 0000000000000000 "$(field "$pid" CapBnd)"
  check "it can't gain privileges" is 1 "$(field "$pid" NoNewPrivs)"
  check "its system calls are filtered" is 2 "$(field "$pid" Seccomp)"
  # /run/host is what systemd-nspawn shows of the machine around.
  check "it could write to its cache and temporary files alone" is "/tmp /var/cache/private/blazr /var/tmp" \
    "$(writable "$pid" | grep -v '^/run/host/' | sort -u | paste -s -d ' ')"
  check "the cache is its own" is "$(field "$pid" Uid | cut -f 1)" "$(stat --format %u /var/cache/private/blazr)"
  check "only it can read the key" is 400 "$(stat --format %a "/proc/$pid/root/run/credentials/blazr.service/api-key")"
  systemctl kill --signal SIGKILL blazr
  check "it is started again when it dies" within 10 restarted
  check "it drains when it is stopped" drains
  check "and ends well" is "success 0" "$(state Result) $(state ExecMainStatus)"
  check "the log doesn't have the key" is "" "$(journalctl --unit blazr --output cat | grep -F "$key" || true)"

  mkdir -p /run/systemd/system/blazr.service.d
  printf '[Service]\nEnvironment=BLAZR_DRAIN_TIMEOUT=never\n' > /run/systemd/system/blazr.service.d/wrong.conf
  systemctl daemon-reload
  systemctl start blazr
  check "a wrong setting ends it" within 10 has_failed
  sleep 3
  check "for good" is "2 0" "$(state ExecMainStatus) $(state NRestarts)"
  rm -r /run/systemd/system/blazr.service.d /etc/blazr/api-key
  systemctl daemon-reload
  systemctl reset-failed blazr
  check "without a key it does not start" is "" "$(systemctl start blazr 2> /dev/null && echo it started)"
  systemctl stop blazr
  conclude
}

# --------------------------------------------------------------------------- around it

tools() {
  have curl systemd-analyze systemd-nspawn && return
  apt-get update -qq
  apt-get install -y -qq --no-install-recommends curl systemd systemd-container > /dev/null
}

# The unit file is as systemd wants it, but that the program need not be installed here.
verified() {
  sed "s|/usr/local/bin/blazr|$blazr|" "$unit" > "$place/blazr.service"
  systemd-analyze verify "$place/blazr.service"
}

exposed() {
  systemd-analyze security --offline=true --no-pager --threshold "$MOST_EXPOSURE" "$unit" > "$place/security"
}

machine() {
  mount -t tmpfs tmpfs "$place/layer"
  mkdir "$place/layer/"{upper,work,root}
  mount -t overlay overlay -o "lowerdir=/,upperdir=$place/layer/upper,workdir=$place/layer/work" "$place/layer/root"
  root=$place/layer/root
  install -D -m 755 "$blazr" "$root/usr/local/bin/blazr"
  install -D -m 644 "$here/../../config/blazr.toml" "$root/etc/blazr/blazr.toml"
  # A drain takes as long as it takes where the machine is busy.
  echo "drain_timeout = 200" >> "$root/etc/blazr/blazr.toml"
  install -d "$root/etc/systemd/system/blazr.service.d"
  printf '[Service]\nTimeoutStopSec=5min\n' > "$root/etc/systemd/system/blazr.service.d/patient.conf"
  install -D -m 600 <(head -c 32 /dev/urandom | od -A n -t x1 | tr -d ' \n') "$root/etc/blazr/api-key"
  install -D -m 644 "$unit" "$root/etc/systemd/system/blazr.service"
  install -D -m 644 -t "$root/opt/operations" "$here/checks.sh" "$here/systemd.sh"
  cat > "$root/etc/systemd/system/look.service" << 'UNIT'
[Unit]
Wants=systemd-journald.service
After=systemd-journald.service
SuccessAction=exit-force
FailureAction=exit-force

[Service]
Type=oneshot
ExecStart=/bin/bash /opt/operations/systemd.sh --inside
StandardOutput=file:/opt/operations/output
StandardError=inherit
TimeoutStartSec=5min
UNIT
}

boot() {
  systemd-nspawn --quiet --register=no --keep-unit --directory "$root" --private-network --boot --console=pipe \
    -- --unit=look.service > "$place/console" 2>&1 < /dev/null
}

end() {
  umount --quiet --recursive "$place/layer" || true
  rm -rf --one-file-system "$place"
}

if [ "$1" = --inside ]; then
  inside
  exit
fi
blazr=$(realpath "$1")
unit=$here/../../docker/systemd/blazr.service
place=$(mktemp -d)
mkdir "$place/layer"
trap end EXIT
tools
check "the unit is well-formed" verified
check "it is exposed to $MOST_EXPOSURE tenths at most" exposed
grep 'Overall exposure' "$place/security"
machine
boot || cat "$place/console"
sed '$d' "$root/opt/operations/output"
read -r inside_passed _ inside_failed _ < <(tail -n 1 "$root/opt/operations/output")
passed=$((passed + inside_passed)) failed=$((failed + ${inside_failed:-1}))
conclude
