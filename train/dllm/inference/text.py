"""A text model behind text: questions, or texts to go on with."""

from dataclasses import dataclass, field

from transformers import PreTrainedTokenizerBase

from dllm.core.language_model import MaskedDiffusionLM
from dllm.data.conversation import build_prompt
from dllm.data.text import plain_prompt
from dllm.inference.writer import Request, Writer


@dataclass
class TextRequest(Request):
    """A request of text alone; `turns` are LLaVA's, of the conversation before it."""

    turns: list[dict] = field(default_factory=list)


class TextWriter(Writer):
    """Answers to questions; if `plain`, what follows a text, without a chat template."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, model: MaskedDiffusionLM, plain: bool = False):
        super().__init__(tokenizer, model)
        self.plain = plain

    def prompt_ids(self, request: TextRequest) -> list[int]:
        if self.plain:
            return plain_prompt(self.tokenizer, request.question)
        turns = [*request.turns, {"from": "human", "value": request.question}]
        return build_prompt(self.tokenizer, turns, request.system)
