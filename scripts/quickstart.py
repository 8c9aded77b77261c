"""The main job end to end on two CPU processes: data, tiny towers, two stages, distillation, a report, scores.

    bash scripts/quickstart.sh                                        # on phantom images, whose findings are known
    bash scripts/quickstart.sh --annotation FILE --images DIR         # the same path on real images
    ATTENTION_PATTERN=prefix bash scripts/quickstart.sh --out DIR     # another setting of the stages (SETTINGS)

Both stages learn next tokens, and the distillation turns that into blocks; under other patterns all of them learn
blocks. The towers start from random weights, so the vision tower first learns the words of the reports on its own,
which a published one needs not, and learning rates and sizes are the quickstart's own; the programs and stage scripts
are those of a full run. An interrupted run goes on from the last step that was finished.
"""

import argparse
import os
import shutil
import subprocess
import sys
from pathlib import Path

from dllm.core.patterns import SHIFTED
from dllm.data.files import read_json
from dllm.program import argument_parser, run_program
from llava.phantom.generate import ANNOTATION, CAPTIONS
from llava.radiology.curation import write_subset, write_training_sets
from quickstart_common import ON_CPU, PROCESSES, REMEDY, ROOT, options, print_table, quickstart, run, trainer_state
from report_scores.lmms_eval_output import generations, read_scores, results_file
from report_scores.scorer import FINDING_F1

DISK_SPACE = 1e9  # bytes
BASELINES = ("constant_report", "nearest_image")
REPORTS = "reports_llava.json"  # of real studies, as stage 2 reads them
REAL_IMAGES = {"image_size": 128}  # a phantom shows its findings at half the side
# What measured best in the time (docs/experiments). Stage 1 trains the towers too: they start from random weights.
TOWERS = {"hidden_size": 96, "layers": 3, "vision_hidden_size": 128, "vision_layers": 5}
TOWERS |= {"image_size": 64, "patch_size": 16}
LEARNS_NEXT_TOKENS = os.environ.get("ATTENTION_PATTERN", SHIFTED) == SHIFTED
BLOCK_LENGTH = 8  # of what writes several tokens a step; the last of several rounds doubles it
STAGES = {
    "ATTENTION_PATTERN": SHIFTED,
    "BLOCK_LENGTH": "1" if LEARNS_NEXT_TOKENS else str(BLOCK_LENGTH),
    "MM_RESAMPLER_TYPE": "none",
    "MM_VISION_SELECT_LAYER": "-2",
    "GEN_LENGTH": "160",
    "NOISE_ESTIMATOR": "stratified",
    "EXTRA_ARGS": "",
    "MM_TUNABLE_PARTS": "mm_vision_tower,mm_vision_resampler,mm_mlp_adapter,mm_language_model",
    "LEARNING_RATE": "2e-3",
    "BATCH_SIZE": "8",
    "GRADIENT_ACCUMULATION_STEPS": "1",
    "LOGGING_STEPS": "50",
    "SAVE_STEPS": "500",
    "DATALOADER_NUM_WORKERS": "0",
    "DEEPSPEED": "",  # plain DDP: partitioning a million weights takes most of the time and changes no loss
}
SETTINGS = {name: os.environ.get(name, value) for name, value in STAGES.items()}
VISION_RATE = "3e-4"
DISTILL = {"NUM_TRAIN_EPOCHS": "2", "NOISE_ESTIMATOR": "draft"}
if not LEARNS_NEXT_TOKENS:
    DISTILL = {"LEARNING_RATE": "1e-3", "NUM_TRAIN_EPOCHS": "1", "NOISE_ESTIMATOR": "whole_blocks"}


