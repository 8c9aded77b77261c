"""Convert MIMIC-CXR annotations to the LLaVA format that training and evaluation read.

    python convert_data.py --annotation data/mimic_cxr/annotation_with_clinic_info.json --out_dir data/mimic_cxr

writes train_llava_llada.json, and val_llava_llada.json and test_llava_llada.json where the annotation has these lists.
"""

import argparse
import sys

from llava.data.mimic_cxr import VIEWS, convert_annotation


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--annotation", default="data/mimic_cxr/annotation_with_clinic_info.json")
    parser.add_argument("--out_dir", default="data/mimic_cxr", help="folder of the converted files")
    parser.add_argument("--views", choices=VIEWS, default="first", help="the first film of a study, or all of them")
    parser.add_argument("--images", help="folder of the films, to check each one before anything is written")
    args = parser.parse_args()
    try:
        print(convert_annotation(args.annotation, args.out_dir, args.views, args.images))
    except ValueError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
