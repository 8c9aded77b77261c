"""A tiny Whisper encoder with random weights, for the quickstart and the tests, and a language model to go with it.

python -m diffa.model.tiny --data_path train.json --out exp/towers
"""

import torch
from transformers import WhisperConfig, WhisperFeatureExtractor
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from diffa.conversation import AFTER, BEFORE, SYSTEM_PROMPT
from diffa.data.records import read_records
from dllm.pipelines.a2d.tiny import save_language_model, train_tokenizer
from dllm.program import argument_parser, run_program


def save_audio_encoder(
    folder: str, hidden_size: int = 96, layers: int = 4, num_mel_bins: int = 40, seconds: int = 3
) -> None:
    """Writes a random folder for clips of at most so many whole `seconds`, with heads of 32."""
    config = WhisperConfig(
        d_model=hidden_size,
        encoder_layers=layers,
        encoder_attention_heads=max(hidden_size // 32, 1),
        encoder_ffn_dim=3 * hidden_size,
        num_mel_bins=num_mel_bins,
        max_source_positions=50 * seconds,
        init_std=0.1,  # with the usual 0.02 the sound drowns in the positions
    )
    WhisperEncoder(config).save_pretrained(folder)
    WhisperFeatureExtractor(feature_size=num_mel_bins, chunk_length=seconds).save_pretrained(folder)


def main() -> None:
    """Writes both from the command line."""
    parser = argument_parser(__doc__)
    parser.add_argument("--data_path", required=True, help="JSON of a stage, whose texts train the tokenizer")
    parser.add_argument("--out", required=True, help="folder for language_model/ and audio_encoder/")
    parser.add_argument("--vocab_size", type=int, default=512, help="tokens of the tokenizer at most")
    parser.add_argument("--hidden_size", type=int, default=128, help="width of the language model")
    parser.add_argument("--layers", type=int, default=3, help="of the language model")
    parser.add_argument("--audio_hidden_size", type=int, default=96, help="width of the encoder")
    parser.add_argument("--audio_layers", type=int, default=4, help="of the encoder")
    parser.add_argument("--seed", type=int, default=0, help="of the random weights")
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    texts = [turn["value"] for record in read_records(args.data_path) for turn in record["conversations"]]
    texts += [SYSTEM_PROMPT + BEFORE + AFTER] * len(texts)  # as often as they are read
    tokenizer = train_tokenizer(texts, args.vocab_size)
    save_language_model(f"{args.out}/language_model", tokenizer, args.hidden_size, args.layers)
    save_audio_encoder(f"{args.out}/audio_encoder", args.audio_hidden_size, args.audio_layers)
    print(f"tiny towers in {args.out}: {len(tokenizer)} tokens")


if __name__ == "__main__":
    run_program(main)
