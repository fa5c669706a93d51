#!/usr/bin/env bash
# build.sh: the release wheel, built and installed into .venv when a source has changed since the last time.
set -euo pipefail

scripts/wants.sh build

fingerprint=$(
    { find crates python Cargo.toml Cargo.lock pyproject.toml README.md LICENSE-* -type f \
        -not -path '*/__pycache__/*' -not -name '*.so' -print0 2>/dev/null || true; } |
        LC_ALL=C sort -z | xargs -0 sha256sum | sha256sum
    .venv/bin/python --version
)
stamp=.make/wheel
installed=$(.venv/bin/python -I -c 'import importlib.util as u; print(u.find_spec("tollway").origin)' 2>/dev/null || true)
if [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$fingerprint" ] && [[ $installed == "$PWD/.venv/"* ]]; then
    exit 0
fi

echo "build: compiling the release wheel and installing it into .venv (a few minutes the first time)"
wheels=target/wheels
rm -f "$wheels"/tollway-*.whl
.venv/bin/maturin build --release --locked --out "$wheels" --interpreter .venv/bin/python
.venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --no-index --force-reinstall "$wheels"/tollway-*.whl
.venv/bin/python -I -c 'import tollway'
printf '%s\n' "$fingerprint" >"$stamp"
echo "build: tollway $(.venv/bin/python -I -c 'from importlib.metadata import version; print(version("tollway"))') installed into .venv"
