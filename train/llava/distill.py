"""Writes a model's own reports for its training images (`dllm.inference.own_responses`): stage 2 learns from them to
write several tokens a step.

    python -m llava.distill --model_path exp/stage2 --data_path train.json --image_folder images --out own.json

Stage 2 then goes on from the model (`LM_PATH=exp/stage2`) with
`DATA_PATH=own.json`. A run that was stopped goes on from `own.json.reports`.
"""

import json
import os
from pathlib import Path

from dllm.data.files import replacing, sha256, weights_sha256
from dllm.inference.command_line import add_device, announce, device_of
from dllm.program import argument_parser, run_program
from llava.data.images import allow_blank_images, load_image
from llava.data.records import image_names, read_records


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
    from llava.inference import ReportWriter, Request

    writer = ReportWriter(model_path, device, dtype)
    settings = {"model_path": os.path.realpath(model_path), "data_path": os.path.realpath(data_path), "dtype": dtype}
    settings |= {"weights": weights_sha256(model_path), "data": sha256(data_path)}
    file = ResultsFile(f"{out}.reports", settings, names=("image", "report"))

    def to_request(record: dict) -> Request:
        images = [load_image(Path(image_folder) / name) for name in image_names(record)]
        question, system = record["conversations"][0]["value"], record.get("system")
        return Request(images, question, name=f"record {record['id']!r}", system=system)

    answered = own_responses(writer, records, to_request, file, batch_size)
    with replacing(out) as partial:
        partial.write_text(json.dumps(answered, ensure_ascii=False), encoding="utf-8")
    return len(answered), len(records) - len(answered)


def main() -> None:
    """The command line."""
    parser = argument_parser(__doc__)
    parser.add_argument("--model_path", required=True, help="folder of a trained model")
    parser.add_argument("--data_path", required=True, help="LLaVA JSON file that it was trained on")
    parser.add_argument("--image_folder", required=True, help="folder that the records' images are relative to")
    parser.add_argument("--out", type=Path, required=True, help="LLaVA JSON file to write")
    parser.add_argument("--limit", type=int, default=None, help="the first so many records; default: all")
    parser.add_argument("--batch_size", type=int, default=50, help="reports written together")
    add_device(parser)
    parser.add_argument("--allow_blank_images", action="store_true", help="let images pass that show nothing")
    args = parser.parse_args()
    allow_blank_images(args.allow_blank_images)
    paths = (args.model_path, args.data_path, args.image_folder, args.out)
    written, left_out = own_reports(*paths, args.limit, args.batch_size, device_of(args), args.dtype)
    print(f"{written} reports written, {left_out} left out because they are empty or did not end")


if __name__ == "__main__":
    run_program(main)
