"""Writes a report for one image.

python generate_demo.py                                  # the quickstart's model and a film it was not trained on
python generate_demo.py --model_path DIR --image FILE --indication "chest pain" --show_steps
"""

import argparse
import json
import sys
from pathlib import Path

import torch

from llava.data.images import load_image
from llava.data.mimic_cxr import CONTEXT_FIELDS, clinical_prompt
from llava.inference import DTYPES, ReportWriter, Request

QUICKSTART = Path(__file__).resolve().parent / "exp/quickstart"


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model_path", default=str(QUICKSTART / "stage2"), help="folder of a trained model")
    parser.add_argument("--image", help="film to describe; default: one of the quickstart's test films")
    for name in CONTEXT_FIELDS:
        parser.add_argument(f"--{name}", help=f"{name} of the study")
    parser.add_argument("--gen_length", type=int, help="canvas in tokens; default: the model's own")
    parser.add_argument(
        "--block_length", type=int, help="tokens written before the next begin; default: the model's own"
    )
    parser.add_argument("--gen_steps", type=int, help="denoising steps over the canvas; default: one token a step")
    parser.add_argument(
        "--threshold", type=float, help="commit every token at least this confident, instead of gen_steps"
    )
    parser.add_argument("--remasking", help="low_confidence (default) or random")
    parser.add_argument("--cfg_scale", type=float, help="classifier-free guidance; default 0")
    parser.add_argument("--temperature", type=float, help="default 0: the most probable token")
    parser.add_argument("--seed", type=int, default=0, help="of temperature and random remasking")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--dtype", default="float32", choices=DTYPES)
    parser.add_argument("--show_steps", action="store_true", help="print the report as it denoises")
    return parser.parse_args()


def quickstart_film() -> tuple[str, dict]:
    """The first test study of the quickstart: its film and its record."""
    annotation = QUICKSTART / "data/annotation_with_clinic_info.json"
    if not annotation.is_file():
        raise ValueError(f"{annotation} is missing: run scripts/quickstart.sh first, or give --model_path and --image")
    splits = json.loads(annotation.read_text(encoding="utf-8"))
    record = splits["test"][0]
    return str(annotation.parent / "images" / record["image_path"][0]), record


def main() -> None:
    args = parse_arguments()
    generation = ("gen_length", "block_length", "gen_steps", "threshold", "remasking", "cfg_scale", "temperature")
    gen_kwargs = {name: getattr(args, name) for name in generation if getattr(args, name) is not None}
    image, record = (args.image, {}) if args.image else quickstart_film()
    record = record | {name: getattr(args, name) for name in CONTEXT_FIELDS if getattr(args, name) is not None}
    film, question = load_image(image), clinical_prompt(record)

    writer = ReportWriter(args.model_path, args.device, args.dtype)
    request = Request([film], question, args.seed)
    (report,) = writer.write([request], on_step=step_printer(writer) if args.show_steps else None, **gen_kwargs)
    print(f"image:  {image}\nprompt: {question.splitlines()[-1]}\nreport: {report}")
    if "report" in record:
        print(f"truth:  {record['report']}")


def step_printer(writer: ReportWriter):
    """A callback that prints the canvas up to its last written token, a dot for every token still masked."""
    step = 0

    def show(canvas: torch.Tensor, todo: torch.Tensor) -> None:
        nonlocal step
        step += 1
        masked = todo[0].tolist()
        end = max((place for place, is_masked in enumerate(masked) if not is_masked), default=-1) + 1
        tokens = [
            "·" if is_masked else writer.tokenizer.decode([token])
            for token, is_masked in zip(canvas[0, :end].tolist(), masked, strict=False)
        ]
        print(f"{step:3d} {''.join(tokens)!r}")

    return show


if __name__ == "__main__":
    try:
        main()
    except ValueError as error:
        sys.exit(f"error: {error}")
