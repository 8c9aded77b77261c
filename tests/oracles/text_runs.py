"""A little text and a trainer for it, in one process."""

import torch

from dllm.data.collator import ResponseCollator
from dllm.training.arguments import MDLMConfig
from dllm.training.trainer import MDLMTrainer
from oracles.models import STOP, random_ids, tiny_model

NUM_SAMPLES = 16


def text_samples() -> list[dict]:
    """Prompts of 0-5 tokens and responses of 2-11, each ending with the stop token."""
    generator = torch.Generator().manual_seed(3)
    return [
        {
            "prompt_ids": random_ids(number % 6, generator),
            "response_ids": [*random_ids(1 + number % 11, generator), STOP],
        }
        for number in range(NUM_SAMPLES)
    ]


class Recorder(ResponseCollator):
    """Remembers the positions and first response tokens of the samples that it was given."""

    def __call__(self, samples):
        self.__dict__.setdefault("seen", []).extend(
            (sample["position"], tuple(sample["response_ids"])) for sample in samples
        )
        return super().__call__(samples)


def make_trainer(folder, loss_type: str | None = None, model=None, **arguments) -> MDLMTrainer:
    values = {
        "output_dir": str(folder),
        "max_steps": 4,
        "per_device_train_batch_size": 4,
        "per_device_eval_batch_size": 4,
        "optim": "sgd",
        "learning_rate": 0.1,
        "lr_scheduler_type": "constant",
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": True,
        "seed": 5,
    }
    config = MDLMConfig(**values | arguments)
    model = model or tiny_model("block", torch.float32)
    model.loss_type = loss_type
    collator = Recorder(model.config, config.forward_process())
    samples = text_samples()
    return MDLMTrainer(model, config, data_collator=collator, train_dataset=samples, eval_dataset=samples[:6])


def logged(trainer: MDLMTrainer, name: str) -> list[float]:
    return [entry[name] for entry in trainer.state.log_history if name in entry]