def parse_arguments() -> argparse.Namespace:
    parser = argument_parser(__doc__)
    parser.add_argument("--out", type=Path, default=ROOT / "exp/quickstart", help="output folder")
    parser.add_argument("--annotation", type=Path, help="annotation file of real studies; default: phantom studies")
    parser.add_argument("--images", type=Path, help="image folder of --annotation")
    help_of_captions = "LLaVA JSON for tower and stage 1; default: the phantom captions, or the labels of the reports"
    parser.add_argument("--captions", type=Path, help=help_of_captions)
    parser.add_argument("--caption_images", type=Path, help="image folder of --captions")
    parser.add_argument("--vision_tower", help="tower to start from: a folder, timm:FOLDER; default: a tiny SigLIP")
    parser.add_argument("--train", type=int, default=12000, help="most training studies")
    parser.add_argument("--test", type=int, default=200, help="most test studies")
    parser.add_argument("--tower_epochs", type=float, default=6, help="passes of the vision tower over the images")
    parser.add_argument("--caption_epochs", type=float, default=2, help="passes of stage 1 over the captions")
    parser.add_argument("--epochs", type=float, default=2, help="passes of stage 2 over the training studies")
    parser.add_argument("--repeat_abnormal", type=int, default=3, help="times a pass shows an abnormal real study")
    parser.add_argument("--own_reports", type=int, default=12000, help="training studies of the distillation; 0: none")
    parser.add_argument("--rounds", type=int, default=1, help="times that it is done, the last in longer blocks")
    args = parser.parse_args()
    for given, needed in (("annotation", "images"), ("captions", "caption_images")):
        if (getattr(args, given) is None) != (getattr(args, needed) is None):
            parser.error(f"--{given} and --{needed} belong together")
    for name, value in STAGES.items():
        if value and not SETTINGS[name]:
            parser.error(f"{name} is empty; give it a value, or unset it for {value}")
    if args.train < 2 or args.test < 2:
        parser.error("--train and --test need at least 2 studies each")
    for name in ("repeat_abnormal", "rounds"):
        if getattr(args, name) < 1:
            parser.error(f"--{name} needs at least 1")
    return args


def check_last_steps(out: Path) -> None:
    """Looks for what the last steps need before the first one runs; ValueError with the cause and the remedy."""
    if (free := shutil.disk_usage(out).free) < DISK_SPACE:
        raise ValueError(f"{out}: {free / 1e9:.1f} GB are free, a run needs {DISK_SPACE / 1e9:g}; give another --out")
    command, env = ("bash", "eval/scripts/evaluate.sh", "--check"), os.environ | ON_CPU | {"PYTHON": sys.executable}
    found = subprocess.run(command, cwd=ROOT, env=env, stderr=subprocess.PIPE, text=True)
    if found.returncode:
        raise ValueError(found.stderr.strip().rpartition("\n")[2].removeprefix("error: "))


def make_data(args: argparse.Namespace, data: Path) -> Path:
    """Writes the annotation and its LLaVA files to `data`; returns the image folder."""
    images = args.images or data / "images"
    if not (data / "test_llava_llada.json").is_file():
        if args.annotation:
            write_subset(args.annotation, data / ANNOTATION, args.train, args.test)
        else:
            sizes = options(out=data, seed=0, size=128, train=args.train, val=args.test, test=args.test)
            title = f"phantom images: studies with known findings -> {data}"
            run(title, sys.executable, "-m", "llava.phantom.generate", *sizes, done=data / ANNOTATION)
        convert = (sys.executable, "convert_data.py", "--annotation", data / ANNOTATION, "--out_dir", data)
        run(f"conversion: the studies as LLaVA JSON -> {data}", *convert, "--images", images)
    if args.annotation and not (data / CAPTIONS).is_file():
        records, sets = data / "train_llava_llada.json", (data / REPORTS, data / CAPTIONS)
        write_training_sets(data / ANNOTATION, records, *sets, args.repeat_abnormal)
    return images


