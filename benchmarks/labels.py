"""How well the clinical labels that are read from reports agree with those of IU X-Ray, made by others from MeSH terms.

    python benchmarks/labels.py --data ../shared/data/iu_xray --json labels.json

Labels each study from its findings, and from findings and impression, and prints for both parts and each split a table:
precision, recall, F1 and Cohen's kappa of every label. `micro` and `macro` are over the 13 findings, without `normal`;
a label that a split does not have is left out of `macro`.
"""

import argparse
import hashlib
import json
import sys
from collections.abc import Sequence, Set
from pathlib import Path
from statistics import fmean

from tqdm import tqdm

from llava.radiology.labels import IU_XRAY, labels

SPLITS = ("train", "val")
PARTS = ("findings", "findings_and_impression")
NORMAL = "normal"


def annotation_file(data: Path) -> Path:
    """The annotation of the IU X-Ray folder `data`."""
    return data / "annotation_with_clinic_info.json"


def read_studies(data: Path, split: str, part: str) -> tuple[list[str], list[set[str]]]:
    """The texts of a split, and for each the names of IU_XRAY that others gave the study.

    Raises ValueError when the annotation is missing.
    """
    file = annotation_file(data)
    if not file.exists():
        raise ValueError(f"{file}: no such file; name the IU X-Ray folder with --data")
    records = json.loads(file.read_text(encoding="utf-8"))[split]
    fields = ("report",) if part == "findings" else ("report", "impression")
    texts = ["\n".join(record[field] or "" for field in fields) for record in records]
    return texts, [set(record["labels"]) for record in records]


def agreement(found: Sequence[Set[str]], truth: Sequence[Set[str]]) -> dict[str, dict]:
    """Agreement of the labels found with the true names of IU_XRAY, study by study.

    Returns for every name `studies` (how many truly have it), `precision`, `recall`, `F1` and `kappa`, None where there
    is nothing to divide by, and rows `micro` and `macro`.
    """
    counts = {name: _count(label, name, found, truth) for name, label in IU_XRAY.items()}
    table = {name: _scores(*count) for name, count in counts.items()}
    findings = [name for name in IU_XRAY if name != NORMAL]
    table["micro"] = _scores(*(sum(column) for column in zip(*(counts[name] for name in findings), strict=True)))
    known = [table[name] for name in findings if table[name]["studies"]]
    table["macro"] = {"studies": table["micro"]["studies"]} | {
        score: fmean(row[score] or 0.0 for row in known) for score in ("precision", "recall", "F1", "kappa")
    }
    return table


def _count(label: str, name: str, found: Sequence[Set[str]], truth: Sequence[Set[str]]) -> tuple[int, int, int, int]:
    """Studies with the label found and true, only found, only true, neither."""
    pairs = [(label in guess, name in true) for guess, true in zip(found, truth, strict=True)]
    return tuple(pairs.count(pair) for pair in ((True, True), (True, False), (False, True), (False, False)))


def _scores(both: int, only_found: int, only_true: int, neither: int) -> dict:
    total = both + only_found + only_true + neither
    found, true = both + only_found, both + only_true
    chance = (found * true + (total - found) * (total - true)) / total**2
    return {
        "studies": true,
        "precision": _ratio(both, found),
        "recall": _ratio(both, true),
        "F1": _ratio(2 * both, found + true),
        "kappa": _ratio((both + neither) / total - chance, 1 - chance),
    }


def _ratio(part: float, whole: float) -> float | None:
    return part / whole if whole else None


def _print(title: str, table: dict[str, dict]) -> None:
    print(f"\n{title}\n{'':20}{'studies':>9}{'precision':>11}{'recall':>9}{'F1':>9}{'kappa':>9}")
    for name, row in table.items():
        cells = ["-" if row[score] is None else f"{row[score]:.3f}" for score in ("precision", "recall", "F1", "kappa")]
        print(f"{name:20}{row['studies']:9}{cells[0]:>11}" + "".join(f"{cell:>9}" for cell in cells[1:]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="the IU X-Ray folder")
    parser.add_argument("--json", type=Path, required=True, help="file for the tables")
    args = parser.parse_args()
    try:
        tables = {}
        for split in SPLITS:
            for part in PARTS:
                texts, truth = read_studies(args.data, split, part)
                found = [labels(text) for text in tqdm(texts, desc=f"{split}, {part}", unit="report")]
                tables[f"{split}, {part}"] = agreement(found, truth)
        digest = hashlib.sha256(annotation_file(args.data).read_bytes()).hexdigest()
        args.json.write_text(json.dumps({"sha256": digest, "tables": tables}, indent=2) + "\n", encoding="utf-8")
    except ValueError as error:
        sys.exit(f"labels: error: {error}")
    except OSError as error:
        sys.exit(f"labels: error: {error.filename}: {error.strerror}")
    for title, table in tables.items():
        _print(title, table)


if __name__ == "__main__":
    main()
