"""What faster decoding costs in quality: one trained model, one test split, many ways to decode.

    python benchmarks/decoding_quality.py --model_path exp/quickstart/distilled --json FILE
    python benchmarks/decoding_quality.py ... --decodings threshold=0.6 threshold=0.5 cache=fastdllm_dual,threshold=0.9

Every way is compared with the first one, one token a step without approximations, film by film: 95 % intervals of the
paired bootstrap over films, for ROUGE-L and for the micro-F1 of (finding, side). Time is that of single reports, beside
an autoregressive model of the same size and weights that writes as many tokens through transformers' generate.
"""

import argparse
import json
import re
import statistics
import sys
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm
from transformers import Qwen3Config, Qwen3ForCausalLM

from report_scores.metrics.rouge import rouge_l

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.measure import clock
from dllm.core.decoding import token_by_token
from llava.data.images import load_image
from llava.inference import Report, ReportWriter, Request, tokens_per_step
from llava.radiology.annotation import clinical_prompt, read_annotation
from llava.radiology.findings import parse_report

ROOT = Path(__file__).resolve().parents[1]
BY_CONFIDENCE = ["threshold=0.9", "threshold=0.8", "threshold=0.7", "threshold=0.6", "threshold=0.5", "factor=1.0"]
DECODINGS = {
    "bidirectional": ["cache=fastdllm_prefix", "cache=fastdllm_dual", "cache=dllmcache", *BY_CONFIDENCE],
    "prefix": BY_CONFIDENCE,
    "block": BY_CONFIDENCE,
    "causal_block": ["speculative=true"],
}
REFERENCE = ""  # one token a step, no approximation
RESAMPLES = 10_000
LOSS = 0.03  # more than this counts as a loss of quality


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model_path", type=Path, default=ROOT / "exp/quickstart/distilled")
    parser.add_argument("--data", type=Path, help="folder with annotation and images; default: beside the model")
    parser.add_argument("--films", type=int, default=1000, help="most test films")
    parser.add_argument("--timed_films", type=int, default=50, help="films that are also written one by one, for time")
    parser.add_argument("--batch_size", type=int, default=50)
    parser.add_argument("--decodings", nargs="+", help="name=value,... each; default: those of the model's pattern")
    parser.add_argument("--json", type=Path, help="write the results to this file")
    return parser.parse_args()


def decoding_of(text: str) -> dict:
    """Generation arguments of a text like `cache=fastdllm_dual,threshold=0.9`."""
    pairs = [part.partition("=") for part in text.split(",") if part]
    is_json = re.compile(r"\d.*|true|false")
    given = {name: json.loads(value) if is_json.fullmatch(value) else value for name, _, value in pairs}
    return {"threshold": None} | given  # not the model's own pace


def requests_of(data: Path, limit: int) -> tuple[list[Request], list[str]]:
    """The test studies' requests, and their reports."""
    records = read_annotation(data / "annotation_with_clinic_info.json")["test"][:limit]
    requests = [Request([load_image(data / "images" / r["image_path"][0])], clinical_prompt(r)) for r in records]
    return requests, [record["report"] for record in records]


class Twin:
    """An autoregressive Qwen3 with the weights of a diffusion model's language model."""

    def __init__(self, writer: ReportWriter):
        text_config = writer.config.text_config
        values = {k: v for k, v in text_config.to_dict().items() if k in Qwen3Config().to_dict() and k != "model_type"}
        self.writer, self.model = writer, Qwen3ForCausalLM(Qwen3Config(**values)).eval()
        self.model.load_state_dict(writer.model.language_model.state_dict())

    @torch.no_grad()
    def generate(self, requests: list[Request], **arguments) -> Tensor:
        """Ids [B, n] of what follows the prompts of requests, images included, greedily by transformers."""
        prompt = self.writer.model.prepare_prompt(*self.writer.inputs(requests))
        inputs = {"inputs_embeds": prompt.embeds, "attention_mask": prompt.valid.long()}
        return self.model.generate(**inputs, do_sample=False, **arguments)

    def write(self, request: Request, num_tokens: int) -> None:
        """Writes exactly so many tokens for one request."""
        written = self.generate([request], min_new_tokens=num_tokens, max_new_tokens=num_tokens)
        assert written.shape[1] == num_tokens


