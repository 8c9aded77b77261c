"""DIFFA end to end on two CPU processes, on synthetic speech whose words, voice and background are known.

    bash scripts/quickstart.sh speech [--out DIR]
    LEARNING_RATE=1e-3 bash scripts/quickstart.sh speech --out DIR     # another setting of the stages (STAGES)

A tiny Whisper learns to hear on its own, which a published one needs not; stage 1 learns to transcribe, stage 2 to
answer questions too, each through the script of a full run, but with the language model learning too: a tiny frozen one
knows nothing. Then words that are transcribed wrongly and questions that are answered rightly, beside shuffled audio
and without the acoustic adapter. An interrupted run goes on from the last step that was finished.
"""

import argparse
import os
import shutil
import sys
from collections.abc import Collection
from functools import partial
from pathlib import Path

from diffa.evaluation import mmsu
from diffa.evaluation.asr import word_error_rate
from diffa.evaluation.files import accuracy, floor_file, read_records
from diffa.phantom.questions import TASKS
from dllm.program import argument_parser, run_program
from quickstart_common import LAUNCH, PROCESSES, ROOT, options, print_table, quickstart, run

STAGES = {
    "ATTENTION_PATTERN": "block",
    "BLOCK_LENGTH": "4",
    "GEN_LENGTH": "8",
    "TUNABLE_PARTS": "semantic_adapter,language_model",
    "NUM_PROMPTS": "4",
    "PROMPT_SIZE": "8",
    "ACOUSTIC_LAYERS": "1,2,3,4",
    "ACOUSTIC_INTERMEDIATE_SIZE": "288",
    "LEARNING_RATE": "2e-3",
    "LR_SCHEDULER_TYPE": "cosine",
    "WARMUP": "0.05",
    "WEIGHT_DECAY": "0.01",
    "BATCH_SIZE": "16",
    "GRADIENT_ACCUMULATION_STEPS": "1",
    "SAVE_STRATEGY": "no",
    "LOGGING_STEPS": "25",
    "DATALOADER_NUM_WORKERS": "0",
    "DEEPSPEED": "",  # plain DDP: partitioning a million weights takes most of the time and changes no loss
}
SETTINGS = {name: os.environ.get(name, value) for name, value in STAGES.items()}
STAGE_2 = {"TUNABLE_PARTS": "semantic_adapter,acoustic_adapter,language_model", "LEARNING_RATE": "1e-3"}
ACOUSTIC = ("voice", "background")  # questions on how it sounds, not on what is said
PROJECTION = ("acoustic_adapter.proj.1.weight", "acoustic_adapter.proj.1.bias")
SHUFFLED, WITHOUT = "shuffled_audio", "without_acoustic_adapter"


def parse_arguments() -> argparse.Namespace:
    parser = argument_parser(__doc__)
    parser.add_argument("--out", type=Path, default=ROOT / "exp/quickstart_speech", help="output folder")
    parser.add_argument("--train", type=int, default=4000, help="training clips")
    parser.add_argument("--test", type=int, default=200, help="test clips")
    parser.add_argument("--encoder_epochs", type=float, default=2, help="passes of the encoder over the clips")
    parser.add_argument("--stage1_epochs", type=float, default=4, help="passes of stage 1 over the clips")
    passes = "passes of stage 2 over three tasks of each clip"
    parser.add_argument("--stage2_epochs", type=float, default=0.8, help=passes)
    args = parser.parse_args()
    for name, value in STAGES.items():
        if value and not SETTINGS[name]:
            parser.error(f"{name} is empty; give it a value, or unset it for {value}")
    return args


def train(args: argparse.Namespace) -> tuple[Path, Path, Path]:
    """Data, encoder and both stages; returns the folders of the data and of the stages."""
    names = ("data", "towers", "encoder", "stage1", "stage2")
    data, towers, encoder, stage1, stage2 = (args.out / name for name in names)
    python = (sys.executable, "-m")
    flags = options(out=data, train=args.train, test=args.test)
    title = f"synthetic speech: clips and questions on them -> {data}"
    run(title, *python, "diffa.phantom.generate", *flags, done=data / "truth.json")
    command = (*python, "diffa.model.tiny", *options(data_path=data / "stage2.json", out=towers))
    title = f"tiny towers: language model and encoder of random weights -> {towers}"
    run(title, *command, done=towers / "audio_encoder/preprocessor_config.json")
    flags = options(whisper_model=towers / "audio_encoder", truth=data / "truth.json", out=encoder)
    program = (*LAUNCH, "-m", "diffa.phantom.pretrain_encoder", *flags, "--epochs", args.encoder_epochs)
    title = f"encoder: it learns the sounds on its own -> {encoder}"
    run(title, *program, done=encoder / "preprocessor_config.json")
    env = SETTINGS | {"LLM_MODEL": towers / "language_model", "WHISPER_MODEL": encoder}
    env |= {"TRAIN_DATASET_PATH": data / "stage1.json"}
    stage("stage 1: the semantic adapter learns to transcribe", 1, env, stage1, args.stage1_epochs)
    env |= STAGE_2 | {"TRAIN_DATASET_PATH": data / "stage2.json", "STAGE1_CKPT": stage1}
    stage("stage 2: both adapters learn to answer", 2, env, stage2, args.stage2_epochs)
    return data, stage1, stage2


