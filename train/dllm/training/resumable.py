"""ResumableTrainer: a Trainer whose run can be killed at any moment and goes on with the same command."""

import os
from pathlib import Path

from transformers import Trainer

from dllm.training.checkpoints import as_user_error, discard, flush, mark_complete, rotate
from dllm.training.failures import StopSignal
from dllm.training.lora import load_lora, lora_config, merge, save_lora


class ResumableTrainer(Trainer):
    """Writes checkpoints that count only once they are complete, and one on SIGTERM.

    `processors`: whatever a model needs beside its weights and tokenizer (of what it is given);
    every folder that is saved holds them. A LoRA adapter is merged into the weights that are saved.
    """

    def __init__(self, *args, processors: tuple = (), **kwargs):
        super().__init__(*args, **kwargs)
        self.processors = processors
        self.stop_signal = StopSignal()
        self._saved_step = None
        self._check_sharding()

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
        try:
            with as_user_error(folder):
                self._write_checkpoint(folder, model, trial)
                if self.args.should_save:
                    rotate(self.args.output_dir, limit, self.state.best_model_checkpoint)
        except ValueError:
            if self.args.should_save:
                discard(folder)  # of a disk that is full, most likely
            raise
        finally:
            self.args.save_total_limit = limit
        self._saved_step = self.state.global_step

    def _write_checkpoint(self, folder: Path, model, trial) -> None:
        if self.args.should_save:
            discard(folder)  # what an interrupted run left of it
        self.accelerator.wait_for_everyone()
        super()._save_checkpoint(model, trial)
        self.accelerator.wait_for_everyone()
        if self.args.local_process_index == 0:
            flush(folder)
        self.accelerator.wait_for_everyone()
        if self.args.should_save:
            mark_complete(folder, self.run_settings())

    def run_settings(self) -> dict:
        """What a run must have in common with the one whose checkpoint it goes on from."""
        args = self.args
        names = ("seed", "data_seed", "learning_rate", *dict.fromkeys(args.part_rates.values()))
        zero = self.accelerator.state.deepspeed_plugin.zero_stage if self.is_deepspeed_enabled else None
        lora = lora_config(self.model)
        return {
            "samples in the data": len(self.train_dataset),
            "samples a step": args.train_batch_size * args.gradient_accumulation_steps * args.world_size,
            "--train_sampling_strategy": str(args.train_sampling_strategy),
            **{f"--{name}": getattr(args, name) for name in names},
            "--lora_r": lora and lora.r,
            "--lora_alpha": lora and lora.lora_alpha,
            "FSDP": self.is_fsdp_enabled,
            "ZeRO stage": zero,
            # Each process has its part of ZeRO's optimizer; otherwise any number can go on.
            "ZeRO processes": None if zero is None else args.world_size,
        }
