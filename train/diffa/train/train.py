r"""Trains DiffaModelLM on questions about clips; the stage scripts in examples/diffa call it through torchrun.

    torchrun --nproc_per_node 1 diffa/train/train_mem.py --llm_model DIR --whisper_model DIR --training_stage 1 \
        --train_dataset_path FILE --output_dir DIR
"""

import torch

from diffa.data.dataset import AudioCollator, AudioDataset
from diffa.model.audio_encoder import AudioPreprocessor
from diffa.model.builder import build_model, load_stage
from diffa.train.args import DataArguments, ModelArguments, TrainingArguments
from diffa.train.diffa_trainer import DiffaTrainer
from dllm.training.command_line import ArgumentParser
from dllm.training.run import loaded, run, set_trainable


def train() -> None:
    """Runs one stage from the command line."""
    run(parse, build)


def parse() -> tuple[ModelArguments, DataArguments, TrainingArguments]:
    """The arguments of the command line. Raises ValueError for what can be told before anything is loaded."""
    parser = ArgumentParser((ModelArguments, DataArguments, TrainingArguments), __doc__)
    model_args, data_args, args = parser.parse()
    model_args.check()
    if data_args.eval_dataset_path and args.eval_strategy == "no":
        raise ValueError("--eval_dataset_path is never read; say when with --eval_strategy steps or epoch")
    return model_args, data_args, args


def build(model_args: ModelArguments, data_args: DataArguments, args: TrainingArguments) -> DiffaTrainer:
    """The trainer of a run."""
    tokenizer, model, extractor = loaded(lambda: _model(model_args, args), args)
    limits = (model.diffusion, args.model_max_length, args.process_index == 0)
    preprocessor = AudioPreprocessor(extractor, model.config)
    paths = {"train_dataset": data_args.train_dataset_path, "eval_dataset": data_args.eval_dataset_path}
    datasets = {
        name: AudioDataset(path, tokenizer, preprocessor, *limits, cut=data_args.cut_long_audio)
        for name, path in paths.items()
        if path
    }
    collator = AudioCollator(model.diffusion, args.forward_process(), args.pad_to_multiple_of)
    return DiffaTrainer(model, args, collator, **datasets, processing_class=tokenizer, processors=(extractor,))


def _model(model_args: ModelArguments, args: TrainingArguments):
    """A model of its parts, with what an earlier stage has learnt; what is frozen is held in the type of the step."""
    folders = (model_args.model_name_or_path, model_args.whisper_model)
    dtype = torch.bfloat16 if args.bf16 else torch.float32
    freeze = "language_model" not in model_args.parts()
    tokenizer, model, extractor = build_model(*folders, model_args.diffusion(), dtype, freeze, **model_args.settings())
    if model_args.stage1_ckpt:
        load_stage(model, model_args.stage1_ckpt)
    set_trainable(model, model_args.tunable_prefixes(), model_args)
    return tokenizer, model, extractor
