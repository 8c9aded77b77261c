"""Conversations as training samples: every answer, with what came before it as its prompt."""

import sys
from dataclasses import dataclass, field

import numpy as np
from torch.utils.data import Dataset
from tqdm import tqdm
from transformers import PreTrainedTokenizerBase

from dllm.data.collator import canvas_length
from dllm.data.conversation import build_prompt, build_response, find_control_token


@dataclass(frozen=True)
class Sample:
    """One answer: the id of its record, the ids of prompt and answer, and what its prompt is given beside text, counted
    in the model's `input_unit`.
    """

    record_id: str
    prompt_ids: np.ndarray
    response_ids: np.ndarray
    inputs: list = field(default_factory=list)
    num_inputs: int = 0


class ConversationDataset(Dataset):
    """Samples {prompt_ids, response_ids, num_inputs}, tokenised at the start; a subclass gives prompts more than text.

    Every record is checked before the first step: prompt and response fit `max_length`, and the response is never cut.
    `lengths` has the tokens of each sample: of the prompt and of the canvas of the response. Raises ValueError naming
    the record. `data_path` is what messages call the records, `diffusion` the model's diffusion config.
    """

    def __init__(
        self,
        data_path: str,
        records: list[dict],
        tokenizer: PreTrainedTokenizerBase,
        diffusion,
        max_length: int,
        show_progress: bool = True,
    ):
        self.data_path, self.tokenizer, self.diffusion, self.max_length = data_path, tokenizer, diffusion, max_length
        self.samples: list[Sample] = []
        self.lengths: list[int] = []
        if show_progress and (told := look_alikes(tokenizer, records)):
            print(f"{data_path}: {told}", file=sys.stderr)
        for record in tqdm(records, desc="tokenise", disable=not show_progress):
            try:
                self._add(record)
            except ValueError as error:
                raise ValueError(f"{data_path}, record {record.get('id')!r}: {error}") from error

    def prompt(self, record: dict, history: list[dict]) -> tuple[list[int], list, int]:
        """Ids of the prompt of the turns so far, what it is given beside text, and how much that is."""
        return build_prompt(self.tokenizer, history, record.get("system")), [], 0

    def remedies(self, prompt: list[int], num_inputs: int) -> list[str]:
        """What shortens a prompt that is too long."""
        return ["shorten the context"]

    def _add(self, record: dict) -> None:
        """Checks a record and appends its answers."""
        turns = record["conversations"]
        for number in range(1, len(turns), 2):
            prompt, inputs, num_inputs = self.prompt(record, turns[:number])
            response = build_response(self.tokenizer, turns[number]["value"], self.diffusion.stop_token_ids[0])
            self.lengths.append(self._length(prompt, len(response), num_inputs))
            ids = (np.array(tokens, np.int32) for tokens in (prompt, response))
            self.samples.append(Sample(record.get("id"), *ids, inputs, num_inputs))

    def _length(self, prompt: list[int], response: int, num_inputs: int) -> int:
        """Tokens of a sample with a response of `response` tokens. Raises ValueError if there is no room for it."""
        canvas, positions = canvas_length(self.diffusion, response), self.diffusion.max_position_embeddings
        if len(prompt) + canvas <= min(self.max_length, positions):
            return len(prompt) + canvas
        limited = self.max_length <= positions
        room = f"--model_max_length {self.max_length}" if limited else f"the {positions} positions of the model"
        raise ValueError(
            f"a prompt of {len(prompt)} tokens leaves no room for a response of {response} ({canvas} with its tail) in "
            f"{room}; {' or '.join(['raise it'] * limited + self.remedies(prompt, num_inputs))}"
        )

    def __len__(self) -> int:
        return len(self.samples)

    def name(self, index: int) -> str:
        """What a message calls a sample."""
        return f"record {self.samples[index].record_id!r}"

    def __getitem__(self, index: int) -> dict:
        sample = self.samples[index]
        return {
            "prompt_ids": sample.prompt_ids,
            "response_ids": sample.response_ids,
            "num_inputs": sample.num_inputs,
        }


def look_alikes(tokenizer: PreTrainedTokenizerBase, records: list[dict]) -> str | None:
    """One line on the records whose text looks like a special token; None if there is none."""
    found = [
        (record.get("id"), token)
        for record in records
        for text in [record.get("system") or "", *(turn["value"] for turn in record["conversations"])]
        if (token := find_control_token(tokenizer, text))
    ]
    if not found:
        return None
    (name, token), number = found[0], len({name for name, _ in found})
    return f"{number} records hold text like a special token, read as text; the first: record {name!r} with {token!r}"
