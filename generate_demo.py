"""Writes a report for one image, or for every image of a folder.

python generate_demo.py                                  # the quickstart's model and an image it was not trained on
python generate_demo.py --model_path DIR --image FILE --indication "chest pain" --show_steps
python generate_demo.py --template "Findings: ____ Impression: ____"    # the text stays, the model fills the blanks
python generate_demo.py --images DIR --out reports.jsonl                # the same command again goes on where it ended
"""

import argparse
import hashlib
import json
import os
import sys
from dataclasses import asdict, fields
from pathlib import Path
from typing import get_args

import torch
from PIL import Image

from dllm.core.decoding import Decoding
from dllm.inference.fill import fill
from dllm.inference.results_file import ResultsFile
from dllm.program import run_program
from llava.data.images import allow_blank_images, load_image
from llava.inference import BLANK_LENGTH, DTYPES, ReportWriter, Request, tokens_per_step
from llava.radiology.annotation import clinical_prompt
from llava.radiology.release import CONTEXT_FIELDS, TARGETS, is_hidden

QUICKSTART = Path(__file__).resolve().parent / "exp/quickstart"


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model_path", default=str(QUICKSTART / "distilled"), help="folder of a trained model")
    parser.add_argument("--image", help="image to describe; default: one of the quickstart's test images")
    parser.add_argument("--images", help="folder whose images, and those of its sub-folders, are described")
    parser.add_argument("--out", help="with --images: JSONL file of the reports")
    parser.add_argument("--batch_size", type=int, default=8, help="with --images: reports written together")
    parser.add_argument("--allow_blank_images", action="store_true", help="let images pass that show nothing")
    for name in CONTEXT_FIELDS:
        parser.add_argument(f"--{name}", help=f"{name} of the study")
    parser.add_argument("--target", choices=TARGETS, default="findings", help="what the model was trained to write")
    parser.add_argument("--template", default="", help="text that stays, with ____ where the model is to write")
    parser.add_argument("--blank_length", type=int, default=BLANK_LENGTH, help="tokens of a blank that text follows")
    for each in fields(Decoding):
        value = {"action": "store_true"} if each.type is bool else {"type": next(iter(get_args(each.type)), each.type)}
        parser.add_argument(f"--{each.name}", default=None, help=each.metadata["help"], **value)
    parser.add_argument("--seed", type=int, default=0, help="of temperature and random remasking")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--dtype", default="float32", choices=DTYPES)
    parser.add_argument("--show_steps", action="store_true", help="print the report as it denoises")
    return parser.parse_args()


def main() -> None:
    args = parse_arguments()
    allow_blank_images(args.allow_blank_images)
    values = {name: value for name, value in vars(args).items() if value is not None}
    gen_kwargs = {each.name: values[each.name] for each in fields(Decoding) if each.name in values}
    context = {name: values[name] for name in (*CONTEXT_FIELDS, "target") if name in values}
    if args.images is None:
        if args.out is not None:
            raise ValueError("--out is for the reports of a folder: give --images, or leave it out")
        describe_image(args, context, gen_kwargs)
        return
    if args.image is not None or args.show_steps:
        other = "--image" if args.image is not None else "--show_steps"
        raise ValueError(f"--images and {other} exclude each other: leave one of them out")
    if args.out is None:
        raise ValueError("--images needs a file for the reports: give --out reports.jsonl")
    describe_folder(args, context, gen_kwargs)


def describe_image(args: argparse.Namespace, context: dict, gen_kwargs: dict) -> None:
    """Prints the report of one image."""
    path, record = (args.image, {}) if args.image is not None else quickstart_image()
    image, question = load_image(path), clinical_prompt(record | context)
    writer = ReportWriter(args.model_path, args.device, args.dtype)
    request = Request([image], question, seed_of(args.seed, Path(path).name), args.template, path)
    on_step = step_printer(writer) if args.show_steps else None
    (report,) = writer.write([request], blank_length=args.blank_length, on_step=on_step, **gen_kwargs)
    print(f"image:  {path}\nprompt: {question.splitlines()[-1]}\nreport: {report.text}")
    print(f"steps:  {report.steps} for {report.tokens} tokens ({tokens_per_step([report]):.1f} tokens per step)")
    if "report" in record:
        print(f"truth:  {record['report']}")


