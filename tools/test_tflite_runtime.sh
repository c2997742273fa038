#!/bin/sh
# The int8 hop on tflite-runtime, in an environment of its own: light core, numpy 1, no torch, no
# onnx. Usage: PYTHON=full-python test_tflite_runtime.sh VENV
set -eu
root=$(cd "$(dirname "$0")/.." && pwd)
case $PYTHON in /*) full=$PYTHON ;; *) full=$root/$PYTHON ;; esac
case $1 in /*) venv=$1 ;; *) venv=$root/$1 ;; esac
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
if [ ! -e "$venv/ready.stamp" ] || [ "$root/pyproject.toml" -nt "$venv/ready.stamp" ]; then
    rm -rf "$venv"
    "$full" -m venv "$venv"
    # Not with the constraints: their numpy 2 contradicts this extra, whose pins are its own.
    # shellcheck disable=SC2086
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check ${PIP_ARGS:-} \
        -e "$root[tflite-runtime]"
    touch "$venv/ready.stamp"
fi
cd "$work"
"$full" "$root/tests/lib/tiny_data.py" .
"$(dirname "$full")/ndtool" run --data npz:tiny.npz --width .5 --epochs 6 --batch-size 16 --crop 0 \
    --no-flip --threads 1 --name tiny --max-drop 20 --fc per-tensor --quiet >/dev/null
"$venv/bin/python" -c 'import numpy; assert numpy.__version__.startswith("1."), numpy.__version__'
"$venv/bin/ndtool" check tiny --runtime tflite-runtime --max-drop 20 >check.txt
cat check.txt
grep -q "^int8 .*tflite-runtime 2.14.0" check.txt
grep -q "^float .*stored" check.txt
