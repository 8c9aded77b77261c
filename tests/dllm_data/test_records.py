"""One reader for the shapes of conversations that the tools of this field write."""

import json

import pytest

from dllm.data.records import read_records

LLAVA = [{"from": "human", "value": "Q"}, {"from": "gpt", "value": "A"}]
OPENAI = [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}]
SYSTEM = {"role": "system", "content": "S"}


def read(tmp_path, text: str) -> list[dict]:
    path = tmp_path / "data.json"
    path.write_text(text, encoding="utf-8")
    return read_records(str(path))


@pytest.mark.parametrize(
    "record",
    [
        {"conversations": LLAVA},
        {"conversations": [{"from": "user", "value": "Q"}, {"from": "assistant", "value": "A"}]},
        {"conversations": OPENAI},
        {"messages": OPENAI},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "Q"}]}, OPENAI[1]]},
    ],
)
@pytest.mark.parametrize("form", ["list", "lines", "BOM"])
def test_every_shape_is_read_as_llavas(tmp_path, record, form):
    other = {"id": 7, "images": ["a.png"], "messages": OPENAI * 2}
    if form == "lines":
        text = f"{json.dumps(record)}\n\n{json.dumps(other)}\n"
    else:
        text = "\ufeff" * (form == "BOM") + json.dumps([record, other], indent=1)
    found = read(tmp_path, text)
    assert found == [{"conversations": LLAVA}, {"id": "7", "images": ["a.png"], "conversations": LLAVA * 2}]


def test_one_line_of_json_lines_is_a_record(tmp_path):
    assert read(tmp_path, json.dumps({"messages": OPENAI})) == [{"conversations": LLAVA}]


def test_a_system_turn_becomes_the_records_system(tmp_path):
    field = {"system": "S", "conversations": LLAVA}
    turn = {"conversations": [{"from": "system", "value": "S"}, *LLAVA]}
    assert read(tmp_path, json.dumps([field, turn, {"messages": [SYSTEM, *OPENAI]}])) == [field] * 3


def test_an_empty_system_is_none(tmp_path):
    records = [{"conversations": LLAVA, "system": system} for system in ("", None, " ")]
    records.append({"messages": [SYSTEM | {"content": ""}, *OPENAI]})
    assert read(tmp_path, json.dumps(records)) == [{"conversations": LLAVA}] * 4


def test_brackets_without_end_are_one_line(tmp_path):
    with pytest.raises(ValueError, match="data.json is not JSON .*recursion"):
        read(tmp_path, "[" * 200_000)


def test_a_part_that_is_no_text_is_a_mark(tmp_path):
    content = [{"type": "image"}, {"type": "image_url", "image_url": {"url": "x"}}, {"type": "text", "text": "Q"}]
    (record,) = read(tmp_path, json.dumps([{"messages": [{"role": "user", "content": content}, OPENAI[1]]}]))
    assert record["conversations"][0]["value"] == "<image>\n<image>\nQ"


@pytest.mark.parametrize(
    "records, message",
    [
        ([{"messages": OPENAI}, {"messages": OPENAI[:1]}], "record 1 (id None) has no conversation of questions and"),
        ([{"id": "a", "messages": OPENAI[::-1]}], "record 0 (id 'a'): turn 0 must be a text from 'human'"),
        ([{"id": "a", "messages": [SYSTEM, *OPENAI[::-1]]}], "record 0 (id 'a'): turn 1 must be a text from 'human'"),
        ([{"messages": [SYSTEM]}], "record 0 (id None) has no conversation"),
        ([{"messages": [*OPENAI, SYSTEM, *OPENAI]}], "turn 2 must be a text from 'human'"),
        ([{"messages": [{"role": "tool", "content": "x"}, OPENAI[1]]}], "turn 0 must be a text from 'human'"),
        ([{"messages": [{"role": "user", "content": [{"text": "x"}]}, OPENAI[1]]}], "turn 0 must be"),
        ([{"messages": [{"role": "user", "content": [{"type": "text"}]}, OPENAI[1]]}], "turn 0 must be"),
        ([{"messages": OPENAI, "system": 3}], "system must be a text"),
        ([{"text": "a"}], "record 0 has no conversation"),
        (["a"], "record 0 has no conversation"),
        ({"train": []}, "holds no list of records"),
        ([], "holds no list of records"),
    ],
)
def test_what_cannot_be_understood_is_named(tmp_path, records, message):
    with pytest.raises(ValueError) as error:
        read(tmp_path, json.dumps(records))
    assert message in str(error.value) and str(error.value).startswith(f"{tmp_path / 'data.json'}")


def test_a_broken_line_is_named_by_its_number(tmp_path):
    with pytest.raises(ValueError, match=r"is not JSON \(.*: line 3 column 1 "):
        read(tmp_path, f"{json.dumps({'messages': OPENAI})}\n\n]\n")
