"""Trains LlavaQwen3ModelLM on LLaVA JSON data; the stage scripts in train/scripts call it through torchrun.

    torchrun --nproc_per_node 1 llava/train/train_mem.py --model_name_or_path DIR --vision_tower DIR \
        --data_path FILE --image_folder DIR --mm_tunable_parts mm_mlp_adapter,mm_vision_resampler --output_dir DIR
"""

import os
import sys
import warnings

import torch
import transformers
from transformers.integrations import deepspeed as hf_deepspeed

from llava.data.dataset import ReportCollator, ReportDataset
from llava.model.builder import (
    ADAPTER_PARTS,
    build_model,
    is_trained,
    load_adapter,
    load_pretrained_model,
    save_adapter,
)
from llava.model.multimodal_resampler.builder import num_image_tokens
from llava.train.args import DataArguments, ModelArguments, TrainingArguments, check_arguments
from llava.train.llava_trainer import LLaVATrainer, last_complete_checkpoint


def train() -> None:
    """Runs one stage from the command line; a user's mistake ends in one line and exit status 1."""
    first, training = os.environ.get("RANK", "0") == "0", False
    try:
        _prepare_process()
        model_args, data_args, args = _parse()
        trainer, tunable = _build(model_args, data_args, args)
        checkpoint = last_complete_checkpoint(args.output_dir)
        if checkpoint and first:
            print(f"train: resuming from {checkpoint}", flush=True)
        training = True
        trainer.train(resume_from_checkpoint=checkpoint)
        _save(trainer, tunable)
    except (ValueError, OSError) as error:
        if first or training:  # before training every process meets the same error
            start = "\n" if training else ""  # below the progress bar
            print(f"{start}train: error: {' '.join(str(error).split())}", file=sys.stderr, flush=True)
        sys.exit(1)
    _finish()


def _prepare_process() -> None:
    os.environ.setdefault("WANDB_MODE", "offline")
    warnings.filterwarnings("ignore", category=FutureWarning)  # of libraries to each other, several a step
    transformers.utils.logging.set_verbosity_warning()
    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
        if any(argument.split("=")[0] == "--deepspeed" for argument in sys.argv) and "RANK" in os.environ:
            import deepspeed

            # Before TrainingArguments exist, or DeepSpeed counts the processes wrongly on CPU.
            deepspeed.init_distributed(dist_backend="gloo", verbose=False)


def _parse() -> tuple[ModelArguments, DataArguments, TrainingArguments]:
    parser = transformers.HfArgumentParser((ModelArguments, DataArguments, TrainingArguments))
    model_args, data_args, args = parser.parse_args_into_dataclasses()
    check_arguments(model_args, data_args)
    return model_args, data_args, args


def _build(model_args: ModelArguments, data_args: DataArguments, args: TrainingArguments):
    transformers.set_seed(args.seed)
    # Partitioned loading would split the towers before the adapter is read into them, so DeepSpeed waits.
    hf_deepspeed.unset_hf_deepspeed_config()
    tokenizer, model, processor = _model(model_args, data_args)
    if model_args.pretrain_mm_mlp_adapter:
        load_adapter(model, model_args.pretrain_mm_mlp_adapter)
    tunable = model_args.tunable_prefixes()
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.startswith(tunable))
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ValueError(f"--mm_tunable_parts {model_args.mm_tunable_parts} has no weights in this model; add a part")
    if args.deepspeed:
        hf_deepspeed.set_hf_deepspeed_config(args.hf_deepspeed_config)

    dataset = ReportDataset(
        data_args.data_path,
        data_args.image_folder,
        tokenizer,
        processor,
        model.config,
        num_image_tokens(model.config, training=True),
        args.model_max_length,
        show_progress=args.process_index == 0,
    )
    collator = ReportCollator(model.config, args.forward_process())
    trainer = LLaVATrainer(
        model=model,
        args=args,
        train_dataset=dataset,
        data_collator=collator,
        processing_class=tokenizer,
        image_processor=processor,
    )
    return trainer, tunable


def _model(model_args: ModelArguments, data_args: DataArguments):
    """A model of two towers, or a trained model to go on with; fp32 master weights, bf16 is a matter of the step."""
    path = model_args.model_name_or_path
    settings = model_args.settings() | {"image_aspect_ratio": data_args.image_aspect_ratio}
    if not is_trained(path):
        if not model_args.vision_tower:
            raise ValueError(
                f"--vision_tower is missing: {path} is a language model; give the folder of a SigLIP model"
            )
        select_layer, diffusion = model_args.mm_vision_select_layer, model_args.diffusion()
        return build_model(path, model_args.vision_tower, select_layer, torch.float32, diffusion, **settings)
    if model_args.vision_tower:
        raise ValueError(f"--vision_tower {model_args.vision_tower}: {path} has its own; leave the argument out")
    tokenizer, model, processor = load_pretrained_model(path)
    for name, value in (settings | model_args.diffusion()).items():
        config = model.config if name in settings else model.config.text_config
        if getattr(config, name) != value:
            raise ValueError(f"--{name} {value}: {path} was trained with {getattr(config, name)}; give the same")
    return tokenizer, model, processor


def _save(trainer: LLaVATrainer, tunable: tuple[str, ...]) -> None:
    """Stage 1 (only resampler and projector trained) leaves an adapter, any other run a whole model."""
    folder = trainer.args.output_dir
    trainer.save_state()
    if all(prefix in ADAPTER_PARTS for prefix in tunable):
        state = trainer.accelerator.get_state_dict(trainer.model_wrapped)
        if trainer.args.should_save:
            path = save_adapter(state, trainer.model.config, folder)
            trainer.model.config.save_pretrained(folder)
            print(f"train: adapter written to {path}", flush=True)
    else:
        trainer.save_model(folder)
        if trainer.args.should_save:
            print(f"train: model written to {folder}", flush=True)


def _finish() -> None:
    """Ends the process. A gloo thread may abort the interpreter while it shuts down, after all work is done."""
    if torch.distributed.is_initialized():
        torch.distributed.barrier()
        if not torch.cuda.is_available():
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(0)
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    train()
