"""How much the noise alone makes the loss and its gradient vary, for every estimator, at equal compute.

    python benchmarks/estimators.py --json estimators.json                                # a toy: every token costs 1
    python benchmarks/estimators.py --json estimators.json --model_path exp/quickstart/stage2    # a trained model too

The unit of compute is a pass, one view of every sample. A single view takes one and a pair two, so a pair is compared
with the mean of two single views. benchmarks/README.md says what the columns mean.
"""

import argparse
import json
import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm, trange

from dllm.core.losses import IGNORE_INDEX, reduce_losses
from dllm.core.noise import ForwardProcess
from dllm.core.patterns import BLOCKWISE
from llava.data.dataset import ReportCollator, ReportDataset
from llava.model.builder import load_pretrained_model
from llava.model.multimodal_resampler.builder import num_image_tokens

NAMES = {"single": "single view", "seed_literal": "seed's pair", "pair": "pair", "stratified": "stratified pair"}
TOY_LENGTHS = [96] * 16  # targets of the samples of a batch
GROUPS = 10  # parts of the draws; how their variances differ gives the standard error


@dataclass(frozen=True)
class Way:
    """One way to draw the noise of a batch.

    estimator     as in `dllm.core.noise`
    consecutive   the samples follow each other in a run, which spreads their rates; else each is of a run of its own
    block_length  every block of so many tokens has a rate of its own; None: one rate for a response
    """

    estimator: str
    consecutive: bool = False
    block_length: int | None = None

    @property
    def paired(self) -> bool:
        return ForwardProcess(self.estimator).paired

    def __str__(self) -> str:
        block, consecutive = (", rate per block" if self.block_length else ""), (", spread" if self.consecutive else "")
        return NAMES[self.estimator] + block + consecutive

    def draw(self, number: int, lengths: list[int]) -> tuple[Tensor, Tensor]:
        """Masks and weights [B, R] of batch `number`, whose samples have so many targets."""
        masked = torch.zeros(len(lengths), max(lengths), dtype=torch.bool)
        weights = torch.zeros(len(lengths), max(lengths))
        for row, length in enumerate(lengths):
            seed, position = (number, row) if self.consecutive else (number * len(lengths) + row, 0)
            noise = ForwardProcess(self.estimator, seed=seed).draw(position, length, self.block_length)
            masked[row, :length] = torch.from_numpy(noise.masked)
            weights[row, :length] = torch.from_numpy(noise.weights)
        return masked, weights


class Variance:
    """The variance of vectors (the trace of their covariance), and its standard error, from the groups they come in."""

    def __init__(self, vectors: Callable[[int], Tensor], draws: int, title: str):
        self.mean, self.of_groups = 0.0, []
        per_group = draws // GROUPS
        for group in trange(GROUPS, desc=title, leave=False):
            squares, total = 0.0, 0.0
            for number in range(group * per_group, (group + 1) * per_group):
                vector = vectors(number).double()
                squares, total = squares + vector.square().sum(), total + vector
            self.of_groups.append(float(squares - (total / per_group * total).sum()) / (per_group - 1))
            self.mean = self.mean + total / per_group / GROUPS

    def at_two_passes(self, paired: bool, scale: float = 1.0) -> dict[str, float]:
        """Of a pair, or of the mean of two single views."""
        values = np.array(self.of_groups) * (scale if paired else scale / 2)
        return {"variance": values.mean(), "standard_error": values.std(ddof=1) / math.sqrt(GROUPS)}


def expected(estimator: str, R: int, eps: float = ForwardProcess.eps) -> float | None:
    """R times the variance at two passes if every token costs 1, by integration; None where it does not exist."""
    if estimator == "single":
        return (math.log(1 / eps) / (1 - eps) - 1) / 2
    if estimator == "pair":
        return (2 * math.log((1 - eps) / eps) / (1 - 2 * eps) - 4) / 4
    return {"stratified": (R - 1) / (2 * R), "seed_literal": None}[estimator]


