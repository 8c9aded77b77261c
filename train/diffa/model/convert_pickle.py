r"""Turns a published DIFFA checkpoint, which is a pickle, into a folder that everything here reads.

    python -m diffa.model.convert_pickle --pickle DIFFA/pytorch_model.bin --llm_model LLaDA-8B-Instruct \
        --whisper_model whisper-small --out model/diffa

The only program that opens a pickle, and it takes tensors alone from it (`weights_only`). The folder names the language
model and Whisper, and does not hold them.
"""

import pickle
from pathlib import Path

import torch

from diffa.constants import PARTS
from diffa.model.builder import build_model
from diffa.model.published import convert
from dllm.pipelines.parts import load_parts
from dllm.program import argument_parser, run_program


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
    tokenizer, model, extractor = build_model(
        args.llm_model, args.whisper_model, {}, torch.bfloat16, stage=args.stage, mask_padding=False
    )
    load_parts(model, state, tuple(PARTS.values()), args.pickle, "give the parts that it was trained with")
    for each in (tokenizer, extractor, model):  # the weights last: where they are, the folder is whole
        each.save_pretrained(args.out)
    print(f"{args.out}: {len(state)} weights of {args.pickle}, stage {args.stage}")


if __name__ == "__main__":
    run_program(main)
