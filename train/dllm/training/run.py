"""A training run from its command line to what it has learned, whatever it trains on."""

import os
import sys
import warnings
from collections.abc import Callable

import torch
import transformers
from transformers.integrations import deepspeed as hf_deepspeed
from transformers.trainer import TRAINER_STATE_NAME

from dllm.core.language_model import MaskedDiffusionLM
from dllm.data.files import Lock, weights_optional
from dllm.program import check_no_empty_argument, explain
from dllm.training.arguments import MDLMConfig, ModelArguments
from dllm.training.checkpoints import check_settings, newest_whole_checkpoint, written_aside
from dllm.training.curves import draw
from dllm.training.failures import is_lost_process, launcher_is_gone, print_error_once
from dllm.training.identity import Identity
from dllm.training.lora import add_lora
from dllm.training.model_card import write_card
from dllm.training.plan import describe_plan
from dllm.training.processes import on_one_process
from dllm.training.progress import summary
from dllm.training.trainer import MDLMTrainer


def run(parse: Callable[[], tuple], build: Callable[..., MDLMTrainer]) -> None:
    """Trains from the command line; a user's mistake ends in one line and exit status 1.

    `parse` returns the dataclasses of the command line, the last one an `MDLMConfig`; `build` makes the trainer of
    them, its model by `loaded` and `set_trainable`. The same command goes on from the last checkpoint.
    """
    trainer, training = None, False
    try:
        _prepare_process()
        check_no_empty_argument(sys.argv[1:])
        arguments = parse()
        args = arguments[-1]
        identity = Identity(*arguments) if args.should_save else None
        trainer = build(*arguments)
        trainer.identity = identity
        if args.dry_run:
            if args.process_index == 0:
                print(describe_plan(trainer), flush=True)
        else:
            checkpoint = on_one_process(lambda: _start(trainer))
            training = True
            _train(trainer, checkpoint)
            _save(trainer)
    except Exception as error:
        print_error_once(explain(error), below_bar=training)
        _finish(trainer, failed=True)
    _finish(trainer)


def _start(trainer: MDLMTrainer) -> str | None:
    """Locks the output folder, and finds the checkpoint to go on from."""
    folder, allowed = trainer.args.output_dir, trainer.args.allow_changed or []
    os.makedirs(folder, exist_ok=True)
    trainer.lock = Lock(f"{folder}/.lock", "trains into it")
    checkpoint, problems = newest_whole_checkpoint(folder)
    for problem in problems:
        print(f"train: {problem}; passed over", flush=True)
    if checkpoint is None:
        return None
    check_settings(checkpoint, trainer.run_settings(), allowed)
    print(f"train: resuming from {checkpoint}", flush=True)
    return str(checkpoint)


def loaded(load: Callable[[], tuple], args: MDLMConfig) -> tuple:
    """What `load` returns, with the run's seed and none of DeepSpeed: it would partition the parts of a model before
    all of their weights are read.
    """
    transformers.set_seed(args.seed)
    hf_deepspeed.unset_hf_deepspeed_config()
    with weights_optional(args.dry_run):
        result = load()
    if args.deepspeed:  # otherwise, started by accelerate, the Trainer does it
        hf_deepspeed.set_hf_deepspeed_config(args.hf_deepspeed_config)
    return result


def set_trainable(model: MaskedDiffusionLM, prefixes: tuple[str, ...], arguments: ModelArguments) -> None:
    """Freezes all weights but those with one of the prefixes; with LoRA an adapter takes the language model's place."""
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.startswith(prefixes))
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ValueError("the parts to train have no weights in this model; name another one")
    if arguments.lora_enable:
        base = arguments.model_name_or_path
        add_lora(model, arguments.lora_r, arguments.lora_alpha, arguments.lora_dropout, base)


def _prepare_process() -> None:
    os.environ.setdefault("WANDB_MODE", "offline")
    warnings.filterwarnings("ignore", category=FutureWarning)  # of libraries to each other, several a step
    transformers.utils.logging.set_verbosity_error()  # warnings that no user can act on
    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
        torchrun = any(argument.split("=")[0] == "--deepspeed" for argument in sys.argv) and "RANK" in os.environ
        if torchrun or os.environ.get("ACCELERATE_USE_DEEPSPEED") == "true":
            prepare_deepspeed_on_cpu(connect=torchrun)


def prepare_deepspeed_on_cpu(connect: bool = True) -> None:
    """Keeps DeepSpeed from compiling, for a minute at the first start, a reduction that only its inference uses, and
    from asking another program for the devices at every gradient; and connects the processes, which must be before
    TrainingArguments exist, or it counts them wrongly.
    """
    os.environ.setdefault("LOCAL_SIZE", os.environ.get("LOCAL_WORLD_SIZE", "1"))  # as its own launcher does
    import deepspeed

    deepspeed.ops.__compatible_ops__ = {}
    if connect:
        deepspeed.init_distributed(dist_backend="gloo", verbose=False)


def _train(trainer: MDLMTrainer, checkpoint: str | None) -> None:
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


def _save(trainer: MDLMTrainer) -> None:
    folder, writes = trainer.args.output_dir, trainer.args.should_save
    with written_aside(folder, publish=writes) as aside:
        what, file = trainer.save_result(aside)
        if writes:
            trainer.state.save_to_json(os.path.join(aside, TRAINER_STATE_NAME))
        if writes and not file:  # an adapter in a file is no folder to load
            progress = f"trained for {trainer.state.global_step:,} steps"
            name = os.path.basename(os.path.abspath(folder))
            write_card(aside, name, trainer.identity.arguments, trainer.run_settings(), trainer.model, progress)
    if writes:
        target = os.path.join(folder, file) if file else folder
        print(f"train: {what} written to {target} after {summary(trainer.state, **trainer.meter.total)}", flush=True)
        if any("loss" in entry for entry in trainer.state.log_history):
            print(f"train: its losses, rates and gradient norms: {draw(folder)}", flush=True)


def _finish(trainer: MDLMTrainer | None, failed: bool = False) -> None:
    """Ends the process. A gloo thread may abort the interpreter while it shuts down, after all work is done."""
    if torch.distributed.is_initialized() and not failed:
        torch.distributed.barrier()
    if trainer is not None and trainer.lock is not None:
        trainer.lock.release()
    if torch.distributed.is_initialized() and not torch.cuda.is_available():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(int(failed))
    if failed:
        sys.exit(1)
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
