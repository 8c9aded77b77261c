"""Draws a report as it denoises: the image at the left, the canvas after some of its steps at the right.

python benchmarks/denoising.py                                # the quickstart's model and the image of generate_demo.py
python benchmarks/denoising.py --model_path DIR --data DIR --study 3 --threshold 0.9 --out FILE
"""

import argparse
import json
from pathlib import Path
from textwrap import wrap

import matplotlib
from PIL import Image, ImageDraw, ImageFont

from llava.data.images import load_image
from llava.inference import ReportWriter, Request
from llava.radiology.annotation import clinical_prompt

ROOT = Path(__file__).resolve().parents[1]
WIDTH, LEFT, LABEL, LINE = 1800, 480, 130, 44  # px: picture, column of the image, "step 12", a line; shown at half size
INK, FAINT, PAPER = "#1f2328", "#59636e", "#ffffff"
MASKED, NEW, KEPT = "#d4d8dd", "#ffc46b", "#bfe5cb"  # tokens
LEGEND = ((MASKED, "masked"), (NEW, "committed in this step"), (KEPT, "committed before"))
FONT, SMALL = (
    ImageFont.truetype(str(Path(matplotlib.get_data_path(), "fonts/ttf/DejaVuSans.ttf")), size) for size in (28, 23)
)


def states_of(writer: ReportWriter, request: Request, threshold: float | None) -> list[tuple[list[int], list[bool]]]:
    """(ids, which are masked) of the canvas after every step."""
    states, arguments = [], {} if threshold is None else {"threshold": threshold}
    writer.write([request], lambda ids, masked: states.append((ids[0].tolist(), masked[0].tolist())), **arguments)
    return states


def draw(image: Image.Image, caption: list[str], tokens: list[str], steps: list[int], shown: list[int], block: int):
    """`tokens` of the report, the step (from 1) at which each was committed, the steps to show, tokens of a block."""
    picture = Image.new("RGB", (WIDTH, 3000), PAPER)
    pen, y, x_max = ImageDraw.Draw(picture), 30, WIDTH - 30
    picture.paste(image.convert("L").resize((LEFT - 80, LEFT - 80), Image.Resampling.BICUBIC), (30, y))
    left = y + LEFT - 80 + 14
    for line in caption:
        pen.text((30, left), line, FAINT, SMALL)
        left += 30
    for colour, text in (*LEGEND, (None, "the block at work")):
        left += 38
        pen.rounded_rectangle((30, left, 66, left + 24), 5, colour)
        if colour is None:
            pen.rectangle((30, left + 10, 66, left + 14), INK)
        pen.text((78, left - 2), text, INK, SMALL)
    for step in shown:
        at_work = next(index for index, at in enumerate(steps) if at >= step) // block
        pen.text((LEFT, y + 4), f"step {step}", FAINT, FONT)
        x = LEFT + LABEL
        for index, (token, at) in enumerate(zip(tokens, steps, strict=True)):
            if x + FONT.getlength(token.rstrip()) + 10 > x_max:
                x, y = LEFT + LABEL, y + LINE
            text = token.lstrip() if x == LEFT + LABEL else token
            width = FONT.getlength(text) + 6
            pen.rounded_rectangle(
                (x + 1, y, x + width - 2, y + 36), 6, MASKED if at > step else NEW if at == step else KEPT
            )
            if at <= step:
                pen.text((x + 3, y + 1), text, INK, FONT)
            if index // block == at_work:
                pen.rectangle((x + 1, y + 38, x + width - 2, y + 40), INK)
            x += width
        y += LINE + 26
    return picture.crop((0, 0, WIDTH, max(y, left + 50)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model_path", default=str(ROOT / "exp/quickstart/distilled"))
    parser.add_argument("--data", type=Path, default=ROOT / "exp/quickstart/data", help="annotation and images/")
    parser.add_argument("--study", type=int, default=0, help="number of the test study")
    parser.add_argument("--threshold", type=float, help="default: the model's own pace")
    parser.add_argument("--rows", type=int, default=6, help="steps to show, evenly chosen of those that commit")
    parser.add_argument("--out", default=str(ROOT / "docs/denoising.png"))
    args = parser.parse_args()
    record = json.loads((args.data / "annotation_with_clinic_info.json").read_text(encoding="utf-8"))["test"][
        args.study
    ]
    image, writer = load_image(args.data / "images" / record["image_path"][0]), ReportWriter(args.model_path)
    states = states_of(writer, Request([image], clinical_prompt(record)), args.threshold)
    ids, config = states[-1][0], writer.diffusion
    num_tokens = 1 + next(index for index, token in enumerate(ids) if token in config.stop_token_ids)
    steps = [next(step for step, (_, masked) in enumerate(states, 1) if not masked[i]) for i in range(num_tokens)]
    tokens = [*(writer.tokenizer.decode([token]) for token in ids[: num_tokens - 1]), " [stop]"]
    gaps, committing = max(1, args.rows - 1), sorted(set(steps))  # a speculative pass may only draft
    shown = sorted({committing[round((len(committing) - 1) * row / gaps)] for row in range(args.rows)})
    caption = ["phantom image; its reference:", *wrap(record["report"], 32)]
    draw(image, caption, tokens, steps, shown, config.block_length).quantize(64).save(args.out, optimize=True)
    print(f"{args.out}: {num_tokens} tokens, the stop token among them, in {max(steps)} steps")


if __name__ == "__main__":
    main()
