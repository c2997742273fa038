#!/bin/sh
# The whole chain from an installed wheel, in a fresh environment, outside the clone.
set -eu
root=$(cd "$(dirname "$0")/.." && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
(cd "$root" && $BUILD --wheel --outdir "$work/dist" . >/dev/null)
"$PYTHON" -m venv "$work/venv"
wheel=$(ls "$work"/dist/*.whl)
# shellcheck disable=SC2086
"$work/venv/bin/python" -m pip install --quiet --disable-pip-version-check ${PIP_ARGS:-} \
    -c "$root/constraints.txt" "$wheel[train,export,verify]"
mkdir "$work/elsewhere"
cd "$work/elsewhere"
"$work/venv/bin/ndtool" run --data digits
"$work/venv/bin/python" -m ndtool check digits-ds-cnn-32-netdistiller
# The runtime, the templates and the counting plugin must all have come with the wheel.
ls runs/digits-ds-cnn-32-netdistiller/codegen/posix/nd_runtime
if command -v qemu-system-arm >/dev/null && command -v arm-none-eabi-gcc >/dev/null; then
    XDG_CACHE_HOME="$work/cache" \
        "$work/venv/bin/ndtool" verify digits-ds-cnn-32-netdistiller --on qemu --profile
else
    echo "left out: counting instructions, which needs qemu-system-arm and arm-none-eabi-gcc"
fi
