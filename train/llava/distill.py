"""Writes a model's own reports for its training images (`dllm.inference.own_responses`): stage 2 learns from them to
write several tokens a step. Then measures how many that are (`dllm.inference.pace`).

    python -m llava.distill --model_path exp/stage2 --data_path train.json --image_folder images --out own.json
    python -m llava.distill --model_path exp/distilled --data_path val.json --image_folder images --set_threshold

Between the two, stage 2 goes on from the model (`LM_PATH=exp/stage2`) with `DATA_PATH=own.json` and
`NOISE_ESTIMATOR=whole_blocks`. Done three times, the last time in blocks of twice the length (`BLOCK_LENGTH`), it gives
the most tokens a step. A run that was stopped goes on from `own.json.reports`. The second command writes the lowest
threshold that costs no quality into the model's config.json; whoever sets none decodes with it.
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from dllm.core.decoding import PACES
from dllm.data.files import sha256, weights_sha256, write_json
from dllm.inference.command_line import add_device, announce, settled
from dllm.program import argument_parser, run_program
from llava.data.images import allow_blank_images, load_image
from llava.data.records import image_names, read_records

if TYPE_CHECKING:
    from llava.inference import Request


def own_reports(
    model_path: str, data_path: str, image_folder: str, out: Path, limit: int, batch_size: int, device: str, dtype: str
) -> tuple[int, int]:
    """Writes the first `limit` records of a LLaVA JSON file to `out` with the model's reports as their answers.

    Returns how many were written, and how many were left out. Raises ValueError as `own_responses`.
    """
    records = read_records(data_path)[:limit]
    announce(model_path)
    from dllm.inference.own_responses import own_responses  # these take seconds: mistakes are told before
    from dllm.inference.results_file import ResultsFile
    from llava.inference import ReportWriter

    device, dtype = settled(device, dtype)
    writer = ReportWriter(model_path, device, dtype)
    settings = {"model_path": os.path.realpath(model_path), "data_path": os.path.realpath(data_path), "dtype": dtype}
    settings |= {"weights": weights_sha256(model_path), "data": sha256(data_path)}
    file = ResultsFile(f"{out}.reports", settings, names=("image", "report"))

    answered = own_responses(writer, records, requests_of(image_folder), file, batch_size)
    write_json(out, answered)
    return len(answered), len(records) - len(answered)


def set_threshold(
    model_path: str, data_path: str, image_folder: str, limit: int, batch_size: int, device: str, dtype: str
) -> dict:
    """Measures how the model writes the first `limit` records fastest without a loss, and makes these arguments of its
    decoding its default. Prints what it found.
    """
    records = read_records(data_path)[:limit]
    if not records:
        raise ValueError(f"{data_path} has no records to measure on; give one that has, or raise --limit")
    announce(model_path)
    from dllm.inference.pace import fastest, paces, set_decoding_defaults
    from llava.inference import ReportWriter

    writer, found = ReportWriter(model_path, *settled(device, dtype)), []
    for pace in paces(writer, records, requests_of(image_folder), batch_size):
        measured = f"{pace.tokens_per_step:5.2f} tokens per step, F1 of word pairs {pace.score:.3f}"
        print(f"{_told(pace.arguments):16} {measured}", flush=True)
        found.append(pace)
    arguments = fastest(found).arguments
    set_decoding_defaults(model_path, arguments)
    print(f"{model_path}: {_told(arguments)} is its default")
    return arguments


def _told(arguments: dict) -> str:
    """`threshold 0.7`, for a line on a terminal."""
    fast = [f"{name} {value}" for name, value in arguments.items() if name in PACES and value is not None]
    return " ".join(fast) or "one token a step"


def requests_of(image_folder: str) -> "Callable[[dict], Request]":
    """What makes a request of a record, whose images are in this folder."""
    from llava.inference import Request

    def to_request(record: dict) -> Request:
        images = [load_image(Path(image_folder) / name) for name in image_names(record)]
        question, system = record["conversations"][0]["value"], record.get("system")
        return Request(images, question, name=f"record {record['id']!r}", system=system)

    return to_request


def main() -> None:
    """The command line."""
    parser = argument_parser(__doc__)
    parser.add_argument("--model_path", required=True, help="folder of a trained model")
    parser.add_argument("--data_path", required=True, help="LLaVA JSON file; to measure on, one it was not trained on")
    parser.add_argument("--image_folder", required=True, help="folder that the records' images are relative to")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--out", type=Path, help="LLaVA JSON file to write")
    what.add_argument("--set_threshold", action="store_true", help="measure the model's threshold and write it to it")
    parser.add_argument("--limit", type=int, default=None, help="the first so many records; default: all")
    parser.add_argument("--batch_size", type=int, default=50, help="reports written together")
    add_device(parser)
    parser.add_argument("--allow_blank_images", action="store_true", help="let images pass that show nothing")
    args = parser.parse_args()
    allow_blank_images(args.allow_blank_images)
    paths, how = (args.model_path, args.data_path, args.image_folder), (args.limit, args.batch_size)
    if args.set_threshold:
        set_threshold(*paths, *how, args.device, args.dtype)
        return
    written, left_out = own_reports(*paths, args.out, *how, args.device, args.dtype)
    print(f"{written} reports written, {left_out} left out because they are empty or did not end")


if __name__ == "__main__":
    run_program(main)
