"""A chest phantom: synthetic images with known findings and their reports, laid out as MIMIC-CXR is.

    python -m llava.phantom.generate --out exp/phantom --train 10000 --val 200 --test 500 --seed 0 --size 128

writes OUT/images/p10/p10000898/s50771383/<id>.jpg, OUT/annotation_with_clinic_info.json and, for stage 1,
OUT/captions_llava.json: the findings of each training image as a list of words. Study number i of a split
is the same whatever the number of studies. Every patient has one study.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from dllm.bar import Bar
from dllm.data.files import replacing
from dllm.program import argument_parser, run_program
from llava.phantom.image import render_image
from llava.phantom.report import write_caption, write_context, write_report
from llava.radiology.annotation import ANNOTATION, SPLITS
from llava.radiology.findings import SEVERITIES, Finding, sides_of

CAPTIONS = "captions_llava.json"

# One study in seven is drawn without findings; in the others each side has a finding at its own rate, on its own.
# Together: a quarter of the studies is normal, and the mean is 1.7 findings.
HEALTHY_RATE = 0.14
RATES = {
    "effusion": 0.16,
    "atelectasis": 0.14,
    "consolidation": 0.12,
    "pneumothorax": 0.08,
    "nodule": 0.09,
    "cardiomegaly": 0.23,
    "edema": 0.14,
    "line": 0.09,
    "pacemaker": 0.07,
    "tube": 0.09,
}
SEVERITY_RATES = (0.35, 0.4, 0.25)

SUBJECTS = 9_999_991  # a prime, the number of patients that p10000000 .. p19999990 can name
JPEG_QUALITY = 92


@dataclass(frozen=True)
class Study:
    """One study: who it is, what is on the image, what is written about it. `context` may lack any of its fields."""

    seed: int
    split: str
    number: int
    subject_id: int
    study_id: int
    dicom_id: str
    findings: tuple[Finding, ...]
    report: str
    context: Mapping[str, str]

    @property
    def image_path(self) -> str:
        """Path of the image below images/."""
        return f"p{str(self.subject_id)[:2]}/p{self.subject_id}/s{self.study_id}/{self.dicom_id}.jpg"

    def record(self) -> dict:
        """The study as a record of the annotation file."""
        return {
            "id": self.dicom_id,
            "study_id": self.study_id,
            "subject_id": self.subject_id,
            "report": self.report,
            **self.context,
            "image_path": [self.image_path],
            "findings": list(map(list, self.findings)),
        }

    def caption(self) -> dict:
        """The image and its findings as a LLaVA record."""
        turns = [{"from": "human", "value": "<image>"}, {"from": "gpt", "value": write_caption(self.findings)}]
        return {"id": self.dicom_id, "image": self.image_path, "conversations": turns}


def make_study(seed: int, split: str, number: int) -> Study:
    """Study `number` of a split: it depends on these three and nothing else."""
    findings_rng, report_rng, context_rng, id_rng, _ = _streams(seed, split, number)
    findings = _sample_findings(findings_rng)
    index = number * len(SPLITS) + SPLITS.index(split)  # no two studies share it, so no two share a patient
    return Study(
        seed=seed,
        split=split,
        number=number,
        subject_id=10_000_000 + 7_368_787 * (index + seed + 1) % SUBJECTS,
        study_id=50_000_000 + 2_750_159 * (index + seed + 1) % SUBJECTS,
        dicom_id="-".join(f"{group:08x}" for group in id_rng.integers(2**32, size=5)),
        findings=findings,
        report=write_report(findings, report_rng),
        context=write_context(context_rng),
    )


def render(study: Study, size_px: int) -> np.ndarray:
    """The image of a study, uint8 [size_px, size_px]. The patient's right is on the image's left.

    The patient's build and the noise do not depend on the findings.
    """
    *_, image_rng = _streams(study.seed, study.split, study.number)
    return render_image(study.findings, image_rng, size_px)


def write_release(out: str | Path, counts: Mapping[str, int], seed: int, size_px: int) -> Path:
    """Writes the images, LLaVA captions of the training images, and last the annotation, whose path is returned.

    Args:
        out: the folder to write.
        counts: number of studies for each of train, val and test. A split with 0 is left out.
        seed: seed of the release, 0 or more.
        size_px: width and height of an image.

    Raises:
        ValueError: a count, the seed or the size is out of range, or `out` already holds a release.
    """
    check_request(counts, seed, size_px)
    annotation = Path(out) / ANNOTATION
    if annotation.exists():
        raise ValueError(f"{annotation} is there already: remove the folder or choose another --out")
    splits = {split: [] for split in SPLITS if counts.get(split, 0)}
    captions = []
    with Bar(total=sum(counts.values()), desc="phantom images", unit="image") as progress:
        for split, records in splits.items():
            for number in range(counts[split]):
                study = make_study(seed, split, number)
                path = Path(out) / "images" / study.image_path
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(render(study, size_px)).save(path, quality=JPEG_QUALITY)
                records.append(study.record())
                if split == "train":
                    captions.append(study.caption())
                progress.update()
    for path, content in ((Path(out) / CAPTIONS, captions), (annotation, splits)):
        with replacing(path) as partial:
            partial.write_text(json.dumps(content, indent=1), encoding="utf-8")
    return annotation


def _streams(seed: int, split: str, number: int) -> list[np.random.Generator]:
    """Independent generators of one study: findings, report, context, id, image."""
    return np.random.default_rng([seed, SPLITS.index(split), number]).spawn(5)


def _sample_findings(rng: np.random.Generator) -> tuple[Finding, ...]:
    if rng.random() < HEALTHY_RATE:
        return ()
    findings = []
    for name, rate in RATES.items():
        for side in sides_of(name):
            if rng.random() < rate:
                severities = SEVERITIES[name]
                severity = rng.choice(severities, p=SEVERITY_RATES) if len(severities) > 1 else severities[0]
                findings.append(Finding(name, side, str(severity)))
    return tuple(findings)


def check_request(counts: Mapping[str, int], seed: int, size_px: int) -> None:
    """Raises ValueError if a release cannot have these numbers of studies or patients, this seed or this image size."""
    unknown = sorted(set(counts) - set(SPLITS))
    if unknown:
        raise ValueError(f"unknown split {unknown[0]!r}: use {', '.join(SPLITS)}")
    for split, count in counts.items():
        if not 0 <= count <= SUBJECTS // len(SPLITS):
            raise ValueError(f"--{split} {count} is out of range: use 0 to {SUBJECTS // len(SPLITS)}")
    if not any(counts.values()):
        raise ValueError("no studies asked for: set --train, --val or --test above 0")
    if seed < 0:
        raise ValueError(f"--seed {seed} is negative: use 0 or more")
    if not 32 <= size_px <= 4096:
        raise ValueError(f"--size {size_px} is out of range: use 32 to 4096 pixels")


def main(description: str = __doc__, counted: str = "studies", write: Callable[..., Path] = write_release) -> None:
    """Writes a release from the command line by `write(out, counts, seed, size_px)`, which counts `counted`."""
    parser = argument_parser(description)
    parser.add_argument("--out", required=True, help="folder to write")
    for split in SPLITS:
        parser.add_argument(f"--{split}", type=int, default=0, help=f"number of {split} {counted}")
    parser.add_argument("--seed", type=int, default=0, help="seed of the release")
    parser.add_argument("--size", type=int, default=128, help="width and height of a frontal image in pixels")
    args = parser.parse_args()
    print(write(args.out, {split: getattr(args, split) for split in SPLITS}, args.seed, args.size))


if __name__ == "__main__":
    run_program(main)
