"""How a response is written: the arguments of sampling, checked before any work."""

import math
from dataclasses import MISSING, dataclass, field, fields

from dllm.core.patterns import BLOCKWISE, PATTERNS, SHIFTED

REMASKING = ("low_confidence", "random")
CFG_AGAINST = ("no_prompt", "blank_inputs")
CACHES = {
    "none": PATTERNS,
    "exact": ("prefix", *BLOCKWISE),
    "fastdllm_prefix": ("bidirectional",),
    "fastdllm_dual": ("bidirectional",),
    "dllmcache": ("bidirectional",),
}
MOST_GUIDANCE, TEMPERATURES = 1e3, (1e-4, 1e4)  # beyond, logits overflow or all are the same
PACES = ("gen_steps", "threshold", "factor", "speculative")  # how many tokens a step commits
# What speculative decoding takes for granted.
SPECULATIVE = {"temperature": 0, "cfg_scale": 0, "remasking": "low_confidence", "compile": False, "cache": None}
POSITIVE = ("gen_length", "block_length", "gen_steps", "prompt_interval", "response_interval")


def _setting(default, text: str):
    return field(default=default, metadata={"help": text})


@dataclass(frozen=True)
class Decoding:
    """How a response is written. What each field means is its help, which the programs print too.

    `threshold` and `factor`, of which each step commits the best candidate at least: Wu et al. 2025, Fast-dLLM. The
    caches: `dllm.core.cache`.
    """

    gen_length: int = _setting(MISSING, "tokens of the canvas; default: the model's own")
    block_length: int = _setting(MISSING, "tokens written before the next ones begin; default: the model's own")
    gen_steps: int | None = _setting(
        None, "denoising steps over the canvas, over all blocks; default: the model's own pace, else one a token"
    )
    threshold: float | None = _setting(None, "commit every token at least this confident instead (Fast-dLLM)")
    factor: float | None = _setting(
        None, "commit the most confident n tokens instead, n the largest with (n + 1)(1 - c_n) < factor (Fast-dLLM)"
    )
    speculative: bool = _setting(
        False, "commit what of a drafted block the model would write token by token instead (causal_block)"
    )
    remasking: str = _setting("low_confidence", "low_confidence: the most probable are committed first; or random")
    cfg_scale: float = _setting(0.0, "classifier-free guidance: logits = u + (cfg_scale + 1)(c - u); 0: none")
    cfg_against: str = _setting(
        "no_prompt", "what u is without: no_prompt, the whole prompt; blank_inputs, what is given beside the text"
    )
    temperature: float = _setting(0.0, "0: the most probable token, else one drawn from softmax(logits / temperature)")
    cache: str | None = _setting(None, f"what is kept between steps: {', '.join(CACHES)}; default: an exact one")
    prompt_interval: int = _setting(25, "steps of a block between two refreshes of the whole cache dllmcache")
    response_interval: int = _setting(7, "steps of a block between two refreshes of its part of the response")
    compile: bool = _setting(False, "on a GPU: replay the steps as CUDA graphs; the first batch of a size waits")

    def __post_init__(self):
        for name in POSITIVE:
            value = getattr(self, name)
            if not (type(value) is int and value >= 1) and not (name == "gen_steps" and value is None):
                raise ValueError(f"{name} must be a whole number of at least 1, not {value!r}")
        if not (_is_number(self.cfg_scale) and 0 <= self.cfg_scale <= MOST_GUIDANCE):
            raise ValueError(f"cfg_scale must be a number from 0 to {MOST_GUIDANCE:g}, not {self.cfg_scale!r}")
        low, high = TEMPERATURES
        if not (_is_number(self.temperature) and (self.temperature == 0 or low <= self.temperature <= high)):
            raise ValueError(f"temperature must be 0, or a number from {low:g} to {high:g}, not {self.temperature!r}")
        if self.threshold is not None and not (_is_number(self.threshold) and 0 < self.threshold <= 1):
            raise ValueError(f"threshold must be in (0, 1], not {self.threshold!r}")
        if self.factor is not None and not (_is_number(self.factor) and 0 < self.factor < math.inf):
            raise ValueError(f"factor must be a number above 0, not {self.factor!r}")
        if self.remasking not in REMASKING:
            raise ValueError(f"unknown remasking {self.remasking!r}; known: {', '.join(REMASKING)}")
        if self.cfg_against not in CFG_AGAINST:
            raise ValueError(f"unknown cfg_against {self.cfg_against!r}; known: {', '.join(CFG_AGAINST)}")
        if not isinstance(self.compile, bool):
            raise ValueError(f"compile must be True or False, not {self.compile!r}")
        if self.cache is not None and self.cache not in CACHES:
            raise ValueError(f"unknown cache {self.cache!r}; known: {', '.join(CACHES)}")
        rules = [name for name in PACES if getattr(self, name) not in (None, False)]
        if len(rules) > 1:
            raise ValueError(f"{' and '.join(rules)} exclude each other: give one")
        if self.by_confidence and self.remasking == "random":
            raise ValueError(f"{rules[0]} goes by confidence: remasking 'random' has none; leave one of them out")
        if not isinstance(self.speculative, bool):
            raise ValueError(f"speculative must be True or False, not {self.speculative!r}")
        others = [name for name, value in SPECULATIVE.items() if getattr(self, name) != value]
        if self.speculative and others:
            raise ValueError(f"speculative writes what is most probable, as it is: leave out {' and '.join(others)}")

    @classmethod
    def of(cls, config, **arguments) -> "Decoding":
        """Decoding arguments over the defaults of a model's config. One of PACES that is given, if only as None, or
        random remasking replaces the model's pace as a whole; a model that speculates by default writes token by token
        what it cannot draft.

        Raises ValueError on an unknown argument, an impossible value, or a cache that the model's pattern rules out.
        """
        known = [each.name for each in fields(cls)]
        if unknown := {*arguments, *(config.decoding_defaults or {})} - set(known):
            raise ValueError(f"unknown generation argument {sorted(unknown)[0]!r}; known: {', '.join(known)}")
        own = {"gen_length": config.gen_length, "block_length": config.block_length} | (config.decoding_defaults or {})
        if any(name in arguments for name in PACES) or arguments.get("remasking") == "random":
            own = {name: value for name, value in own.items() if name not in PACES}
        if any(arguments.get(name, value) != value for name, value in SPECULATIVE.items()) and own.pop(
            "speculative", 0
        ):
            own["block_length"] = 1
        decoding = cls(**own | arguments)
        decoding.cache_for(config.attention_pattern)
        if decoding.speculative and config.attention_pattern != SHIFTED:
            raise ValueError(
                f"speculative needs a model of attention_pattern {SHIFTED}, not {config.attention_pattern}"
            )
        if config.attention_pattern == SHIFTED and config.block_length == 1 != decoding.block_length:
            raise ValueError(
                f"block_length {decoding.block_length}: this model has learnt next tokens alone (block_length 1); let "
                "it learn longer blocks first"
            )
        for name in ("gen_length", "block_length"):
            if getattr(decoding, name) > config.max_position_embeddings:
                raise ValueError(
                    f"{name} {getattr(decoding, name)} is more than the {config.max_position_embeddings} positions of "
                    "the model; lower it"
                )
        return decoding

    def cache_for(self, pattern: str) -> str:
        """The cache that a model of this attention pattern samples with. Raises ValueError if it cannot serve it."""
        if self.cache is None:
            return "exact" if pattern in CACHES["exact"] else "none"
        if pattern not in CACHES[self.cache]:
            suited = [name for name, patterns in CACHES.items() if pattern in patterns]
            raise ValueError(
                f"cache {self.cache!r} does not fit the attention pattern {pattern!r} that this model was trained "
                f"with; choose from {', '.join(suited)}"
            )
        return self.cache

    def check_room(self, config, num_prompt: int) -> None:
        """Raises ValueError if the model has too few positions for a prompt of `num_prompt` tokens and its response."""
        if num_prompt + self.gen_length > config.max_position_embeddings:
            raise ValueError(
                f"a prompt of {num_prompt} tokens leaves no room for gen_length {self.gen_length} in the "
                f"{config.max_position_embeddings} positions of the model; shorten the prompt or lower gen_length"
            )

    @property
    def by_confidence(self) -> bool:
        """Whether the model's confidence decides how many tokens a step commits."""
        return self.threshold is not None or self.factor is not None

    @property
    def num_blocks(self) -> int:
        """Blocks of the canvas, of which the last may be cut."""
        return -(-self.gen_length // self.block_length)

    @property
    def steps_per_block(self) -> int:
        """The most steps that a block can take."""
        if self.gen_steps is None:
            return self.block_length
        return min(-(-self.gen_steps // self.num_blocks), self.block_length)


def token_by_token(config) -> dict:
    """The arguments with which a model writes one token a step, as well as it can."""
    return {"threshold": None} | ({"block_length": 1} if config.attention_pattern == SHIFTED else {})


def _is_number(value) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
