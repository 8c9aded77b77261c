"""The processor of a checkpoint: text and what the model is given beside it, to what its `generate` takes by name."""

from abc import abstractmethod

from torch import Tensor
from transformers import BatchFeature, PreTrainedTokenizerBase
from transformers.utils import PushToHubMixin

from dllm.inference.writer import rectangle


class PromptProcessor(PushToHubMixin):
    """Tokenizer and preprocessor of a trained folder, which `AutoProcessor` finds by the model type of its config.

    A subclass says what it calls its inputs (the first argument of its `__call__`), and how they become tensors.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, preprocessor):
        self.tokenizer, self.preprocessor = tokenizer, preprocessor

    @abstractmethod
    def prompt_ids(self, question: str, inputs: list, system: str | None = None) -> list[int]:
        """Ids of the prompt of a question about inputs. `system` replaces the model's own system prompt."""

    @abstractmethod
    def tensors(self, inputs: list) -> dict[str, Tensor]:
        """What the model's `prepare_prompt` takes beside the ids, by name, for all inputs of a batch."""

    def encode(self, inputs, text: str | list[str], system: str | None) -> BatchFeature:
        """Left-padded `input_ids` and `attention_mask` [B, P] of questions, and `tensors` of their inputs: for one
        question an input, a list or None, for a list of them a list of these.
        """
        if isinstance(text, str):
            text, inputs = [text], [inputs]
        inputs = [None] * len(text) if inputs is None else inputs
        given = [[] if each is None else each if isinstance(each, list) else [each] for each in inputs]
        rows = [self.prompt_ids(question, found, system) for question, found in zip(text, given, strict=True)]
        ids, valid = (rectangle(each, 0, left=True) for each in (rows, [[1] * len(row) for row in rows]))
        seen = self.tensors([each for found in given for each in found])
        return BatchFeature({"input_ids": ids, "attention_mask": valid, **seen})

    def batch_decode(self, ids: Tensor) -> list[str]:
        """Texts of `generate(...).ids` [B, R], without special tokens."""
        return [text.strip() for text in self.tokenizer.batch_decode(ids, skip_special_tokens=True)]

    def save_pretrained(self, folder: str, **kwargs) -> None:
        """Writes the files of tokenizer and preprocessor; the settings of the prompt are in the model's config.json."""
        self.tokenizer.save_pretrained(folder)
        self.preprocessor.save_pretrained(folder)