def toy_row(way: Way, draws: int) -> dict:
    """A loss that is 1 at every token: all variance comes from the weights. In units of 1 / R, of a single sample."""
    R, B = TOY_LENGTHS[0], len(TOY_LENGTHS)
    largest = 0.0

    def loss(number: int) -> Tensor:
        nonlocal largest
        _, weights = way.draw(number, TOY_LENGTHS)
        losses = weights.sum(-1) / R
        largest = max(largest, losses.max().item())
        return losses.mean()

    variance = Variance(loss, draws // B, f"constant loss, {way}")
    row = {"estimator": way.estimator, "spread": way.consecutive, "loss": float(variance.mean)}
    row |= variance.at_two_passes(way.paired, scale=R * B)
    return row | {"expected": None if way.consecutive else expected(way.estimator, R), "largest_loss": largest}


class Reports:
    """A trained model and the first reports of its test split as one batch."""

    def __init__(self, model_path: Path, data: Path, samples: int):
        tokenizer, self.model, processor = load_pretrained_model(str(model_path))
        config = self.model.config
        longest = config.text_config.max_position_embeddings
        reports, images = data / "test_llava_llada.json", data / "images"
        tokens = num_image_tokens(config, training=True)
        dataset = ReportDataset(str(reports), str(images), tokenizer, processor, config, tokens, longest)
        chosen = [dataset[n] | {"position": n} for n in range(min(samples, len(dataset)))]
        batch = ReportCollator(config, ForwardProcess())(chosen)
        self.inputs = {name: batch[name] for name in ("input_ids", "attention_mask", "images", "labels")}
        self.targets = batch["labels"] != IGNORE_INDEX  # [B, R]
        self.lengths = self.targets.sum(-1).tolist()

    def ways(self) -> list[Way]:
        """The seed has one rate for a response whatever the pattern."""
        diffusion = self.model.diffusion
        ways = [Way(estimator, consecutive) for estimator in NAMES for consecutive in (False, True)]
        if diffusion.attention_pattern in BLOCKWISE:
            blocked = [way for way in ways if way.estimator != "seed_literal"]
            ways += [Way(way.estimator, way.consecutive, diffusion.block_length) for way in blocked]
        return ways

    def row(self, way: Way, draws: int) -> dict:
        """Variance of the mean loss of the batch and of its gradient over draws of the noise, at two passes."""
        losses = []

        def gradient(number: int) -> Tensor:
            masked, weights = way.draw(number, self.lengths)
            token_losses = self.model(**self.inputs, masked=masked, paired=way.paired).losses
            loss = reduce_losses(token_losses, weights, self.targets, "sequence")
            losses.append(loss.detach())
            parameters = list(self.model.parameters())
            return torch.cat([each.flatten() for each in torch.autograd.grad(loss, parameters)])

        gradients = Variance(gradient, draws, str(way))
        loss = Variance(losses.__getitem__, draws, str(way))
        row = {"estimator": way.estimator, "spread": way.consecutive, "rate_per_block": way.block_length is not None}
        row |= {"loss": float(loss.mean), "largest_loss": float(max(losses))} | loss.at_two_passes(way.paired)
        row |= {f"gradient_{name}": value for name, value in gradients.at_two_passes(way.paired).items()}
        return row | {"gradient_norm": float(gradients.mean.norm())}


def print_toy(rows: list[dict]) -> None:
    print(f"constant loss: R times the variance at two passes, R = {TOY_LENGTHS[0]}")
    for row in rows:
        wanted = "-" if row["expected"] is None else f"{row['expected']:.3f}"
        print(
            f"{title(row):40} {row['variance']:7.3f} +- {row['standard_error']:.3f}, expected {wanted:>5}, "
            f"mean {row['loss']:.3f}, largest {row['largest_loss']:.1f}"
        )


def print_model(rows: list[dict]) -> None:
    print("trained model: variance at two passes, as a ratio to two single views")
    base = rows[0]
    for row in rows:
        cells = []
        for name in ("", "gradient_"):
            value, error = row[f"{name}variance"], row[f"{name}standard_error"]
            cells.append(f"{value:9.5f} +- {error:.5f} ({value / base[f'{name}variance']:5.2f})")
        print(f"{title(row):40} loss {cells[0]}  gradient {cells[1]}  mean {row['loss']:.3f}")


def title(row: dict) -> str:
    name = str(Way(row["estimator"], row["spread"], 1 if row.get("rate_per_block") else None))
    return name if ForwardProcess(row["estimator"]).paired else f"two {name}".replace("view", "views")


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", required=True, help="file to write the variances to")
    parser.add_argument("--toy_draws", type=int, default=400_000, help="samples of the toy")
    parser.add_argument("--model_path", type=Path, help="a trained model")
    parser.add_argument("--data", type=Path, help="folder with test_llava_llada.json and images; default: beside it")
    parser.add_argument("--samples", type=int, default=16, help="test reports in the batch")
    parser.add_argument("--draws", type=int, default=1000, help="draws of the noise of that batch")
    args = parser.parse_args(arguments)
    for flag, least in (("toy_draws", 2 * GROUPS * len(TOY_LENGTHS)), ("draws", 2 * GROUPS), ("samples", 1)):
        if getattr(args, flag) < least:
            raise ValueError(f"--{flag} must be at least {least}, not {getattr(args, flag)}")
    if not Path(args.json).resolve().parent.is_dir():
        raise ValueError(f"--json {args.json}: its folder does not exist; make it first")
    return args


def main(arguments: list[str] | None = None) -> None:
    try:
        args = parse_arguments(arguments)
        data = args.data or (args.model_path and args.model_path.parent / "data")
        reports = args.model_path and Reports(args.model_path, data, args.samples)
    except ValueError as error:
        sys.exit(f"estimators: error: {error}")
    ways = [Way(estimator, consecutive) for estimator in NAMES for consecutive in (False, True)]
    document = {"toy": [toy_row(way, args.toy_draws) for way in tqdm(ways, desc="toy")]}
    print_toy(document["toy"])
    if reports:
        document["model"] = [reports.row(way, args.draws) for way in tqdm(reports.ways(), desc="model")]
        print_model(document["model"])
    Path(args.json).write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