def describe_folder(args: argparse.Namespace, context: dict, gen_kwargs: dict) -> None:
    """Appends a report of every image of a folder to a file, but for those that the file has already.

    Raises ValueError at the end if there were images that cannot be read.
    """
    folder, (names, others) = Path(args.images), image_files(args.images)
    if others:
        print(f"{folder}: left out, as they are no images: {others} files", file=sys.stderr)
    writer, question = ReportWriter(args.model_path, args.device, args.dtype), clinical_prompt(context)
    settings = {
        "model_path": os.path.realpath(args.model_path),
        "images": os.path.realpath(folder),
        "question": question,
        **{name: getattr(args, name) for name in ("template", "blank_length", "seed", "dtype")},
        **asdict(writer.parse(gen_kwargs).decoding),
    }
    file = ResultsFile(args.out, settings, names=("image", "report"))
    done = sum(name in file.results for name in names)

    def to_request(name: str) -> Request:
        return Request([load_image(folder / name)], question, seed_of(args.seed, name), args.template, name)

    writing = ("writing reports", "image")
    unreadable = fill(
        file, writer, names, to_request, args.batch_size, *writing, **gen_kwargs, blank_length=args.blank_length
    )
    reports = [file.results[name] for name in names if name in file.results]
    tokens = sum(report.tokens for report in reports) / max(1, len(reports))
    pace = f"{tokens:.1f} tokens on average, {tokens_per_step(reports):.1f} tokens per step"
    print(f"{file.path}: {len(reports)} reports ({done} from before), {pace}")
    if unreadable:
        raise ValueError(
            f"{len(unreadable)} of {len(names)} images cannot be read: {file.path} says why; mend them and start again"
        )


def image_files(folder: str) -> tuple[list[str], int]:
    """The image files below a folder by their path in it, sorted, and the number of its other and hidden files."""
    if not Path(folder).is_dir():
        raise ValueError(f"{folder}: no such image folder; name it with --images")
    readable = {".dcm"} | {suffix for suffix, kind in Image.registered_extensions().items() if kind in Image.OPEN}
    walk = os.walk(folder, onerror=_refuse, followlinks=True)
    files = [Path(parent, name) for parent, _, names in walk for name in names]
    paths = (file.relative_to(folder) for file in files if file.suffix.lower() in readable)
    images = sorted(str(path) for path in paths if not any(map(is_hidden, path.parts)))
    if not images:
        raise ValueError(f"{folder}: none of its {len(files)} files is an image; name another folder with --images")
    return images, len(files) - len(images)


def _refuse(error: OSError) -> None:
    raise ValueError(f"{error.filename}: cannot be read ({error.strerror}); check its permissions") from error


def seed_of(seed: int, name: str) -> int:
    """The seed of an image's report: the same in any batch and any order."""
    return int.from_bytes(hashlib.sha256(f"{seed} ".encode() + os.fsencode(name)).digest()[:8])


def quickstart_image() -> tuple[str, dict]:
    """The first test study of the quickstart: its image and its record."""
    annotation = QUICKSTART / "data/annotation_with_clinic_info.json"
    if not annotation.is_file():
        raise ValueError(f"{annotation} is missing: run scripts/quickstart.sh first, or give --model_path and --image")
    splits = json.loads(annotation.read_text(encoding="utf-8"))
    record = splits["test"][0]
    return str(annotation.parent / "images" / record["image_path"][0]), record


def step_printer(writer: ReportWriter):
    """A callback that prints the canvas up to its stop token or last committed one, a dot for every masked token."""
    step, stops = 0, writer.config.text_config.stop_token_ids

    def show(canvas: torch.Tensor, todo: torch.Tensor) -> None:
        nonlocal step
        step += 1
        ids, masked = canvas[0].tolist(), todo[0].tolist()
        written = [index for index, is_masked in enumerate(masked) if not is_masked]
        end = next((index for index in written if ids[index] in stops), max(written, default=-1)) + 1
        tokens = ["·" if masked[index] else writer.tokenizer.decode([ids[index]]) for index in range(end)]
        print(f"{step:3d} {''.join(tokens)!r}")

    return show


if __name__ == "__main__":
    run_program(main)
