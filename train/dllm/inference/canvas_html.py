"""Denoising steps as HTML: what is written coloured by confidence, what is masked as grey blocks."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from html import escape

from transformers import PreTrainedTokenizerBase

from dllm.core.sampler import Step

# Lower bounds of the colours c1 ... c5 of confidence; c0 is below all.
LEVELS = (0.3, 0.5, 0.7, 0.9, 0.97)
MASKED, UNFINISHED = '<i class="masked"></i>', "\ufffd"  # what a part of a character decodes to


@dataclass(frozen=True)
class State:
    """One row of a `Step`, copied: ids, what is masked, and what each token was committed with, [R] each."""

    ids: list[int]
    masked: list[bool]
    confidence: list[float]

    @classmethod
    def of(cls, step: Step, row: int = 0) -> "State":
        return cls(step.canvas[row].tolist(), step.masked[row].tolist(), step.confidence[row].tolist())


class Painter:
    """Draws states of a model with this tokenizer and these stop tokens. `block_length` is that of the decoding."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, stop_token_ids: Sequence[int], block_length: int):
        self.stops, self.block_length = set(stop_token_ids), block_length
        self.decode = lru_cache(maxsize=4096)(lambda *ids: tokenizer.decode(ids))

    def html(self, state: State, before: State | None = None) -> str:
        """The canvas up to its stop token. What `before` does not have yet is new; the block at work is framed."""
        end = self.end(state)
        shown = state.masked[:end]
        start = shown.index(True) // self.block_length * self.block_length if True in shown else end
        work = slice(start, min(start + self.block_length, end))
        parts = self._tokens(state, before, end)
        framed = f'<span class="work">{"".join(parts[work])}</span>' if start < end else ""
        stop = '<b class="stop" title="stop token">■</b>' if end < len(state.ids) else ""
        return f'<div class="canvas">{"".join(parts[:start])}{framed}{"".join(parts[work.stop :])}{stop}</div>'

    def pace(self, state: State, steps: int) -> str:
        """How far it is after so many steps."""
        tokens = state.masked[: self.end(state) + 1].count(False)
        return f"step {steps}, {tokens} tokens, {tokens / steps:.1f} per step"

    def end(self, state: State) -> int:
        """The position of the first stop token, or the length of the canvas."""
        written = zip(state.ids, state.masked, strict=True)
        stops = (index for index, (token, masked) in enumerate(written) if not masked and token in self.stops)
        return next(stops, len(state.ids))

    def _tokens(self, state: State, before: State | None, end: int) -> list[str]:
        """HTML of each position. Bytes of one character in several tokens are shown at the last of them."""
        parts, pending = [], ()
        for index in range(end):
            if state.masked[index]:
                parts.append(MASKED)
                pending = ()
                continue
            pending += (state.ids[index],)
            text = self.decode(*pending)
            if text.endswith(UNFINISHED) and len(pending) < 4 and index + 1 < end and not state.masked[index + 1]:
                parts.append("")
                continue
            new = before is not None and before.masked[index]
            parts.append(_token(text, state.confidence[index], new))
            pending = ()
        return parts


def _token(text: str, confidence: float, new: bool) -> str:
    """A token; one that was given has no confidence."""
    if confidence == 0:
        return f'<span class="given">{escape(text)}</span>'
    level = sum(confidence >= bound for bound in LEVELS)
    kind = f"c{level} new" if new else f"c{level}"
    return f'<span class="{kind}" title="{confidence:.0%}">{escape(text)}</span>'


def legend() -> str:
    """What the colours of the canvas mean."""
    bounds = [f"&lt; {LEVELS[0]:.0%}", *(f"{bound:.0%}" for bound in LEVELS)]
    colours = "".join(f'<span class="c{level}">{bound}</span>' for level, bound in enumerate(bounds))
    return (
        f'<p class="legend">{MASKED} masked · confidence {colours} · <span class="c4 new">new</span> · '
        '<span class="work">block at work</span> · <span class="given">given</span></p>'
    )