def stage(title: str, number: int, env: dict, out: Path, epochs: float) -> None:
    """Runs a stage script, unless its model is there already."""
    env = env | {"OUTPUT_DIR": out, "NUM_TRAIN_EPOCHS": epochs}
    command = ("bash", f"examples/diffa/train_stage{number}.sh", 1, PROCESSES)
    run(f"{title} -> {out}", *command, env=env, done=out / "model.safetensors")


def without_acoustic_adapter(model: Path, out: Path) -> Path:
    """A copy of a model whose acoustic tokens are zeros, as before their first step."""
    if not out.is_dir():
        shutil.copytree(model, out, ignore=shutil.ignore_patterns("checkpoint-*", "runs"))
        from safetensors.torch import load_file, save_file

        weights = load_file(out / "model.safetensors")
        weights |= {name: weights[name].zero_() for name in PROJECTION}
        save_file(weights, out / "model.safetensors", metadata={"format": "pt"})
    return out


def evaluate(args: argparse.Namespace, data: Path, stage1: Path, stage2: Path) -> dict:
    """What the run found, as written to summary.json."""
    length, block = SETTINGS["GEN_LENGTH"], SETTINGS["BLOCK_LENGTH"]
    decoding = ("--max_new_tokens", length, "--block_length", block, "--steps", length, "--batch_size", 50)

    def answers(name: str, program: tuple, model: Path, *floors: str) -> dict[str, list[dict]]:
        """The answered records, those of each floor by its name."""
        file = args.out / "results" / name
        command = (sys.executable, *program, file, "--model_path", model, *decoding, "--floors", *floors)
        run(f"answers: {file.stem} -> {file}", *command, env={"OMP_NUM_THREADS": PROCESSES})
        return {"model": read_records(file)} | {floor: read_records(floor_file(file, floor)) for floor in floors}

    transcribe = ("-m", "diffa.evaluation.asr", "--data_path", data / "test.json", "--output_json")
    ask = ("examples/diffa/inference_stage2_mmsu.py", "--answers", "text", "--input_jsonl", data / "test_mmsu.jsonl")
    ask += ("--output_jsonl",)
    first = answers("stage1.json", transcribe, stage1, SHUFFLED)
    last = answers("stage2.json", transcribe, stage2, SHUFFLED)
    asked = answers("questions.jsonl", ask, stage2, SHUFFLED)
    deaf = without_acoustic_adapter(stage2, args.out / WITHOUT)
    asked[WITHOUT] = answers(f"{WITHOUT}.jsonl", ask, deaf)["model"]
    return {
        "wer": {name: word_error_rate(records) for name, records in last.items()},
        "wer_after_stage_1": {name: word_error_rate(records) for name, records in first.items()},
        "accuracy": shares_right(asked, TASKS),
        "acoustic_accuracy": shares_right(asked, ACOUSTIC),
        "accuracy_by_task": {task: shares_right(asked, (task,)) for task in TASKS},
        "checkpoint": str(stage2),
    }


def shares_right(answered: dict[str, list[dict]], tasks: Collection[str]) -> dict[str, float]:
    """Of each group of answered records the share of these tasks' questions that are answered rightly."""
    asked = {name: [record for record in records if record["task_name"] in tasks] for name, records in answered.items()}
    return {name: accuracy(records, partial(mmsu.is_right, answers="text")) for name, records in asked.items()}


def print_summary(summary: dict) -> None:
    """Prints error rates and accuracies beside their floors."""
    rows = {name: summary[name] for name in ("wer_after_stage_1", "wer", "accuracy", "acoustic_accuracy")}
    print_table("", rows | {f"  {task}": row for task, row in summary["accuracy_by_task"].items()})


def main() -> None:
    args = parse_arguments()
    settings = {"stages": SETTINGS, "stage 2": STAGE_2}
    quickstart(args, settings, lambda: evaluate(args, *train(args)), print_summary)


if __name__ == "__main__":
    run_program(main)
