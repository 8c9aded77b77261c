"""Time and memory of building a model of full size from the folders of its parts, as a training run does.

    python benchmarks/building.py --json FILE

Qwen3-0.6B and SigLIP so400m at 384 px with random weights, fp32, behind a QFormer of 64 queries. Every build is in a
process of its own, which has imported the libraries before the clock starts; the files were just written, so that the
time is not the disk's. Weights that stay in the files' pages, as safetensors maps them, count as memory.
"""

import argparse
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, Qwen3Config, SiglipVisionConfig

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.memory import write_folders
from dllm.data.files import write_json
from llava.model.builder import build_model
from llava.model.multimodal_encoder.builder import build_vision_tower
from llava.train.args import ModelArguments


def fill(language_model: str, vision_tower: str) -> None:
    """Writes random weights beside the configs of both folders."""
    AutoModelForCausalLM.from_config(Qwen3Config.from_pretrained(language_model)).save_pretrained(language_model)
    build_vision_tower(SiglipVisionConfig.from_pretrained(vision_tower)).save_pretrained(vision_tower)


def build(language_model: str, vision_tower: str) -> None:
    """Builds the model of stage 1 and prints the seconds, and the GB that the process held at most."""
    tunable = {"mm_tunable_parts": "mm_vision_resampler,mm_mlp_adapter"}
    arguments = ModelArguments(model_name_or_path=language_model, vision_tower=vision_tower, **tunable)
    Path("/proc/self/clear_refs").write_text("5")  # forgets the peak of the process that started this one
    begun = time.perf_counter()
    build_model(language_model, vision_tower, -2, torch.float32, arguments.diffusion(), **arguments.settings())
    print(time.perf_counter() - begun, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--builds", type=int, default=3, help="how often; the medians count")
    parser.add_argument("--json", type=Path, help="write the results to this file")
    parser.add_argument("--folders", nargs=2, help=argparse.SUPPRESS)  # of the child
    args = parser.parse_args()
    if args.folders:
        return build(*args.folders)
    with tempfile.TemporaryDirectory() as root:
        folders = write_folders(Path(root))
        fill(*folders)
        command = [sys.executable, __file__, "--folders", *folders]
        printed = [subprocess.check_output(command, text=True).splitlines()[-1] for _ in range(args.builds)]
        found = [[float(number) for number in line.split()] for line in printed]
    seconds, gigabytes = (statistics.median(each) for each in zip(*found, strict=True))
    print(f"a model of full size: {seconds:.1f} s, {gigabytes:.1f} GB with the libraries (medians of {args.builds})")
    if args.json:
        write_json(args.json, {"seconds": seconds, "gigabytes": gigabytes, "builds": found})


if __name__ == "__main__":
    main()
