"""Writes the answer of a text model to a prompt, or to every prompt of a file.

python examples/sample.py --model_name_or_path DIR --prompt "Name three organs." --show_steps
python examples/sample.py --model_name_or_path DIR --prompt "Name three organs." --template "Heart, ____ and lung."
python examples/sample.py --model_name_or_path DIR --prompts FILE --out answers.jsonl --batch_size 32
python examples/sample.py --model_name_or_path DIR --plain --prompt "Once upon a time"   # goes on with the text

A template's text stays, the model fills the blanks. FILE has a prompt a line, or rows with `prompt` and, if they like,
`id`, `system` and `template` (JSON, JSON Lines, parquet). The same command again goes on where it ended.
"""

from __future__ import annotations

import argparse
import os
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from dllm.data.files import sha256
from dllm.inference.command_line import add_arguments, decoding_arguments, seed_of, settle_device, step_printer
from dllm.program import argument_parser, run_program

if TYPE_CHECKING:
    from dllm.inference.text import TextRequest

OPTIONAL = ("system", "template")  # of a prompt, beside the arguments of the same name


def parse_arguments() -> argparse.Namespace:
    parser = argument_parser(__doc__)
    parser.add_argument("--model_name_or_path", required=True, help="folder of a trained model, or its name on the hub")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--prompt", help="text to answer")
    what.add_argument("--prompts", help="file of texts to answer")
    parser.add_argument("--out", help="with --prompts: JSONL file of the answers")
    parser.add_argument("--batch_size", type=int, default=8, help="with --prompts: answers written together")
    parser.add_argument("--system", help="system prompt")
    parser.add_argument("--template", default="", help="text that stays, with ____ where the model is to write")
    parser.add_argument("--plain", action="store_true", help="go on with the text, without a chat template")
    add_arguments(parser)
    parser.add_argument("--show_steps", action="store_true", help="with --prompt: print the answer as it denoises")
    args = parser.parse_args()
    if (args.prompts is None) != (args.out is None):
        raise ValueError("--prompts and --out belong together: give both, or --prompt alone")
    if args.prompts is not None and args.show_steps:
        raise ValueError("--prompts and --show_steps exclude each other: leave one of them out")
    return args


def main() -> None:
    args = parse_arguments()
    arguments = {"blank_length": args.blank_length} | decoding_arguments(args)
    rows = read_prompts(args.prompts) if args.prompts else {"0": {"prompt": args.prompt}}
    from dllm.inference.text import TextRequest  # these take seconds: mistakes are told before
    from dllm.inference.writer import pace
    from dllm.pipelines.text import load_writer

    settle_device(args)
    writer = load_writer(args.model_name_or_path, args.device, args.dtype, args.plain)
    requests, given = {}, {name: getattr(args, name) for name in OPTIONAL}
    for key, row in rows.items():  # whose key names its seed
        row, seed = given | row, seed_of(args.seed, key)
        requests[key] = TextRequest([], row["prompt"], seed, row["template"], f"prompt {key}", row["system"])
    if args.prompts:
        answer_all(args, writer, requests, arguments)
        return
    on_step = step_printer(writer) if args.show_steps else None
    (answer,) = writer.write(list(requests.values()), on_step=on_step, **arguments)
    print(f"answer: {answer.text}")
    print(f"steps:  {pace(answer)}")


def read_prompts(path: str) -> dict[str, dict]:
    """The prompts of a file by their id. Raises ValueError, naming it, on one that is none or a second one of an id."""
    if Path(path).suffix == ".txt":
        lines = Path(path).read_text(encoding="utf-8").splitlines()
        rows = [{"prompt": line} for line in lines if line.strip()]
    else:
        from dllm.data.rows import open_splits

        rows = next(iter(open_splits(path).values()))
    found = {}
    for number, row in enumerate(rows):
        texts = row if isinstance(row, dict) else {}
        texts = {name: texts[name] for name in ("prompt", *OPTIONAL) if texts.get(name) is not None}
        if "prompt" not in texts or not all(isinstance(text, str) for text in texts.values()):
            raise ValueError(f"{path}, row {number}: a row needs a text `prompt`; system and template are texts too")
        key = str(row.get("id", number))
        if key in found:
            raise ValueError(f"{path}, row {number}: a second prompt with the id {key}; give each its own")
        found[key] = texts
    if not found:
        raise ValueError(f"{path} has no prompts")
    return found


def answer_all(args: argparse.Namespace, writer, requests: dict[str, TextRequest], arguments: dict) -> None:
    """Appends the answers of the requests to a file, but for those that it has already."""
    from dllm.inference.fill import fill
    from dllm.inference.results_file import ResultsFile
    from dllm.inference.writer import tokens_per_step

    settings = {
        "model": os.path.realpath(writer.model.name_or_path),
        "prompts": sha256(args.prompts),
        **{name: getattr(args, name) for name in (*OPTIONAL, "plain", "blank_length", "seed", "dtype")},
        **asdict(writer.parse(arguments).decoding),
    }
    file = ResultsFile(args.out, settings, names=("id", "answer"))
    before = sum(key in file.results for key in requests)
    fill(file, writer, list(requests), requests.__getitem__, args.batch_size, "answers", "answer", **arguments)
    rate = f"{tokens_per_step(file.results.values()):.1f} tokens per step"
    print(f"{file.path}: {len(requests)} answers ({before} from before), {rate}")


if __name__ == "__main__":
    run_program(main)
