"""Writes a model's own reports for its training images (`dllm.inference.own_responses`): stage 2 learns from them to
write several tokens a step.

    python -m llava.distill --model_path exp/stage2 --data_path train.json --image_folder images --out own.json

Stage 2 then goes on from the model (`LM_PATH=exp/stage2 VISION_TOWER= PRETRAIN_MM_MLP_ADAPTER=`) with
`DATA_PATH=own.json`. A run that was stopped goes on from `own.json.reports`.
"""

import argparse
import json
import os
from pathlib import Path

import torch

from dllm.data.files import replacing, sha256, weights_sha256
from dllm.inference.own_responses import own_responses
from dllm.inference.results_file import ResultsFile
from dllm.program import run_program
from llava.data.images import allow_blank_images, load_image
from llava.data.records import image_names, read_records
from llava.inference import DTYPES, ReportWriter, Request


def own_reports(
    model_path: str, data_path: str, image_folder: str, out: Path, limit: int, batch_size: int, device: str, dtype: str
) -> tuple[int, int]:
    """Writes the first `limit` records of a LLaVA JSON file to `out` with the model's reports as their answers.

    Returns how many were written, and how many were left out. Raises ValueError as `own_responses`.
    """
    records = read_records(data_path)[:limit]
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
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model_path", required=True, help="folder of a trained model")
    parser.add_argument("--data_path", required=True, help="LLaVA JSON file that it was trained on")
    parser.add_argument("--image_folder", required=True)
    parser.add_argument("--out", type=Path, required=True, help="LLaVA JSON file to write")
    parser.add_argument("--limit", type=int, default=None, help="the first so many records; default: all")
    parser.add_argument("--batch_size", type=int, default=50)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--dtype", default="float32", choices=DTYPES)
    parser.add_argument("--allow_blank_images", action="store_true", help="let images pass that show nothing")
    args = vars(parser.parse_args())
    allow_blank_images(args.pop("allow_blank_images"))
    written, left_out = own_reports(**args)
    print(f"{written} reports written, {left_out} left out because they are empty or did not end")


if __name__ == "__main__":
    run_program(main)
