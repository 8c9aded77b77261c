"""Instruction tuning on images from the command line (examples/qwen3_vl/sft.py)."""

from dataclasses import dataclass

import torch
from transformers.hf_argparser import HfArg

from dllm.data.utils import load_sft_dataset
from dllm.pipelines.loading import check_folder
from dllm.pipelines.qwen3_vl.dataset import VisualDataset
from dllm.pipelines.qwen3_vl.modeling_qwen3_vl import MERGER, VISION, Qwen3VLForMaskedLM
from dllm.pipelines.qwen3_vl.processing import Qwen3VLProcessor
from dllm.pipelines.qwen3_vl.trainer import Qwen3VLTrainer
from dllm.pipelines.qwen3_vl.utils import create_qwen3_vl_collator
from dllm.pipelines.text import DataArguments, model_folder, train, wanted_splits
from dllm.training.arguments import MDLMConfig, ModelArguments
from dllm.training.run import loaded, set_trainable


@dataclass(kw_only=True)
class VisualModelArguments(ModelArguments):
    """What is built, and which of its parts learn beside the language model."""

    freeze_vision: bool = HfArg(default=True, help="the vision encoder stays as it is")
    freeze_merger: bool = HfArg(default=True, help="and so does what projects its features to the language model")


@dataclass
class VisualDataArguments(DataArguments):
    """What is read."""

    image_folder: str = HfArg(default="", help="folder of the images that the records name by path")


def sft(description: str, **defaults) -> None:
    """Runs instruction tuning from the command line; `defaults` replace those of the arguments."""
    train((VisualModelArguments, VisualDataArguments, MDLMConfig), build, description, defaults)


def build(model_args: VisualModelArguments, data_args: VisualDataArguments, args: MDLMConfig) -> Qwen3VLTrainer:
    """The trainer of a run."""
    spec, folder = data_args.dataset_args, data_args.image_folder
    splits = wanted_splits(load_sft_dataset, spec, args)
    model, processor = loaded(lambda: _model(model_args), args)
    collator = create_qwen3_vl_collator(processor, data_args.mask_prompt_loss)
    limits = (model.diffusion, args.model_max_length, args.process_index == 0)
    learnt, held_out = (part and VisualDataset(spec, part, processor, *limits, folder=folder) for part in splits)
    return Qwen3VLTrainer(model=model, args=args, train_dataset=learnt, eval_dataset=held_out, data_collator=collator)


def _model(model_args: VisualModelArguments) -> tuple[Qwen3VLForMaskedLM, Qwen3VLProcessor]:
    """Model, in fp32 and with the parts to train, and processor; bf16 is a matter of the step."""
    folder = model_folder(model_args.model_name_or_path)
    check_folder(folder, "tokenizer.json", "preprocessor_config.json")
    model = Qwen3VLForMaskedLM.from_pretrained(folder, dtype=torch.float32)
    for name, value in model_args.diffusion().items():
        setattr(model.diffusion, name, value)
    trained = ["model.language_model."] + ["lm_head."] * (not model_args.lora_enable)  # the adapter is not in the head
    trained += VISION * (not model_args.freeze_vision) + MERGER * (not model_args.freeze_merger)
    set_trainable(model, tuple(trained), model_args)
    return model, Qwen3VLProcessor.from_pretrained(folder)
