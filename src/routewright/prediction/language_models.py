"""Trains small and large language models as readers of queries; extra: `lm`.

transformers' Trainer does the steps, peft the low-rank adapters. What is kept of a training are
NumPy arrays. A killed training goes on from its last checkpoint if it was given a folder.
"""

from __future__ import annotations

import json
import logging
import os
import random
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal, NamedTuple, TypeAlias, cast, get_args

import numpy as np
from numpy.typing import NDArray

from routewright.errors import BadInput
from routewright.types import content_text

Tune: TypeAlias = Literal["lora", "full", "frozen"]
Precision: TypeAlias = Literal["float32", "bfloat16"]
TUNES: tuple[Tune, ...] = get_args(Tune)
PRECISIONS: tuple[Precision, ...] = get_args(Precision)
CHECKPOINTS = 10  # per training
WARM_UP = 0.06  # share of the steps
DECAY = 0.01
SMALL = 2_000_000  # parameters

Weights = dict[str, NDArray[np.float32]]
Item = Mapping[str, Any]  # one row: `ids` (tokens,) or `pooled` (width,), and `labels`
Share = Callable[[float], None]  # is told the share of the training that is done


class Base(NamedTuple):
    """A pretrained network that reads tokens, and what tells it from others."""

    model: Any
    tokenizer: Any
    causal: bool  # reads from left to right: its last state has seen everything
    facts: dict[str, Any]  # architecture, size, SHA-256 of the weights and the vocabulary

    @property
    def width(self) -> int:
        return int(self.model.config.get_text_config().hidden_size)


@dataclass(frozen=True)
class Plan:
    """How to train: rates are per step of the optimiser, one step sees batch · accumulate rows."""

    epochs: int
    batch: int
    accumulate: int
    base_rate: float
    head_rate: float
    seed: int


# --- the pretrained network ----------------------------------------------------------------


def require(who: str) -> None:
    """Raises BadInput unless everything of the extra `lm` can be imported."""
    try:
        import accelerate  # type: ignore[import-untyped,unused-ignore]  # noqa: F401
        import peft  # noqa: F401
        import torch  # noqa: F401
        import transformers  # noqa: F401
    except ImportError as error:
        raise BadInput(f"{who} needs: pip install 'routewright[lm]' ({error})") from error


def open_base(name: str, *, precision: str = "float32", writes: bool = False) -> Base:
    """An encoder or a causal model by Hugging Face name or local folder.

    One that `writes` is a causal model with its language-modelling head. No code of the model's
    author is run. Raises BadInput if it cannot be loaded, if it is an encoder-decoder, or if some
    of its weights are missing (they would be drawn at random).
    """
    import torch

    try:
        model, tokenizer, missing = _load(name, writes)
    except Exception as error:  # the library raises whatever its downloader raises
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise BadInput(
            f"base '{name}' cannot be loaded: {reason} Name a local folder with a config, a"
            " tokenizer and weights, or a Hugging Face model that this machine can download"
        ) from error
    if model.config.is_encoder_decoder:
        raise BadInput(f"base '{name}' is an encoder-decoder: name an encoder or a causal model")
    if getattr(model, "pooler", None) is not None:
        model.pooler = None  # unused here, and often missing from the weights
    if lost := sorted(key for key in missing if not key.startswith("pooler.")):
        raise BadInput(
            f"base '{name}' lacks {len(lost)} of its weights, {lost[0]} for one: name a whole model"
        )
    model = model.to(getattr(torch, precision)).to(device()).eval()
    facts = {
        "architecture": model.config.model_type,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "sha256": _digest(model, tokenizer),
    }
    return Base(model, tokenizer, _is_causal(model.config), facts)


def _load(name: str, writes: bool) -> tuple[Any, Any, Sequence[str]]:
    from transformers import AutoModel, AutoModelForCausalLM, AutoTokenizer

    kind: Any = AutoModelForCausalLM if writes else AutoModel
    with quiet(bars=not Path(name).is_dir()):
        # Without the explicit word a model that brings code would ask on the terminal.
        tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=False)
        model, info = kind.from_pretrained(name, trust_remote_code=False, output_loading_info=True)
    return model, tokenizer, info["missing_keys"]


