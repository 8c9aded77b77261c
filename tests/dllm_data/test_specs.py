"""--dataset_args: the grammar, where rows are read from, which of them, and what cannot be read."""

import json

import datasets
import pytest

from dllm.data.specs import Part, parse_spec
from dllm.data.utils import load_pt_dataset, load_sft_dataset


def talk(text: str) -> dict:
    return {"messages": [{"role": "user", "content": f"Q {text}"}, {"role": "assistant", "content": f"A {text}"}]}


def answers(records) -> list[str]:
    return [] if records is None else [record["conversations"][-1]["value"] for record in records]


ROWS = [talk(str(number)) for number in range(10)]
ALL = [f"A {number}" for number in range(10)]


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """A folder with the rows in every form."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    table = datasets.Dataset.from_list(ROWS)
    (folder / "list.json").write_text(json.dumps(ROWS))
    (folder / "lines.jsonl").write_text("\ufeff" + "\n\n".join(map(json.dumps, ROWS)))
    table.to_parquet(folder / "rows.parquet")
    table.save_to_disk(folder / "saved")
    datasets.DatasetDict({"train": table.select(range(7)), "test": table.select(range(7, 10))}).save_to_disk("both")
    (folder / "split").mkdir()
    table.select(range(7)).to_parquet(folder / "split/train-00000-of-00001.parquet")
    table.select(range(7, 10)).to_parquet(folder / "split/validation.parquet")
    return folder


@pytest.mark.parametrize(
    "spec, parts",
    [
        ("a/b", [Part("a/b")]),
        (" a/b[train:20_000, test:100] ", [Part("a/b", None, {"train": 20_000, "test": 100})]),
        ("a[name:all,train:5]+b|c", [Part("a", "all", {"train": 5}), Part("b"), Part("c")]),
        ("a[train:1] + b", [Part("a", None, {"train": 1}), Part("b")]),
        ("a[name:x+y]", [Part("a", "x+y")]),
        ("a-b=c.d", [Part("a-b=c.d")]),
    ],
)
def test_the_grammar(spec, parts):
    assert parse_spec(spec) == parts


def test_separators_in_a_path_that_exists_are_none(here):
    for name in ("x+y|z.jsonl", "x[1].jsonl", "x+y"):
        (here / name).write_text(json.dumps(ROWS[0]))
    assert [part.name for part in parse_spec("x+y|z.jsonl[test:1]+x+y+lines.jsonl")] == [
        "x+y|z.jsonl",
        "x+y",
        "lines.jsonl",
    ]
    assert parse_spec("x[1].jsonl") == [Part("x[1].jsonl")]


@pytest.mark.parametrize(
    "spec, said",
    [
        ("", "'': write a set as name"),
        ("a++b", "'': write a set as name"),
        ("[train:1]", "write a set as name"),
        ("a[train:1", "write a set as name"),
        ("a[train]", "'train' is no key:value"),
        ("a[]", "'' is no key:value"),
        ("a[train:0]", "'train:0' is no number of rows"),
        ("a[train:-1]", "'train:-1' is no number of rows"),
        ("a[train:1,train:2]", "train is given twice"),
        ("a[lang:python]", "'lang:python' is no number of rows of a split, at least 1; beside splits there is the key"),
    ],
)
def test_a_spec_that_cannot_be_understood_is_one_line(spec, said):
    with pytest.raises(ValueError) as error:
        parse_spec(spec)
    assert str(error.value).startswith("--dataset_args") and said in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    "name", ["list.json", "lines.jsonl", "rows.parquet", "saved", "saved/data-00000-of-00001.arrow"]
)
def test_every_form_gives_the_same_rows(name):
    train, held_out = load_sft_dataset(name)
    assert answers(train) == ALL and held_out is None
    assert answers(load_sft_dataset(f"{name}[train:3]")[0]) == ALL[:3]


def test_splits_are_taken_by_their_names():
    assert tuple(map(answers, load_sft_dataset("both"))) == (ALL[:7], ALL[7:])
    assert tuple(map(answers, load_sft_dataset("both[train:2,test:1]"))) == (ALL[:2], ALL[7:8])
    assert tuple(map(answers, load_sft_dataset("split[train:7,validation:2]"))) == (ALL[:7], ALL[7:9])
    assert tuple(map(answers, load_sft_dataset("both[test:3]"))) == ([], ALL[7:])


@pytest.mark.parametrize("name", ["lines.jsonl", "rows.parquet"])
def test_rows_held_out_of_a_single_split_are_never_trained_on(name):
    train, test = map(answers, load_sft_dataset(f"{name}[test:3]"))
    assert len(test) == 3 and sorted(train + test) == ALL and test != ALL[7:]
    few, same = map(answers, load_sft_dataset(f"{name}[train:4,test:3]"))
    assert few == train[:4] and same == test


def test_sets_are_joined_in_their_order(monkeypatch, here):
    train, test = map(answers, load_sft_dataset("lines.jsonl[train:2]+both[train:1,test:1] + list.json"))
    assert train == [*ALL[:2], ALL[0], *ALL] and test == [ALL[7]]
    monkeypatch.setenv("BASE_DATASETS_DIR", str(here))
    monkeypatch.chdir("/")
    assert answers(load_sft_dataset("both[train:1]+split[train:1]")[0]) == [ALL[0], ALL[0]]


@pytest.mark.parametrize(
    "spec, said",
    [
        ("both[valid:1]", "both[valid:...]: its splits are train, test"),
        ("lines.jsonl[trian:1]", "lines.jsonl[trian:...]: its splits are train"),
        ("lines.jsonl[validation:1,test:1]", "lines.jsonl[validation:...]: its only split is train"),
        ("lines.jsonl[train:11]", "lines.jsonl[train:11]: it has 10 rows"),
        ("rows.parquet[train:8,test:3]", "rows.parquet[train:8,test:3]: it has 10 rows in all"),
        ("rows.parquet[test:10]", "it has 10 rows in all"),
        ("empty.json", "empty.json: train has no rows"),
        ("empty.jsonl", "empty.jsonl is not JSON"),
        ("bad.json", "bad.json is not JSON"),
        ("object.txt", "object.txt: of its kind only .json, .jsonl, .parquet, .arrow files can be read"),
        ("bad.parquet", "bad.parquet cannot be read as a data set ("),
        ("nothing", "nothing cannot be read as a data set ("),
        ("none.jsonl", "none.jsonl is no file or folder here"),
        (
            "someone/somewhere",
            "someone/somewhere is no file or folder here, and the hub cannot be reached; download it",
        ),
    ],
)
def test_a_set_that_cannot_be_read_is_one_line(here, spec, said):
    (here / "nothing").mkdir()
    contents = {"empty.json": "[]", "empty.jsonl": "", "bad.json": "[{", "object.txt": "{}", "bad.parquet": "PAR"}
    for name, content in contents.items():
        (here / name).write_text(content)
    with pytest.raises(ValueError) as error:
        load_sft_dataset(spec)
    assert str(error.value).startswith("--dataset_args") and said in str(error.value) and "\n" not in str(error.value)


QUESTION, ANSWER = {"from": "human", "value": "Q"}, {"from": "gpt", "value": "A"}


@pytest.mark.parametrize(
    "row, turns",
    [
        ({"instruction": "Add.", "input": "1, 2", "output": "3", "text": "x"}, ["Add.\n\n1, 2", "3"]),
        ({"instruction": "Add.", "input": "", "output": "3"}, ["Add.", "3"]),
        ({"instruction": "Add.", "output": "3"}, ["Add.", "3"]),
        (
            {"id": "t", "messages": [{"role": "system", "content": "S"}, *talk("x")["messages"]], "source": "s"},
            ["Q x", "A x"],
        ),
        ({"id": 3, "image": "a.png", "conversations": [QUESTION, ANSWER]}, ["Q", "A"]),
    ],
)
@pytest.mark.parametrize("form", ["jsonl", "parquet"])
def test_published_shapes_become_conversations(here, row, turns, form):
    (here / "one.jsonl").write_text(json.dumps(row))
    datasets.Dataset.from_list([row]).to_parquet(here / "one.parquet")
    (record,) = load_sft_dataset(f"one.{form}")[0]
    assert [turn["value"] for turn in record["conversations"]] == turns
    assert record["id"] == str(row.get("id", 0)) and record.get("image") == row.get("image")
    assert record.get("system") == ("S" if "source" in row else None)


def korean(*contents) -> dict:
    roles = ("user", "assistant")
    turns = [{"role": roles[place % 2], "content": content} for place, content in enumerate(contents)]
    return {"id": 7, "image": {"bytes": b"\x89PNG", "path": None}, "conversations": turns, "metadata": {"source": "표"}}


def test_ko_document_table_keeps_the_order_of_parts_and_does_not_decode(here):
    """Its rows as its one public reader has them, rebuilt as parquet."""
    parts = [{"type": "text", "text": "앞"}, {"type": "image"}, {"type": "text", "text": "표의 합은?"}]
    answer = [{"type": "text", "text": "12"}]
    rows = [korean(json.dumps(parts), json.dumps(answer, ensure_ascii=False)), korean("[1, 2]", "plain")]
    features = datasets.Features(
        {
            "id": datasets.Value("int64"),
            "image": datasets.Image(),
            "conversations": [{"role": datasets.Value("string"), "content": datasets.Value("string")}],
            "metadata": {"source": datasets.Value("string")},
        }
    )
    datasets.Dataset.from_list(rows, features=features).to_parquet(here / "ko.parquet")
    first, second = load_sft_dataset("ko.parquet")[0]
    assert [turn["value"] for turn in first["conversations"]] == ["앞<image>\n표의 합은?", "12"]
    assert [turn["value"] for turn in second["conversations"]] == ["[1, 2]", "plain"]
    assert first["id"] == "7" and first["image"]["bytes"] == b"\x89PNG"


def test_a_folder_of_json_keeps_its_texts(here):
    """`datasets` would read the answer as a number, and what looks like JSON as what it says."""
    parts = [{"type": "text", "text": "12"}]
    rows = [
        {"messages": [{"role": "user", "content": content}, talk("x")["messages"][1]]}
        for content in (parts, "34", '"q"')
    ]
    (here / "mixed").mkdir()
    (here / "mixed/train_a.json").write_text(json.dumps(rows[:2]))
    (here / "mixed/train_b.jsonl").write_text(json.dumps(rows[2]))
    (here / "mixed/test.json").write_text(json.dumps(rows[1:2]))
    (here / "mixed/valid.json").write_text(json.dumps(rows[:1]))
    train, test = load_sft_dataset("mixed")
    questions = [[record["conversations"][0]["value"] for record in part] for part in (train, test)]
    assert questions == [["12", "34", '"q"'], ["34"]]


def test_contents_of_more_than_one_type_in_a_table(here):
    contents = [[{"type": "text", "text": "12"}], "34", "words"]
    rows = [{"messages": [{"role": "user", "content": content}, talk("x")["messages"][1]]} for content in contents]
    datasets.Dataset.from_list(rows, on_mixed_types="use_json").to_parquet(here / "mixed.parquet")
    train, _ = load_sft_dataset("mixed.parquet")
    assert [record["conversations"][0]["value"] for record in train] == ["12", "34", "words"]


@pytest.mark.real_data
def test_real_tables_in_the_shape_of_ko_document_table(here, radiology_data):
    folder = radiology_data / "tables"
    rows = [json.loads(line) for line in (folder / "wikitable_qa.jsonl").read_text().splitlines()][:40]
    found = []
    for row in rows:
        parts = [{"type": "image"}, {"type": "text", "text": row["question"]}]
        record = korean(json.dumps(parts), json.dumps([{"type": "text", "text": row["answer"]}]))
        found.append(record | {"id": row["id"], "image": {"bytes": (folder / row["image"]).read_bytes(), "path": None}})
    datasets.Dataset.from_list(found).to_parquet(here / "tables.parquet")
    train, test = load_sft_dataset("tables.parquet[train:20,test:10]")
    by_id = {row["id"]: row for row in rows}
    assert len({record["id"] for part in (train, test) for record in part}) == 30
    for record in train:
        row = by_id[record["id"]]
        assert [turn["value"] for turn in record["conversations"]] == [f"<image>\n{row['question']}", row["answer"]]
        assert record["image"]["bytes"] == (folder / row["image"]).read_bytes()


@pytest.mark.parametrize(
    "row, said",
    [
        ({"question": "a", "answer": "b"}, "odd.jsonl, record 0 has the columns question, answer; known are messages"),
        ([1], "odd.jsonl, record 0 has no conversation"),
        ({"messages": [{"role": "user", "content": "a"}]}, "odd.jsonl, record 0 (id None) has no conversation"),
        ({"instruction": 3, "output": "x"}, "odd.jsonl, record 0 has no conversation"),
        ({"instruction": "x", "output": ""}, "odd.jsonl, record 0 (id None): turn 1 must be a text from 'gpt'"),
    ],
)
def test_a_row_that_is_no_conversation_is_named_when_it_is_read(here, row, said):
    (here / "odd.jsonl").write_text(json.dumps(row if isinstance(row, dict) else [row]))
    (records, _) = load_sft_dataset("odd.jsonl")
    with pytest.raises(ValueError) as error:
        records[0]
    assert said in str(error.value) and "\n" not in str(error.value)


def test_plain_texts_and_lines_that_are_no_json(here):
    (here / "texts.jsonl").write_text('{"text": "a"}\n{"no": 1}\n{"text": \n')
    texts, _ = load_pt_dataset("texts.jsonl")
    assert texts[0] == "a"
    with pytest.raises(ValueError, match="texts.jsonl, record 1 has no column text"):
        texts[1]
    with pytest.raises(ValueError, match="texts.jsonl, line 3 is not JSON"):
        texts[2]
