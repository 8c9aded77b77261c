"""What trying lengths is worth in an infill: one sentence of each true report is blanked, and a model writes it.

    python benchmarks/infill.py --model_path DIR --data_path test_llava_llada.json --image_folder DIR

Beside it the same with a blank of a fixed length. Text is whole if it begins and ends as a sentence does; finding F1 is
micro-F1 over (finding, side) of the reports.
"""

import argparse
from itertools import islice
from pathlib import Path
from unittest.mock import patch

from dllm.inference import infill
from dllm.inference.templates import BLANK_LENGTH
from llava.data.images import load_image
from llava.data.records import image_names, read_records
from llava.inference import ReportWriter, Request
from llava.radiology.findings import parse_report
from llava.web.texts import BLANK, split

WAYS = {"16 tokens": (1, 16), f"up to {BLANK_LENGTH}": (infill.TRIED, BLANK_LENGTH)}  # lengths tried, the most tokens


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model_path", required=True, help="folder of a trained model, best with the pattern prefix")
    parser.add_argument("--data_path", required=True, help="LLaVA JSON file of reports that it was not trained on")
    parser.add_argument("--image_folder", type=Path, required=True, help="folder of their images")
    parser.add_argument("--reports", type=int, default=62, help="most reports; those of one sentence are left out")
    return parser.parse_args()


def drafts(records: list[dict]):
    """(record, its report, the text before and after one of its sentences): another one in turn, but never the last."""
    several = ((record, split(record["conversations"][1]["value"])) for record in records)
    several = ((record, sentences) for record, sentences in several if len(sentences) > 1)
    for number, (record, sentences) in enumerate(several):
        gone = number % (len(sentences) - 1)
        yield record, " ".join(sentences), " ".join(sentences[:gone]), " ".join(sentences[gone + 1 :])


def main() -> None:
    args = parse_arguments()
    writer = ReportWriter(args.model_path)
    chosen = list(islice(drafts(read_records(args.data_path)), args.reports))
    print(f"pattern {writer.diffusion.attention_pattern}, {len(chosen)} reports", flush=True)
    for name, (tried, length) in WAYS.items():
        whole, steps, both, stated = 0, 0, 0, 0
        for record, truth, before, after in chosen:
            images = [load_image(args.image_folder / image) for image in image_names(record)]
            template = f"{before} {BLANK} {after}".strip()
            request = Request(images, record["conversations"][0]["value"], template=template)
            with patch.object(infill, "TRIED", tried):
                (report,) = writer.write([request], blank_length=length)
            text = report.text[len(before) : len(report.text) - len(after)]
            whole += infill.reads_well(before, text, f" {after}")
            found, true = parse_report(report.text), parse_report(truth)
            steps, both, stated = steps + report.steps, both + len(found & true), stated + len(found) + len(true)
        shares = f"whole {whole / len(chosen):.0%}, finding F1 {2 * both / max(1, stated):.3f}"
        print(f"{name:10} {shares}, {steps / len(chosen):.1f} steps; the last: {text.strip()}", flush=True)


if __name__ == "__main__":
    main()
