"""Tables of coloured cells with questions about them: images whose answers are known.

python -m dllm.pipelines.qwen3_vl.tiny_tables --out exp/tables --train 10000 --test 200
"""

from pathlib import Path

import datasets
import numpy as np
from PIL import Image, ImageDraw

from dllm.program import argument_parser, run_program

COLOURS = {
    "red": (220, 40, 40),
    "green": (40, 160, 60),
    "blue": (40, 80, 220),
    "yellow": (240, 210, 40),
    "black": (20, 20, 20),
    "white": (245, 245, 245),
    "pink": (245, 150, 190),
    "brown": (130, 80, 40),
}
CELL_PX = 16
SIDES = (2, 4)  # fewest and most rows and columns
LETTERS = "ABCD"
QUESTIONS = ("row", "column", "cell")


def draw_table(colours: list[list[str]], rng: np.random.Generator) -> Image.Image:
    """A table of cells with these colours, each a little different at every drawing, with a line around."""
    image = Image.new("RGB", (len(colours[0]) * CELL_PX, len(colours) * CELL_PX))
    draw = ImageDraw.Draw(image)
    for top, row in enumerate(colours):
        for left, colour in enumerate(row):
            shade = tuple(int(value) for value in np.clip(np.add(COLOURS[colour], rng.integers(-12, 13, 3)), 0, 255))
            corner = (left * CELL_PX, top * CELL_PX)
            draw.rectangle((*corner, corner[0] + CELL_PX - 1, corner[1] + CELL_PX - 1), fill=shade, outline="grey")
    return image


def draw_cells(rng: np.random.Generator) -> list[list[str]]:
    """The colours of a table of any size, row by row."""
    rows, columns = rng.integers(SIDES[0], SIDES[1] + 1, 2)
    return rng.choice(list(COLOURS), (rows, columns)).tolist()


def ask(cells: list[list[str]], rng: np.random.Generator) -> tuple[str, str]:
    """A question about a table, whose rows have letters and whose columns have numbers, and its answer."""
    row, column = int(rng.integers(len(cells))), int(rng.integers(len(cells[0])))
    match rng.choice(QUESTIONS):
        case "row":
            return f"Read row {LETTERS[row]}.", " ".join(cells[row])
        case "column":
            return f"Read column {column + 1}.", " ".join(line[column] for line in cells)
    return f"Which colour is in row {LETTERS[row]}, column {column + 1}?", cells[row][column]


def make_rows(number: int, seed: int) -> list[dict]:
    """So many tables, each with a question: rows {messages, image}; the same for the same seed."""
    rng = np.random.default_rng(seed)
    rows = []
    for _ in range(number):
        cells = draw_cells(rng)
        question, answer = ask(cells, rng)
        messages = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
        rows.append({"messages": messages, "image": draw_table(cells, rng)})
    return rows


def main() -> None:
    """Writes a data set from the command line: train.parquet and test.parquet."""
    parser = argument_parser(__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--train", type=int, default=10000, help="training tables")
    parser.add_argument("--test", type=int, default=200, help="test tables")
    parser.add_argument("--seed", type=int, default=0, help="of all samples")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    datasets.disable_progress_bars()
    for number, split in enumerate(("test", "train")):  # a set counts as made once the training split is there
        rows = make_rows(getattr(args, split), 2 * args.seed + number)
        datasets.Dataset.from_list(rows).to_parquet(args.out / f"{split}.parquet")
    print(f"{args.train} and {args.test} tables in {args.out}")


if __name__ == "__main__":
    run_program(main)
