"""The report writer beside its autoregressive twin: the same towers, images, order, optimizer and processor time, once
trained to write blocks and once to predict the next token.

    python benchmarks/twin.py --data exp/quickstart/data --towers exp/quickstart/towers --out exp/twin --json FILE

`--data` and `--towers` are folders of the quickstart, whose settings are used; a seed gives both language models the
same random weights. The model trains for `--steps` on captions and on reports in blocks of 1, then on reports in longer
ones, and the twin on captions and reports for as long: what a step costs in processor time is measured first, all in
turn on the same batches. The model writes reports as `generate_demo.py` does, the twin by transformers' `generate` with
its cache, and once more with its prompt lookup, which takes single reports. An arm whose folder is there is not trained
again.
"""

import argparse
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from itertools import cycle
from pathlib import Path

import numpy as np
import torch
import transformers
from torch import Tensor, nn
from tqdm import tqdm
from transformers import Trainer, TrainingArguments

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.decoding_quality import Twin, decoding_of, requests_of
from dllm.core.decoding import token_by_token
from dllm.core.head import head_losses
from dllm.core.language_model import MaskedDiffusionLM
from dllm.core.losses import IGNORE_INDEX, reduce_losses
from dllm.core.noise import ForwardProcess
from dllm.core.prompt import Prompt
from dllm.data.files import read_json, write_json
from dllm.inference.writer import tokens_per_step
from dllm.program import run_program
from dllm.training.order import Positioned, PositionSampler
from llava.constants import PARTS
from llava.data.dataset import ReportCollator, ReportDataset
from llava.inference import Report, ReportWriter, Request
from llava.model.builder import build_model
from llava.model.multimodal_resampler.builder import num_image_tokens
from llava.phantom.generate import CAPTIONS
from report_scores.intervals import Comparison, compare, resampled_sums
from report_scores.scorer import CIDER, FINDING_F1, ROUGE_L, Scorer

# Those of the quickstart, in one process.
DIFFUSION = {"attention_pattern": "causal_block", "gen_length": 160}
SELECT_LAYER, BATCH_SIZE, LEARNING_RATE, VISION_RATE = -2, 16, 2e-3, 3e-4
REPORTS = "train_llava_llada.json"
TOGETHER = 50  # reports that are written as one batch
DENOISING, TWIN = ARMS = ("diffusion", "autoregressive")
LOOKUP = "prompt lookup"
ONE_TOKEN = "one token a step"
STAGES = {  # of each arm, by name: what it learns from, and in blocks of `--block_length` or token by token
    DENOISING: {"captions": (CAPTIONS, False), "reports": (REPORTS, False), "blocks": (REPORTS, True)},
    TWIN: {"captions": (CAPTIONS, False), "reports": (REPORTS, False)},
}
SCORER = Scorer((FINDING_F1, ROUGE_L, CIDER))


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of annotation, images and LLaVA files")
    parser.add_argument("--towers", type=Path, required=True, help="folder of language_model, trained_vision_tower")
    parser.add_argument("--out", type=Path, required=True, help="folder for the models")
    parser.add_argument("--steps", type=int, nargs=3, default=[450, 450, 200], help="of the model's three stages")
    parser.add_argument("--block_length", type=int, default=8, help="tokens of the model's blocks")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--costed_steps", type=int, default=20, help="steps of a stage and arm whose time is taken")
    parser.add_argument("--images", type=int, default=1000, help="most test images")
    speculative = ["speculative=true"]
    parser.add_argument("--decodings", nargs="*", default=speculative, help="more ways of the model to decode")
    parser.add_argument("--distilled", type=Path, help="folder of another model to stand beside both")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8, 64], help="reports at a time, for the time")
    parser.add_argument("--timed_images", type=int, default=192, help="images of a measurement of time")
    parser.add_argument("--json", type=Path, help="write the results to this file")
    return parser.parse_args()


