"""Writes a model's own reports for its training films: data on which it learns to decode several tokens a step.

    python -m llava.distill --model_path exp/stage2 --data_path train.json --image_folder images --out own.json

Tokens of one step do not see each other, so where the training reports word one thing in several ways they mix the
wordings. A model trained on its own reports has one wording left, and is sure of it (sequence-level distillation: Kim &
Rush 2016; Gu et al. 2018 for parallel decoding). Stage 2 then goes on from the model (`LM_PATH=exp/stage2
VISION_TOWER= PRETRAIN_MM_MLP_ADAPTER=`) with `DATA_PATH=own.json`. A run that was stopped goes on from
`own.json.reports`.
"""

import argparse
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import torch
from tqdm import tqdm

from dllm.inference.results_file import ReportFile
from llava.data.dataset import image_names, read_records
from llava.data.images import load_image
from llava.inference import DTYPES, ReportWriter, Request


def own_reports(
    model_path: str, data_path: str, image_folder: str, out: Path, limit: int, batch_size: int, device: str, dtype: str
) -> tuple[int, int]:
    """Writes the first `limit` records of a LLaVA JSON file to `out` with the model's reports as their answers.

    Returns how many were written, and how many were left out because their report is empty or did not end. Raises
    ValueError on a record with several answers or without an id of its own.
    """
    records = read_records(data_path)[:limit]
    for number, record in enumerate(records):
        if len(record["conversations"]) != 2:
            raise ValueError(f"{data_path}, record {number} has several answers: split them into records of one")
    if len({str(record.get("id")) for record in records}) < len(records):
        raise ValueError(f"{data_path}: two records share an id, or have none; give each its own")
    writer = ReportWriter(model_path, device, dtype)
    settings = {"model_path": os.path.realpath(model_path), "data_path": os.path.realpath(data_path), "dtype": dtype}
    file = ReportFile(f"{out}.reports", settings)
    todo = [record for record in records if str(record["id"]) not in file.reports]

    def requests() -> Iterator[Request]:
        for record in todo:
            films = [load_image(Path(image_folder) / name) for name in image_names(record)]
            yield Request(films, record["conversations"][0]["value"], name=f"record {record['id']!r}")

    reports = tqdm(writer.write_all(requests(), batch_size), total=len(todo), desc="own reports", unit="report")
    for record, report in zip(todo, reports, strict=True):
        file.add_report(str(record["id"]), report)

    gen_length, answered = writer.config.text_config.gen_length, []
    for record in records:
        report = file.reports[str(record["id"])]
        if report.text and report.tokens < gen_length:
            question = record["conversations"][0]
            answered.append(record | {"conversations": [question, {"from": "gpt", "value": report.text}]})
    if not answered:
        raise ValueError(f"{model_path} ended none of its {len(records)} reports: train it first")
    partial = Path(f"{out}.partial")
    partial.write_text(json.dumps(answered, ensure_ascii=False), encoding="utf-8")
    os.replace(partial, out)
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
    written, left_out = own_reports(**vars(parser.parse_args()))
    print(f"{written} reports written, {left_out} left out because they are empty or did not end")


if __name__ == "__main__":
    try:
        main()
    except ValueError as error:
        sys.exit(f"error: {error}")
