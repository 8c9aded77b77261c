"""A language model on generated text tasks, end to end on two CPU processes: data, a tiny model, training, scores.

    bash scripts/quickstart.sh text [--out DIR] [--train 48000] [--epochs 2]

The model starts from random weights and learns to copy, reverse, sort, add and continue (`dllm.data.tiny_tasks`)
through the program of a full run, examples/qwen3/sft.py. The last table sets it beside three others: itself several
tokens a step, itself given another question of the same task, and an autoregressive model of the same size trained on
the same samples for the same time (benchmarks/autoregressive.py). An interrupted run goes on from the last step that
was finished.
"""

import argparse
import sys
from pathlib import Path

from dllm.data.conversation import build_prompt
from dllm.data.records import read_records
from dllm.data.tiny_tasks import LENGTH, TASKS
from dllm.program import argument_parser, run_program
from quickstart_common import LAUNCH, ROOT, options, print_table, quickstart, run, shares, trainer_state

SIZES = {"hidden_size": 64, "layers": 3}
VOCABULARY = 316
LEARNING_RATE = 5e-3
BATCH_SIZE = 32  # of a process
GEN_LENGTH = 16
# What measured best in the time (docs/experiments).
FLAGS = f"--attention_pattern block --block_length 8 --gen_length {GEN_LENGTH} --lr_scheduler_type cosine"
FLAGS += " --warmup_steps 50 --logging_steps 50 --save_steps 500 --eval_strategy epoch"
FLAGS += " --per_device_eval_batch_size 100 --report_to none"
THRESHOLD = 0.9  # confidence above which a token is written together with others
TOGETHER = 50  # answers that are written as one batch


def parse_arguments() -> argparse.Namespace:
    parser = argument_parser(__doc__)
    parser.add_argument("--out", type=Path, default=ROOT / "exp/quickstart_text", help="output folder")
    parser.add_argument("--train", type=int, default=48000, help="training conversations")
    parser.add_argument("--test", type=int, default=250, help="test conversations, a multiple of the tasks")
    parser.add_argument("--epochs", type=float, default=2, help="passes over the training conversations")
    args = parser.parse_args()
    if args.train < 1 or args.test < 2 * len(TASKS) or args.test % len(TASKS):
        parser.error(f"--train needs at least 1, --test a multiple of {len(TASKS)} from {2 * len(TASKS)}")
    return args


def make_data(args: argparse.Namespace, data: Path, model: Path) -> None:
    """Writes the tasks, and a model of random weights with a tokenizer of their words."""
    command = (sys.executable, "-m", "dllm.data.tiny_tasks", *options(out=data, train=args.train, test=args.test))
    run(f"tasks: generated questions and answers -> {data}", *command, done=data / "test.jsonl")
    if not (model / "tokenizer.json").is_file():
        import torch  # such imports take seconds: mistakes are told before

        from dllm.pipelines.a2d.tiny import save_language_model, train_tokenizer

        texts = [turn["value"] for record in read_records(data / "train.jsonl") for turn in record["conversations"]]
        torch.manual_seed(0)
        save_language_model(model, train_tokenizer(texts, VOCABULARY), **SIZES)


def train(args: argparse.Namespace) -> tuple[Path, Path]:
    """Data, a model of random weights, its training and that of its twin; the folders of both."""
    data, start, model, twin = (args.out / name for name in ("data", "initial", "model", "twin"))
    make_data(args, data, start)
    paths = options(model_name_or_path=start, dataset_args=data, output_dir=model)
    sizes = options(num_train_epochs=args.epochs, per_device_train_batch_size=BATCH_SIZE, learning_rate=LEARNING_RATE)
    command = (*LAUNCH, "examples/qwen3/sft.py", *paths, *sizes, *FLAGS.split())
    run(f"training: the model learns the answers -> {model}", *command, done=model / "model.safetensors")
    paths = options(like=start, data=data, out=twin)
    sizes = options(seconds=train_log(model)["train_runtime"], batch_size=BATCH_SIZE, learning_rate=LEARNING_RATE)
    title = f"twin: an autoregressive model of the same size, for comparison -> {twin}"
    run(title, *LAUNCH, "benchmarks/autoregressive.py", *paths, *sizes, done=twin / "model.safetensors")
    return model, twin


def train_log(folder: Path) -> dict:
    """The last figures of each name that a run logged, and its steps."""
    return {name: value for entry in trainer_state(folder)["log_history"] for name, value in entry.items()}