def next_token_losses(model: MaskedDiffusionLM, prompt: Prompt, labels: Tensor) -> Tensor:
    """Cross-entropy [B, R] of the responses `labels` [B, R] (-100: no target), each token from those before it."""
    targets, P = labels != IGNORE_INDEX, prompt.valid.shape[1]
    response = labels.masked_fill(~targets, model.diffusion.tail_token_id)  # [B, R]
    embeds = torch.cat([prompt.embeds, model.embed(response[:, :-1])], dim=1)  # [B, P + R - 1, D]
    position = torch.cat([prompt.positions, prompt.response_positions(labels.shape[1] - 1)], dim=1)
    valid = torch.cat([prompt.valid, targets[:, :-1]], dim=1)  # [B, L]
    L = valid.shape[1]
    sees_itself = torch.eye(L, dtype=torch.bool, device=valid.device)  # so that no softmax runs over an empty row
    causal = torch.ones(L, L, dtype=torch.bool, device=valid.device).tril() & valid[:, None] | sees_itself
    hidden = model.trunk(embeds, causal[:, None], position)[:, P - 1 :]  # [B, R, D]
    losses = head_losses(model, hidden[targets], response[targets])
    return losses.new_zeros(labels.shape).masked_scatter(targets, losses)


class Objective(nn.Module):
    """A model as transformers' Trainer takes it: a batch of `ReportCollator` in, the loss out."""

    accepts_loss_kwargs = False

    def __init__(self, model: MaskedDiffusionLM, causal: bool):
        super().__init__()
        self.model, self.causal = model, causal

    def forward(self, input_ids, attention_mask, images, image_keys, labels, masked, weights, **_) -> dict:
        prompt = self.model.prepare_prompt(input_ids, attention_mask, images, image_keys)
        if self.causal:
            losses, weights = next_token_losses(self.model, prompt, labels), torch.ones_like(weights)
        else:
            losses = self.model.losses(prompt, labels, masked, paired=self.model.diffusion.block_length == 1).losses
        return {"loss": reduce_losses(losses, weights, labels != IGNORE_INDEX, "sequence")}


class ArmTrainer(Trainer):
    """transformers' Trainer in the order of the stage scripts, which is the same for both arms."""

    def _get_train_sampler(self, train_dataset=None) -> PositionSampler:
        lengths = self.train_dataset.dataset.lengths
        return PositionSampler(len(lengths), self.args.seed, self.args.train_batch_size, lengths)


class Arm:
    """A model with random weights but for its vision tower, and how it is trained."""

    def __init__(self, name: str, args: argparse.Namespace, seed: int):
        self.name, self.args, self.seed = name, args, seed
        transformers.set_seed(seed)
        parts = (str(args.towers / "language_model"), str(args.towers / "trained_vision_tower"))
        self.tokenizer, self.model, self.processor = build_model(
            *(*parts, SELECT_LAYER, torch.float32, DIFFUSION),
            mm_resampler_type="none",
        )
        # The folder's weights know one seed.
        self.model.language_model = type(self.model.language_model)(self.model.config.text_config)

    def trainer(self, stage: str, steps: int) -> ArmTrainer:
        """The trainer of a stage, whose rates rise for 3 % of the steps and fall as a cosine."""
        config, tower = self.model.config, self.model.model.vision_tower
        file, in_blocks = STAGES[self.name][stage]
        self.model.diffusion.block_length = self.args.block_length if in_blocks else 1
        dataset = ReportDataset(
            *(str(self.args.data / file), str(self.args.data / "images"), self.tokenizer, self.processor, config),
            *(num_image_tokens(config, True), config.text_config.max_position_embeddings, False),
        )
        collator = ReportCollator(config, ForwardProcess("draft" if in_blocks else "stratified", seed=self.seed))
        collator.with_tail = self.name == DENOISING
        others = [each for name, each in self.model.named_parameters() if not name.startswith(PARTS["mm_vision_tower"])]
        groups = [{"params": list(tower.parameters()), "lr": VISION_RATE}, {"params": others, "lr": LEARNING_RATE}]
        return ArmTrainer(
            model=Objective(self.model, causal=self.name == TWIN),
            args=TrainingArguments(
                str(self.args.out),
                per_device_train_batch_size=BATCH_SIZE,
                max_steps=steps,
                lr_scheduler_type="cosine",
                warmup_steps=0.03,  # of the steps
                seed=self.seed,
                save_strategy="no",
                logging_strategy="no",
                report_to="none",
                disable_tqdm=True,
                remove_unused_columns=False,
                use_cpu=True,
            ),
            train_dataset=Positioned(dataset),
            data_collator=collator,
            optimizers=(torch.optim.AdamW(groups, weight_decay=0.0), None),
        )

    def train(self, steps: dict[str, int], out: Path) -> None:
        """Trains so many steps of each stage and writes a folder, which `ReportWriter` reads whatever the arm."""
        for stage, number in steps.items():
            self.trainer(stage, number).train()
        for part in (self.tokenizer, self.processor, self.model):
            part.save_pretrained(out)


