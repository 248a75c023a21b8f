"""Loads and trains language models that read queries. Extra: `lm`.

transformers' Trainer runs the steps, and peft provides the low-rank adapters. The result of a
training is a set of NumPy arrays. A training with a folder for checkpoints continues from the last
one if it is killed.
"""

from __future__ import annotations

import json
import logging
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

from routewright import files
from routewright.errors import BadInput, needs
from routewright.types import content_text

Tune: TypeAlias = Literal["lora", "full", "frozen"]
Precision: TypeAlias = Literal["float32", "bfloat16"]
TUNES: tuple[Tune, ...] = get_args(Tune)
PRECISIONS: tuple[Precision, ...] = get_args(Precision)
CHECKPOINTS = 10  # per training
WARM_UP = 0.06  # share of the steps
DECAY = 0.01
SMALL = 2_000_000  # parameters of a network that trains on one thread

Weights = dict[str, NDArray[np.float32]]
Item = Mapping[str, Any]  # one row: `ids` (tokens,) or `pooled` (width,), and `labels`
OnProgress = Callable[[float], None]  # called with the finished share of the training


class Base(NamedTuple):
    """A pretrained network that reads tokens, with the facts that identify it."""

    model: Any
    tokenizer: Any
    causal: bool  # reads from left to right, so that the last state covers the whole text
    facts: dict[str, Any]  # architecture, size, SHA-256 of the weights and the vocabulary

    @property
    def width(self) -> int:
        return int(self.model.config.get_text_config().hidden_size)


@dataclass(frozen=True)
class Plan:
    """How to train: a step of the optimiser uses batch · accumulate rows; rates are per step."""

    epochs: int
    batch: int
    accumulate: int
    base_rate: float
    head_rate: float
    seed: int


# --- the pretrained network ----------------------------------------------------------------


def require(feature: str) -> None:
    """Raises MissingExtra, naming the `feature`, if a package of the extra `lm` is missing."""
    with needs(feature):
        import accelerate  # type: ignore[import-untyped,unused-ignore]  # noqa: F401
        import peft  # noqa: F401
        import torch  # noqa: F401
        import transformers  # noqa: F401


def open_base(name: str, *, precision: str = "float32", causal_head: bool = False) -> Base:
    """Opens an encoder or a causal model by its Hugging Face name or local folder.

    With `causal_head` it is a causal model that can write text. Code that comes with a model is
    never run. Raises BadInput if the model cannot be loaded, if it is an encoder-decoder, or if
    some of its weights are missing (the library would draw them at random).
    """
    import torch

    try:
        model, tokenizer, missing = _load(name, causal_head)
    except Exception as error:  # the library passes on all errors of its downloader
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise BadInput(
            f"base '{name}' cannot be loaded: {reason} Name a local folder with a config, a"
            " tokenizer and weights, or a Hugging Face model that this machine can download"
        ) from error
    if model.config.is_encoder_decoder:
        raise BadInput(f"base '{name}' is an encoder-decoder: name an encoder or a causal model")
    if getattr(model, "pooler", None) is not None:
        model.pooler = None  # unused here, and often missing from the weights
    if absent := sorted(key for key in missing if not key.startswith("pooler.")):
        raise BadInput(
            f"base '{name}' lacks {len(absent)} of its weights, such as {absent[0]}: name a"
            " complete model"
        )
    model = model.to(getattr(torch, precision)).to(device()).eval()
    facts = {
        "architecture": model.config.model_type,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "sha256": _digest(model, tokenizer),
    }
    return Base(model, tokenizer, _is_causal(model.config), facts)


def _load(name: str, causal_head: bool) -> tuple[Any, Any, Sequence[str]]:
    from transformers import AutoModel, AutoModelForCausalLM, AutoTokenizer

    kind: Any = AutoModelForCausalLM if causal_head else AutoModel
    with quiet(bars=not Path(name).is_dir()):
        # If trust_remote_code is unset, a model that brings code prompts on the terminal.
        tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=False)
        model, info = kind.from_pretrained(name, trust_remote_code=False, output_loading_info=True)
    return model, tokenizer, info["missing_keys"]


@contextmanager
def quiet(*, bars: bool = False) -> Iterator[None]:
    """Silences transformers inside the context: its log, its deprecation warnings, the errors of
    its downloader when the hub cannot be reached, and (without `bars`) its progress bars."""
    from transformers.utils import logging as transformers_logging

    library, downloader = cast(Any, transformers_logging), logging.getLogger("huggingface_hub")
    downloader_level = downloader.level
    downloader.setLevel(logging.ERROR)
    level, had_bars = library.get_verbosity(), library.is_progress_bar_enabled()
    library.set_verbosity_error()
    if not bars:
        library.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            yield
    finally:
        downloader.setLevel(downloader_level)
        library.set_verbosity(level)
        if had_bars:
            library.enable_progress_bar()


