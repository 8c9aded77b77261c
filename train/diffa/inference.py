"""Answers questions about clips: the one way in of demo and evaluation."""

from torch import Tensor

from diffa.model.builder import load_pretrained_model
from diffa.model.processing import DiffaProcessor
from dllm.inference.writer import DTYPES, Request, Writer


class SpeechWriter(Writer):
    """A trained DiffaModelLM behind text: requests with at most one clip each (fp32 [samples], 16 kHz), answers out.

    `llm_path` and `whisper_path` are the folders of the frozen parts, if they are no longer where the model's folder
    says. Raises ValueError on an incomplete folder, or on parts that the model was not trained with.
    """

    def __init__(
        self,
        model_path: str,
        llm_path: str | None = None,
        whisper_path: str | None = None,
        device: str = "cpu",
        dtype: str = "float32",
    ):
        if dtype not in DTYPES:
            raise ValueError(f"unknown dtype {dtype!r}; known: {', '.join(DTYPES)}")
        tokenizer, model, extractor = load_pretrained_model(model_path, device, DTYPES[dtype], llm_path, whisper_path)
        super().__init__(tokenizer, model)
        self.processor = DiffaProcessor(tokenizer, extractor, model.config)
        self.preprocessor = self.processor.audio

    def prompt_ids(self, request: Request) -> list[int]:
        """Raises ValueError if the clip is too short to be heard, or there are several."""
        if len(request.inputs) > 1:
            raise ValueError(f"{request.name}: {len(request.inputs)} clips; give one")
        return self.processor.prompt_ids(request.question, request.inputs, request.system)

    def model_inputs(self, requests: list[Request]) -> tuple[Tensor, Tensor]:
        return self.preprocessor.batch([clip for request in requests for clip in request.inputs])

    def too_long(self, request: Request, ids: list[int]) -> str:
        return "give a shorter clip" if request.inputs else super().too_long(request, ids)
