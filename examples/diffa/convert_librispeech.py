r"""LibriSpeech's folders, as they are published, as training data of stage 1 (Panayotov et al. 2015).

    python examples/diffa/convert_librispeech.py --data_dir LibriSpeech --splits train-clean-100 train-clean-360 \
        train-other-500 --out data/librispeech_train_960/train.json

    LibriSpeech/SPLIT/SPEAKER/CHAPTER/SPEAKER-CHAPTER-UTTERANCE.flac and SPEAKER-CHAPTER.trans.txt, "ID WORDS" a line

The answer to learn is the transcription in lower case: in capitals it would cost twice the tokens.
"""

import json
import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from diffa.constants import SAMPLING_RATE
from diffa.conversation import TRANSCRIBE
from diffa.data.audio import read_audio
from dllm.data.files import replacing
from dllm.data.inputs import check_inputs, usable
from dllm.program import argument_parser, run_program

SPLITS = ("train-clean-100", "train-clean-360", "train-other-500")


def utterances(data_dir: Path, split: str) -> Iterator[tuple[Path, str]]:
    """The clips of a split and their transcriptions, in order. Raises ValueError if a file is missing."""
    files = sorted((data_dir / split).glob("*/*/*.trans.txt"))
    if not files:
        raise ValueError(f"{data_dir / split} holds no SPEAKER/CHAPTER/*.trans.txt; unpack the split's archive there")
    for file in files:
        for line in file.read_text(encoding="utf-8").splitlines():
            name, _, words = line.strip().partition(" ")
            clip = file.parent / f"{name}.flac"
            if not words or not clip.is_file():
                raise ValueError(f"{file}: {name!r} has no {'clip beside it' if words else 'words'}; unpack it again")
            yield clip, words


def record(utterance: tuple[Path, str], folder: Path) -> dict:
    """A record of the training data, whose clip is relative to `folder`. Raises ValueError if it cannot be used."""
    clip, words = utterance
    duration = len(read_audio(clip)) / SAMPLING_RATE
    return {
        "audio_id": clip.stem,
        "audio_filepath": os.path.relpath(clip, folder),
        "input": TRANSCRIBE,
        "target": words.lower(),
        "transcription": words,
        "dataset": "LibriSpeech",
        "duration": round(duration, 3),
    }


def main() -> None:
    """The command line."""
    parser = argument_parser(__doc__)
    parser.add_argument("--data_dir", required=True, help="the folder LibriSpeech")
    parser.add_argument("--splits", nargs="+", default=SPLITS, help="default: all 960 hours of training")
    parser.add_argument("--out", required=True, help="JSON file to write")
    parser.add_argument("--max_seconds", type=float, default=30, help="longer clips are left out; Whisper hears 30 s")
    args = parser.parse_args()
    data_dir, folder = Path(args.data_dir).resolve(), Path(args.out).resolve().parent
    said = (utterance for split in args.splits for utterance in utterances(data_dir, split))
    found = check_inputs(partial(record, folder=folder), said, "read clips", "clip")
    made = [usable(found, utterance, "clips") for utterance in found]
    records = [each for each in made if each["duration"] <= args.max_seconds]
    with replacing(args.out) as partial_file:
        partial_file.write_text(json.dumps(records, indent=1, ensure_ascii=False), encoding="utf-8")
    hours, long = sum(each["duration"] for each in records) / 3600, len(made) - len(records)
    print(f"{args.out}: {len(records):,} clips, {hours:,.2f} h; {long} longer than {args.max_seconds:g} s left out")


if __name__ == "__main__":
    run_program(main)
