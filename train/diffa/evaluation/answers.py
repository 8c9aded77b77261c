"""The one program behind the benchmarks: questions on clips in, answers out, and those of the floors beside them.

It goes on where an earlier run was stopped: OUT.progress.jsonl has every answer as soon as its batch
is written. The program's names of the arguments are DIFFA's: steps is dllm's gen_steps, max_new_tokens its gen_length.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from diffa.data.audio import fit, read_audio
from diffa.evaluation.files import FLOORS, exchanged, floor_file, read_records, write_records
from dllm.data.files import weights_sha256
from dllm.inference.command_line import add_device, announce, settle_device

if TYPE_CHECKING:
    from dllm.inference.writer import Request, Response


@dataclass(frozen=True)
class Question:
    """A question, the clip that it is on (a file, or the bytes of one; None: it lacks one), and what names it."""

    key: str
    text: str
    audio: str | bytes | None


def add_arguments(parser: argparse.ArgumentParser, tokens: int) -> None:
    """The arguments of every benchmark; `tokens` is the default of the three lengths."""
    parser.add_argument("--model_path", required=True, help="folder of a trained model, or its adapter file")
    parser.add_argument("--llm_path", help="language model that the adapter was trained with; default: as it names it")
    parser.add_argument("--whisper_path", help="Whisper that it was trained with; default: as it names it")
    parser.add_argument("--steps", type=int, default=tokens, help="denoising steps of an answer (gen_steps)")
    parser.add_argument("--block_length", type=int, default=tokens, help="tokens written before the next ones begin")
    parser.add_argument("--max_new_tokens", type=int, default=tokens, help="tokens of an answer (gen_length)")
    parser.add_argument("--batch_size", type=int, default=8, help="questions answered together")
    add_device(parser)
    parser.add_argument("--cut_long_audio", action="store_true", help="hear the beginning of a clip that is too long")
    parser.add_argument("--floors", nargs="*", choices=FLOORS, default=FLOORS, help="answer these too; empty: none")


def answer_file(
    args: argparse.Namespace, source: str, prompt: Callable[[dict], str], out: Path, names: tuple[str, str, str]
) -> None:
    """`answer` for a file of records. `prompt` says what is asked of one. The `names` are those of three fields: the
    id, the path of the clip (from the working folder, or else from that of the file), and the answer.
    """
    key, audio, field = names
    records, questions = read_records(source), []
    for record in records:
        path = record.get(audio)
        if path is not None and not Path(path).is_file():
            path = str(Path(source).parent / path)
        questions.append(Question(str(record[key]), prompt(record), path))
    answer(args, records, questions, out, field)


def answer(args: argparse.Namespace, records: list[dict], questions: list[Question], out: Path, field: str) -> None:
    """Writes the records with the answers to their questions in `field` to `out`, those of each floor beside it.

    A question that has no audio gets an empty answer, and the record an `error` that says why.
    """
    keys = [question.key for question in questions]
    if len(set(keys)) < len(keys):
        repeated = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"two questions have the id {repeated}; give each its own")
    announce(args.model_path)
    from diffa.inference import SpeechWriter  # these take seconds: mistakes are told before
    from dllm.inference.fill import fill
    from dllm.inference.results_file import ResultsFile
    from dllm.inference.writer import Request

    settle_device(args)
    writer = SpeechWriter(args.model_path, args.llm_path, args.whisper_path, args.device, args.dtype)
    decoding = {"gen_length": args.max_new_tokens, "block_length": args.block_length, "gen_steps": args.steps}
    paths = {name: path and os.path.realpath(path) for name, path in vars(args).items() if name.endswith("_path")}
    asked = hashlib.sha256(repr(questions).encode()).hexdigest()
    settings = paths | decoding | {name: getattr(args, name) for name in ("dtype", "cut_long_audio")}
    settings |= {"questions": asked, "weights": weights_sha256(args.model_path)}
    file = ResultsFile(out.with_name(f"{out.stem}.progress.jsonl"), settings, names=("question", "response"))

    errors: dict[str, str] = {}
    for floor in ("", *args.floors):
        mark = floor and f" {floor}"  # behind a question's key
        left = [question for question in questions if question.key not in errors]
        clips = _clips([question.audio for question in left], floor)
        asked = {question.key + mark: (question.text, clips[question.audio]) for question in left}

        def to_request(key: str, asked=asked, floor=floor) -> Request:
            text, clip = asked[key]
            if clip is None and not floor:
                raise ValueError("the question has no audio")
            most, cut = writer.preprocessor.max_samples, args.cut_long_audio
            return Request([] if clip is None else [fit(read_audio(clip), most, cut)], text, name=f"question {key}")

        label = {"desc": floor or "answers", "unit": "question"}
        failed = fill(file, writer, list(asked), to_request, args.batch_size, **label, **decoding)
        errors = errors or failed
        answers = (file.results.get(key + mark) for key in keys)
        written = [_answered(*each, field) for each in zip(records, answers, map(errors.get, keys), strict=True)]
        path = floor_file(out, floor) if floor else out
        write_records(path, written)
        print(f"{path}: {len(questions)} questions, {len(errors)} of them without an answer")
    for key, error in list(errors.items())[:3]:
        print(f"question {key} counts as wrong: {error}", file=sys.stderr)


def _clips(audio: list[str | bytes | None], floor: str) -> dict:
    """By clip: what is heard in its place, another one or nothing on a floor."""
    if floor == "shuffled_audio":
        return exchanged(audio)
    return {clip: None if floor else clip for clip in audio}


def _answered(record: dict, answer: Response | None, error: str | None, field: str) -> dict:
    """The record with its answer; one that there is no answer to says why."""
    return record | {field: answer.text if answer else ""} | ({} if error is None else {"error": error})
