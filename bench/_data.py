"""Where the real outcome tables lie, and the pools that the documents speak of."""

from __future__ import annotations

from pathlib import Path

from routewright.data import outcomes
from routewright.data.outcomes import Outcomes

BY_DOMAIN = (
    "lexical+surface+domain"  # the encoder of studies of tables whose rows all have a domain
)
REAL = Path(__file__).parent.parent.parent / "shared" / "data"
P1 = (
    "Phi-3-mini-4k-instruct",
    "mathstral-7B",
    "Meta-Llama-3_1-8B-Instruct",
    "Meta-Llama-3-8B-Instruct",
    "Mixtral-8x7B-Instruct-v0.1",
    "Yi-34B",
    "gpt-4o-2024-05-13",
)
OPEN_EIGHT = (
    "mistralai/Mistral-7B-v0.1",
    "meta-math/MetaMath-Mistral-7B",
    "itpossible/Chinese-Mistral-7B-v0.1",
    "HuggingFaceH4/zephyr-7b-beta",
    "cognitivecomputations/dolphin-2.6-mistral-7b",
    "meta-llama/Meta-Llama-3-8B",
    "cognitivecomputations/dolphin-2.9-llama3-8b",
    "mistralai/Mixtral-8x7B-Instruct-v0.1",
)
EFFORTS = (  # three models at several reasoning efforts
    *(f"gpt-5-nano-{effort}" for effort in ("low", "medium", "high")),
    *(f"gpt-5-mini-{effort}" for effort in ("low", "medium", "high")),
    *(f"gpt-5-{effort}" for effort in ("low", "medium", "high")),
)
POOLS: dict[str, tuple[str, tuple[str, ...] | None]] = {
    "mmlu_experts": ("mmlu_experts", None),
    "mmlu_pro P1": ("mmlu_pro", P1),
    "mmlu_experts, eight open": ("mmlu_experts", OPEN_EIGHT),
    "mmlu_experts, seven 7B": ("mmlu_experts", OPEN_EIGHT[:7]),
    "llmrouter_mix": ("llmrouter_mix", None),
    "routerbench_subset": ("routerbench_subset", None),
    "coderouter": ("coderouter", None),
    "paretobandit": ("paretobandit", None),
    "bfcl": ("bfcl", None),
    "lineage_2024": ("lineage_2024", None),
    "swe_verified": ("swe_verified", None),
    "mcpmark, efforts": ("mcpmark", EFFORTS),
}


def read(pool: str, split: str) -> Outcomes | None:
    """The rows of a pool, or None (and a word about it) where the tables are not here."""
    table, experts = POOLS[pool]
    path = REAL / f"{table}.parquet"
    if not path.exists():
        print(f"{pool}: skipped, {path} is not here")
        return None
    return outcomes.read(path, experts=experts, split=split)


def others(pool: str, split: str) -> Outcomes | None:
    """The table's other experts on the same rows, for `fit(auxiliary=…)`."""
    table, experts = POOLS[pool]
    everyone = outcomes.read(REAL / f"{table}.parquet", split=split)
    rest = [name for name in everyone.experts if name not in (experts or everyone.experts)]
    return everyone.pool(rest) if rest else None