class Questions:
    """The test questions and their answers, the tasks in turn."""

    def __init__(self, path: Path):
        records = read_records(path)
        turns = [[turn["value"] for turn in record["conversations"]] for record in records]
        self.questions, self.answers = zip(*turns, strict=True)
        self.tasks = [record["task"] for record in records]

    def exact_match(self, texts: list[str]) -> dict[str, float]:
        """Of all answers and by task, the share that is right."""
        return shares([text == answer for text, answer in zip(texts, self.answers, strict=True)], self.tasks)


def measure_model(folder: Path, test: Questions) -> dict:
    """What the model makes of the test questions."""
    from dllm.inference.text import TextRequest
    from dllm.inference.writer import tokens_per_step
    from dllm.pipelines.text import load_writer

    writer = load_writer(str(folder), "cpu", "float32")

    def ask(questions, templates=None, **arguments) -> list:
        pairs = zip(questions, templates or [""] * len(questions), strict=True)
        requests = [TextRequest([], question, template=template) for question, template in pairs]
        return list(writer.write_all(requests, TOGETHER, **arguments))

    def score(answers: list) -> dict[str, float]:
        return test.exact_match([answer.text for answer in answers])

    # An answer's second half stays, and the model writes the first.
    lists = [n for n, answer in enumerate(test.answers) if len(answer.split()) == LENGTH]
    ends = [" ".join(test.answers[n].split()[LENGTH // 2 :]) for n in lists]
    filled = ask([test.questions[n] for n in lists], [f"____ {end}" for end in ends], blank_length=LENGTH // 2)
    several = ask(test.questions, threshold=THRESHOLD)
    others = test.questions[len(TASKS) :] + test.questions[: len(TASKS)]  # of the same tasks
    return {
        "model": score(ask(test.questions)),
        "several": score(several),
        "blind": score(ask(others)),
        "infill": sum(answer.text == test.answers[n] for n, answer in zip(lists, filled, strict=True)) / len(lists),
        "tokens_per_step": tokens_per_step(several),
    }


def measure_twin(folder: Path, test: Questions) -> dict[str, float]:
    """The twin's exact match, greedily."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from dllm.inference.writer import rectangle

    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder).eval()
    prompts = [build_prompt(tokenizer, [{"from": "human", "value": question}]) for question in test.questions]
    ids, valid = (rectangle(rows, 0, left=True) for rows in (prompts, [[1] * len(prompt) for prompt in prompts]))
    tokens = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    written = model.generate(ids, attention_mask=valid, do_sample=False, max_new_tokens=GEN_LENGTH, **tokens)
    texts = tokenizer.batch_decode(written[:, ids.shape[1] :], skip_special_tokens=True)
    return test.exact_match([text.strip() for text in texts])


def summarise(args: argparse.Namespace, model: Path, twin: Path) -> dict:
    """What the run found, as written to summary.json."""
    test = Questions(args.out / "data/test.jsonl")
    found = measure_model(model, test) | {"twin": measure_twin(twin, test)}
    logs = {"model": train_log(model), "twin": train_log(twin)}
    rows = ("model", "several", "blind", "twin")
    return {
        "exact_match": {name: found[name]["all"] for name in rows[:-1]},
        "infill_exact_match": found["infill"],
        "tokens_per_step": found["tokens_per_step"],
        "twin": found["twin"]["all"],
        "tasks": {name: found[name] for name in rows},
        "nll": {"model": logs["model"]["eval_nll"], "twin": logs["twin"]["eval_loss"]},
        "steps": {name: log["step"] for name, log in logs.items()},
        "seconds": {name: log["train_runtime"] for name, log in logs.items()},
        "checkpoint": str(model),
    }


def print_summary(summary: dict) -> None:
    """Prints how many answers are right, of the model and of its twin."""
    names = {"model": "model", "several": f"  confident {THRESHOLD}", "blind": "  another question", "twin": "twin"}
    rows = {title: dict(summary["tasks"][name]) for name, title in names.items()}
    rows[names["several"]]["tokens/step"], rows["twin"]["tokens/step"] = summary["tokens_per_step"], 1
    for name, nll in summary["nll"].items():
        rows[name]["nats/token"] = nll
    print_table("exact match", rows)
    print(f"\ninfill, half of an answer given: {summary['infill_exact_match']:.3f}")
    for name, steps in summary["steps"].items():
        print(f"{name + ':':8}{steps} steps in {summary['seconds'][name]:.0f} s")


def main() -> None:
    args = parse_arguments()
    settings = {"sizes": SIZES, "learning_rate": LEARNING_RATE, "batch_size": BATCH_SIZE, "flags": FLAGS}
    quickstart(args, settings, lambda: summarise(args, *train(args)), print_summary)


if __name__ == "__main__":
    run_program(main)
