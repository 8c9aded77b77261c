"""ResumableTrainer: a Trainer whose run can be killed at any moment and goes on with the same command."""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from torch.utils.data import DataLoader
from transformers import Trainer

from dllm.data.files import Lock
from dllm.training.checkpoints import as_user_error, discard, flush, mark_complete, pickle_by_value, rotate
from dllm.training.failures import StopSignal
from dllm.training.identity import Identity
from dllm.training.lora import load_lora, lora_config, merge, save_lora


def _start_worker(start: Callable[[int], None] | None, number: int) -> None:
    """A process that loads data leaves the group of its own one: torchrun signals groups, and a run that is told to
    stop has steps to take before its checkpoint.
    """
    os.setpgid(0, 0)
    if start is not None:
        start(number)


class ResumableTrainer(Trainer):
    """Writes checkpoints that count only once they are complete, and one on SIGTERM.

    `processors`: whatever a model needs beside its weights and tokenizer (of what it is given);
    every folder that is saved holds them. A LoRA adapter is merged into the weights that are saved.
    """

    def __init__(self, *args, processors: tuple = (), **kwargs):
        super().__init__(*args, **kwargs)
        self.processors = processors
        self.stop_signal = StopSignal()
        self.identity: Identity | None = None  # of a run with a command line, in the process that saves
        self.lock: Lock | None = None  # of the output folder, there
        self._saved_step = None
        self._marker_thread, self._marking = ThreadPoolExecutor(max_workers=1, thread_name_prefix="marker"), None
        self._check_sharding()
        if self.is_deepspeed_enabled:
            from deepspeed.runtime.zero.config import ZeroStageEnum  # not everybody has it

            pickle_by_value(ZeroStageEnum)

    def _get_dataloader(self, *args, **kwargs) -> DataLoader:
        loader = super()._get_dataloader(*args, **kwargs)
        base = getattr(loader, "base_dataloader", loader)  # accelerate wraps it
        base.worker_init_fn = partial(_start_worker, base.worker_init_fn)
        return loader

    def _check_sharding(self) -> None:
        """Raises ValueError for settings that accelerate takes but that lose something."""
        state = self.accelerator.state
        if self.is_deepspeed_enabled:
            plugin = state.deepspeed_plugin
            if plugin.zero_stage == 3 and not plugin.zero3_save_16bit_model:
                name = "stage3_gather_16bit_weights_on_model_save (accelerate's zero3_save_16bit_model)"
                raise ValueError(f"DeepSpeed would save no whole model; set {name} to true")
        if os.environ.get("ACCELERATE_USE_FSDP", "false").lower() != "true":
            return
        if not self.is_fsdp_enabled:
            raise ValueError("FSDP needs GPUs: on CPUs accelerate would train with plain DDP; ask for ddp or deepspeed")
        if state.fsdp_plugin.fsdp_version != 2:
            raise ValueError("fsdp_version 1 would drop the learning rates of the parts; set fsdp_version to 2")
        if "FULL_STATE_DICT" not in str(state.fsdp_plugin.state_dict_type):
            raise ValueError("FSDP would save no whole model; set fsdp_state_dict_type to FULL_STATE_DICT")

    def save_result(self, folder: str) -> tuple[str, str]:
        """Writes what the run has learned to `folder`, called on all ranks; returns what it is, and its file there."""
        self.save_model(folder)
        return "model", ""

    def _save(self, output_dir=None, state_dict=None) -> None:
        output_dir = output_dir or self.args.output_dir
        lora = lora_config(self.model)
        if lora and self.args.should_save:
            state = self.model.state_dict() if state_dict is None else state_dict
            save_lora(state, lora, self.model.language_model_prefix, output_dir)
            state_dict = merge(state, lora)
        if state_dict:  # ZeRO and FSDP gather a tied weight under both of its names
            tied = self.model.all_tied_weights_keys
            state_dict = {name: weight for name, weight in state_dict.items() if name not in tied}
        super()._save(output_dir, state_dict)
        if self.args.should_save:
            for processor in self.processors:
                processor.save_pretrained(output_dir)

    def _load_from_checkpoint(self, resume_from_checkpoint, model=None) -> None:
        if lora_config(self.model) and not self.is_fsdp_enabled:  # FSDP keeps files of its own
            load_lora(self.model, resume_from_checkpoint)
        else:
            super()._load_from_checkpoint(resume_from_checkpoint, model)

    def _save_checkpoint(self, model, trial) -> None:
        """Writes a checkpoint that counts only once it is whole (`dllm.training.checkpoints`)."""
        if self._saved_step == self.state.global_step:  # the end of an epoch may be that of the run
            return
        folder = Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}"
        limit, self.args.save_total_limit = self.args.save_total_limit, None  # or transformers rotates too early
        self._wait_for_marker()
        try:
            with as_user_error(folder):
                self._write_checkpoint(folder, model, trial)
        except ValueError:
            if self.args.should_save:
                discard(folder)  # of a disk that is full, most likely
            raise
        finally:
            self.args.save_total_limit = limit
        if self.args.should_save:
            best = self.state.best_model_checkpoint
            self._marking = self._marker_thread.submit(self._complete, folder, limit, best)
        self._saved_step = self.state.global_step

    def _complete(self, folder: Path, limit: int | None, best: str | None) -> None:
        """Hashes the files of a checkpoint beside the training, then makes it count and removes those before it."""
        with as_user_error(folder):
            mark_complete(folder, self.run_settings())
            rotate(self.args.output_dir, limit, best)

    def _wait_for_marker(self) -> None:
        if self._marking is not None:
            marking, self._marking = self._marking, None
            marking.result()

    def train(self, *args, **kwargs):
        try:
            return super().train(*args, **kwargs)
        finally:
            self._wait_for_marker()

    def _write_checkpoint(self, folder: Path, model, trial) -> None:
        if self.args.should_save:
            discard(folder)  # what an interrupted run left of it
        self.accelerator.wait_for_everyone()
        super()._save_checkpoint(model, trial)
        self.accelerator.wait_for_everyone()
        if self.args.local_process_index == 0:
            flush(folder)
        self.accelerator.wait_for_everyone()

    def _save_rng_state(self, output_dir: str) -> None:
        """Waits for the files of all processes, or this one would make the folder anew that a full disk took away."""
        self.accelerator.wait_for_everyone()
        super()._save_rng_state(output_dir)

    def run_settings(self) -> dict:
        """What a run must have in common with the one whose checkpoint it goes on from."""
        args = self.args
        zero = self.accelerator.state.deepspeed_plugin.zero_stage if self.is_deepspeed_enabled else None
        return {
            "samples in the data": len(self.train_dataset),
            "samples a step": args.train_batch_size * args.gradient_accumulation_steps * args.world_size,
            "FSDP": self.is_fsdp_enabled,
            "ZeRO stage": zero,
            # Each process has its part of ZeRO's optimizer; otherwise any number can go on.
            "ZeRO processes": None if zero is None else args.world_size,
            **(self.identity or Identity(self.args)).values(),
        }
