#!/usr/bin/env bash
# wants.sh TARGET: bring .venv and the machine what TARGET needs, saying in one line what is installed.
# Run from the top of the checkout, by the Makefile.
set -euo pipefail

target=$1
PYTHON=${PYTHON:-python3}
state=.make
mkdir -p "$state"

stop() {
    printf '%s: %s\n' "$target" "$*" >&2
    exit 1
}

# debian COMMAND PACKAGE...: COMMAND from Debian's packages, when it is not there already.
debian() {
    local command=$1
    shift
    local packages="$*"
    command -v "$command" >/dev/null && return 0
    command -v apt-get >/dev/null ||
        stop "$command is missing and there is no apt-get here; install $packages by your system's own means"
    local root=()
    if [ "$(id -u)" != 0 ]; then
        sudo -n true 2>/dev/null ||
            stop "$command is missing; install it with: sudo apt-get install $packages"
        root=(sudo -n)
    fi
    echo "$target: $command is missing, installing the Debian packages: $packages"
    "${root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
        "$@" >"$state/apt.log" 2>&1 && return 0
    echo "$target: reading the package lists first (apt-get update)"
    "${root[@]}" apt-get update -qq >>"$state/apt.log" 2>&1 || true
    "${root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
        "$@" >>"$state/apt.log" 2>&1 ||
        stop "apt-get could not install $packages; see $state/apt.log"
}

# virtualenv: .venv made from $PYTHON (python3 unless told otherwise).
virtualenv() {
    [ -x .venv/bin/python ] && .venv/bin/python -c '' 2>/dev/null && return 0
    command -v "$PYTHON" >/dev/null ||
        stop "$PYTHON is missing; install Python 3.11 or newer, or name one with PYTHON=/path/to/python"
    "$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
        stop "$("$PYTHON" --version) is too old; Tollway needs 3.11 or newer (PYTHON=/path/to/python names another)"
    "$PYTHON" -c 'import ensurepip' 2>/dev/null || debian pyvenv python3-venv
    echo "$target: creating .venv with $("$PYTHON" --version)"
    rm -rf .venv "$state"/pip-*
    "$PYTHON" -m venv .venv
}

# pins LIST: the exact versions of requirements/LIST.txt in .venv.
pins() {
    local list=$1
    local wanted="requirements/$list.txt" seen="$state/pip-$list"
    cmp -s "$wanted" "$seen" && return 0
    echo "$target: installing $(grep -c == "$wanted") Python packages into .venv ($wanted)"
    .venv/bin/python -m pip install --quiet --disable-pip-version-check --requirement "$wanted"
    cp "$wanted" "$seen"
}

rust() {
    command -v cargo >/dev/null ||
        stop "cargo is missing; install Rust 1.95 or newer (https://rustup.rs)"
}

virtualenv
case $target in
build)
    rust
    debian cc gcc libc6-dev
    pins build
    ;;
demo | shop)
    pins demo
    ;;
test)
    rust
    debian redis-server redis-server
    debian openssl openssl
    debian curl curl
    compgen -G '/usr/lib/postgresql/*/bin/initdb' >/dev/null || debian initdb postgresql
    [ -x /usr/sbin/mariadbd ] || debian mariadbd mariadb-server
    [ -x /usr/sbin/nginx ] || debian nginx nginx
    debian ss iproute2
    debian systemd-analyze systemd
    debian faketime faketime
    debian promtool prometheus
    debian chromium chromium
    pins test
    ;;
lint)
    rust
    pins lint
    if ! command -v cargo-deny >/dev/null && [ ! -x "$state/tools/bin/cargo-deny" ]; then
        echo "$target: building cargo-deny 0.20.2 into $state/tools (several minutes, once)"
        CARGO_TARGET_DIR=target/tools cargo install --quiet --locked cargo-deny --version 0.20.2 --root "$state/tools"
        rm -rf target/tools
    fi
    ;;
bench)
    rust
    debian wrk wrk
    compgen -G '/usr/lib/postgresql/*/bin/initdb' >/dev/null || debian initdb postgresql
    debian redis-benchmark redis-server
    pins bench
    ;;
docs)
    pins docs
    ;;
*)
    stop "no such target"
    ;;
esac
