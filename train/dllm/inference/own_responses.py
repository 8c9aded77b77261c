"""A model's own responses as training data, on which it learns to decode several tokens a step.

Tokens of one step do not see each other, so where the training data word one thing in several ways they mix the
wordings. A model trained on its own responses has one wording left, and is sure of it (sequence-level distillation: Kim
& Rush 2016; Gu et al. 2018 for parallel decoding).
"""

from collections.abc import Callable

from dllm.bar import Bar
from dllm.core.decoding import token_by_token
from dllm.inference.results_file import ResultsFile
from dllm.inference.writer import Request, Writer


def own_responses(
    writer: Writer, records: list[dict], to_request: Callable[[dict], Request], file: ResultsFile, batch_size: int
) -> list[dict]:
    """The records of a conversation file (`dllm.data.records`) with the model's responses as their answers.

    `file` keeps the responses, by record id; those that it has already are not written again. Left out are responses
    that are empty or did not end. Raises ValueError on a record with several answers or without an id of its own.
    """
    for record in records:
        if len(record["conversations"]) != 2:
            raise ValueError(f"record {record.get('id')!r} has several answers: split them into records of one")
    if len({str(record.get("id")) for record in records}) < len(records):
        raise ValueError("two records share an id, or have none; give each its own")
    missing = [record for record in records if str(record["id"]) not in file.results]
    responses = writer.write_all(map(to_request, missing), batch_size, **token_by_token(writer.diffusion))
    bar = Bar(responses, total=len(missing), desc="own responses", unit="response")
    for record, response in zip(missing, bar, strict=True):
        file.add(str(record["id"]), response)

    answered = []
    for record in records:
        response = file.results[str(record["id"])]
        if response.text and response.tokens < writer.diffusion.gen_length:
            answer = {"from": "gpt", "value": response.text}
            answered.append(record | {"conversations": [record["conversations"][0], answer]})
    if not answered:
        raise ValueError(f"the model ended none of its {len(records)} responses: train it first")
    return answered
