"""A tiny LLaDA with random weights, under the names and with the settings of the published folders.

python -m dllm.pipelines.llada.tiny --out exp/tiny_llada
"""

import json
import re
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from dllm.pipelines.a2d.tiny import HEADER_TEMPLATE, HEADERS, Dialect, decoder_sizes, train_tokenizer
from dllm.pipelines.llada.loading import FIXED, KEY_MAPPING, MODEL_TYPE, SETTINGS
from dllm.program import argument_parser, run_program

DIALECT = Dialect(  # the tokenizer names no mask token: the config does
    ("<|startoftext|>", "<|endoftext|>", "<|mdm_mask|>", *HEADERS),
    stop="<|eot_id|>",
    tail="<|endoftext|>",
    template=HEADER_TEMPLATE.format(start="<|startoftext|>"),
)
FREE_ROWS = 8  # of the embedding, beyond the tokenizer


def save_llada(folder: str, tokenizer: PreTrainedTokenizerFast, hidden_size: int, layers: int) -> None:
    """Writes a random LLaDA folder of that width, with heads of 32, and its tokenizer."""
    mask, tail = tokenizer.convert_tokens_to_ids(["<|mdm_mask|>", DIALECT.tail])
    rope = {"rope_type": "default", "rope_theta": 500_000.0}
    llama = LlamaConfig(
        vocab_size=len(tokenizer) + FREE_ROWS,
        rms_norm_eps=1e-5,
        rope_parameters=rope,
        **decoder_sizes(hidden_size, layers),
    )
    values = llama.to_dict() | {"mask_token_id": mask, "eos_token_id": tail, "pad_token_id": tail}
    published = {name: values[ours] for name, ours in SETTINGS.items()} | FIXED
    published |= {"model_type": MODEL_TYPE, "architectures": ["LLaDAModelLM"], "rope_theta": rope["rope_theta"]}
    published["auto_map"] = {"AutoConfig": "configuration_llada.LLaDAConfig"}  # of code that nobody needs
    weights = {published_name(name): weight for name, weight in LlamaForCausalLM(llama).state_dict().items()}
    tokenizer.save_pretrained(folder)
    save_file(weights, Path(folder) / "model.safetensors", metadata={"format": "pt"})
    (Path(folder) / "config.json").write_text(json.dumps(published, indent=2, sort_keys=True) + "\n")


def published_name(name: str) -> str:
    """LLaDA's name of one of Llama's weights."""
    layer = re.search(r"layers\.(\d+)\.", name)
    number = layer[1] if layer else ""
    for theirs, ours in KEY_MAPPING.items():
        if name == ours.replace(r"\1", number) + ".weight":
            return theirs.removeprefix("^").replace(r"(\d+)", number).replace("\\", "") + ".weight"
    raise AssertionError(name)


def main() -> None:
    """Writes a folder from the command line."""
    parser = argument_parser(__doc__)
    parser.add_argument("--out", required=True, help="folder to write")
    parser.add_argument("--text_path", help="text that the tokenizer is trained on; default: bytes alone")
    parser.add_argument("--vocab_size", type=int, default=512, help="tokens of the tokenizer at most")
    parser.add_argument("--hidden_size", type=int, default=64, help="a multiple of 32")
    parser.add_argument("--layers", type=int, default=2, help="of the language model")
    parser.add_argument("--seed", type=int, default=0, help="of the random weights")
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    text = Path(args.text_path).read_text(encoding="utf-8") if args.text_path else ""
    tokenizer = train_tokenizer(text.splitlines(), args.vocab_size, DIALECT)
    save_llada(args.out, tokenizer, args.hidden_size, args.layers)
    print(f"tiny llada in {args.out}: {len(tokenizer)} tokens")


if __name__ == "__main__":
    run_program(main)
