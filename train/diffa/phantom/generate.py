"""Writes synthetic speech with all that both stages and their scores read.

    python -m diffa.phantom.generate --out exp/speech --train 4000 --test 200 --seed 0

writes OUT/audio/train/000000.wav ..., of the training clips OUT/stage1.json (transcriptions) and OUT/stage2.json
(transcriptions and questions), of the test clips OUT/test.json (transcriptions) and OUT/test_mmsu.jsonl (questions),
and last OUT/truth.json: what is heard in each clip, and when. Paths of clips are from OUT. Clip number i of a split is
the same whatever the number of clips.
"""

import json
from dataclasses import asdict
from functools import partial
from pathlib import Path

import numpy as np

from diffa.data.audio import write_wav
from diffa.phantom.questions import TASKS, make_question, training_record
from diffa.phantom.speech import SECONDS, make_clip
from dllm.data.files import replacing
from dllm.data.parallel import map_parallel
from dllm.program import argument_parser, run_program

SPLITS = ("train", "test")
TRUTH = "truth.json"
TRAINING_TASKS = 3  # of a clip in stage 2, transcription among the tasks


def write_clip(out: Path, seed: int, split: str, number: int) -> tuple[dict, list[dict], list[dict]]:
    """Writes a clip: what is heard in it, its training records (stage 1 first), its questions.

    All of it depends on seed, split and number alone.
    """
    clip_rng, question_rng = np.random.default_rng([seed, SPLITS.index(split), number]).spawn(2)
    clip, path = make_clip(clip_rng), f"audio/{split}/{number:06d}.wav"
    write_wav(str(out / path), clip.samples)
    tasks = question_rng.permutation([*TASKS, "transcription"]).tolist()
    questions = {task: make_question(clip, task, path, number, question_rng) for task in TASKS}
    record = partial(training_record, clip, audio_path=path, number=number, duration=float(SECONDS))
    records = [record(question=None), *(record(question=questions.get(task)) for task in tasks[:TRAINING_TASKS])]
    truth = {name: value for name, value in asdict(clip).items() if name != "samples"}
    return {"audio_filepath": path} | truth, records, [questions[task] for task in TASKS]


def write_release(out: Path, counts: dict[str, int], seed: int) -> Path:
    """Writes the files; returns the path of the last one. Raises ValueError if they are there already."""
    truth_file = out / TRUTH
    if truth_file.exists():
        raise ValueError(f"{truth_file} is there already: remove the folder or choose another --out")
    files, truths = {}, {}
    for split in SPLITS:
        (out / "audio" / split).mkdir(parents=True, exist_ok=True)
        write = partial(write_clip, out, seed, split)
        written = map_parallel(write, range(counts[split]), f"{split} clips", "clip")
        truths[split], records, questions = zip(*written, strict=True)
        if split == "train":
            files["stage1.json"] = json.dumps([each[0] for each in records], indent=1)
            files["stage2.json"] = json.dumps([record for each in records for record in each[1:]], indent=1)
        else:
            files["test.json"] = json.dumps([each[0] for each in records], indent=1)
            files["test_mmsu.jsonl"] = "".join(json.dumps(one) + "\n" for each in questions for one in each)
    for name, text in (files | {TRUTH: json.dumps(truths)}).items():
        with replacing(out / name) as partial_file:
            partial_file.write_text(text, encoding="utf-8")
    return truth_file


def main() -> None:
    """The command line."""
    parser = argument_parser(__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--train", type=int, default=4000, help="training clips")
    parser.add_argument("--test", type=int, default=200, help="test clips")
    parser.add_argument("--seed", type=int, default=0, help="of all clips, 0 or more")
    args = parser.parse_args()
    for name in ("train", "test"):
        if getattr(args, name) < 2:
            raise ValueError(f"--{name} {getattr(args, name)}: give at least 2 clips")
    if args.seed < 0:
        raise ValueError(f"--seed {args.seed} is negative: use 0 or more")
    print(write_release(args.out, {"train": args.train, "test": args.test}, args.seed))


if __name__ == "__main__":
    run_program(main)
