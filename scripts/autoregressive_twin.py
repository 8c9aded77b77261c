"""The autoregressive twin of a text model: the same decoder and tokenizer, trained from random weights to predict the
next token of the same responses, with transformers' own Trainer.

    torchrun --nproc_per_node 2 scripts/autoregressive_twin.py --like DIR --data_path FILE --out DIR --seconds 120

The learning rate falls along a cosine over the time that is given, so the run is whole whatever the machine does in it.
"""

import argparse
import math
import time
from pathlib import Path

import torch
import transformers
from accelerate.utils import broadcast
from torch.optim.lr_scheduler import LambdaLR
from transformers import AutoConfig, AutoTokenizer, Qwen3Config, Qwen3ForCausalLM, Trainer, TrainingArguments

import dllm.pipelines.a2d  # noqa: F401  registers the config of --like
from dllm.core.losses import IGNORE_INDEX
from dllm.data.dataset import ConversationDataset
from dllm.data.records import read_records
from dllm.program import run_program

WARMUP = 0.04  # share of the time


class TimedTrainer(Trainer):
    """Trains for `seconds`, which all processes read from the clock of the first one."""

    def __init__(self, seconds: float, **kwargs):
        super().__init__(**kwargs)
        self.seconds = seconds

    def share(self) -> float:
        """How much of the time has passed, from 0 to 1."""
        passed = torch.tensor(time.perf_counter() - self.start, device=self.args.device)
        return min(broadcast(passed).item() / self.seconds, 1.0)

    def create_scheduler(self, num_training_steps: int, optimizer=None):
        """Takes one look at the clock a step, on every process."""
        self.start = time.perf_counter()

        def rate(step: int) -> float:
            share = self.share()
            self.control.should_training_stop = share >= 1
            return min(share / WARMUP, (1 + math.cos(math.pi * share)) / 2) if step else 0.0

        self.lr_scheduler = LambdaLR(optimizer or self.optimizer, rate)
        return self.lr_scheduler


def collate(samples: list[dict]) -> dict[str, torch.Tensor]:
    """Prompts and responses in one row [B, L], padded on the right; the prompt is no target."""
    rows = [(sample["prompt_ids"].tolist(), sample["response_ids"].tolist()) for sample in samples]
    L = max(len(prompt) + len(response) for prompt, response in rows)

    def rectangle(filler: int, row_of) -> torch.Tensor:
        return torch.tensor([(row := row_of(*each)) + [filler] * (L - len(row)) for each in rows])

    return {
        "input_ids": rectangle(0, lambda prompt, response: prompt + response),
        "attention_mask": rectangle(0, lambda prompt, response: [1] * len(prompt + response)),
        "labels": rectangle(IGNORE_INDEX, lambda prompt, response: [IGNORE_INDEX] * len(prompt) + response),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--like", required=True, help="folder of a Qwen3 diffusion model, for its sizes and tokenizer")
    parser.add_argument("--data_path", required=True, help="file of conversations")
    parser.add_argument("--out", type=Path, required=True, help="folder of the model")
    parser.add_argument("--seconds", type=float, required=True, help="time to train for")
    parser.add_argument("--batch_size", type=int, default=32, help="samples of a process and step")
    parser.add_argument("--learning_rate", type=float, default=5e-3, help="at its highest")
    args = parser.parse_args()

    config, tokenizer = AutoConfig.from_pretrained(args.like), AutoTokenizer.from_pretrained(args.like)
    sizes = {name: value for name, value in config.to_dict().items() if name in Qwen3Config().to_dict()}
    transformers.set_seed(0)
    records = read_records(args.data_path)
    data = ConversationDataset(args.data_path, records, tokenizer, config, config.max_position_embeddings, False)
    trainer = TimedTrainer(
        args.seconds,
        model=Qwen3ForCausalLM(Qwen3Config(**sizes | {"model_type": "qwen3", "architectures": None})),
        args=TrainingArguments(
            str(args.out),
            learning_rate=args.learning_rate,
            per_device_train_batch_size=args.batch_size,
            max_steps=10**9,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            remove_unused_columns=False,
            ddp_find_unused_parameters=False,
            use_cpu=not torch.cuda.is_available(),
        ),
        train_dataset=data,
        data_collator=collate,
    )
    trainer.train()
    if trainer.is_world_process_zero():
        trainer.model.save_pretrained(args.out)
        tokenizer.save_pretrained(args.out)
        trainer.state.save_to_json(str(args.out / "trainer_state.json"))


if __name__ == "__main__":
    run_program(main)
