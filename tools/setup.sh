#!/usr/bin/env bash
# Make this checkout ready to use: system packages that are missing, and .venv with exactly what uv.lock says.
#
# Meant for Debian 12 or Ubuntu 24.04 and newer, as root. Safe to run again: what is there already is left alone, and then no
# network is needed. Services that come with the packages are not started: the lab and the tests run daemons of their own.
set -euo pipefail
cd "$(dirname "$0")/.."

UV_VERSION=0.13.9
PACKAGES=(
    openvswitch-switch mariadb-server mariadb-client    # the lab's switches, and its Neutron's SQL
    etcd-server etcd-client redis-server redis-sentinel # the DF DB and the bus as production runs them
    iproute2 ethtool iputils-ping procps curl udhcpc    # hosts and VMs as network namespaces
    tcpdump iperf3 faketime                             # tests that look at packets, and at a clock that is wrong
    isc-dhcp-client dhcpcd-base                         # and at what DHCP clients do
    python3-venv ca-certificates git
)

say() { printf '==> %s\n' "$*"; }
die() { printf 'setup: %s\n' "$*" >&2; exit 1; }

install_packages() {
    local missing=() package
    for package in "${PACKAGES[@]}"; do
        if [ "$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null)" != installed ]; then
            missing+=("$package")
        fi
    done
    if [ ${#missing[@]} -eq 0 ]; then
        say "system packages: all there"
        return
    fi
    [ "$(id -u)" -eq 0 ] || die "run as root to install: ${missing[*]}"
    say "system packages: installing ${missing[*]}"
    # invoke-rc.d asks this file before it starts a service; 101 means no. A file of the machine's own is put back after.
    local policy=/usr/sbin/policy-rc.d
    [ -e "$policy" ] && mv "$policy" "$policy.before-dragonflow"
    trap 'rm -f '"$policy"'; [ -e '"$policy"'.before-dragonflow ] && mv '"$policy"'.before-dragonflow '"$policy"' || true' EXIT
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod 755 "$policy"
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -q || say "apt-get update failed; going on with the package lists that are there"
    apt-get install -q -y --no-install-recommends "${missing[@]}" </dev/null
}

find_python() {
    local python
    for python in python3 python3.13 python3.12 python3.11; do
        if "$python" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            command -v "$python"
            return
        fi
    done
    die "no Python 3.11 or newer with venv found"
}

# uv doesn't read pip's settings; take its index over where uv has none of its own.
use_index_of_pip() {
    [ -z "${UV_DEFAULT_INDEX:-}${UV_INDEX_URL:-}${UV_INDEX:-}" ] || return 0
    local index
    index=$(.uv/bin/pip config get global.index-url 2>/dev/null || true)
    index=${PIP_INDEX_URL:-$index}
    [ -z "$index" ] || export UV_DEFAULT_INDEX=$index
}

install_venv() {
    local python=$1 stamp=.venv/.dragonflow-setup wanted
    wanted=$(cat uv.lock pyproject.toml tools/setup.sh <("$python" -VV) <(pwd) | sha256sum)
    if [ "$(cat "$stamp" 2>/dev/null)" = "$wanted" ]; then
        say "virtual environment: as uv.lock says"
        return
    fi
    if [ "$(.uv/bin/uv --version 2>/dev/null | cut -d' ' -f2)" != "$UV_VERSION" ]; then
        say "uv $UV_VERSION"
        rm -rf .uv
        "$python" -m venv .uv
        .uv/bin/pip install --quiet --disable-pip-version-check "uv==$UV_VERSION"
    fi
    say "virtual environment: installing what uv.lock says (the first time takes a minute or two)"
    use_index_of_pip
    export UV_PYTHON_DOWNLOADS=never UV_LINK_MODE=copy VIRTUAL_ENV=$PWD/.venv
    .uv/bin/uv venv --quiet --allow-existing --python "$python" .venv
    # Not `uv sync`: that fetches from the addresses in the lock file, also where the machine has an index of its own.
    # The hashes are checked all the same.
    .uv/bin/uv export --quiet --frozen --no-emit-project --format requirements.txt >.venv/requirements.txt
    # Compiled here and now: Neutron starts in a third of the time, also where PYTHONDONTWRITEBYTECODE is set.
    .uv/bin/uv pip sync --require-hashes --compile-bytecode .venv/requirements.txt
    .uv/bin/uv pip install --no-deps --editable .
    echo "$wanted" >"$stamp"
}

install_packages
install_venv "$(find_python)"
say "ready: .venv/bin/dragonflow"