@contextmanager
def quiet(*, bars: bool = False) -> Iterator[None]:
    """transformers keeps its remarks, and without `bars` its progress bars, to itself inside;
    so do its notes to programmers about names that will change, and what its downloader says of
    every try to reach a hub that cannot be reached."""
    from transformers.utils import logging as remarks

    library, downloader = cast(Any, remarks), logging.getLogger("huggingface_hub")
    heard = downloader.level
    downloader.setLevel(logging.ERROR)
    level, shown = library.get_verbosity(), library.is_progress_bar_enabled()
    library.set_verbosity_error()
    if not bars:
        library.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            yield
    finally:
        downloader.setLevel(heard)
        library.set_verbosity(level)
        if shown:
            library.enable_progress_bar()


def _is_causal(config: Any) -> bool:
    """Decoders have a causal head and no masked one; BERT has both and reads both ways."""
    from transformers.models.auto import modeling_auto as auto

    kind = config.model_type
    masked = kind in auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES
    causal = kind in auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    return bool(getattr(config, "is_decoder", False)) or (causal and not masked)


def _digest(model: Any, tokenizer: Any) -> str:
    digest = sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor_bytes(tensor))
    digest.update(json.dumps(sorted(tokenizer.get_vocab().items())).encode())
    return digest.hexdigest()


def tensor_bytes(tensor: Any) -> memoryview:
    import torch

    flat = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
    return memoryview(flat.numpy())


def adapt(base: Base, tune: str, *, rank: int, checkpointing: bool = False) -> Any:
    """The base's network with only those weights trainable that `tune` trains.

    With `checkpointing` a step computes activations twice rather than keep them.
    """
    if checkpointing:
        with quiet():
            base.model.gradient_checkpointing_enable({"use_reentrant": False})
        base.model.enable_input_require_grads()
    if tune == "full":
        return base.model.requires_grad_(True)
    base.model.requires_grad_(False)
    if tune == "frozen":
        return base.model
    from peft import LoraConfig, get_peft_model

    wanted = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules="all-linear")
    with quiet():
        return get_peft_model(base.model, wanted)


def module() -> Any:
    """A torch module whose stored state is what is trained: checkpoints need not repeat a base."""
    from torch import nn

    class Network(nn.Module):
        def state_dict(self, *args: Any, **kwargs: Any) -> Any:
            whole = super().state_dict(*args, **kwargs)
            return {name: tensor for name, tensor in whole.items() if name in self.trained}

        @property
        def trained(self) -> set[str]:
            return {name for name, p in self.named_parameters() if p.requires_grad}

        @property
        def _keys_to_ignore_on_save(self) -> set[str]:
            """Trainer asks for it when a checkpoint lacks something."""
            return set(super().state_dict()) - self.trained

        def tie_weights(self) -> None:
            pass  # Trainer again

    return Network


def save(base: Base, out: Path) -> None:
    """Writes model and tokenizer as a Hugging Face folder."""
    out.mkdir(parents=True, exist_ok=True)
    with quiet():
        base.model.save_pretrained(out)
    base.tokenizer.save_pretrained(out)


def body(base: Base) -> Base:
    """A model that writes, without what turns its states into tokens; its weights are shared."""
    return base._replace(model=base.model.base_model)


def device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


@contextmanager
def threads_for(network: Any) -> Iterator[None]:
    """A small network stays on one thread inside: on matrices of its size, and where somebody else
    works too, threads wait for one another several times longer than they work."""
    import torch

    threads = torch.get_num_threads()
    if sum(parameter.numel() for parameter in network.parameters()) < SMALL:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


# --- reading texts -------------------------------------------------------------------------