def _is_causal(config: Any) -> bool:
    """True for decoders, which have a causal head and no masked one; BERT has both."""
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
    """The raw bytes of a tensor of any type, for digests."""
    import torch

    flat = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
    return memoryview(flat.numpy())


def adapt(base: Base, tune: str, *, rank: int, checkpointing: bool = False) -> Any:
    """The base's network, in which only the weights that `tune` trains are trainable.

    `tune` is `lora` (adapters of that `rank`), `full` or `frozen`. `checkpointing` saves memory:
    a step computes activations twice instead of storing them.
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

    lora = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules="all-linear")
    with quiet():
        return get_peft_model(base.model, lora)


def module() -> Any:
    """A torch module class whose state dict holds only trained weights, to keep checkpoints small.

    It is built by a function because torch is imported only when it is needed.
    """
    from torch import nn

    class Network(nn.Module):
        def state_dict(self, *args: Any, **kwargs: Any) -> Any:
            state = super().state_dict(*args, **kwargs)
            return {name: tensor for name, tensor in state.items() if name in self.trainable}

        @property
        def trainable(self) -> set[str]:
            return {name for name, p in self.named_parameters() if p.requires_grad}

        @property
        def _keys_to_ignore_on_save(self) -> set[str]:
            """Trainer reads this name if a checkpoint lacks weights."""
            return set(super().state_dict()) - self.trainable

        def tie_weights(self) -> None:
            pass  # Trainer calls it

    return Network


def save(base: Base, out: Path) -> None:
    """Writes the model and the tokenizer to a Hugging Face folder."""
    with files.adding(out, last="config.json") as partial:
        with quiet():
            base.model.save_pretrained(partial)
        base.tokenizer.save_pretrained(partial)


def body(base: Base) -> Base:
    """A causal model without its language-modelling head; both share their weights."""
    return base._replace(model=base.model.base_model)


def device() -> str:
    """`cuda` if there is a GPU, otherwise `cpu`."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


@contextmanager
def threads_for(network: Any) -> Iterator[None]:
    """Limits torch to one thread inside the context if the network is small.

    On such small matrices, and beside other work, threads wait for each other several times longer
    than they work.
    """
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
    """The text of a conversation up to the start of the answer, by the tokenizer's chat template.

    Without a template it is the texts of the messages, one per line.
    """
    if not getattr(base.tokenizer, "chat_template", None):
        return "\n".join(content_text(message) for message in messages)
    plain = [{**message, "content": content_text(message)} for message in messages]
    text = base.tokenizer.apply_chat_template(plain, tokenize=False, add_generation_prompt=True)
    return str(text).removeprefix(base.tokenizer.bos_token or "")  # `tokens` adds it


def tokens(base: Base, texts: Sequence[str], limit: int) -> list[list[int]]:
    """The token ids of each text, at least one and at most `limit`.

    A longer text loses its middle, because instructions are at the start and questions at the end.
    """
    limit = max(2, min(limit, longest(base)))
    rows = []
    for text in texts:
        clean = str(text).encode("utf-8", "replace").decode("utf-8")  # without lone surrogates
        ids = base.tokenizer(clean, verbose=False)["input_ids"] or [padding(base)]
        if len(ids) > limit:
            ids = ids[: limit // 2] + ids[len(ids) - (limit - limit // 2) :]
        rows.append([int(i) for i in ids])
    return rows


def longest(base: Base) -> int:
    """The context length of the base in tokens, prompt plus answer."""
    config = base.model.config.get_text_config()
    positions = getattr(config, "max_position_embeddings", None) or 1 << 30
    return min(int(positions), int(base.tokenizer.model_max_length))


def padding(base: Base) -> int:
    """The token id that fills up short rows."""
    choices = (base.tokenizer.pad_token_id, base.tokenizer.eos_token_id, 0)
    return int(next(i for i in choices if i is not None))


def collator(base: Base) -> Callable[[Sequence[Item]], dict[str, Any]]:
    """Returns the function that turns items into the tensors of a batch, padded on the right."""
    import torch

    pad = padding(base)

    def collate(items: Sequence[Item]) -> dict[str, Any]:
        batch: dict[str, Any] = {}
        if "labels" in items[0]:
            labels = np.stack([item["labels"] for item in items])
            batch["labels"] = torch.tensor(labels, dtype=torch.float32)
        if "pooled" in items[0]:
            return {**batch, "pooled": torch.tensor(np.stack([i["pooled"] for i in items]))}
        width = max(len(item["ids"]) for item in items)
        rows = [item["ids"] + [pad] * (width - len(item["ids"])) for item in items]
        lengths = torch.tensor([len(item["ids"]) for item in items])
        mask = torch.arange(width)[None] < lengths[:, None]
        return {**batch, "input_ids": torch.tensor(rows), "attention_mask": mask.long()}

    return collate


def pool(states: Any, mask: Any, *, causal: bool) -> Any:
    """States (n, tokens, width) ▶ (n, width): the mean, or the last state of a causal model."""
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
    on_progress: OnProgress = lambda share: None,
) -> None:
    """Trains the network's trainable weights in place; those under `head.` use `plan.head_rate`.

    With a `folder`, the training continues from the last checkpoint there, or loads the weights if
    it is finished. `job` is a digest of everything that the weights depend on: raises BadInput if
    the folder holds checkpoints of another job.
    """
    if folder is None:
        with TemporaryDirectory(prefix="routewright-") as scratch:
            return _run(network, items, collate, plan, Path(scratch), on_progress, keep=False)
    _check_job(folder, job)
    if (finished := folder / "trained.safetensors").exists():
        from safetensors.numpy import load_file

        return put(network, load_file(finished))
    _run(network, items, collate, plan, folder, on_progress, keep=True)
    _write(finished, weights(network))


