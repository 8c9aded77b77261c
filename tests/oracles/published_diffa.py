"""DIFFA's adapters, prompt and generation loop as published (NKU-HLT/DIFFA, d018b0e), the long way: one clip at a time.

Names of weights are those of its checkpoints.
"""

import torch
from torch import Tensor, nn
from transformers import BertConfig
from transformers.models.bert.modeling_bert import BertEncoder


class SemanticConnector(nn.Module):
    def __init__(self, width: int, hidden_size: int):
        super().__init__()
        self.conv = nn.Sequential(
            nn.Conv1d(width, width, 3, padding=1), nn.GELU(), nn.Conv1d(width, 4 * width, 3, stride=4, padding=1)
        )
        self.linear_connector = nn.Sequential(
            nn.Linear(4 * width, width), nn.ReLU(), nn.Linear(width, hidden_size), nn.ReLU()
        )
        self.layernorm = nn.LayerNorm(hidden_size)

    def forward(self, states: Tensor) -> Tensor:
        """Tokens [T // 4, D] of the states [T, W] that belong to a clip: every sum of a convolution written out."""
        whole = len(states) - len(states) % 4
        first = nn.functional.gelu(convolve(states[:whole], self.conv[0], stride=1))
        second = convolve(first, self.conv[2], stride=4)
        return self.layernorm(self.linear_connector(second))


def convolve(frames: Tensor, layer: nn.Conv1d, stride: int) -> Tensor:
    """Frames [ceil(T / stride), out] of frames [T, in], with a frame of zeros at either end."""
    padded = torch.cat([frames.new_zeros(1, frames.shape[1]), frames, frames.new_zeros(1, frames.shape[1])])
    rows = []
    for start in range(0, len(frames), stride):
        row = layer.bias
        for offset in range(3):
            row = row + layer.weight[:, :, offset] @ padded[start + offset]
        rows.append(row)
    return torch.stack(rows)


class AcousticConnector(nn.Module):
    def __init__(self, width: int, heads: int, hidden_size: int, prompts: int, layers: list[int], intermediate: int):
        super().__init__()
        self.layers = layers
        config = BertConfig(
            hidden_size=width,
            num_hidden_layers=2,
            num_attention_heads=heads,
            intermediate_size=intermediate,
            add_cross_attention=True,
            is_decoder=True,
            attn_implementation="eager",
        )
        self.layer_prompts = nn.ParameterList(nn.Parameter(torch.randn(1, prompts, width)) for _ in layers)
        self.layer_weights = nn.Parameter(torch.randn(prompts, len(layers)))
        self.qformer = BertEncoder(config)
        self.proj = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, hidden_size))

    def forward(self, states: list[Tensor]) -> Tensor:
        """Tokens [prompts, D] of all states of the encoder, [T, W] each."""
        outputs = []
        for prompts, layer in zip(self.layer_prompts, self.layers, strict=True):
            heard = states[layer][None]
            outputs.append(self.qformer(prompts, encoder_hidden_states=heard).last_hidden_state[0])
        weights = self.layer_weights.softmax(dim=-1)
        rows = [
            sum(weights[row, layer] * output[row] for layer, output in enumerate(outputs))
            for row in range(len(outputs[0]))
        ]
        return self.proj(torch.stack(rows))


class PublishedAdapters(nn.Module):
    """What a checkpoint holds beside the frozen parts."""

    def __init__(
        self,
        width: int,
        heads: int,
        hidden_size: int,
        prompts: int,
        layers: list[int],
        intermediate: int = 3072,
        num_learnt: int = 20,
    ):
        super().__init__()
        self.trainable_prompts = nn.Embedding(num_learnt, hidden_size)
        self.semantic_connector = SemanticConnector(width, hidden_size)
        self.acoustic_connector = AcousticConnector(width, heads, hidden_size, prompts, layers, intermediate)

    def forward(self, states: list[Tensor], num_states: int, stage: int) -> Tensor:
        """The audio tokens of a clip, to which the first `num_states` of the states [T, W] of the last layer belong."""
        first = self.trainable_prompts.weight if stage == 1 else self.acoustic_connector(states)
        return torch.cat([first, self.semantic_connector(states[-1][:num_states])])


def prompt_text(question: str, before: bool) -> str:
    """The chat of LLaDA up to the audio, or after it."""
    if before:
        return (
            "<|startoftext|><|start_header_id|>system<|end_header_id|>\n\nYou are a helpful voice assistant.<|eot_id|>"
            "<|start_header_id|>user<|end_header_id|>\n\nThis is the audio:"
        )
    return f" <audio>. {question}<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"


@torch.no_grad()
def generate(
    model,
    before: list[int],
    audio: Tensor,
    after: list[int],
    gen_length: int,
    block_length: int,
    steps: int,
    unwritable: list[int],
) -> list[int]:
    """The tokens that the published loop writes after a prompt with audio tokens [N, D]; `unwritable` ids never.

    The whole of prompt and canvas is embedded and run again at every step, with a head on all places.
    """
    mask_id, blocks = model.diffusion.mask_token_id, gen_length // block_length
    prompt = torch.cat([model.embed(torch.tensor(before)), audio, model.embed(torch.tensor(after))])  # [P, D]
    canvas = torch.full((gen_length,), mask_id)
    for block in range(blocks):
        end = (block + 1) * block_length
        each, more = divmod(int((canvas[end - block_length : end] == mask_id).sum()), steps // blocks)
        for step in range(steps // blocks):
            embeds = torch.cat([prompt, model.embed(canvas)])[None]
            hidden = model.trunk(embeds, None, torch.arange(embeds.shape[1])[None])[0, len(prompt) :]
            logits = model.lm_head(hidden)  # [gen_length, V]
            logits[:, unwritable] = float("-inf")
            tokens = logits.argmax(dim=-1)
            confidence = logits.double().softmax(dim=-1).gather(-1, tokens[:, None])[:, 0]
            confidence[end:] = float("-inf")
            confidence[canvas != mask_id] = float("-inf")
            chosen = confidence.topk(each + (step < more)).indices
            canvas[chosen] = tokens[chosen]
    return canvas.tolist()
