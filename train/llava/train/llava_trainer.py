"""LLaVATrainer: a learning rate for each part, and checkpoints that count only once they are complete."""

import os
from pathlib import Path

from torch import Tensor, nn
from transformers import SiglipImageProcessorPil

from dllm.training.checkpoints import discard, flush, mark_complete, rotate, told_as_one_line
from dllm.training.failures import StopSignal
from dllm.training.flops import device_rate
from dllm.training.gradients import PartNorms
from dllm.training.lora import load_lora, lora_config, merge, save_lora
from dllm.training.trainer import MDLMTrainer
from llava.constants import IMAGE_TOKEN_INDEX
from llava.train.args import PARTS
from llava.train.costs import step_costs


class LLaVATrainer(MDLMTrainer):
    """MDLMTrainer of a LlavaQwen3ModelLM; every folder it saves holds the image processor too."""

    def __init__(self, *args, image_processor: SiglipImageProcessorPil, **kwargs):
        super().__init__(*args, **kwargs)
        self.image_processor = image_processor
        self.stop_signal = StopSignal()
        self.add_callback(self.stop_signal)
        self._saved_step = None
        self.peak_rate = device_rate(self.args.device)
        self.step_flops = step_costs(self.model)[0] if self.peak_rate else None
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

    def create_optimizer(self, model=None):
        """One optimizer whose groups have the learning rate of their part; norms and biases do not decay."""
        model = self.model if model is None else model
        if self.optimizer is None:
            optimizer, kwargs = self.get_optimizer_cls_and_kwargs(self.args, model)
            self.optimizer = optimizer(self._parameter_groups(model), **kwargs)
            self.part_norms = PartNorms(self.optimizer, lambda: self.state.global_step)
        return self.optimizer

    def _parameter_groups(self, model: nn.Module) -> list[dict]:
        args = self.args
        rates = {
            "mm_vision_tower": args.mm_vision_tower_lr,
            "mm_vision_resampler": args.mm_projector_lr,
            "mm_mlp_adapter": args.mm_projector_lr,
            "mm_language_model": None,
        }
        decaying = set(self.get_decay_parameter_names(model))
        groups = []
        for part, rate in rates.items():
            for decay in (True, False):
                parameters = [
                    parameter
                    for name, parameter in model.named_parameters()
                    if parameter.requires_grad and name.startswith(PARTS[part]) and (name in decaying) == decay
                ]
                if parameters:
                    rate = args.learning_rate if rate is None else rate
                    settings = {"lr": rate, "weight_decay": args.weight_decay * decay}
                    groups.append({"part": part, "params": parameters} | settings)
        return groups

    def counts(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Adds `images`: square tiles and video frames, without the blank that a text-only batch brings."""
        is_image = batch["input_ids"] == IMAGE_TOKEN_INDEX
        return super().counts(batch) | {"images": is_image.any() * len(batch["images"])}

    def figures(self, logs: dict[str, float], counts: dict[str, Tensor], seconds: float) -> dict[str, float]:
        """Adds the gradient norm of each part at the last step, and on GPUs whose peak rate is known the share of it
        that the step's operations make up (MFU).
        """
        result = super().figures(logs, counts, seconds)
        result |= self.part_norms.read(logs["grad_norm"], self._over_ranks, self.args.device)
        if self.step_flops:
            done = self.step_flops(*(counts[name].item() for name in ("fed", "pairs", "targets", "images")))
            result["mfu"] = done / (seconds * self.args.world_size * self.peak_rate)
        return result

    def _save(self, output_dir=None, state_dict=None) -> None:
        output_dir = output_dir or self.args.output_dir
        lora = lora_config(self.model)
        if lora and self.args.should_save:
            state = self.model.state_dict() if state_dict is None else state_dict
            save_lora(state, lora, output_dir)
            state_dict = merge(state, lora)
        if state_dict:  # ZeRO and FSDP gather a tied weight under both of its names
            tied = self.model.all_tied_weights_keys
            state_dict = {name: weight for name, weight in state_dict.items() if name not in tied}
        super()._save(output_dir, state_dict)
        if self.args.should_save:
            self.image_processor.save_pretrained(output_dir)

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
            with told_as_one_line(folder):
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
        names = ("seed", "data_seed", "learning_rate", "mm_projector_lr", "mm_vision_tower_lr")
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
