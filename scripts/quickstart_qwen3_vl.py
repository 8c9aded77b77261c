"""Qwen3-VL on generated tables, end to end on two CPU processes: data, a tiny model, its sight, training, accuracy.

    bash scripts/quickstart.sh qwen3_vl [--out DIR] [--train 19200] [--epochs 2]

The model starts from random weights. Its vision encoder first learns the colours and places of cells on its own, which
a published one needs not; then the program of a full run, examples/qwen3_vl/sft.py, teaches the language model to
answer questions about tables, with the encoder frozen. The last table sets the share of right answers beside that of
the same questions with another table shown. An interrupted run goes on from the last step that was finished.
"""

import argparse
import sys
from pathlib import Path

from PIL import Image

from dllm.data.files import read_json, write_json
from dllm.program import argument_parser, run_program
from quickstart_common import LAUNCH, REMEDY, ROOT, options, print_table, quickstart, run, shares, trainer_state

SIZES = {"hidden_size": 64, "layers": 3}
VISION_STEPS = 150
BATCH_SIZE = 16  # of a process
# What measured best in the time (docs/experiments).
FLAGS = "--attention_pattern block --block_length 8 --gen_length 8 --learning_rate 5e-3 --lr_scheduler_type cosine "
FLAGS += "--warmup_steps 30 --logging_steps 50 --save_steps 250 --report_to none"
TOGETHER = 50  # answers that are written as one batch


def parse_arguments() -> argparse.Namespace:
    parser = argument_parser(__doc__)
    parser.add_argument("--out", type=Path, default=ROOT / "exp/quickstart_qwen3_vl", help="output folder")
    parser.add_argument("--train", type=int, default=19200, help="training tables")
    parser.add_argument("--test", type=int, default=200, help="test tables")
    parser.add_argument("--epochs", type=float, default=2, help="passes over the training tables")
    args = parser.parse_args()
    if args.train < 1 or args.test < 2:
        parser.error("--train needs at least 1, --test at least 2")
    return args


def train(args: argparse.Namespace) -> tuple[Path, Path]:
    """Data, a model of random weights, its sight, and the training; the folders of the trained model and the data."""
    start, model, data = args.out / "initial", args.out / "model", args.out / "data"
    sizes = options(out=data, train=args.train, test=args.test)
    title = f"tables: pictures of tables and questions on them -> {data}"
    run(title, sys.executable, "-m", "dllm.pipelines.qwen3_vl.tiny_tables", *sizes, done=data / "train.parquet")
    if not (start / "sight.json").is_file():
        print(f"\n== tiny model: it learns to see -> {start}", flush=True)
        import torch  # such imports take seconds: mistakes are told before

        from dllm.pipelines.qwen3_vl.pretrain_vision import pretrain
        from dllm.pipelines.qwen3_vl.tiny import save_model
        from dllm.pipelines.qwen3_vl.tiny_tables import make_rows

        torch.manual_seed(0)
        save_model(str(start), [turn["content"] for row in make_rows(1000, 0) for turn in row["messages"]], **SIZES)
        told = pretrain(str(start), VISION_STEPS)
        write_json(start / "sight.json", dict(zip(("colour", "row", "column"), told, strict=True)))
    paths = options(model_name_or_path=start, dataset_args=data, output_dir=model)
    sizes = options(num_train_epochs=args.epochs, per_device_train_batch_size=BATCH_SIZE)
    command = (*LAUNCH, "examples/qwen3_vl/sft.py", *paths, *sizes, *FLAGS.split())
    run(f"training: the model learns to read tables -> {model}", *command, done=model / "model.safetensors")
    return model, data


def measure(model: Path, data: Path) -> tuple[dict[str, dict[str, float]], tuple[str, str, str]]:
    """The share of right answers, of all questions and by kind, with each question's table and with another one of the
    same size; and a question, its answer and the model's.
    """
    from dllm.data.specs import load_spec
    from dllm.inference.writer import Request
    from dllm.pipelines.qwen3_vl import Qwen3VLWriter
    from dllm.pipelines.qwen3_vl.processing import load_image

    _, held_out = load_spec(str(data), lambda row, name, index: row)
    turns = [[message["content"] for message in row["messages"]] for row in held_out]
    images = [load_image(row["image"]) for row in held_out]
    writer, accuracy, written = Qwen3VLWriter(str(model)), {}, {}
    for name, seen in {"model": images, "shuffled_images": shuffled(images)}.items():
        requests = [Request([image], question) for (question, _), image in zip(turns, seen, strict=True)]
        written[name] = [response.text for response in writer.write_all(requests, TOGETHER)]
        right = [text == answer for (_, answer), text in zip(turns, written[name], strict=True)]
        accuracy[name] = shares(right, [kind_of(question) for question, _ in turns])
    return accuracy, (*turns[0], written["model"][0])


def shuffled(images: list[Image.Image]) -> list[Image.Image]:
    """Every image's next one of the same size."""
    groups, others = {}, list(images)
    for number, image in enumerate(images):
        groups.setdefault(image.size, []).append(number)
    for group in groups.values():
        for number, other in zip(group, group[1:] + group[:1], strict=True):
            others[number] = images[other]
    return others


def kind_of(question: str) -> str:
    """What a question asks for: a row, a column, or a cell."""
    return question.split()[1] if question.startswith("Read") else "cell"


def summarise(args: argparse.Namespace, model: Path, data: Path) -> dict:
    """What the run found, as written to summary.json."""
    accuracy, example = measure(model, data)
    state = trainer_state(model)
    return {
        "accuracy": {name: each["all"] for name, each in accuracy.items()},
        "kinds": accuracy,
        "sight": read_json(args.out / "initial/sight.json", REMEDY),
        "losses": [[entry["step"], entry["loss"]] for entry in state["log_history"] if "loss" in entry],
        "steps": state["global_step"],
        "seconds": state["log_history"][-1]["train_runtime"],
        "example": dict(zip(("question", "answer", "written"), example, strict=True)),
        "checkpoint": str(model),
    }


def print_summary(summary: dict) -> None:
    """Prints how many answers are right, and one of them."""
    print_table("accuracy", summary["kinds"])
    print("\n" + "   ".join(f"{name}: {text}" for name, text in summary["example"].items()))
    print(f"{summary['steps']} steps in {summary['seconds']:.0f} s")


def main() -> None:
    args = parse_arguments()
    settings = {"sizes": SIZES, "vision_steps": VISION_STEPS, "batch_size": BATCH_SIZE, "flags": FLAGS}
    quickstart(args, settings, lambda: summarise(args, *train(args)), print_summary)


if __name__ == "__main__":
    run_program(main)
