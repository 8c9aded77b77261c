"""How long a blank is that text follows: several lengths are tried in one batch, and the best text stays.

Several blanks are settled one after another, from the left, a batch each: a blank sees what was settled before it, and
those to come have half their most tokens meanwhile. A batch ends as soon as its blank is written in every row.
"""

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dllm.core.decoding import Decoding
from dllm.core.prompt import Prompt
from dllm.core.sampler import Step
from dllm.inference.templates import Template

TRIED = 16  # lengths of a blank
SENTENCE_ENDS = (".", "!", "?", "。", "！", "？")


@dataclass
class Settled:
    """A template's canvas up to where it is open; the confidence [R] of what was written in it, 0 elsewhere; steps."""

    canvas: list[int]
    confidence: Tensor
    steps: int = 0


def settle(
    denoise: Callable[..., Generator[Step]],
    decode: Callable[[list[int]], str],
    template: Template,
    prompts: Sequence[Prompt | None],
    decoding: Decoding,
    seed: int,
    blank_length: int,
) -> Generator[Step, None, Settled]:
    """Writes the blanks that text follows, with at most `blank_length` tokens each, behind one prompt (and its twin for
    guidance). Yields the steps of the row that stays, once its batch is done. `denoise` is that of
    `dllm.core.language_model`.
    """
    device = prompts[0].valid.device
    positions = torch.arange(decoding.num_blocks * decoding.block_length, device=device)  # [R]
    blanks, confidence, num_steps = [], torch.zeros(len(positions), device=device), 0
    while len(blanks) < template.closed:
        lengths, rows = drafts(template, blanks, blank_length, decoding.gen_length)  # n of each
        start = sum(map(len, [*template.ids[: len(blanks) + 1], *blanks]))
        ends = start + torch.tensor(lengths, device=device)
        inside = (positions >= start) & (positions < ends[:, None])  # [n, R]
        batch = [each and each.keep(torch.zeros(len(rows), dtype=torch.long, device=device)) for each in prompts]
        states = []
        for step in denoise(*batch, decoding, [seed] * len(rows), torch.tensor(rows, device=device)):
            states.append(Step(step.canvas.clone(), step.masked.clone(), step.confidence.clone()))
            if not (step.masked & inside).any():
                break

        around = template.texts[len(blanks)], template.texts[len(blanks) + 1]
        worth = []
        for row in range(len(rows)):
            part = slice(start, ends[row])
            text = decode(states[-1].canvas[row, part].tolist())
            log_confidence = states[-1].confidence[row, part].clamp(min=1e-30).log().mean()
            worth.append((reads_well(around[0], text, around[1]), float(log_confidence)))
        best = worth.index(max(worth))
        for state in states:
            shown = torch.maximum(state.confidence[best], confidence)
            yield Step(state.canvas[best, None], state.masked[best, None], shown[None])
            num_steps += 1
            if not (state.masked[best] & inside[best]).any():
                break
        blanks.append(state.canvas[best, start : ends[best]].tolist())
        confidence = torch.where(inside[best], state.confidence[best], confidence)
    return Settled(template.canvas(blanks), confidence, num_steps)


def drafts(
    template: Template, settled: list[list[int]], blank_length: int, gen_length: int
) -> tuple[list[int], list[list[int]]]:
    """At most TRIED lengths of the next blank, evenly up to `blank_length` or as far as the canvas has room, and for
    each the canvas [gen_length] with a blank of that length.
    """
    mask, later = template.mask, template.closed - len(settled) - 1
    room = gen_length - len(template.canvas([*settled, [], *[[mask]] * later]))
    most = min(blank_length, room)
    tried = min(TRIED, most)
    lengths = sorted({-(-most * part // tried) for part in range(1, tried + 1)})
    rows = []
    for length in lengths:
        meanwhile = min(-(-blank_length // 2), 1 + (room - length) // max(1, later))
        row = template.canvas([*settled, [mask] * length, *[[mask] * meanwhile] * later])
        rows.append(row + [mask] * (gen_length - len(row)))
    return lengths, rows


def reads_well(before: str, text: str, after: str) -> bool:
    """Whether what is written in a blank suits the text around it: whole sentences where a sentence begins behind it,
    no end of a sentence where one goes on. Without capital letters, in Korean say, every text begins one.
    """
    first = after.lstrip()[:1]
    ends = text.rstrip().endswith(SENTENCE_ENDS)
    if not (after.startswith("\n") or first.isalpha() and not first.islower()):
        return not ends
    begun = before.rstrip()
    if begun and not begun.endswith((*SENTENCE_ENDS, ":")):
        return ends
    start = text.lstrip()[:1]
    return ends and start.isalnum() and not start.islower()