def step_seconds(args: argparse.Namespace, steps: int) -> dict[str, dict[str, float]]:
    """Processor time of a training step by arm and stage, the data included; all take their turn at every batch."""
    seconds = {arm: dict.fromkeys(stages, 0.0) for arm, stages in STAGES.items()}
    each = [(arm, stage) for arm, stages in STAGES.items() for stage in stages]
    trainers = [Arm(arm, args, seed=0).trainer(stage, steps) for arm, stage in each]
    batches = [cycle(trainer.get_train_dataloader()) for trainer in trainers]
    for step in range(-1, steps):  # the first one warms up
        for (arm, stage), trainer, batch in zip(each, trainers, batches, strict=True):
            begun = time.process_time()
            trainer.model(**next(batch))["loss"].backward()
            trainer.optimizer.step()
            trainer.optimizer.zero_grad()
            seconds[arm][stage] += (time.process_time() - begun) / steps * (step >= 0)
    return seconds


class TwinWriter:
    """A folder of the autoregressive arm behind text, through transformers' `generate`."""

    def __init__(self, folder: str, **arguments):
        self.writer = ReportWriter(folder)
        self.twin, config = Twin(self.writer), self.writer.diffusion
        never = {
            config.mask_token_id,
            *range(config.num_tokens, config.vocab_size),
            *(config.unwritable_token_ids or ()),
        }
        self.arguments = {"max_new_tokens": config.gen_length, "eos_token_id": config.stop_token_ids}
        self.arguments |= {"pad_token_id": config.tail_token_id, "suppress_tokens": sorted(never)} | arguments

    def write(self, requests: list[Request]) -> list[Report]:
        rows, stops = self.twin.generate(requests, **self.arguments).tolist(), self.arguments["eos_token_id"]
        lengths = [next((n for n, token in enumerate(row, 1) if token in stops), len(row)) for row in rows]
        return [Report(self.writer.decode(row), length, length) for row, length in zip(rows, lengths, strict=True)]


def writers(
    folders: dict[str, Path], decodings: list[str], distilled: Path | None
) -> dict[str, Callable[[list[Request]], list[Report]]]:
    """The ways to write reports, by name: the twin's, the model's one token a step and by its other decodings, and the
    same of a `distilled` model.
    """
    ways = {TWIN: TwinWriter(str(folders[TWIN])).write}
    models = {"": folders[DENOISING]} | ({"distilled, ": distilled} if distilled else {})
    for title, folder in models.items():
        model = ReportWriter(str(folder))
        ways[title + ONE_TOKEN] = partial(model.write, **token_by_token(model.diffusion))
        for text in decodings:
            ways[title + text] = partial(model.write, **decoding_of(text))
    return ways


def seconds_per_report(writers: dict, requests: list[Request], batch: int) -> dict[str, float]:
    """Processor time of a report in batches of so many; all ways take their turn at each batch."""
    seconds = dict.fromkeys(writers, 0.0)
    for start in range(0, len(requests), batch):
        for name, write in writers.items():
            begun = time.process_time()
            write(requests[start : start + batch])
            seconds[name] += time.process_time() - begun
    return {name: total / len(requests) for name, total in seconds.items()}


def scores(statistics: np.ndarray) -> dict[str, np.ndarray]:
    """The scores of each seed, [seeds], from the statistics of its reports [seeds, images, k]."""
    return SCORER.scores(statistics.sum(axis=1))


def differences(statistics: np.ndarray, others: np.ndarray) -> dict[str, Comparison]:
    """Mean over seeds of the scores of `statistics` [seeds, images, k] less that of `others`, by score; intervals from
    the same images drawn for all of them.
    """
    means = [{name: value.mean() for name, value in scores(each).items()} for each in (statistics, others)]
    drawn = [SCORER.scores(resampled_sums(each)) for each in (statistics, others)]  # [seeds, resamples] by score
    return {
        name: compare(*(each[name] for each in means), *(each[name].mean(axis=0) for each in drawn))
        for name in SCORER.names
    }


