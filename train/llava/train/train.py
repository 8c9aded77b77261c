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
from transformers.trainer import TRAINER_STATE_NAME

from dllm.training.checkpoints import check_settings, last_complete_checkpoint, written_aside
from dllm.training.failures import is_lost_process, launcher_is_gone, one_line, tell
from dllm.training.lora import add_lora
from dllm.training.plan import describe_plan
from dllm.training.progress import summary
from llava.data.dataset import ReportCollator, ReportDataset
from llava.model.builder import (
    ADAPTER_FILE,
    ADAPTER_PARTS,
    build_model,
    is_trained,
    load_adapter,
    load_pretrained_model,
    save_adapter,
)
from llava.model.multimodal_resampler.builder import num_image_tokens
from llava.train.args import DataArguments, ModelArguments, TrainingArguments, check_arguments
from llava.train.llava_trainer import LLaVATrainer


def train() -> None:
    """Runs one stage from the command line; a user's mistake ends in one line and exit status 1."""
    training = False
    try:
        _prepare_process()
        model_args, data_args, args = _parse()
        trainer, tunable = _build(model_args, data_args, args)
        if args.dry_run:
            if args.process_index == 0:
                print(describe_plan(trainer), flush=True)
            _finish()
            return
        checkpoint = last_complete_checkpoint(args.output_dir)
        if checkpoint:
            check_settings(checkpoint, trainer.run_settings())
            if args.process_index == 0:
                print(f"train: resuming from {checkpoint}", flush=True)
        training = True
        _run(trainer, checkpoint)
        _save(trainer, tunable)
    except (ValueError, OSError) as error:
        tell(one_line(error), below_bar=training)
        _finish(failed=True)
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
    if data_args.eval_data_path and args.eval_strategy == "no":
        raise ValueError("--eval_data_path is never read; say when with --eval_strategy steps or epoch")
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
    if model_args.lora_enable:
        base = model_args.model_name_or_path
        add_lora(model, model_args.lora_r, model_args.lora_alpha, model_args.lora_dropout, base)
    if args.deepspeed:  # otherwise, started by accelerate, the Trainer does it
        hf_deepspeed.set_hf_deepspeed_config(args.hf_deepspeed_config)

    def dataset(path: str, training: bool) -> ReportDataset:
        return ReportDataset(
            path,
            data_args.image_folder,
            tokenizer,
            processor,
            model.config,
            num_image_tokens(model.config, training),
            args.model_max_length,
            show_progress=args.process_index == 0,
            videos=data_args.videos(),
        )

    collator = ReportCollator(model.config, args.forward_process(), args.pad_to_multiple_of)
    trainer = LLaVATrainer(
        model=model,
        args=args,
        train_dataset=dataset(data_args.data_path, training=True),
        eval_dataset=dataset(data_args.eval_data_path, training=False) if data_args.eval_data_path else None,
        data_collator=collator,
        processing_class=tokenizer,
        image_processor=processor,
    )
    return trainer, tunable


def _model(model_args: ModelArguments, data_args: DataArguments):
    """A model of two towers, or a trained model to go on with; fp32 master weights, bf16 is a matter of the step."""
    path = model_args.model_name_or_path
    names = ("image_aspect_ratio", "image_grid_pinpoints")
    settings = model_args.settings() | {name: getattr(data_args, name) for name in names}
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


def _run(trainer: LLaVATrainer, checkpoint: str | None) -> None:
    try:
        trainer.train(resume_from_checkpoint=checkpoint)
    except RuntimeError as error:
        if not is_lost_process(error):
            raise
        who = "torchrun" if launcher_is_gone() else "another process of the run"
        raise ValueError(
            f"{who} is lost, at step {trainer.state.global_step} (killed? out of memory?); start "
            "again with the same command to go on from the last checkpoint"
        ) from error
    if trainer.stop_signal.stopped:
        raise ValueError(
            f"stopped by SIGTERM at step {trainer.state.global_step}, with a checkpoint; start again with the same "
            "command to go on"
        )


def _save(trainer: LLaVATrainer, tunable: tuple[str, ...]) -> None:
    """Stage 1 (only resampler and projector trained) leaves an adapter, any other run a whole model."""
    folder, writes = trainer.args.output_dir, trainer.args.should_save
    is_adapter = all(prefix in ADAPTER_PARTS for prefix in tunable)
    with written_aside(folder, publish=writes) as aside:
        if is_adapter:
            state = trainer.accelerator.get_state_dict(trainer.model_wrapped)
            if writes:
                save_adapter(state, trainer.model.config, aside)
                trainer.model.config.save_pretrained(aside)
        else:
            trainer.save_model(aside)
        if writes:
            trainer.state.save_to_json(os.path.join(aside, TRAINER_STATE_NAME))
    if writes:
        written = (
            f"adapter written to {os.path.join(folder, ADAPTER_FILE)}" if is_adapter else f"model written to {folder}"
        )
        print(f"train: {written} after {summary(trainer.state, **trainer.meter.total)}", flush=True)


def _finish(failed: bool = False) -> None:
    """Ends the process. A gloo thread may abort the interpreter while it shuts down, after all work is done."""
    if torch.distributed.is_initialized() and not failed:
        torch.distributed.barrier()
    if torch.distributed.is_initialized() and not torch.cuda.is_available():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(int(failed))
    if failed:
        sys.exit(1)
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    train()
