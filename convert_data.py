"""Convert a data set to the LLaVA format that training and evaluation read.

    python convert_data.py --annotation data/mimic_cxr/annotation_with_clinic_info.json --out_dir data/mimic_cxr
    python convert_data.py --dataset mimic-cxr --root DIR --out_dir data/mimic_cxr
    python convert_data.py --dataset iu-xray --root DIR --out_dir data/iu_xray

writes train_llava_llada.json, and val_llava_llada.json and test_llava_llada.json where there are such studies; from a
release as its publisher ships it (--root) also the annotation.
"""

import argparse

from dllm.program import argument_parser, run_program
from llava.data.images import allow_blank_images
from llava.radiology.annotation import ANNOTATION, check_writable, convert_annotation, convert_release
from llava.radiology.iu_xray import read_iu_xray
from llava.radiology.mimic_cxr import read_mimic_release
from llava.radiology.release import TARGETS, VIEWS, choose_images

DEFAULT_VIEWS = {"annotation": "first", "mimic-cxr": "frontal", "iu-xray": "first"}  # of each data set


def parse_arguments() -> argparse.Namespace:
    parser = argument_parser(__doc__)
    parser.add_argument("--dataset", choices=DEFAULT_VIEWS, default="annotation", help="annotation file or release")
    parser.add_argument("--annotation", default=f"data/mimic_cxr/{ANNOTATION}", help="annotation file")
    parser.add_argument("--root", help="folder of the release")
    parser.add_argument("--out_dir", default="data/mimic_cxr", help="folder of the converted files")
    parser.add_argument(
        "--images",
        help="folder of the images: of an annotation, to check each one before anything is written; of MIMIC-CXR,"
        " if they are not in --root",
    )
    parser.add_argument(
        "--target",
        choices=TARGETS,
        help="what is to be written (default: findings; an annotation's reports as they are)",
    )
    parser.add_argument(
        "--views",
        choices=VIEWS,
        help="the first frontal image of a study (default), all frontal ones (MIMIC-CXR's default), or all images",
    )
    parser.add_argument(
        "--compare_sections",
        metavar="FILE",
        help="mimic_cxr_sectioned.csv of MIMIC-CXR's own section script: say how many studies have its findings and"
        " impression by our rules too, and show the first that do not",
    )
    parser.add_argument("--allow_blank_images", action="store_true", help="let images pass that show nothing")
    args = parser.parse_args()
    allow_blank_images(args.allow_blank_images)
    if (args.root is None) != (args.dataset == "annotation"):
        parser.error("--root names the folder of a release: it goes with --dataset mimic-cxr or iu-xray")
    if args.images is not None and args.dataset == "iu-xray":
        parser.error("--images is not for --dataset iu-xray, whose images are looked for in --root")
    if args.compare_sections is not None and args.dataset != "mimic-cxr":
        parser.error("--compare_sections is for --dataset mimic-cxr, whose reports have sections to compare")
    return args


def convert(args: argparse.Namespace) -> str:
    """Convert what the arguments name; returns the summary."""
    views = args.views or DEFAULT_VIEWS[args.dataset]
    if args.dataset == "annotation":
        return convert_annotation(args.annotation, args.out_dir, views, args.images, args.target)
    check_writable(args.out_dir)
    if args.dataset == "mimic-cxr":
        release = read_mimic_release(args.root, args.images, views, args.compare_sections)
    else:
        release = choose_images(read_iu_xray(args.root), views)
    return convert_release(release, args.root, args.out_dir, views, args.target or "findings")


def main() -> None:
    print(convert(parse_arguments()))


if __name__ == "__main__":
    run_program(main)
