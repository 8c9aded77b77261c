"""Transcribes the clips of a stage's JSON and counts the wrong words, beside shuffled audio and no audio.

    python -m diffa.evaluation.asr --model_path exp/stage1 --data_path test.json --output_json results.json

A record's `input` is what the model is asked, its `target` the transcription.
"""

from operator import itemgetter
from pathlib import Path

from diffa.evaluation.answers import add_arguments, answer_file
from diffa.evaluation.files import floor_file, read_records
from dllm.program import argument_parser, run_program


def edits(reference: list[str], hypothesis: list[str]) -> int:
    """The fewest words to put in, take out or replace (Levenshtein 1966)."""
    row = list(range(len(hypothesis) + 1))
    for number, word in enumerate(reference, start=1):
        diagonal, row[0] = row[0], number
        for place, other in enumerate(hypothesis, start=1):
            diagonal, row[place] = row[place], min(row[place] + 1, row[place - 1] + 1, diagonal + (word != other))
    return row[-1]


def words(text: str) -> list[str]:
    """A text's words as they are compared: in lower case, without punctuation but apostrophes."""
    kept = (character if character.isalnum() or character in "' " else " " for character in text.lower())
    return "".join(kept).split()


def word_error_rate(records: list[dict]) -> float:
    """Wrong words of the records' `response` over all words of their `target`; one without a response is all wrong."""
    pairs = [(words(record["target"]), words(record.get("response") or "")) for record in records]
    return sum(edits(*pair) for pair in pairs) / max(1, sum(len(reference) for reference, _ in pairs))


def main() -> None:
    """The command line."""
    parser = argument_parser(__doc__)
    parser.add_argument("--data_path", required=True, help="records as a stage reads them")
    parser.add_argument("--output_json", type=Path, required=True, help="the records with their `response`")
    add_arguments(parser, tokens=128)
    args = parser.parse_args()
    names = ("audio_id", "audio_filepath", "response")
    answer_file(args, args.data_path, itemgetter("input"), args.output_json, names)
    records = read_records(args.output_json)
    print(f"WER: {word_error_rate(records):.4f} over {len(records)} clips")
    for floor in args.floors:
        print(f"{floor}: {word_error_rate(read_records(floor_file(args.output_json, floor))):.4f}")


if __name__ == "__main__":
    run_program(main)
