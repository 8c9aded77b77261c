"""Draws a report as it denoises: the image, and the canvas after some of the steps.

python benchmarks/denoising.py --model_path exp/quickstart/distilled --data exp/quickstart/data --out docs/denoising.png
"""

import argparse
import json
from pathlib import Path

import matplotlib
from PIL import Image, ImageDraw, ImageFont

from llava.data.images import load_image
from llava.inference import ReportWriter, Request
from llava.radiology.annotation import clinical_prompt

SIZE, WIDTH, HEIGHT = 26, 1800, 42  # px: of letters, of the picture, of a line; a page shows it at half the size
LEFT = 520  # px, where the text begins
INK, PAPER, MASKED, LATE, EARLY = "#1f2328", "#ffffff", "#d0d4d9", "#ffd9a0", "#b6e3c6"
FONT = ImageFont.truetype(str(Path(matplotlib.get_data_path(), "fonts/ttf/DejaVuSansMono.ttf")), SIZE)


def states_of(writer: ReportWriter, request: Request, threshold: float) -> list[tuple[list[int], list[bool]]]:
    """(ids, which are masked) of the canvas after every step."""
    states = []
    writer.write(
        [request], lambda ids, masked: states.append((ids[0].tolist(), masked[0].tolist())), threshold=threshold
    )
    return states


def draw(image: Image.Image, tokens: list[str], steps: list[int], shown: list[int]) -> Image.Image:
    """`tokens` of the report, the step (from 1) at which each was committed, and the steps to show."""
    lines_each = 2 + sum(map(len, tokens)) * FONT.getlength("x") // (WIDTH - LEFT - 40)
    picture = Image.new("RGB", (WIDTH, int(40 + len(shown) * (lines_each + 0.4) * HEIGHT)), PAPER)
    picture.paste(image.resize((LEFT - 80, LEFT - 80), Image.Resampling.BICUBIC), (30, 30))
    pen, y = ImageDraw.Draw(picture), 30
    for step in shown:
        pen.text((LEFT, y), f"step {step}", INK, FONT)
        x, y = LEFT, y + HEIGHT
        for token, at in zip(tokens, steps, strict=True):
            width = FONT.getlength(token)
            if x + width > WIDTH - 30:
                x, y = LEFT, y + HEIGHT
            colour = MASKED if at > step else LATE if at == step else EARLY
            pen.rounded_rectangle((x + 1, y + 3, x + width - 1, y + HEIGHT - 5), 5, colour)
            if at <= step:
                pen.text((x, y + 4), token, INK, FONT)
            x += width
        y += int(1.3 * HEIGHT)
    return picture.crop((0, 0, WIDTH, max(y, LEFT - 20)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model_path", required=True)
    parser.add_argument("--data", type=Path, required=True, help="folder of the annotation and of images/")
    parser.add_argument("--study", type=int, default=0, help="number of the test study")
    parser.add_argument("--threshold", type=float, default=0.7)
    parser.add_argument("--out", default="docs/denoising.png")
    args = parser.parse_args()
    record = json.loads((args.data / "annotation_with_clinic_info.json").read_text(encoding="utf-8"))["test"][
        args.study
    ]
    image, writer = load_image(args.data / "images" / record["image_path"][0]), ReportWriter(args.model_path)
    states = states_of(writer, Request([image], clinical_prompt(record)), args.threshold)
    ids = states[-1][0]
    end = next(index for index, token in enumerate(ids) if token in writer.diffusion.stop_token_ids)
    steps = [next(step for step, (_, masked) in enumerate(states, 1) if not masked[index]) for index in range(end)]
    shown = sorted({round(max(steps) * part / 3) or 1 for part in range(4)})
    draw(image, [writer.tokenizer.decode([token]) for token in ids[:end]], steps, shown).quantize(128).save(args.out)


if __name__ == "__main__":
    main()
