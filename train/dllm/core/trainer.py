"""MDLMTrainer: transformers' Trainer with the masked-diffusion loss and noise keyed by the order of samples."""

import copy
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler, SequentialSampler
from transformers import Trainer, TrainingArguments

from dllm.core.head import num_chunks
from dllm.core.losses import IGNORE_INDEX, NORMALISATIONS, reduce_losses
from dllm.core.noise import Forward, Quadrature
from dllm.core.order import Positioned, PositionSampler, Repeated


@dataclass
class MDLMConfig(TrainingArguments):
    """Training arguments of a masked-diffusion run."""

    noise_estimator: str = field(default="pair", metadata={"help": "pair, stratified, single, uniform, seed_literal"})
    noise_schedule: str = field(default="linear", metadata={"help": "linear, cosine, sqrt (single views only)"})
    noise_eps: float = field(default=1e-3, metadata={"help": "smallest mask rate"})
    loss_normalisation: str = field(default="sequence", metadata={"help": "sequence, token, batch"})
    pad_to_multiple_of: int = field(default=32, metadata={"help": "of the prompt's tokens, for few shapes"})
    eval_noise_levels: int = field(default=4, metadata={"help": "stratified pairs per validation sample"})
    train_sampling_strategy: str = field(
        default="group_by_length", metadata={"help": "group_by_length (of datasets that tell), random, sequential"}
    )
    remove_unused_columns: bool = field(default=False, metadata={"help": "samples are the dataset's own"})

    def __post_init__(self):
        super().__post_init__()
        self.forward_process()  # an impossible choice is told before anything is loaded
        if self.eval_noise_levels < 1:
            raise ValueError(f"eval_noise_levels must be at least 1, not {self.eval_noise_levels}")
        if self.train_sampling_strategy == "batch_rebalance":
            raise ValueError("train_sampling_strategy batch_rebalance would draw other noise; use group_by_length")
        if self.loss_normalisation not in NORMALISATIONS:
            raise ValueError(
                f"unknown loss_normalisation {self.loss_normalisation!r}; known: {', '.join(NORMALISATIONS)}"
            )

    def forward_process(self) -> Forward:
        return Forward(self.noise_estimator, self.noise_schedule, self.noise_eps, self.seed)


class MDLMTrainer(Trainer):
    """Trains a model whose forward returns the losses of its targets (`dllm.core.objective.target_losses`).

    Batches come from `dllm.data.collator.ResponseCollator` or a subclass of it.
    """

    def __init__(self, *args, train_dataset: Dataset | None = None, **kwargs):
        """`train_dataset.lengths`, the tokens of each sample, if it tells them, serve to sort samples into batches."""
        super().__init__(*args, train_dataset=None if train_dataset is None else Positioned(train_dataset), **kwargs)
        self.lengths = getattr(train_dataset, "lengths", None)
        self.forward_process = self.args.forward_process()
        # The same number of calls of the head on every rank, whatever its batch, or ZeRO-3 waits for ever.
        self.head_chunks = num_chunks(self.args.train_batch_size * max(self.lengths or [0]))
        # With `token` the Trainer counts the targets of the global batch; otherwise it averages over micro-batches.
        self.model_accepts_loss_kwargs = self.args.loss_normalisation == "token"
        self._loss_shifts_labels = False
        self._parts: list[Tensor] = []

    def _get_train_sampler(self, train_dataset=None) -> Sampler:
        strategy = self.args.train_sampling_strategy
        seed = self.args.seed if self.args.data_seed is None else self.args.data_seed
        batch = self.args.train_batch_size * self.args.gradient_accumulation_steps * self.args.world_size
        lengths = self.lengths if strategy == "group_by_length" else None
        return PositionSampler(len(self.train_dataset), None if strategy == "sequential" else seed, batch, lengths)

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

    def _run_epoch(self, *args, **kwargs) -> None:
        """Takes no step beyond the last one: transformers would, when it resumes a run that was at its end."""
        if self.state.global_step < self.state.max_steps:
            super()._run_epoch(*args, **kwargs)

    def _prepare_inputs(self, inputs: dict) -> dict:
        """Keeps the loss weights in fp32: under DeepSpeed transformers rounds every float to the model's type."""
        return super()._prepare_inputs(inputs) | {"weights": inputs["weights"].to(self.args.device)}

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """The weighted loss of a batch; its share from the tail after the report is logged apart."""
        inputs = dict(inputs)
        weights, tail, _ = inputs.pop("weights"), inputs.pop("tail"), inputs.pop("rates")
        outputs = model(**inputs, paired=self.forward_process.paired, head_chunks=self.head_chunks)
        targets = inputs["labels"] != IGNORE_INDEX
        normalisation = self.args.loss_normalisation
        # Ranks average their gradients, so a sum over the global batch is scaled back up.
        num_tokens = None if num_items_in_batch is None else num_items_in_batch / self.accelerator.num_processes
        loss = reduce_losses(outputs.losses, weights, targets, normalisation, num_tokens)
        tail_losses = outputs.losses.detach().masked_fill(~tail, 0.0)
        self._parts.append(reduce_losses(tail_losses, weights, targets, normalisation, num_tokens))
        return (loss, outputs) if return_outputs else loss

    def prediction_step(self, model, inputs, prediction_loss_only, ignore_keys=None):
        """Only the loss: nats per token of each sample, by quadrature over noise levels (`Quadrature`)."""
        inputs = self._prepare_inputs(inputs)
        weights, targets = inputs.pop("weights"), inputs["labels"] != IGNORE_INDEX
        del inputs["tail"], inputs["rates"]
        with torch.no_grad(), self.compute_loss_context_manager():
            outputs = model(**inputs)
        return reduce_losses(outputs.losses, weights, targets, "sequence"), None, None

    def log(self, logs: dict[str, float], *args, **kwargs) -> None:
        """Adds `loss_tail`, the share of the loss that the tail after the report has."""
        if "loss" in logs and self._parts:
            tail = self.accelerator.gather(torch.stack(self._parts).mean().reshape(1)).mean().item()
            steps = self.args.gradient_accumulation_steps if self.args.loss_normalisation == "token" else 1
            logs = logs | {"loss_tail": round(tail * steps, 4)}
            self._parts.clear()
        super().log(logs, *args, **kwargs)
