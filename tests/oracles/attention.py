"""Who sees whom, as loops over pairs of tokens."""

BLOCKWISE = ("block", "causal_block")


def one_sequence(pattern: str, P: int, R: int, block_length: int) -> list[list[bool]]:
    """sees[q][k] in a prompt of P tokens followed by one copy of its response of R tokens, nothing padded; block-wise
    all blocks but the last are clean.
    """
    num_clean = (R - 1) // block_length * block_length
    sees = [[False] * (P + R) for _ in range(P + R)]
    for q in range(P + R):
        for k in range(P + R):
            if pattern == "bidirectional":
                sees[q][k] = True
            elif pattern == "prefix":
                sees[q][k] = True if q >= P else k < P
            elif q < P:
                sees[q][k] = k < P
            else:
                sees[q][k] = k < P or (k - P) // block_length <= (q - P) // block_length
                if pattern == "causal_block" and q < P + num_clean:
                    sees[q][k] = k < P or k <= q
    return sees


def packed_tokens(pattern: str, prompt: list[bool], response: list[bool], block_length: int, views: int) -> list[dict]:
    """The tokens of one packed training row in order: the prompt, block-wise a clean copy, then the noisy views.

    `prompt` and `response` say which of their places are real.
    """
    copies = ["clean"] if pattern in BLOCKWISE else []
    copies += [f"noisy {view}" for view in range(views)]
    tokens = [{"copy": "prompt", "block": None, "real": real} for real in prompt]
    for copy in copies:
        for i, real in enumerate(response):
            tokens.append({"copy": copy, "block": i // block_length, "place": i, "real": real})
    return tokens


def place_of_prediction(pattern: str, place: int) -> int:
    """Where in a sequence the token at a place is predicted."""
    return place - 1 if pattern == "causal_block" else place


def may_see(pattern: str, query: dict, key: dict) -> bool:
    """Whether a real token of a packed row may see another token of it."""
    if not key["real"]:
        return False
    if query["copy"] == "prompt":
        return key["copy"] == "prompt" or pattern == "bidirectional"
    if key["copy"] == "prompt":
        return True
    if pattern in ("bidirectional", "prefix"):
        return key["copy"] == query["copy"]
    if key["copy"] == query["copy"] and key["block"] == query["block"]:
        return pattern == "block" or query["copy"] != "clean" or key["place"] <= query["place"]
    return key["copy"] == "clean" and key["block"] < query["block"]
