"""A conversation with a text model in the terminal, whose answers are seen as they denoise.

python examples/chat.py --model_name_or_path exp/llama3_sft --threshold 0.9

/clear begins a new conversation; /exit, Ctrl-D or Ctrl-C ends.
"""

import argparse
import contextlib
import sys

from dllm.inference.command_line import add_arguments, decoding_arguments, seed_of, settle_device, write_live
from dllm.program import argument_parser, run_program

with contextlib.suppress(ImportError):  # it is not on every system
    import readline  # noqa: F401  with it `input` lets a line be edited


def parse_arguments() -> argparse.Namespace:
    parser = argument_parser(__doc__)
    parser.add_argument("--model_name_or_path", required=True, help="folder of a trained model, or its name on the hub")
    parser.add_argument("--system", help="system prompt")
    add_arguments(parser)
    return parser.parse_args()


def main() -> None:
    args = parse_arguments()
    arguments = {"blank_length": args.blank_length} | decoding_arguments(args)
    from dllm.inference.text import TextRequest  # these take seconds: mistakes are told before
    from dllm.pipelines.text import load_writer

    settle_device(args)
    writer = load_writer(args.model_name_or_path, args.device, args.dtype)
    writer.parse(arguments)  # a mistake is told before the first question
    turns = []
    while (question := ask()) is not None:
        if question == "/clear":
            turns = []
        if question in ("", "/clear"):
            continue
        name, seed = "the conversation (/clear begins a new one)", seed_of(args.seed, str(len(turns)))
        try:
            answer = write_live(writer, TextRequest([], question, seed, "", name, args.system, turns), arguments)
        except ValueError as error:  # of a conversation that is too long, say
            print(f"error: {error}", flush=True)
            continue
        turns += [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]


def ask() -> str | None:
    """The next question; None at the end."""
    try:
        question = input("> " if sys.stdin.isatty() else "").strip()
    except EOFError:
        return None
    return None if question == "/exit" else question


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        run_program(main)
