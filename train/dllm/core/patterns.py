"""The names of the attention patterns (`dllm.core.attention`), known without torch, whose import takes seconds."""

PATTERNS = ("bidirectional", "prefix", "block", "causal_block")
BLOCKWISE = ("block", "causal_block")  # a noisy block sees the clean earlier ones, and nothing later
SHIFTED = "causal_block"  # the pattern that predicts a token in the place before it
NO_PROMPT = "attention_pattern causal_block predicts a token from the one before it, so it needs a prompt; use block"
