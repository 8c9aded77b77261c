"""The generated tasks: their answers are true, the sets are what they say."""

import json

import pytest

from dllm.data.records import read_records
from dllm.data.tiny_tasks import LENGTH, TASKS, solve, write_tasks


@pytest.mark.parametrize(
    "question, answer",
    [
        ("copy: k d a q", "k d a q"),
        ("reverse: k d a q", "q a d k"),
        ("sort: k d a d", "a d d k"),
        ("add: 9 8", "17"),
        ("continue: r s t", "u v w x"),
    ],
)
def test_the_answers_are_true(question, answer):
    assert solve(question) == answer


def test_the_sets_are_conversations_with_the_tasks_in_turn_and_no_list_in_both(tmp_path):
    write_tasks(tmp_path, train=40_000, test=50, seed=3)  # by chance some would be in both
    records = {name: read_records(str(tmp_path / f"{name}.jsonl")) for name in ("train", "test")}
    assert [len(records[name]) for name in records] == [40_000, 50]
    lists = {}
    for name, found in records.items():
        turns = [[turn["value"] for turn in record["conversations"]] for record in found]
        assert all(solve(question) == answer for question, answer in turns)
        assert [record["task"] for record in found] == [TASKS[n % len(TASKS)] for n in range(len(found))]
        assert len({record["id"] for record in found}) == len(found)
        operands = {question.split(": ")[1] for question, _ in turns}
        lists[name] = {each for each in operands if len(each.split()) == LENGTH}
    assert len(lists["test"]) == 30 and not lists["train"] & lists["test"]
    assert len(lists["train"]) > 22_000  # fresh ones, nearly all of 24,000


def test_a_seed_gives_the_same_files_and_another_one_others(tmp_path):
    for folder, seed in (("a", 0), ("b", 0), ("c", 1)):
        write_tasks(tmp_path / folder, train=20, test=5, seed=seed)
    texts = [(tmp_path / folder / "train.jsonl").read_text() for folder in "abc"]
    assert texts[0] == texts[1] != texts[2] and json.loads(texts[0].splitlines()[0])["messages"][0]["role"] == "user"
