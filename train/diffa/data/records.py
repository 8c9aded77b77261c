"""DIFFA's training data: a JSON list, or JSON Lines, of questions about clips.

    {"audio_id": ..., "audio_filepath": ..., "input": question, "target": answer, "transcription": ..., "dataset": ...,
     "duration": seconds}

Needed are `audio_filepath` (relative to the folder of the JSON file), `input` and `target`. Where there is a
`duration`, the clip must last as long.
"""

from pathlib import Path

from dllm.data.records import read_list

TEXTS = ("audio_filepath", "input", "target")


def read_records(data_path: str) -> list[dict]:
    """The records as conversations of `dllm.data.records`, with `audio`, a path, and `duration`, seconds or None.

    Raises ValueError, naming file and record, on anything else.
    """
    found = read_list(data_path, "--train_dataset_path", "examples/diffa/convert_librispeech.py")
    return [_conversation(record, f"{data_path}, record {number}", data_path) for number, record in enumerate(found)]


def _conversation(record: object, where: str, data_path: str) -> dict:
    if not isinstance(record, dict):
        raise ValueError(f"{where} is no record of {', '.join(TEXTS)}")
    name = record.get("audio_id", record.get("audio_filepath"))
    for field in TEXTS:
        if not isinstance(record.get(field), str) or not record[field].strip():
            raise ValueError(f"{where} (audio_id {name!r}): {field} must be a text; mend it")
    duration = record.get("duration")
    if isinstance(duration, bool) or not isinstance(duration, int | float | None):
        raise ValueError(f"{where} (audio_id {name!r}): duration must be seconds, not {duration!r}")
    turns = [{"from": "human", "value": record["input"]}, {"from": "gpt", "value": record["target"]}]
    audio = str(Path(data_path).parent / record["audio_filepath"])
    return {"id": str(name), "audio": audio, "duration": duration, "conversations": turns}
