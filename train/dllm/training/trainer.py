"""MDLMTrainer: transformers' Trainer with the masked-diffusion loss and noise keyed by the order of samples."""

import copy
import math

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Sampler, SequentialSampler
from transformers import PrinterCallback, ProgressCallback
from transformers.modeling_layers import GradientCheckpointingLayer

from dllm.core.head import num_chunks
from dllm.core.losses import IGNORE_INDEX, reduce_losses, response_nats
from dllm.core.noise import Quadrature
from dllm.training.divergence import describe, first_divergence
from dllm.training.flops import device_rate, step_costs
from dllm.training.gradients import PartNorms
from dllm.training.metrics import Meter, batch_counts, figures, noise_counts, peak_memory, perplexity
from dllm.training.order import Positioned, PositionSampler, Repeated
from dllm.training.progress import Progress
from dllm.training.resumable import ResumableTrainer


def hold_frozen(model: nn.Module, dtype: torch.dtype) -> None:
    """Rounds the weights that are not trained to the type of the step, which rounds them in any case."""
    for weight in model.parameters():
        if not weight.requires_grad:
            weight.data = weight.data.to(dtype)


def _of_the_model(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """What of a batch the model takes; the rest is the trainer's own."""
    return {name: value for name, value in batch.items() if name not in ("weights", "rates", "tail", "num_inputs")}


class MDLMTrainer(ResumableTrainer):
    """Trains a `MaskedDiffusionLM`, whose forward returns the losses of its targets, each part at its own rate.

    Batches come from `dllm.data.collator.ResponseCollator` or a subclass of it.
    """

    def __init__(self, *args, train_dataset: Dataset | None = None, **kwargs):
        """`train_dataset.lengths`, the tokens of each sample, if it tells them, serve to sort samples into batches."""
        train = None if train_dataset is None else Positioned(train_dataset)
        super().__init__(*args, train_dataset=train, **{"compute_metrics": perplexity} | kwargs)
        if self.args.bf16 and not (self.is_deepspeed_enabled or self.is_fsdp_enabled):  # these hold all in one type
            hold_frozen(self.model, torch.bfloat16)
        if self.args.compile_layers:
            for layer in self.model.decoder.modules():
                if isinstance(layer, GradientCheckpointingLayer):
                    layer.compile()
        self.lengths = getattr(train_dataset, "lengths", None)
        self.forward_process = self.args.forward_process()
        # The same number of calls of the head on every rank, whatever its batch, or ZeRO-3 waits for ever.
        self.head_chunks = num_chunks(self.args.train_batch_size * max(self.lengths or [0]))
        # With `token` the Trainer counts the targets of the global batch; otherwise it averages over micro-batches.
        self.model_accepts_loss_kwargs = self.args.loss_normalisation == "token"
        self._loss_shifts_labels = False
        self.diffusion = self.model.diffusion
        self.diffusion.decoding_defaults = None  # they were measured on other weights
        self.meter = Meter()
        self.remove_callback(PrinterCallback)
        self.remove_callback(ProgressCallback)
        if not self.args.disable_tqdm:
            self.add_callback(Progress())
        self.add_callback(self.stop_signal)
        self.peak_rate = device_rate(self.args.device)
        self.step_flops = step_costs(self.model)[0] if self.peak_rate else None
        self._finite: list[Tensor] = []  # per micro-batch [B]

    def create_optimizer(self, model=None):
        """One optimizer whose groups have the learning rate of their part; norms and biases do not decay."""
        model = self.model if model is None else model
        if self.optimizer is None:
            optimizer, kwargs = self.get_optimizer_cls_and_kwargs(self.args, model)
            self.optimizer = optimizer(self._parameter_groups(model), **kwargs)
            self.part_norms = PartNorms(self.optimizer, lambda: self.state.global_step)
        return self.optimizer

    def _parameter_groups(self, model: nn.Module) -> list[dict]:
        decaying = set(self.get_decay_parameter_names(model))
        groups = []
        trained = [(name, weight) for name, weight in model.named_parameters() if weight.requires_grad]
        for part, prefix in self.model.parts.items():
            for decay in (True, False):
                own = [(name, weight) for name, weight in trained if name.startswith(prefix)]
                parameters = [weight for name, weight in own if (name in decaying) == decay]
                if parameters:
                    settings = {"lr": self.args.learning_rate_of(part), "weight_decay": self.args.weight_decay * decay}
                    groups.append({"part": part, "params": parameters} | settings)
        return groups

    def _get_train_sampler(self, train_dataset=None) -> Sampler:
        strategy = self.args.train_sampling_strategy
        seed = self.args.seed if self.args.data_seed is None else self.args.data_seed
        batch = self.args.train_batch_size * self.args.gradient_accumulation_steps * self.args.world_size
        lengths = self.lengths if strategy == "group_by_length" else None
        seed = None if strategy == "sequential" else seed
        self.sampler = PositionSampler(len(self.train_dataset), seed, batch, lengths)
        return self.sampler

    def _get_eval_sampler(self, eval_dataset: Dataset) -> Sampler:
        return SequentialSampler(eval_dataset)

    def _get_dataloader(self, dataset, *args, is_training: bool = False, **kwargs) -> DataLoader:
        """Validation has noise of its own, the same in every run: its loss is that of the checkpoint alone."""
        if is_training:
            return super()._get_dataloader(dataset, *args, is_training=True, **kwargs)
        training_collator, self.data_collator = self.data_collator, copy.copy(self.data_collator)
        self.data_collator.forward_process = Quadrature(points=self.args.eval_noise_levels)
        try:
            return super()._get_dataloader(Repeated(dataset, self.args.eval_noise_levels), *args, **kwargs)
        finally:
            self.data_collator = training_collator

    def _run_epoch(self, *args, epoch: int, **kwargs) -> None:
        """Takes no step beyond the last one: transformers would, when it resumes a run that was at its end."""
        if self.state.global_step < self.state.max_steps:
            self.meter.start()
            self.sampler.set_epoch(epoch)  # accelerate does not reach it when several processes resume within an epoch
            super()._run_epoch(*args, epoch=epoch, **kwargs)

    def _prepare_inputs(self, inputs: dict) -> dict:
        """Keeps weights and mask rates in fp32: under DeepSpeed transformers rounds every float to the model's type."""
        exact = {name: inputs[name].to(self.args.device) for name in ("weights", "rates")}
        return super()._prepare_inputs(inputs) | exact

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """The weighted loss of a batch; its share from the padding tail after the response is logged apart."""
        outputs = model(**_of_the_model(inputs), paired=self.forward_process.paired, head_chunks=self.head_chunks)
        weights, tail, targets = inputs["weights"], inputs["tail"], inputs["labels"] != IGNORE_INDEX
        normalisation = self.args.loss_normalisation
        # Ranks average their gradients, so a sum over the global batch is scaled back up.
        num_tokens = None if num_items_in_batch is None else num_items_in_batch / self.accelerator.num_processes
        loss = reduce_losses(outputs.losses, weights, targets, normalisation, num_tokens)
        losses = outputs.losses.detach()
        tail_loss = reduce_losses(losses.masked_fill(~tail, 0.0), weights, targets, normalisation, num_tokens)
        counts = batch_counts(self.diffusion, self.forward_process.paired, inputs)
        self.meter.add(**counts, **noise_counts(inputs, losses), tail_loss=tail_loss)
        self._finite.append(losses.isfinite().all(dim=-1))
        return (loss, outputs) if return_outputs else loss

    def prediction_step(self, model, inputs, prediction_loss_only, ignore_keys=None):
        """By quadrature over noise levels (`Quadrature`): the loss, the mean over samples of nats per target; and what
        `perplexity` needs, nats and tokens of each sample, [B].
        """
        inputs = self._prepare_inputs(inputs)
        weights, tail, targets = inputs["weights"], inputs["tail"], inputs["labels"] != IGNORE_INDEX
        with torch.no_grad(), self.compute_loss_context_manager():
            outputs = model(**_of_the_model(inputs))
        loss = reduce_losses(outputs.losses, weights, targets, "sequence")
        return loss, response_nats(outputs.losses, weights, targets), (targets & ~tail).sum(-1)

    def evaluate(self, *args, **kwargs) -> dict[str, float]:
        with self.meter.paused():
            return super().evaluate(*args, **kwargs)

    def _save_checkpoint(self, *args, **kwargs) -> None:
        with self.meter.paused():
            super()._save_checkpoint(*args, **kwargs)

    def log(self, logs: dict[str, float], *args, **kwargs) -> None:
        """Adds the figures of the run. Raises ValueError on a loss or gradient that is not finite, of any step since
        the last one that was logged.
        """
        if "loss" in logs:
            self._check_finite(logs)
            logs = logs | self.figures(logs, *self.meter.read(self._over_ranks))
        elif "train_runtime" in logs and self.meter.counts:  # the last steps, if they were not logged
            self.meter.read(self._over_ranks)
        super().log({name: value for name, value in logs.items() if name != "total_flos"}, *args, **kwargs)

    def floating_point_ops(self, inputs: dict) -> int:
        """None: transformers' estimate knows neither views nor inputs, and walks over all weights at every batch."""
        return 0

    def figures(self, logs: dict[str, float], counts: dict[str, Tensor], seconds: float) -> dict[str, float]:
        """What is logged beside `logs`, of all ranks' `counts` since the last time and the seconds that they took: on
        GPUs whose peak rate is known also the share of it that the step's operations make up (MFU).
        """
        steps = self.args.gradient_accumulation_steps if self.args.loss_normalisation == "token" else 1
        memory = torch.tensor([peak_memory(self.args.device)], device=self.args.device)
        result = figures(counts, seconds, self.model.input_unit)
        result["loss_tail"] = (counts["tail_loss"] / counts["batches"]).item() * steps
        result["peak_memory_gb"] = self.accelerator.gather(memory).max().item()
        if "grad_norm" in logs:
            result |= self.part_norms.read(logs["grad_norm"], self._over_ranks, self.args.device)
        if self.step_flops:
            sizes = ("trunk_tokens", "attention_pairs", "targets", "inputs")
            done = self.step_flops(*(counts[name].item() for name in sizes))
            result["mfu"] = done / (seconds * self.args.world_size * self.peak_rate)
        return result

    def _over_ranks(self, tensor: Tensor) -> Tensor:
        """The sum of a tensor over all ranks."""
        return self.accelerator.reduce(tensor, "sum")

    def _check_finite(self, logs: dict[str, float]) -> None:
        """Looks at what is logged anyway, so that no step waits for the GPU because of it."""
        finite, self._finite = self._finite, []
        loss, grad_norm = logs["loss"], logs.get("grad_norm", 0.0)
        if math.isfinite(loss) and math.isfinite(grad_norm):
            return
        flags = self.accelerator.gather(torch.stack(finite)[None])  # [processes, micro-batches, B]
        steps_before = self.state.global_step - len(finite) // self.args.gradient_accumulation_steps
        step, indices = first_divergence(flags, steps_before, self.sampler)
        data = self.train_dataset.dataset
        names = [data.name(index) if hasattr(data, "name") else f"sample {index}" for index in indices]
        raise ValueError(describe(loss, grad_norm, step, names))
