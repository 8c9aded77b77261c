r"""Trains LlavaQwen3ModelLM on LLaVA JSON data; the stage scripts in train/scripts call it through torchrun.

    torchrun --nproc_per_node 1 llava/train/train_mem.py --model_name_or_path DIR --vision_tower DIR \
        --data_path FILE --image_folder DIR --mm_tunable_parts mm_mlp_adapter,mm_vision_resampler --output_dir DIR
"""

import torch

from dllm.core.model import check_diffusion_settings
from dllm.training.command_line import ArgumentParser
from dllm.training.run import loaded, run, set_trainable
from llava.data.dataset import ReportCollator, ReportDataset
from llava.model.builder import build_model, is_trained, load_adapter, load_pretrained_model
from llava.model.multimodal_resampler.builder import num_image_tokens
from llava.train.args import DataArguments, ModelArguments, TrainingArguments
from llava.train.llava_trainer import LLaVATrainer


def train() -> None:
    """Runs one stage from the command line."""
    run(parse, build)


def parse() -> tuple[ModelArguments, DataArguments, TrainingArguments]:
    """The arguments of the command line. Raises ValueError for what can be told before anything is loaded."""
    parser = ArgumentParser((ModelArguments, DataArguments, TrainingArguments), __doc__)
    model_args, data_args, args = parser.parse()
    model_args.check()
    data_args.check()
    if data_args.eval_data_path and args.eval_strategy == "no":
        raise ValueError("--eval_data_path is never read; say when with --eval_strategy steps or epoch")
    return model_args, data_args, args


def build(model_args: ModelArguments, data_args: DataArguments, args: TrainingArguments) -> LLaVATrainer:
    """The trainer of a run."""
    tokenizer, model, processor = loaded(lambda: _model(model_args, data_args), args)

    def dataset(path: str, training: bool) -> ReportDataset:
        parts = path, data_args.image_folder, tokenizer, processor, model.config
        limits = num_image_tokens(model.config, training), args.model_max_length
        return ReportDataset(*parts, *limits, show_progress=args.process_index == 0, videos=data_args.videos())

    return LLaVATrainer(
        model=model,
        args=args,
        train_dataset=dataset(data_args.data_path, training=True),
        eval_dataset=dataset(data_args.eval_data_path, training=False) if data_args.eval_data_path else None,
        data_collator=ReportCollator(model.config, args.forward_process(), args.pad_to_multiple_of),
        processing_class=tokenizer,
        processors=(processor,),
    )


def _model(model_args: ModelArguments, data_args: DataArguments):
    """A model of two towers, or a trained model to go on with; fp32 master weights, bf16 is a matter of the step."""
    path, tower = model_args.model_name_or_path, model_args.vision_tower
    if not is_trained(path):
        if not tower:
            problem = f"--vision_tower is missing: {path} is a language model"
            raise ValueError(f"{problem}; give the folder of a SigLIP model")
        select_layer, diffusion = model_args.mm_vision_select_layer, model_args.diffusion()
        names = ("image_aspect_ratio", "image_grid_pinpoints")
        settings = model_args.settings() | {name: getattr(data_args, name) for name in names}
        tokenizer, model, processor = build_model(path, tower, select_layer, torch.float32, diffusion, **settings)
    else:
        tokenizer, model, processor = load_pretrained_model(path)
        model.diffusion.block_length = model_args.block_length  # it may learn to write longer blocks
        check_diffusion_settings(model.diffusion)
    if model_args.pretrain_mm_mlp_adapter:
        load_adapter(model, model_args.pretrain_mm_mlp_adapter)
    set_trainable(model, model_args.tunable_prefixes(), model_args)
    return tokenizer, model, processor


if __name__ == "__main__":
    train()
