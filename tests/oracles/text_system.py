"""A second system, of text alone, on the floor of dllm: all that it adds stands here.

torchrun --nproc_per_node 2 tests/oracles/text_system.py --model_name_or_path DIR --data_path FILE --output_dir DIR
"""

from dataclasses import dataclass, field

import torch
from transformers import AutoTokenizer, HfArgumentParser

from dllm.core.decoding import Decoding
from dllm.core.prompt import Prompt
from dllm.data.collator import ResponseCollator
from dllm.data.conversation import build_prompt
from dllm.data.dataset import ConversationDataset
from dllm.data.records import read_records
from dllm.inference.writer import Request, Writer
from dllm.pipelines.a2d import load_qwen3
from dllm.training.arguments import MDLMConfig, ModelArguments
from dllm.training.run import loaded, run, set_trainable
from dllm.training.trainer import MDLMTrainer


@dataclass
class DataArguments:
    """What is read."""

    data_path: str = field(metadata={"help": "JSON file of conversations"})


def parse() -> tuple[ModelArguments, DataArguments, MDLMConfig]:
    arguments = HfArgumentParser((ModelArguments, DataArguments, MDLMConfig)).parse_args_into_dataclasses()
    arguments[0].check()
    return arguments


def build(model_args: ModelArguments, data_args: DataArguments, args: MDLMConfig) -> MDLMTrainer:
    def load():
        model = load_qwen3(model_args.model_name_or_path, dtype=torch.float32)
        for name, value in model_args.diffusion().items():
            setattr(model.config, name, value)
        set_trainable(model, tuple(model.parts.values()), model_args)
        return model

    model, tokenizer = loaded(load, args), AutoTokenizer.from_pretrained(model_args.model_name_or_path)
    path = data_args.data_path
    return MDLMTrainer(
        model=model,
        args=args,
        train_dataset=ConversationDataset(path, read_records(path), tokenizer, model.config, args.model_max_length),
        data_collator=ResponseCollator(model.config, args.forward_process(), model.config.tail_token_id),
        processing_class=tokenizer,
    )


class TextWriter(Writer):
    """A trained text model behind text."""

    def __init__(self, folder: str):
        super().__init__(AutoTokenizer.from_pretrained(folder), load_qwen3(folder, dtype=torch.float32).eval())

    def prompt_ids(self, request: Request) -> list[int]:
        return build_prompt(self.tokenizer, [{"from": "human", "value": request.question}])

    def prompts(
        self, requests: list[Request], ids: list[list[int]], decoding: Decoding
    ) -> tuple[Prompt, Prompt | None]:
        return self.model.prompt(*self.left_padded(ids)), None


if __name__ == "__main__":
    run(parse, build)
