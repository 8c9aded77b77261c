"""A tiny LLaDA with random weights, under the names and with the settings of the published folders.

python -m dllm.pipelines.llada.tiny --out exp/tiny_llada
"""

import json
from pathlib import Path

from safetensors.torch import save_file
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from dllm.pipelines.a2d.tiny import HEADER_TEMPLATE, HEADERS, Dialect, decoder_sizes, text_parser, write_text_model
from dllm.pipelines.llada.loading import FIXED, LAYER, LLADA, SETTINGS, WHOLE
from dllm.program import run_program

DIALECT = Dialect(  # the tokenizer names no mask token: the config does
    ("<|startoftext|>", "<|endoftext|>", "<|mdm_mask|>", *HEADERS),
    stop="<|eot_id|>",
    tail="<|endoftext|>",
    template=HEADER_TEMPLATE.format(start="<|startoftext|>"),
    free_rows=8,
)


def save_llada(folder: str, tokenizer: PreTrainedTokenizerFast, hidden_size: int, layers: int) -> None:
    """Writes a random LLaDA folder of that width, with heads of 32, and its tokenizer."""
    mask, tail = tokenizer.convert_tokens_to_ids(["<|mdm_mask|>", DIALECT.tail])
    rope = {"rope_type": "default", "rope_theta": 500_000.0}
    sizes = decoder_sizes(hidden_size, layers) | {"vocab_size": len(tokenizer) + DIALECT.free_rows}
    llama = LlamaConfig(rms_norm_eps=1e-5, rope_parameters=rope, **sizes)
    values = llama.to_dict() | {"mask_token_id": mask, "eos_token_id": tail, "pad_token_id": tail}
    published = {name: values[ours] for name, ours in SETTINGS.items()} | FIXED
    published |= {"model_type": LLADA, "architectures": ["LLaDAModelLM"], "rope_theta": rope["rope_theta"]}
    published["auto_map"] = {"AutoConfig": "configuration_llada.LLaDAConfig"}  # of code that nobody needs
    names = {f"model.transformer.{name}": ours for name, ours in WHOLE.items()}
    for n in range(layers):
        names |= {f"model.transformer.blocks.{n}.{name}": f"model.layers.{n}.{ours}" for name, ours in LAYER.items()}
    state = LlamaForCausalLM(llama).state_dict()
    weights = {f"{name}.weight": state[f"{ours}.weight"] for name, ours in names.items()}
    tokenizer.save_pretrained(folder)
    save_file(weights, Path(folder) / "model.safetensors", metadata={"format": "pt"})
    (Path(folder) / "config.json").write_text(json.dumps(published, indent=2, sort_keys=True) + "\n")


def main() -> None:
    """Writes a folder from the command line."""
    write_text_model(text_parser(__doc__).parse_args(), "llada", DIALECT, save_llada)


if __name__ == "__main__":
    run_program(main)
