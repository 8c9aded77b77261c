r"""Turns a published DIFFA checkpoint, which is a pickle, into a folder that everything here reads.

    python -m diffa.model.convert_pickle --pickle DIFFA/pytorch_model.bin --llm_model LLaDA-8B-Instruct \
        --whisper_model whisper-small --out model/diffa

The only program that opens a pickle, and it takes tensors alone from it (`weights_only`). Of DIFFA's and DIFFA-2's
weights it knows which is which of ours. The file also holds copies of the frozen parts, which are not read: the folder
names the language model and Whisper, and does not hold them.
"""

import pickle
import re
from pathlib import Path

import torch

from diffa.constants import PARTS
from diffa.model.builder import build_model
from dllm.pipelines.parts import load_parts
from dllm.program import argument_parser, run_program

FROZEN = ("whisper_model.", "llm_model.")
NAMES = {  # a regular expression -> what takes its place
    r"^trainable_prompts\.": "semantic_adapter.prompts.",
    r"^semantic_connector\.": "semantic_adapter.",
    r"^acoustic_connector\.": "acoustic_adapter.",
    r"(\.layer\.\d+\.(?:cross)?attention)\.self\.": r"\1.attention.",  # BERT's layers, in the names of BLIP-2's
    r"(\.layer\.\d+)\.intermediate\.": r"\1.intermediate_query.",
    r"(\.layer\.\d+)\.output\.": r"\1.output_query.",
}
LAYER_PROMPTS = "acoustic_adapter.layer_prompts"


def rename(name: str) -> str:
    """Our name of a published weight."""
    for pattern, replacement in NAMES.items():
        name = re.sub(pattern, replacement, name)
    return name


def convert(state: dict[str, torch.Tensor], stage: int) -> dict[str, torch.Tensor]:
    """The adapters' weights of a published state dict, as a model of this stage has them: stage 1 has learnt prompts
    and no acoustic adapter, stage 2 the reverse. The queries of the layers, [1, queries, W] each, become one weight.
    """
    left_behind = "semantic_adapter.prompts." if stage == 2 else "acoustic_adapter."
    named = {rename(name): weight for name, weight in state.items() if not name.startswith(FROZEN)}
    found = {name: weight for name, weight in named.items() if not name.startswith(left_behind)}
    layers = sorted(int(name.rpartition(".")[2]) for name in found if name.startswith(LAYER_PROMPTS))
    if layers:
        found[LAYER_PROMPTS] = torch.cat([found.pop(f"{LAYER_PROMPTS}.{layer}") for layer in layers])
    return found


def read_pickle(file: str) -> dict[str, torch.Tensor]:
    """The tensors of a pickled state dict. Raises ValueError if it is none, or holds anything else."""
    if not Path(file).is_file():
        raise ValueError(f"--pickle {file} is not a file; give the checkpoint's pytorch_model.bin")
    try:
        state = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"{file} is no pickle of tensors alone ({reason}); download it again") from error
    if not isinstance(state, dict) or not all(isinstance(weight, torch.Tensor) for weight in state.values()):
        raise ValueError(f"{file} holds no weights by name; give the checkpoint's pytorch_model.bin")
    return state


def main() -> None:
    """The command line."""
    parser = argument_parser(__doc__)
    parser.add_argument("--pickle", required=True, help="pytorch_model.bin")
    parser.add_argument("--llm_model", required=True, help="folder of the language model that it was trained with")
    parser.add_argument("--whisper_model", required=True, help="folder of the Whisper that it was trained with")
    parser.add_argument("--out", required=True, help="folder to write")
    parser.add_argument("--stage", type=int, default=2, help="1: of the first stage, with learnt prompts")
    args = parser.parse_args()
    state = convert(read_pickle(args.pickle), args.stage)
    parts = (args.llm_model, args.whisper_model)
    tokenizer, model, extractor = build_model(*parts, {}, torch.bfloat16, stage=args.stage, mask_padding=False)
    load_parts(model, state, tuple(PARTS.values()), args.pickle, "give the parts that it was trained with")
    for each in (tokenizer, extractor, model):  # the weights last: where they are, the folder is whole
        each.save_pretrained(args.out)
    print(f"{args.out}: {len(state)} weights of {args.pickle}, stage {args.stage}")


if __name__ == "__main__":
    run_program(main)
