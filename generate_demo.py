"""Writes a report for one image, or for every image of a folder.

python generate_demo.py                                  # the quickstart's model and an image it was not trained on
python generate_demo.py --model_path DIR --image FILE --indication "chest pain" --show_steps
python generate_demo.py --template "Findings: ____ Impression: ____"    # the text stays, the model fills the blanks
python generate_demo.py --images DIR --out reports.jsonl                # the same command again goes on where it ended

Exit status: 0; 1 for a mistake, with one line that says what to do; 3 if a folder's reports are written but for images
that cannot be read, which are counted and listed in --out.
"""

import argparse
import os
import sys
from dataclasses import asdict
from pathlib import Path

from PIL import Image

from dllm.data.files import Walk, read_json, weights_sha256
from dllm.inference.command_line import (
    add_arguments,
    announce,
    decoding_arguments,
    seed_of,
    settle_device,
    step_printer,
)
from dllm.program import argument_parser, run_program
from llava.data.images import FORMATS, allow_blank_images, load_image
from llava.radiology.annotation import clinical_prompt
from llava.radiology.release import CONTEXT_FIELDS, TARGETS

UNREADABLE = 3  # exit status: all reports are there but those of images that cannot be read
QUICKSTART = Path(__file__).resolve().parent / "exp/quickstart"


def parse_arguments() -> argparse.Namespace:
    parser = argument_parser(__doc__)
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
    add_arguments(parser)
    parser.add_argument("--show_steps", action="store_true", help="print the report as it denoises")
    return parser.parse_args()


def main() -> None:
    args = parse_arguments()
    allow_blank_images(args.allow_blank_images)
    gen_kwargs = decoding_arguments(args)
    given = {name: getattr(args, name) for name in (*CONTEXT_FIELDS, "target")}
    context = {name: text for name, text in given.items() if text is not None}
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
    announce(args.model_path)
    from llava.inference import ReportWriter, Request, pace  # takes seconds: mistakes are told before

    settle_device(args)
    writer = ReportWriter(args.model_path, args.device, args.dtype)
    request = Request([image], question, seed_of(args.seed, Path(path).name), args.template, path)
    on_step = step_printer(writer) if args.show_steps else None
    (report,) = writer.write([request], blank_length=args.blank_length, on_step=on_step, **gen_kwargs)
    print(f"image:  {path}\nprompt: {question.splitlines()[-1]}\nreport: {report.text}")
    print(f"steps:  {pace(report)}")
    if (defaults := writer.diffusion.decoding_defaults) and not gen_kwargs:
        print(f"with:   {', '.join(f'{name} {value}' for name, value in defaults.items())}, the model's own defaults")
    if "report" in record:
        print(f"truth:  {record['report']}")


def describe_folder(args: argparse.Namespace, context: dict, gen_kwargs: dict) -> None:
    """Appends a report of every image of a folder to a file, but for those that the file has already.

    Ends the program with status UNREADABLE if there were images that cannot be read.
    """
    folder, (names, others) = Path(args.images), image_files(args.images)
    if others:
        print(f"{folder}: left out, as they are no images: {others} files", file=sys.stderr)
    announce(args.model_path)
    from dllm.inference.fill import fill
    from dllm.inference.results_file import ResultsFile
    from llava.inference import ReportWriter, Request, tokens_per_step

    settle_device(args)
    writer, question = ReportWriter(args.model_path, args.device, args.dtype), clinical_prompt(context)
    settings = {
        "model_path": os.path.realpath(args.model_path),
        "weights": weights_sha256(args.model_path),
        "images": os.path.realpath(folder),
        "question": question,
        **{name: getattr(args, name) for name in ("template", "blank_length", "seed", "dtype")},
        **asdict(writer.parse(gen_kwargs).decoding),
    }
    file = ResultsFile(args.out, settings, names=("image", "report"))
    done = sum(name in file.results for name in names)

    def to_request(name: str) -> Request:
        return Request([load_image(folder / name)], question, seed_of(args.seed, name), args.template, name)

    arguments = gen_kwargs | {"blank_length": args.blank_length}
    unreadable = fill(file, writer, names, to_request, args.batch_size, "writing reports", "image", **arguments)
    reports = [file.results[name] for name in names if name in file.results]
    tokens = sum(report.tokens for report in reports) / max(1, len(reports))
    rate = f"{tokens:.1f} tokens on average, {tokens_per_step(reports):.1f} tokens per step"
    print(f"{file.path}: {len(reports)} reports ({done} from before), {rate}")
    if unreadable:
        told = f"{len(unreadable)} of {len(names)} images cannot be read"
        remedy = f"{file.path} says why; mend them and start again"
        print(f"{told}: {remedy} (exit status {UNREADABLE})", file=sys.stderr)
        sys.exit(UNREADABLE)


def image_files(folder: str) -> tuple[list[str], int]:
    """The image files below a folder by their path in it, sorted, and the number of its other and hidden files."""
    if not Path(folder).is_dir():
        raise ValueError(f"{folder}: no such image folder; name it with --images")
    readable = {".dcm"} | {suffix for suffix, kind in Image.registered_extensions().items() if kind in FORMATS}
    walk = Walk(folder)
    files = [(parent / name).relative_to(folder) for parent, _, names in walk for name in names]
    images = sorted(str(file) for file in files if file.suffix.lower() in readable)
    if walk.unreadable:
        raise ValueError(f"{walk.unreadable[0]} cannot be read; check its permissions, or take it out")
    if not images:
        raise ValueError(f"{folder}: none of its {len(files)} files is an image; name another folder with --images")
    return images, len(files) - len(images) + walk.hidden


def quickstart_image() -> tuple[str, dict]:
    """The first test study of the quickstart: its image and its record."""
    annotation = QUICKSTART / "data/annotation_with_clinic_info.json"
    if not annotation.is_file():
        raise ValueError(f"{annotation} is missing: run scripts/quickstart.sh first, or give --model_path and --image")
    splits = read_json(annotation, "run scripts/quickstart.sh again")
    record = splits["test"][0]
    return str(annotation.parent / "images" / record["image_path"][0]), record


if __name__ == "__main__":
    run_program(main)
