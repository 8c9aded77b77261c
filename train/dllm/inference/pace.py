"""How many tokens a step a trained model can commit, measured on texts that it was not trained on.

A model carries what was found as `decoding_defaults` of its config (`dllm.core.model.DiffusionSettings`).
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from dllm.core.decoding import token_by_token
from dllm.core.patterns import SHIFTED
from dllm.data.files import read_json, write_json
from dllm.inference.writer import Request, Writer, tokens_per_step

THRESHOLDS = (0.9, 0.8, 0.7, 0.6, 0.5)
LOSS = 0.01  # of the score: more than this is not paid for pace


@dataclass(frozen=True)
class Pace:
    """Arguments of a decoding, its tokens a step, and the score of what was written."""

    arguments: dict
    tokens_per_step: float
    score: float


def paces(
    writer: Writer, records: Sequence[dict], to_request: Callable[[dict], Request], batch_size: int
) -> Iterator[Pace]:
    """The records of a conversation file (`dllm.data.records`) answered at one token a step, then speculatively if the
    model can, or else at each threshold, from the highest, until the score is more than LOSS below the first.
    """
    answers, first = [record["conversations"][1]["value"] for record in records], None
    speculates = writer.diffusion.attention_pattern == SHIFTED
    faster = [{"speculative": True}] if speculates else [{"threshold": threshold} for threshold in THRESHOLDS]
    for arguments in (token_by_token(writer.diffusion), *faster):
        responses = list(writer.write_all(map(to_request, records), batch_size, **arguments))
        pace = Pace(arguments, tokens_per_step(responses), word_pairs([each.text for each in responses], answers))
        first = first or pace
        yield pace
        if pace.score < first.score - LOSS:
            return


def fastest(found: Sequence[Pace]) -> Pace:
    """The one with most tokens a step of those whose score is within LOSS of the first."""
    return max((pace for pace in found if pace.score >= found[0].score - LOSS), key=lambda pace: pace.tokens_per_step)


def word_pairs(texts: Sequence[str], answers: Sequence[str]) -> float:
    """Micro-F1 over pairs of neighbouring words: what a step that mixes two wordings breaks first."""
    found, wanted, both = 0, 0, 0
    for text, answer in zip(texts, answers, strict=True):
        ours, theirs = (Counter(zip(words, words[1:], strict=False)) for words in (text.split(), answer.split()))
        found, wanted, both = found + ours.total(), wanted + theirs.total(), both + (ours & theirs).total()
    return 2 * both / max(1, found + wanted)


def set_decoding_defaults(folder: str | Path, defaults: dict) -> None:
    """Writes what a model's folder gives to whoever sets nothing; a value of None is none."""
    defaults = {name: value for name, value in defaults.items() if value is not None}
    config = read_json(path := Path(folder) / "config.json", "give the folder of a trained model")
    config.get("text_config", config)["decoding_defaults"] = defaults or None
    write_json(path, config)