def train(args: argparse.Namespace, data: Path, images: Path) -> Path:
    """Both stages, through the scripts of a full run, and the distillation; returns the folder of the last model."""
    towers, stage1, stage2 = args.out / "towers", args.out / "stage1", args.out / "stage2"
    reports = data / (REPORTS if args.annotation else "train_llava_llada.json")
    sizes = options(data_path=reports, out=towers, **TOWERS | (REAL_IMAGES if args.annotation else {}))
    title = f"tiny towers: language model and vision tower of random weights -> {towers}"
    command = (sys.executable, "-m", "llava.model.tiny", *sizes)
    run(title, *command, done=towers / "vision_tower/preprocessor_config.json")
    captions, caption_images = (args.captions, args.caption_images) if args.captions else (data / CAPTIONS, images)
    tower = train_tower(args, towers, captions, caption_images)
    env = {"LM_PATH": towers / "language_model", "VISION_TOWER": tower, "NUM_TRAIN_EPOCHS": args.caption_epochs}
    stage("stage 1: the parts learn to describe images", "llada_v_pretrain.sh", stage1, captions, caption_images, env)
    env = {"VISION_TOWER": "", "PRETRAIN_MM_MLP_ADAPTER": "", "LM_PATH": stage1, "NUM_TRAIN_EPOCHS": args.epochs}
    stage("stage 2: they learn to write reports", "llada_v_finetune.sh", stage2, reports, images, env)
    if not args.own_reports:
        return stage2
    # Stage 2 goes on with the model's own reports, so that several tokens a step do not mix several wordings. From time
    # to time they are worded more alike, and the last time it can learn to write them in longer blocks.
    model = stage2
    for number in range(1, args.rounds):
        model = distil(args, data, images, model, args.out / f"distilled_{number}", BLOCK_LENGTH)
    last_length = BLOCK_LENGTH if args.rounds == 1 else 2 * BLOCK_LENGTH
    model = distil(args, data, images, model, args.out / "distilled", last_length)
    held_out = data / "val_llava_llada.json"
    if held_out.is_file() and not read_json(model / "config.json", REMEDY)["text_config"].get("decoding_defaults"):
        paths = options(model_path=model, image_folder=images, data_path=held_out, limit=args.test)
        measure = (sys.executable, "-m", "llava.distill", *paths, "--set_threshold")
        title = f"pace: the fastest that keeps the words of one token a step -> {model / 'config.json'}"
        run(title, *measure, env={"OMP_NUM_THREADS": PROCESSES})
    return model


def distil(args: argparse.Namespace, data: Path, images: Path, model: Path, out: Path, block_length: int) -> Path:
    """Lets a model learn its own reports; returns the folder `out` of the one that did, whose name the reports take."""
    own = out.with_suffix(".json")
    paths = options(model_path=model, image_folder=images, data_path=data / "train_llava_llada.json", out=own)
    write = (sys.executable, "-m", "llava.distill", *paths, "--limit", args.own_reports)
    title = f"own reports: the model's own for its training images -> {own}"
    run(title, *write, env={"OMP_NUM_THREADS": PROCESSES}, done=own)
    go_on = {"VISION_TOWER": "", "PRETRAIN_MM_MLP_ADAPTER": "", "LM_PATH": model, "BLOCK_LENGTH": block_length}
    title = "distillation: it learns them, to write several tokens a step"
    stage(title, "llada_v_finetune.sh", out, own, images, go_on | DISTILL)
    return out


def train_tower(args: argparse.Namespace, towers: Path, captions: Path, images: Path) -> Path:
    """Teaches the vision tower the words of the captions; returns its folder."""
    trained = towers / "trained_vision_tower"
    library, colon, start = str(args.vision_tower or towers / "vision_tower").rpartition(":")
    start = Path(start).resolve() if Path(start).is_dir() else start  # else its name on the hub
    program = ("torchrun", "--standalone", "--nproc_per_node", PROCESSES, "-m", "llava.train.pretrain_tower")
    flags = options(vision_tower=f"{library}{colon}{start}", out=trained, epochs=args.tower_epochs)
    flags += options(data_path=captions, image_folder=images)
    flags += [f"--select_layer={SETTINGS['MM_VISION_SELECT_LAYER']}", *["--augment"] * bool(args.annotation)]
    title = f"vision tower: it learns the words of the reports -> {trained}"
    run(title, *program, *flags, done=trained / "preprocessor_config.json")
    return trained


