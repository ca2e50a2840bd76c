# shellcheck shell=bash
# What the tests of operations have in common: each check is a command that must succeed, and the last line counts them.
passed=0 failed=0

# check NAME COMMAND...
check() {
  local name=$1
  shift
  if "$@"; then
    passed=$((passed + 1))
    echo "ok: $name"
  else
    failed=$((failed + 1))
    echo "FAILED: $name"
  fi
}

# have COMMAND...: all of them are installed. (`command -v` is content with one.)
have() {
  local command
  for command; do command -v "$command" > /dev/null || return 1; done
}

# is EXPECTED FOUND
is() { [ "$1" = "$2" ] || { echo "expected: $1, found: $2"; false; }; }

# within SECONDS COMMAND...: tries until it succeeds.
within() {
  local end=$((SECONDS + $1))
  shift
  until "$@"; do
    if [ "$SECONDS" -ge "$end" ]; then return 1; fi
    sleep 0.1
  done
}

# field PID NAME: a line of the process's status.
field() { sed -n "s/^$2:[[:space:]]*//p" "/proc/$1/status"; }

# writable PID: where it could write, but for what every container and unit has of its own.
writable() { awk '$4 ~ /^rw/ && $2 !~ "^/(dev|proc|sys)(/|$)" {print $2}' "/proc/$1/mounts"; }

# Says how it went; the exit code too.
conclude() {
  echo "$passed passed, $failed failed"
  [ "$failed" = 0 ]
}
