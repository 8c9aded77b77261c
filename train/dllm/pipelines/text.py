"""Programs of text models: instruction tuning, pretraining on plain text, and a trained model behind text."""

import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from huggingface_hub import snapshot_download
from transformers import PreTrainedTokenizerBase
from transformers.hf_argparser import HfArg

from dllm.core.language_model import MaskedDiffusionLM
from dllm.core.patterns import BLOCKWISE, NO_PROMPT, SHIFTED
from dllm.data.collator import ResponseCollator
from dllm.data.specs import local_paths
from dllm.data.text import PackedDataset, TextDataset
from dllm.data.utils import load_pt_dataset, load_sft_dataset
from dllm.inference.text import TextWriter
from dllm.inference.writer import DTYPES
from dllm.pipelines.auto import load_text_model
from dllm.training.arguments import MDLMConfig, ModelArguments
from dllm.training.command_line import ArgumentParser
from dllm.training.run import loaded, run, set_trainable
from dllm.training.trainer import MDLMTrainer

ROOT = "BASE_MODELS_DIR"  # environment variable: a folder in which names are looked up first
HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")
HUB_FILES = ["*.json", "*.safetensors", "*.jinja"]
INPUTS = ("image", "images", "video", "videos", "audio", "audios")  # columns of what a text model cannot take


@dataclass
class PlainDataArguments:
    """What is read."""

    dataset_args: str = HfArg(help="sets to read: name[train:1000,test:100]+other, as paths or names on the hub")

    def contents(self) -> dict[str, list[Path]]:
        """What is behind an argument that is no path itself (`dllm.training.identity`)."""
        return {"dataset_args": local_paths(self.dataset_args)}


@dataclass
class DataArguments(PlainDataArguments):
    """What is read, and what of it is learnt."""

    mask_prompt_loss: bool = HfArg(default=True, help="learn the answers alone; False: whole conversations")


def sft(description: str, **defaults) -> None:
    """Runs instruction tuning from the command line; `defaults` replace those of the arguments."""
    train((ModelArguments, DataArguments, MDLMConfig), build_sft, description, defaults)


def pt(description: str, **defaults) -> None:
    """Runs training on plain text from the command line."""
    train((ModelArguments, PlainDataArguments, MDLMConfig), build_pt, description, defaults)


def train(dataclasses: tuple, build: Callable[..., MDLMTrainer], description: str, defaults: dict) -> None:
    """Runs the training that `build` makes of these dataclasses, the model's first, from the command line."""

    def parse() -> tuple:
        arguments = ArgumentParser(dataclasses, description, **defaults).parse()
        arguments[0].check()
        return arguments

    run(parse, build)


def build_sft(model_args: ModelArguments, data_args: DataArguments, args: MDLMConfig) -> MDLMTrainer:
    """The trainer of a run that learns the answers of conversations."""
    if not data_args.mask_prompt_loss:
        _check_without_prompts(model_args)
    dataset = partial(TextOnly, mask_prompt_loss=data_args.mask_prompt_loss)
    return _trainer(model_args, data_args.dataset_args, args, load_sft_dataset, dataset, args.model_max_length)


def build_pt(model_args: ModelArguments, data_args: PlainDataArguments, args: MDLMConfig) -> MDLMTrainer:
    """The trainer of a run that learns plain text, in samples of `--max_seq_length` tokens, whole blocks of them. Where
    every token sees the whole canvas, that is the canvas.
    """
    _check_without_prompts(model_args)
    longest, block = args.model_max_length, model_args.block_length
    length = longest - longest % block
    if length < 1:
        raise ValueError(f"--max_seq_length {longest} is less than one block ({block}); raise it")
    if model_args.attention_pattern not in BLOCKWISE:
        model_args = replace(model_args, gen_length=length)
    return _trainer(model_args, data_args.dataset_args, args, load_pt_dataset, PackedDataset, length, chat=False)


def _check_without_prompts(model_args: ModelArguments) -> None:
    if model_args.attention_pattern == SHIFTED:
        raise ValueError(NO_PROMPT)


class TextOnly(TextDataset):
    """`TextDataset` that leaves out records which show or play something, as a text model would answer blindly."""

    def prompt(self, record: dict, history: list[dict]) -> tuple[list[int], list, int]:
        if found := [name for name in INPUTS if record.get(name)]:
            raise ValueError(f"it has {found[0]}, which a text model cannot take; use the program of one that can")
        return super().prompt(record, history)


def wanted_splits(load: Callable, spec: str, args: MDLMConfig) -> tuple[Sequence | None, Sequence | None]:
    """Rows to train on, and those held out if they are to be evaluated."""
    train, held_out = load(spec)
    evaluated = args.eval_strategy != "no"
    if train is None:
        raise ValueError(f"--dataset_args {spec}: none of its splits is for training; name one, as [train:1000]")
    if evaluated and held_out is None:
        raise ValueError(f"--eval_strategy: {spec} holds no rows out; ask for some, as name[test:100]")
    if held_out and not evaluated and args.process_index == 0:
        print(f"train: {len(held_out)} rows are held out and not read; --eval_strategy epoch evaluates on them")
    return train, held_out if evaluated else None


def _model(
    model_args: ModelArguments, args: MDLMConfig, chat: bool
) -> tuple[PreTrainedTokenizerBase, MaskedDiffusionLM]:
    """Tokenizer and model in fp32, with the parts to train; bf16 is a matter of the step."""
    folder = model_folder(model_args.model_name_or_path)
    tokenizer, model, mask_token = load_text_model(folder, model_args.diffusion(), chat=chat, dtype=torch.float32)
    if args.process_index == 0:
        print(f"train: {mask_token}")
    set_trainable(model, tuple(model.parts.values()), model_args)
    return tokenizer, model


def _trainer(
    model_args: ModelArguments, spec: str, args: MDLMConfig, load: Callable, dataset: Callable, length: int, chat=True
) -> MDLMTrainer:
    """The trainer of what `load` reads of a spec, in samples that `dataset` makes of at most this length."""
    splits = wanted_splits(load, spec, args)
    tokenizer, model = loaded(lambda: _model(model_args, args, chat), args)
    settings = (model.diffusion, length, args.process_index == 0)
    train, held_out = (part and dataset(spec, part, tokenizer, *settings) for part in splits)
    collator = ResponseCollator(model.diffusion, args.forward_process(), args.pad_to_multiple_of)
    return MDLMTrainer(model, args, collator, train_dataset=train, eval_dataset=held_out, processing_class=tokenizer)


def load_writer(name: str, device: str = "cpu", dtype: str = "float32", plain: bool = False) -> TextWriter:
    """A model of a folder or of the hub, behind text. Raises ValueError if it cannot be loaded."""
    tokenizer, model, _ = load_text_model(model_folder(name), chat=not plain, dtype=DTYPES[dtype])
    return TextWriter(tokenizer, model.to(device).eval(), plain)


def model_folder(name: str) -> str:
    """The folder of a model: `name` below BASE_MODELS_DIR or here, or what the hub, or its cache, has of that name."""
    for folder in (Path(os.environ.get(ROOT, "."), name), Path(name)):
        if folder.is_dir():
            return str(folder)
    if not HUB_NAME.fullmatch(name):
        raise ValueError(f"--model_name_or_path {name} is no folder; give that of a model, or its name on the hub")
    try:
        return snapshot_download(name, allow_patterns=HUB_FILES)
    except (ValueError, OSError) as error:  # of the hub, the network, the cache
        raise ValueError(
            f"--model_name_or_path {name} is no folder here, and the hub does not give it "
            f"({type(error).__name__}); download it and give its folder"
        ) from error