def stage(title: str, script: str, out: Path, data: Path, images: Path, env: dict) -> None:
    """Runs a stage script, unless its model is there already."""
    env = SETTINGS | {"DATA_PATH": data, "IMAGE_FOLDER": images, "OUTPUT_DIR": out} | env
    command = ("bash", f"train/scripts/{script}", 1, PROCESSES, "--mm_vision_tower_lr", VISION_RATE)
    run(f"{title} -> {out}", *command, env=env, done=out / "config.json")  # a model that is published gets it last


def summarise(args: argparse.Namespace, model: Path, results: Path) -> dict:
    """What the run found, as written to summary.json."""
    scores, texts = read_scores(results_file(results)), generations(results)
    whole_scores = next(results.glob("*/scores.json"))
    whole, seconds = read_json(whole_scores, REMEDY)["scores"], {}
    for name in ("stage1", "stage2"):
        state = trainer_state(args.out / name)
        seconds[name] = round(state["log_history"][-1]["train_runtime"] / state["global_step"], 3)
    summary = {
        "metrics": scores["model"],
        "floors": {name: scores[name] for name in ("constant_report", "shuffled_images")},
        "baselines": {name: {metric: each["value"] for metric, each in whole[name].items()} for name in BASELINES},
        "report": texts["model"][0][1],
        "seconds": seconds,
        "page": str(whole_scores.with_name("reports.html")),
        "checkpoint": str(model),
        "pattern": SETTINGS["ATTENTION_PATTERN"],
        "resampler": SETTINGS["MM_RESAMPLER_TYPE"],
    }
    if args.annotation is None:
        summary["finding_f1"] = {}
        for half, pairs in texts.items():
            references, reports = zip(*pairs, strict=True)
            sums = FINDING_F1.statistics(reports, references).sum(axis=0)
            summary["finding_f1"][half] = float(FINDING_F1.scores["finding_F1"](sums))
    return summary


def print_summary(summary: dict) -> None:
    """Prints the scores beside those of the control and of both baselines, and a report."""
    shuffled = summary["floors"]["shuffled_images"]
    rows = {"model": summary["metrics"], "shuffled_images": shuffled, **summary["baselines"]}
    rows = {name: {metric: row[metric] for metric in summary["metrics"]} for name, row in rows.items()}
    for name, f1 in summary.get("finding_f1", {}).items():
        rows[name]["finding_f1"] = f1
    for name, baseline in summary["baselines"].items():
        if "finding_F1" in baseline:
            rows[name]["finding_f1"] = baseline["finding_F1"]
    print_table("", rows)
    print(f"\nreport: {summary['report']}\npage:   {summary['page']} (every report; the scores with their intervals)")


def work(args: argparse.Namespace) -> dict:
    """All steps; what the run found."""
    data = args.out / "data"
    images = make_data(args, data)
    model = train(args, data, images)
    env = {"MIMIC_CXR_DATA": data, "MIMIC_CXR_IMAGES": images, "OUTPUT_PATH": args.out / "results"}
    env |= {"NUM_PROCESSES": PROCESSES, "BATCH_SIZE": 25, "FINDING_F1": "" if args.annotation else 1}
    title = f"evaluation: reports of the test images, scored beside baselines -> {env['OUTPUT_PATH']}"
    command, log = ("bash", "eval/scripts/evaluate.sh", model), args.out / "evaluation.log"
    run(title, *command, env=env | {"PYTHON": sys.executable}, log=log)
    return summarise(args, model, args.out / "results")


def main() -> None:
    args = parse_arguments()
    settings = {"towers": TOWERS, "stages": SETTINGS, "distill": DISTILL}
    quickstart(args, settings, lambda: work(args), print_summary, check_last_steps)


if __name__ == "__main__":
    run_program(main)
