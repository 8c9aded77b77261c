"""Text as training samples: the answers of conversations, and plain text packed into responses without prompts."""

import sys
from collections.abc import Sequence

import numpy as np
from torch.utils.data import Dataset
from transformers import PreTrainedTokenizerBase

from dllm.bar import Bar
from dllm.data.conversation import encode
from dllm.data.dataset import ConversationDataset, Sample
from dllm.training.processes import shared_out

PIECE = 1 << 16  # characters that are tokenised at a time: a book must not be read whole for each of its samples


class TextDataset(ConversationDataset):
    """`ConversationDataset` of records that may be many and strange: what cannot be learnt is left out, counted, and
    the first of them named.

    `mask_prompt_loss` False: the whole conversation is one response, without a prompt. Raises ValueError if nothing is
    left.
    """

    max_length_flag = "--max_seq_length"

    def __init__(self, *args, mask_prompt_loss: bool = True, **kwargs):
        self.mask_prompt_loss = mask_prompt_loss
        super().__init__(*args, **kwargs)
        if not self.left_out:
            return
        told = f"{self.data_path}: {len(self.left_out)} of {len(self.records)} records left out"
        if not len(self):
            raise ValueError(f"{told}, which leaves nothing; the first: {self.left_out[0]}")
        if self.show_progress:
            print(f"{told}, or their later answers; the first: {self.left_out[0]}", file=sys.stderr)

    def answers(self, record: dict) -> Sequence[int]:
        turns = super().answers(record)
        return turns if self.mask_prompt_loss else turns[-1:]

    def refuse(self, error: ValueError) -> None:
        self.left_out.append(str(error))

    def _sample(self, record: dict, turn: int) -> Sample:
        sample = super()._sample(record, turn)
        return sample if self.mask_prompt_loss else Sample([], sample.prompt_ids + sample.response_ids)


class PackedDataset(Dataset):
    """Samples of `length` tokens, responses without prompts, cut from texts that follow each other, each with the
    tokenizer's first token, if it has one, and the tail token at its end. What is left at the very end is not read.

    Like conversations, the texts are tokenised once at the start, to count, and again when it is their turn.
    Raises ValueError if there are too few. `places` [pieces, 3]: text, first character, tokens up to the piece's end.
    """

    def __init__(
        self,
        name: str,
        texts: Sequence[str],
        tokenizer: PreTrainedTokenizerBase,
        diffusion,
        length: int,
        show_progress: bool = True,
    ):
        self.texts, self.tokenizer, self.length, self.show_progress = texts, tokenizer, length, show_progress
        self.first, self.last = plain_start(tokenizer), [diffusion.tail_token_id]
        self.places = np.concatenate(shared_out(self._measure, len(texts)))  # [pieces, 3]
        self.places[:, 2] = self.places[:, 2].cumsum()
        total = int(self.places[-1, 2])
        if total < length:
            raise ValueError(f"{name}: {total} tokens in all are less than one sample of {length}; give more text")
        self.lengths = [length] * (total // length)
        self.sizes = np.array([[0, length, 0]]).repeat(len(self), axis=0)

    def _measure(self, numbers: range) -> np.ndarray:
        """Of every piece of these texts: its text, first character and tokens; [pieces, 3]."""
        places = []
        for number in Bar(numbers, desc="tokenise", disable=not self.show_progress):
            text = self.texts[number]
            for start in range(0, max(1, len(text)), PIECE):
                places.append((number, start, len(self._ids(text, start))))
        return np.array(places, np.int64).reshape(-1, 3)

    def _ids(self, text: str, start: int) -> list[int]:
        """Ids of a piece of a text."""
        ids = encode(self.tokenizer, text[start : start + PIECE])
        return self.first * (start == 0) + ids + self.last * (start + PIECE >= len(text))

    def __len__(self) -> int:
        return len(self.lengths)

    def name(self, index: int) -> str:
        """What a message calls a sample."""
        return f"text {self.places[self._piece(index), 0]}"

    def _piece(self, index: int) -> int:
        """The piece with the first token of a sample."""
        return int(np.searchsorted(self.places[:, 2], index * self.length, side="right"))

    def __getitem__(self, index: int) -> dict:
        piece, ids = self._piece(index), []
        skipped = index * self.length - (int(self.places[piece - 1, 2]) if piece else 0)
        while len(ids) < skipped + self.length:
            number, start, _ = self.places[piece].tolist()
            ids += self._ids(self.texts[number], start)
            piece += 1
        response = np.array(ids[skipped : skipped + self.length], np.int32)
        return {"prompt_ids": np.array([], np.int32), "response_ids": response, "num_inputs": 0}


def plain_start(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The token that begins a text in the eyes of its tokenizer, if there is one."""
    return tokenizer("").input_ids[:1]


def plain_prompt(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Ids of a text that the model is to go on with."""
    return plain_start(tokenizer) + encode(tokenizer, text)