def planned_steps(args: argparse.Namespace) -> dict[str, dict[str, int]]:
    """Steps of each arm and stage, from what a step cost when it was first measured: both arms take as long on
    captions, and as long on reports.
    """
    captions, reports, blocks = args.steps
    if not (file := args.out / "seconds_of_steps.json").is_file():
        args.out.mkdir(parents=True, exist_ok=True)
        write_json(file, step_seconds(args, args.costed_steps))
    costs = read_json(file, "remove it")
    ours, theirs = costs[DENOISING], costs[TWIN]
    on_reports = reports * ours["reports"] + blocks * ours["blocks"]
    twin = {"captions": captions * ours["captions"] / theirs["captions"], "reports": on_reports / theirs["reports"]}
    return {
        DENOISING: dict(zip(ours, args.steps, strict=True)),
        TWIN: {stage: max(1, round(number)) for stage, number in twin.items()},
    }


def write_reports(write: Callable, requests: list[Request], title: str) -> list[Report]:
    starts = tqdm(range(0, len(requests), TOGETHER), desc=title, unit="batch")
    return [report for start in starts for report in write(requests[start : start + TOGETHER])]


def main() -> None:
    args = parse_arguments()
    torch.set_num_threads(1)  # processor time is then that of an idle machine
    steps = planned_steps(args)
    folders = {seed: {arm: args.out / f"{arm}_{seed}" for arm in ARMS} for seed in args.seeds}
    for seed, arms in folders.items():
        for arm, folder in arms.items():
            if not (folder / "model.safetensors").is_file():
                Arm(arm, args, seed).train(steps[arm], folder)

    requests, truth = requests_of(args.data, args.images)
    ways = {seed: writers(arms, args.decodings, args.distilled) for seed, arms in folders.items()}
    first = ways[args.seeds[0]]
    reports = {
        name: [write_reports(each[name], requests, f"{name}, {n}") for n, each in ways.items()] for name in first
    }
    statistics = {
        name: np.stack([SCORER.statistics([report.text for report in each], truth) for each in seeds])
        for name, seeds in reports.items()
    }
    timed = requests[: args.timed_images]
    lookup = {LOOKUP: TwinWriter(str(folders[args.seeds[0]][TWIN]), prompt_lookup_num_tokens=4).write}
    seconds = {b: seconds_per_report(first | (lookup if b == 1 else {}), timed, b) for b in args.batches}
    rows = [
        {
            "decoding": name,
            "tokens_per_step": tokens_per_step(report for each in reports[name] for report in each),
            "seconds_per_report": {batch: each[name] for batch, each in seconds.items()},
            "scores": {score: values.tolist() for score, values in scores(mine).items()},
            "less_twin": {score: asdict(each) for score, each in differences(mine, statistics[TWIN]).items()},
        }
        for name, mine in statistics.items()
    ]
    print_table(rows, steps, len(requests))
    if single := seconds.get(1, {}).get(LOOKUP):
        print(f"autoregressive with prompt lookup, single reports: {1000 * single:.1f} ms")
    if args.json:
        given = {name: str(value) for name, value in vars(args).items()}
        write_json(args.json, {"arguments": given, "steps": steps, "rows": rows, "lookup_seconds_per_report": single})


def print_table(rows: list[dict], steps: dict, num_images: int) -> None:
    print(f"{num_images} images, means over seeds; differences to the twin with 95 % intervals, paired over images")
    print("steps of the stages:", *(f"{arm} {list(each.values())}" for arm, each in steps.items()))
    batches = list(rows[0]["seconds_per_report"])
    print(f"{'decoding':27} {'tok/step':>8}" + "".join(f"{f'ms, {b}':>8}" for b in batches), *SCORER.names)
    for row in rows:
        times = "".join(f"{1000 * row['seconds_per_report'][batch]:8.1f}" for batch in batches)
        print(f"{row['decoding']:27} {row['tokens_per_step']:8.2f}{times}", end="")
        for name, values in row["scores"].items():
            found = row["less_twin"][name]
            print(f"  {sum(values) / len(values):.3f}", end="")
            if row["decoding"] != TWIN:
                print(f" {found['value']:+.3f} [{found['low'] or 0:+.3f}, {found['high'] or 0:+.3f}]", end="")
        print()


if __name__ == "__main__":
    run_program(main)