def _run(
    network: Any,
    items: Sequence[Item],
    collate: Callable[[Sequence[Item]], dict[str, Any]],
    plan: Plan,
    folder: Path,
    on_progress: OnProgress,
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
        callbacks=[_callback(on_progress)],
    )
    trainer.remove_callback(PrinterCallback)
    with seeded(plan.seed), quiet(), threads_for(network):
        trainer.train(resume_from_checkpoint=_last_checkpoint(folder))
    network.eval()


def _optimiser(network: Any, plan: Plan) -> Any:
    import torch

    trainable = [(name, p) for name, p in network.named_parameters() if p.requires_grad]
    head = [p for name, p in trainable if name.startswith("head.")]
    base = [p for name, p in trainable if not name.startswith("head.")]
    groups = [{"params": head, "lr": plan.head_rate}, {"params": base, "lr": plan.base_rate}]
    return torch.optim.AdamW([g for g in groups if g["params"]], weight_decay=DECAY)


def _callback(on_progress: OnProgress) -> Any:
    from transformers import TrainerCallback

    class Callback(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            on_progress(state.global_step / max(state.max_steps, 1))

    return Callback()


def _last_checkpoint(folder: Path) -> str | None:
    """The newest complete checkpoint: one with the trainer's state, which is written last."""
    states = folder.glob("checkpoint-*/trainer_state.json")
    complete = [path.parent for path in states if _is_json(path)]
    return str(max(complete, key=lambda path: int(path.name.split("-")[1]))) if complete else None


def _is_json(path: Path) -> bool:
    """Whether a file is whole; a process may have been killed while it wrote it."""
    try:
        json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return True


def _check_job(folder: Path, job: str) -> None:
    """Records the job in its folder. Raises BadInput if the folder belongs to another job."""
    path = folder / "job.txt"
    if path.exists() and path.read_text(encoding="utf-8") != job:
        raise BadInput(
            f"'{folder}' holds checkpoints of another training (other rows, options, base or"
            " seed): choose another folder, or delete this one to start again"
        )
    files.write(path, job)


def _write(path: Path, arrays: Weights) -> None:
    from safetensors.numpy import save

    files.write(path, save(arrays))


def weights(network: Any) -> Weights:
    """The trainable parameters by name, as arrays to store."""
    return {
        name: np.ascontiguousarray(p.detach().float().cpu().numpy())
        for name, p in network.named_parameters()
        if p.requires_grad
    }


def put(network: Any, arrays: Mapping[str, Any]) -> None:
    """Copies stored parameters into a network. Raises BadInput unless their names are the same."""
    import torch

    parameters = {name: p for name, p in network.named_parameters() if p.requires_grad}
    if parameters.keys() != arrays.keys():
        odd = sorted(parameters.keys() ^ arrays.keys())
        raise BadInput(
            f"the stored weights and the network differ in {len(odd)} names, such as {odd[0]}:"
            " train again"
        )
    with torch.no_grad():
        for name, p in parameters.items():
            p.copy_(torch.tensor(np.asarray(arrays[name])))
    network.eval()


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seeds the generators of all libraries inside the context and restores them afterwards."""
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
