"""Conversations as training samples: every answer, with what came before it as its prompt."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from torch.utils.data import Dataset
from transformers import PreTrainedTokenizerBase

from dllm.bar import Bar
from dllm.data.collator import canvas_length
from dllm.data.conversation import build_prompt, build_response, find_control_token
from dllm.training.processes import shared_out


@dataclass(frozen=True)
class Sample:
    """One answer: the ids of its prompt and its own, and what the prompt is given beside text, counted in the model's
    `input_unit`.
    """

    prompt_ids: list[int]
    response_ids: list[int]
    inputs: list = field(default_factory=list)
    num_inputs: int = 0


class ConversationDataset(Dataset):
    """Samples {prompt_ids, response_ids, num_inputs}, one for every answer, with what came before it as its prompt; a
    subclass gives prompts more than text.

    All records are tokenised at the start, each process its share, to check them: prompt and response fit `max_length`,
    and a response is never cut. What is kept are the sizes alone; a sample is tokenised again when it is its turn, so
    `records` may be a sequence that lies on a disk. Raises ValueError naming the record.

    sizes    [samples, 3] tokens of the prompt, of the response, and what the prompt is given beside text
    lengths  tokens of each sample: of the prompt and of the canvas of the response

    `data_path` is what messages call the records, `diffusion` the model's diffusion config.
    """

    max_length_flag = "--model_max_length"

    def __init__(
        self,
        data_path: str,
        records: Sequence[dict],
        tokenizer: PreTrainedTokenizerBase,
        diffusion,
        max_length: int,
        show_progress: bool = True,
    ):
        self.data_path, self.records, self.tokenizer = data_path, records, tokenizer
        self.diffusion, self.max_length, self.show_progress = diffusion, max_length, show_progress
        self.left_out: list[str] = []
        tables, left_out, look_alikes = zip(*shared_out(self._measure, len(records)), strict=True)
        self.left_out, look_alikes = sum(left_out, []), sum(look_alikes, [])
        if show_progress and look_alikes:
            name, token = look_alikes[0]
            told = f"{len(look_alikes)} records hold text like a special token, read as text"
            print(f"{data_path}: {told}; the first: record {name!r} with {token!r}", file=sys.stderr)
        table = np.concatenate(tables)  # [samples, 6]
        self.places, self.sizes, self.lengths = table[:, :2], table[:, 2:5], table[:, 5].tolist()

    def prompt(self, record: dict, history: list[dict]) -> tuple[list[int], list, int]:
        """Ids of the prompt of the turns so far, what it is given beside text, and how much that is."""
        return build_prompt(self.tokenizer, history, record.get("system")), [], 0

    def answers(self, record: dict) -> range:
        """The turns of a record that are learnt."""
        return range(1, len(record["conversations"]), 2)

    def refuse(self, error: ValueError) -> None:
        """Ends the run because of a record."""
        raise error

    def remedies(self, prompt: list[int], num_inputs: int) -> list[str]:
        """What shortens a prompt that is too long."""
        return ["shorten the context"]

    def sample(self, index: int) -> Sample:
        """A sample, tokenised."""
        number, turn = self.places[index].tolist()
        return self._sample(self.records[number], turn)

    def _measure(self, numbers: range) -> tuple[np.ndarray, list[str], list[tuple[str, str]]]:
        """Of every sample of these records: its record and turn, its sizes, its length, [samples, 6]; what was refused;
        records with text like a special token, and that.
        """
        table, look_alikes = [], []
        for number in Bar(numbers, desc="tokenise", disable=not self.show_progress):
            try:
                record = self.records[number]
                for turn in self.answers(record):
                    table.append((number, turn, *self._sizes(record, turn)))
            except ValueError as error:
                self.refuse(error)
            else:
                texts = [record.get("system") or "", *(turn["value"] for turn in record["conversations"])]
                if token := find_control_token(self.tokenizer, "\n".join(texts)):
                    look_alikes.append((record.get("id"), token))
        return np.array(table, np.int64).reshape(-1, 6), self.left_out, look_alikes

    def _sizes(self, record: dict, turn: int) -> tuple[int, int, int, int]:
        """A sample's row of `sizes`, and its length."""
        try:
            sample = self._sample(record, turn)
            return len(sample.prompt_ids), len(sample.response_ids), sample.num_inputs, self._length(sample)
        except ValueError as error:
            raise ValueError(f"{self.data_path}, record {record.get('id')!r}: {error}") from error

    def _sample(self, record: dict, turn: int) -> Sample:
        turns = record["conversations"]
        prompt, inputs, num_inputs = self.prompt(record, turns[:turn])
        response = build_response(self.tokenizer, turns[turn]["value"], self.diffusion.stop_token_ids[0])
        return Sample(prompt, response, inputs, num_inputs)

    def _length(self, sample: Sample) -> int:
        """Tokens of a sample with its canvas. Raises ValueError if there is no room for it."""
        prompt, response = len(sample.prompt_ids), len(sample.response_ids)
        canvas, positions = canvas_length(self.diffusion, response), self.diffusion.max_position_embeddings
        if prompt + canvas <= min(self.max_length, positions):
            return prompt + canvas
        limited = self.max_length <= positions
        room = f"{self.max_length_flag} {self.max_length}" if limited else f"the {positions} positions of the model"
        remedies = ["raise it"] * limited + self.remedies(sample.prompt_ids, sample.num_inputs)
        told = f"a prompt of {prompt} tokens leaves no room for a response of {response} ({canvas} with its tail)"
        raise ValueError(f"{told} in {room}; {' or '.join(remedies)}")

    def __len__(self) -> int:
        return len(self.places)

    def name(self, index: int) -> str:
        """What a message calls a sample."""
        return f"record {self.records[self.places[index, 0].item()].get('id')!r}"

    def __getitem__(self, index: int) -> dict:
        return self.as_item(self.sample(index))

    @staticmethod
    def as_item(sample: Sample) -> dict:
        """What a collator takes of a sample, before its inputs."""
        return {
            "prompt_ids": np.array(sample.prompt_ids, np.int32),
            "response_ids": np.array(sample.response_ids, np.int32),
            "num_inputs": sample.num_inputs,
        }
