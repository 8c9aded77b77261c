"""Names and numbers that data, model and programs share."""

AUDIO_TOKEN_INDEX = -200  # stands in prompt ids where one audio token goes
SAMPLING_RATE = 16_000  # of Whisper, in Hz

# Part of the model, as --tunable_parts names it -> prefix of its weights.
PARTS = {part: f"{part}." for part in ("audio_encoder", "semantic_adapter", "acoustic_adapter", "language_model")}