def prompt(base: Base, messages: Sequence[Mapping[str, Any]]) -> str:
    """A conversation up to where the answer begins, by the tokenizer's chat template.

    Without a template it is the texts themselves, one below the other.
    """
    if not getattr(base.tokenizer, "chat_template", None):
        return "\n".join(content_text(message) for message in messages)
    plain = [{**message, "content": content_text(message)} for message in messages]
    text = base.tokenizer.apply_chat_template(plain, tokenize=False, add_generation_prompt=True)
    return str(text).removeprefix(base.tokenizer.bos_token or "")  # `tokens` puts it there again


def tokens(base: Base, texts: Sequence[str], limit: int) -> list[list[int]]:
    """Token numbers per text, at least one. Longer texts lose their middle: instructions stand
    at the start, questions at the end."""
    limit = max(2, min(limit, longest(base)))
    found = []
    for text in texts:
        whole = str(text).encode("utf-8", "replace").decode("utf-8")  # lone surrogates
        ids = base.tokenizer(whole, verbose=False)["input_ids"] or [padding(base)]
        if len(ids) > limit:
            ids = ids[: limit // 2] + ids[len(ids) - (limit - limit // 2) :]
        found.append([int(i) for i in ids])
    return found


def longest(base: Base) -> int:
    """Tokens that the base can hold, prompt and answer together."""
    config = base.model.config.get_text_config()
    positions = getattr(config, "max_position_embeddings", None) or 1 << 30
    return min(int(positions), int(base.tokenizer.model_max_length))


def padding(base: Base) -> int:
    choices = (base.tokenizer.pad_token_id, base.tokenizer.eos_token_id, 0)
    return int(next(i for i in choices if i is not None))


def collator(base: Base) -> Callable[[Sequence[Item]], dict[str, Any]]:
    """From items to the tensors of one batch; texts are padded on the right."""
    import torch

    pad = padding(base)

    def collate(items: Sequence[Item]) -> dict[str, Any]:
        batch: dict[str, Any] = {}
        if "labels" in items[0]:
            labels = np.stack([item["labels"] for item in items])
            batch["labels"] = torch.tensor(labels, dtype=torch.float32)
        if "pooled" in items[0]:
            return {**batch, "pooled": torch.tensor(np.stack([i["pooled"] for i in items]))}
        longest = max(len(item["ids"]) for item in items)
        filled = [item["ids"] + [pad] * (longest - len(item["ids"])) for item in items]
        lengths = torch.tensor([len(item["ids"]) for item in items])
        mask = torch.arange(longest)[None] < lengths[:, None]
        return {**batch, "input_ids": torch.tensor(filled), "attention_mask": mask.long()}

    return collate


def pool(states: Any, mask: Any, *, causal: bool) -> Any:
    """States (n, tokens, width) ▶ (n, width): the mean, or of causal models the last one."""
    import torch

    states = states.float()
    if causal:
        return states[torch.arange(len(states), device=states.device), mask.sum(dim=1) - 1]
    weight = mask[:, :, None].to(states.dtype)
    return (states * weight).sum(dim=1) / weight.sum(dim=1)


# --- training ------------------------------------------------------------------------------


def train(
    network: Any,
    items: Sequence[Item],
    collate: Callable[[Sequence[Item]], dict[str, Any]],
    plan: Plan,
    *,
    folder: Path | None = None,
    job: str = "",
    done: Share = lambda share: None,
) -> None:
    """Trains the network's trainable weights in place; parameters under `head.` have their own
    rate.

    With a `folder`, goes on from the last checkpoint there, and takes a finished training as it
    is. `job` says what is being trained: checkpoints of another job are refused (BadInput).
    """
    if folder is None:
        with TemporaryDirectory(prefix="routewright-") as scratch:
            return _run(network, items, collate, plan, Path(scratch), done, keep=False)
    _claim(folder, job)
    if (finished := folder / "trained.safetensors").exists():
        from safetensors.numpy import load_file

        return put(network, load_file(finished))
    _run(network, items, collate, plan, folder, done, keep=True)
    _finish(finished, weights(network))


def _run(
    network: Any,
    items: Sequence[Item],
    collate: Callable[[Sequence[Item]], dict[str, Any]],
    plan: Plan,
    folder: Path,
    done: Share,
    *,
    keep: bool,
) -> None:
    import torch
    from transformers import Trainer, TrainingArguments
    from transformers.trainer_callback import PrinterCallback

    batches = -(-len(items) // plan.batch)
    steps = max(1, -(-batches // plan.accumulate) * plan.epochs)
    on_gpu = device() == "cuda"
    arguments = TrainingArguments(
        output_dir=str(folder),
        num_train_epochs=plan.epochs,
        per_device_train_batch_size=plan.batch,
        gradient_accumulation_steps=plan.accumulate,
        learning_rate=plan.head_rate,
        lr_scheduler_type="linear",
        warmup_steps=int(np.ceil(WARM_UP * steps)),
        bf16=on_gpu and torch.cuda.is_bf16_supported(),
        use_cpu=not on_gpu,
        seed=plan.seed,
        data_seed=plan.seed,
        save_strategy="steps" if keep else "no",
        save_steps=max(1, steps // CHECKPOINTS),
        save_total_limit=2,
        logging_strategy="no",
        report_to="none",
        disable_tqdm=True,
        remove_unused_columns=False,
        label_names=["labels"],
        dataloader_pin_memory=on_gpu,
    )
    trainer = Trainer(
        model=network,
        args=arguments,
        train_dataset=items,
        data_collator=collate,
        optimizers=(_optimiser(network, plan), None),
        callbacks=[_telling(done)],
    )
    trainer.remove_callback(PrinterCallback)
    with seeded(plan.seed), quiet(), threads_for(network):
        trainer.train(resume_from_checkpoint=_last_checkpoint(folder))
    network.eval()


def _optimiser(network: Any, plan: Plan) -> Any:
    import torch

    trained = [(name, p) for name, p in network.named_parameters() if p.requires_grad]
    head = [p for name, p in trained if name.startswith("head.")]
    base = [p for name, p in trained if not name.startswith("head.")]
    groups = [{"params": head, "lr": plan.head_rate}, {"params": base, "lr": plan.base_rate}]
    return torch.optim.AdamW([g for g in groups if g["params"]], weight_decay=DECAY)


def _telling(done: Share) -> Any:
    from transformers import TrainerCallback

    class Telling(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            done(state.global_step / max(state.max_steps, 1))

    return Telling()


def _last_checkpoint(folder: Path) -> str | None:
    """The trainer's state is written last: without it a checkpoint is not whole."""
    whole = [path.parent for path in folder.glob("checkpoint-*/trainer_state.json")]
    return str(max(whole, key=lambda path: int(path.name.split("-")[1]))) if whole else None


def _claim(folder: Path, job: str) -> None:
    path = folder / "job.txt"
    if path.exists() and path.read_text(encoding="utf-8") != job:
        raise BadInput(
            f"'{folder}' holds checkpoints of another training (other rows, options, base or"
            " seed): name another folder, or delete it to start anew"
        )
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text(job, encoding="utf-8")


def _finish(path: Path, trained: Weights) -> None:
    from safetensors.numpy import save_file

    save_file(trained, fresh := path.with_suffix(".part"))
    os.replace(fresh, path)


def weights(network: Any) -> Weights:
    """The trained parameters by name, as they are stored."""
    return {
        name: np.ascontiguousarray(p.detach().float().cpu().numpy())
        for name, p in network.named_parameters()
        if p.requires_grad
    }


def put(network: Any, trained: Mapping[str, Any]) -> None:
    """Stored parameters into a network that has the same ones."""
    import torch

    own = {name: p for name, p in network.named_parameters() if p.requires_grad}
    if own.keys() != trained.keys():
        odd = sorted(own.keys() ^ trained.keys())
        raise BadInput(f"trained weights and the network differ in {len(odd)} names: {odd[0]}")
    with torch.no_grad():
        for name, p in own.items():
            p.copy_(torch.tensor(np.asarray(trained[name])))
    network.eval()


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Random numbers of all libraries start at `seed` inside, and go on as before outside."""
    import torch

    # Trainer seeds the global generators, and layers draw from them.
    python, numpy = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            random.seed(seed)
            np.random.seed(seed % 2**32)
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
