#!/usr/bin/env bash
# Installs Debian packages for tests, as root.  usage: apt.sh PACKAGE...
# One caller at a time: tests run side by side, and apt-get update does not wait for its lock.
set -euo pipefail
exec 9>"${TMPDIR:-/tmp}/apt-get-for-tests.lock"
flock 9
# Without the lock's file, which a daemon that a package starts would keep.
apt-get update -qq 9>&-
DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >/dev/null 9>&-
