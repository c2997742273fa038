#!/bin/sh
# The int8 hop on tflite-runtime, in an environment of its own: light core, numpy 1, no torch, no
# onnx. Usage: PYTHON=... test_tflite_runtime.sh VENV
set -eu
venv=$1
root=$(cd "$(dirname "$0")/.." && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
if [ ! -e "$venv/ready.stamp" ] || [ "$root/pyproject.toml" -nt "$venv/ready.stamp" ]; then
    rm -rf "$venv"
    "$PYTHON" -m venv "$venv"
    # numpy 2.4 of the constraints contradicts this extra: its pins are in the extra itself
    # shellcheck disable=SC2086
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check ${PIP_ARGS:-} \
        -e "$root[tflite-runtime]"
    touch "$venv/ready.stamp"
fi
"$PYTHON" "$root/tools/make_tiny_run.py" "$work"
cd "$work"
"$(cd "$root" && cd "$(dirname "$venv")" && pwd)/$(basename "$venv")/bin/ndtool" \
    check tiny --runtime tflite-runtime --max-drop 5
