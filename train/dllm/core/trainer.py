"""MDLMTrainer: transformers' Trainer with the masked-diffusion loss and noise keyed by the order of samples."""

from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler
from transformers import Trainer, TrainingArguments

from dllm.core.losses import IGNORE_INDEX, NORMALISATIONS, reduce_losses
from dllm.core.noise import Forward


@dataclass
class MDLMConfig(TrainingArguments):
    """Training arguments of a masked-diffusion run."""

    noise_estimator: str = field(default="pair", metadata={"help": "pair, stratified, single, uniform, seed_literal"})
    noise_schedule: str = field(default="linear", metadata={"help": "linear, cosine, sqrt (single views only)"})
    noise_eps: float = field(default=1e-3, metadata={"help": "smallest mask rate"})
    loss_normalisation: str = field(default="sequence", metadata={"help": "sequence, token, batch"})
    remove_unused_columns: bool = field(default=False, metadata={"help": "samples are the dataset's own"})

    def __post_init__(self):
        super().__post_init__()
        self.forward_process()  # an impossible choice is told before anything is loaded
        if self.loss_normalisation not in NORMALISATIONS:
            raise ValueError(
                f"unknown loss_normalisation {self.loss_normalisation!r}; known: {', '.join(NORMALISATIONS)}"
            )

    def forward_process(self) -> Forward:
        return Forward(self.noise_estimator, self.noise_schedule, self.noise_eps, self.seed)


class Positioned(Dataset):
    """A dataset addressed by (position in the run, index); its samples carry the position that keys their noise."""

    def __init__(self, dataset: Dataset):
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, key: tuple[int, int]) -> dict:
        position, index = key
        return self.dataset[index] | {"position": position}


class PositionSampler(Sampler):
    """Yields (position in the run, index) over one epoch; the order is a function of (seed, epoch).

    An epoch is filled up from its start to a multiple of `batch`, the samples of a global batch: the weight of a sample
    in a partial batch would depend on the number of processes.
    """

    def __init__(self, num_samples: int, seed: int | None, batch: int = 1):
        self.num_samples, self.seed, self.epoch = num_samples, seed, 0
        self.length = -(-num_samples // batch) * batch

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return self.length

    def __iter__(self):
        order = range(self.num_samples)
        if self.seed is not None:
            generator = torch.Generator().manual_seed(self.seed + self.epoch)
            order = torch.randperm(self.num_samples, generator=generator).tolist()
        for place in range(self.length):
            yield self.epoch * self.length + place, order[place % self.num_samples]


class MDLMTrainer(Trainer):
    """Trains a model whose forward returns the losses of its targets (`dllm.core.objective.target_losses`).

    Batches come from `dllm.data.collator.ResponseCollator` or a subclass of it.
    """

    def __init__(self, *args, train_dataset=None, eval_dataset=None, **kwargs):
        positioned = {
            name: Positioned(dataset)
            for name, dataset in {"train_dataset": train_dataset, "eval_dataset": eval_dataset}.items()
            if dataset is not None
        }
        super().__init__(*args, **positioned, **kwargs)
        self.forward_process = self.args.forward_process()
        # With `token` the Trainer counts the targets of the global batch; otherwise it averages over micro-batches.
        self.model_accepts_loss_kwargs = self.args.loss_normalisation == "token"
        self._loss_shifts_labels = False
        self._parts: list[Tensor] = []

    def _get_train_sampler(self, train_dataset=None) -> Sampler:
        seed = self.args.seed if self.args.data_seed is None else self.args.data_seed
        batch = self.args.train_batch_size * self.args.gradient_accumulation_steps * self.args.world_size
        return PositionSampler(len(self.train_dataset), seed, batch)

    def _get_eval_sampler(self, eval_dataset) -> Sampler:
        return PositionSampler(len(eval_dataset), None)

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
        weights, tail = inputs.pop("weights"), inputs.pop("tail")
        outputs = model(**inputs, paired=self.forward_process.paired)
        targets = inputs["labels"] != IGNORE_INDEX
        normalisation = self.args.loss_normalisation
        # Ranks average their gradients, so a sum over the global batch is scaled back up.
        num_tokens = None if num_items_in_batch is None else num_items_in_batch / self.accelerator.num_processes
        loss = reduce_losses(outputs.losses, weights, targets, normalisation, num_tokens)
        tail_losses = outputs.losses.detach().masked_fill(~tail, 0.0)
        if model.training:
            self._parts.append(reduce_losses(tail_losses, weights, targets, normalisation, num_tokens))
        return (loss, outputs) if return_outputs else loss

    def prediction_step(self, model, inputs, prediction_loss_only, ignore_keys=None):
        """Only the loss: its noise is a function of the sample's place, so two checkpoints compare."""
        with torch.no_grad():
            loss = self.compute_loss(model, self._prepare_inputs(inputs))
        return loss.detach().mean(), None, None

    def log(self, logs: dict[str, float], *args, **kwargs) -> None:
        """Adds `loss_tail`, the share of the loss that the tail after the report has."""
        if "loss" in logs and self._parts:
            tail = self.accelerator.gather(torch.stack(self._parts).mean().reshape(1)).mean().item()
            steps = self.args.gradient_accumulation_steps if self.args.loss_normalisation == "token" else 1
            logs = logs | {"loss_tail": round(tail * steps, 4)}
            self._parts.clear()
        super().log(logs, *args, **kwargs)