def seconds_per_report(writer: ReportWriter, requests: list[Request], ways: dict[str, dict]) -> dict[str, float]:
    """Median time of single reports; all ways and the twin take their turn at each film."""
    twin, seconds, num_tokens = Twin(writer), {name: [] for name in [*ways, "autoregressive"]}, 0
    for request in tqdm(requests, desc="single reports", unit="film"):
        for name, arguments in ways.items():
            begun = clock()
            (report,) = writer.write([request], **arguments)
            seconds[name].append(clock() - begun)
            num_tokens = report.tokens if name == REFERENCE else num_tokens
        begun = clock()
        twin.write(request, num_tokens)
        seconds["autoregressive"].append(clock() - begun)
    return {name: statistics.median(each) for name, each in seconds.items()}


def counts(reports: list[Report], truth: list[str]) -> np.ndarray:
    """Per film: ROUGE-L, and found, predicted and true findings, [films, 4]."""
    rows = []
    for report, reference in zip(reports, truth, strict=True):
        predicted, true = parse_report(report.text), parse_report(reference)
        rows.append([rouge_l(report.text, reference), len(predicted & true), len(predicted), len(true)])
    return np.array(rows)


def scores(rows: np.ndarray) -> np.ndarray:
    """ROUGE-L and micro-F1, [..., 2], of films [..., films, 4]."""
    rouge, found, predicted, true = np.moveaxis(rows.sum(axis=-2), -1, 0)
    return np.stack([rouge / rows.shape[-2], 2 * found / np.maximum(1, predicted + true)], axis=-1)


def paired_interval(rows: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """95 % interval [2, 2] (low and high; ROUGE-L and F1) of the difference to the reference, films drawn in pairs."""
    rng = np.random.default_rng(0)
    differences = []
    for _ in range(RESAMPLES):
        chosen = rng.integers(len(rows), size=len(rows))
        differences.append(scores(rows[chosen]) - scores(reference[chosen]))
    return np.percentile(differences, [2.5, 97.5], axis=0)


def main() -> None:
    args = parse_arguments()
    writer = ReportWriter(str(args.model_path))
    pattern = writer.config.text_config.attention_pattern
    names = [REFERENCE, *(args.decodings or DECODINGS[pattern])]
    ways = {name: decoding_of(name) for name in names} | {REFERENCE: token_by_token(writer.diffusion)}
    for arguments in ways.values():
        writer.parse(arguments)
    requests, truth = requests_of(args.data or args.model_path.parent / "data", args.films)

    reports = {}
    for name, arguments in ways.items():
        written = writer.write_all(requests, args.batch_size, **arguments)
        reports[name] = list(tqdm(written, total=len(requests), desc=name or "reference", unit="report"))
    seconds = seconds_per_report(writer, requests[: args.timed_films], ways)
    reference, rows = counts(reports[REFERENCE], truth), []
    for name in names:
        mine = counts(reports[name], truth)
        low, high = paired_interval(mine, reference)
        rows.append(
            {
                "decoding": name or "one token a step",
                "tokens_per_step": tokens_per_step(reports[name]),
                "steps": statistics.fmean(report.steps for report in reports[name]),
                "seconds_per_report": seconds[name],
                "speedup_vs_autoregressive": seconds["autoregressive"] / seconds[name],
                **dict(zip(("ROUGE_L", "finding_f1"), scores(mine).tolist(), strict=True)),
                "ROUGE_L_interval": [low[0], high[0]],
                "finding_f1_interval": [low[1], high[1]],
                "loss_excluded": bool(low.min() > -LOSS),
            }
        )
    print_table(rows, pattern, len(requests))
    if args.json:
        result = {"pattern": pattern, "films": len(requests), "threads": torch.get_num_threads(), "rows": rows}
        args.json.write_text(json.dumps(result | {"autoregressive_seconds": seconds["autoregressive"]}, indent=1))


def print_table(rows: list[dict], pattern: str, num_films: int) -> None:
    print(f"pattern {pattern}, {num_films} films; differences to the first row, 95 % paired bootstrap")
    heading = f"{'decoding':24} {'tok/step':>8} {'ms/report':>9} {'x AR':>5} {'ROUGE-L':>24} {'finding F1':>24}"
    print(f"{heading}  loss > {LOSS} excluded")
    for row in rows:
        cells = [f"{row['decoding']:24} {row['tokens_per_step']:8.2f} {1000 * row['seconds_per_report']:9.1f}"]
        cells.append(f"{row['speedup_vs_autoregressive']:5.1f}")
        for metric in ("ROUGE_L", "finding_f1"):
            low, high = row[f"{metric}_interval"]
            cells.append(f"{row[metric]:7.3f} [{low:+.3f}, {high:+.3f}]")
        print(" ".join(cells), " yes" if row["loss_excluded"] else " no")


if __name__ == "__main__":
    try:
        main()
    except ValueError as error:
        sys.exit(f"error: {error}")
