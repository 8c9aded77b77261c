r"""Teaches a vision tower with random weights to see, before there is a language model to learn with it.

    torchrun --nproc_per_node 2 -m llava.train.pretrain_tower --vision_tower exp/towers/vision_tower \
        --data_path captions.json --image_folder images --out exp/towers/trained

From the features of 4 x 4 parts of an image, a linear layer says which words and which pairs of neighbouring words its
text has (Joulin et al. 2016; Li et al. 2017, "Learning visual n-grams"). The layer is thrown away; `--out` is a folder
for `--vision_tower` of the stage scripts. For small towers and data: the pixels of all images are held in
memory. A published SigLIP has learned more than this from its own captions and does not need it.
"""

import argparse
import re
from collections import Counter
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import Dataset

from dllm.bar import Bar
from dllm.program import argument_parser
from dllm.training.plain import is_first_process, run_plain, train_plain
from llava.data.images import allow_blank_images, load_image, preprocess_image
from llava.data.records import image_names, read_records
from llava.model.multimodal_encoder.builder import load_vision_tower, save_vision_tower

# At most: turn in radians, share of zoom, shift right and down in half images, contrast, brightness.
JITTER = (0.14, 0.12, 0.12, 0.12, 0.2, 0.2)
GRID = 4  # parts of an image per side
RAREST, MOST_FREQUENT = 0.002, 0.998  # share of the reports that must have a word


class ImageWordDataset(Dataset):
    """Images [3, S, S] and which of `words` their reports have [words]; a record without an image is left out.

    With `augment` an image is never quite the same: few images are learned by heart otherwise.
    """

    def __init__(self, data_path: str, image_folder: str, processor, augment: bool, progress: bool):
        records = [record for record in read_records(data_path) if image_names(record)]
        found = [words_and_pairs(record["conversations"][1]["value"]) for record in records]
        counts = Counter(word for words in found for word in words)
        low, high = RAREST * len(records), MOST_FREQUENT * len(records)
        self.words = sorted(word for word, count in counts.items() if low <= count <= high)
        if not self.words:
            raise ValueError(f"{data_path}: no word that some reports have and others lack; there is nothing to learn")
        number = {word: index for index, word in enumerate(self.words)}
        self.has = torch.zeros(len(records), len(self.words), dtype=torch.bool)
        for row, words in zip(self.has, found, strict=True):
            row[[number[word] for word in words if word in number]] = True
        images = [Path(image_folder) / image_names(record)[0] for record in records]
        bar = Bar(images, desc="images", unit="image", disable=not progress)
        opened = (load_image(image, keep_grey=True) for image in bar)
        self.augment = augment
        self.pixels = [preprocess_image(image, processor, "square")[0].half() for image in opened]

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        image = self.pixels[index].float()
        return {"pixels": jitter(image) if self.augment else image, "has": self.has[index].float()}


def words_and_pairs(text: str) -> set[str]:
    """The words of a text in lower case, and the pairs of neighbours with no punctuation between them."""
    clauses = [re.findall(r"\w+", clause) for clause in re.split(r"[^\w\s]", text.lower())]
    pairs = {" ".join(pair) for words in clauses for pair in zip(words, words[1:], strict=False)}
    return pairs | {word for words in clauses for word in words}


def jitter(image: Tensor) -> Tensor:
    """The image [3, S, S] turned, scaled and shifted a little, in another brightness and contrast; never mirrored."""
    turn, zoom, right, down, contrast, brightness = (2 * torch.rand(6) - 1) * torch.tensor(JITTER)
    cosine, sine = turn.cos() * (1 + zoom), turn.sin() * (1 + zoom)
    matrix = torch.stack([cosine, -sine, right, sine, cosine, down]).view(1, 2, 3)
    grid = F.affine_grid(matrix, [1, *image.shape], align_corners=False)
    moved = F.grid_sample(image[None], grid, padding_mode="border", align_corners=False)[0]
    return moved * (1 + contrast) + brightness


class WordClassifier(nn.Module):
    """A tower, and a linear layer from the mean features of GRID x GRID parts of an image to words."""

    def __init__(self, tower: nn.Module, share: Tensor):
        """`share` [words] is the share of the reports that have each word; the layer starts from it."""
        super().__init__()
        self.tower = tower
        self.side = tower.config.image_size // tower.config.patch_size  # patches
        self.head = nn.Linear(GRID**2 * tower.config.hidden_size, len(share))
        nn.init.normal_(self.head.weight, std=0.01)
        self.head.bias.data = share.logit()

    def forward(self, pixels: Tensor, has: Tensor) -> dict[str, Tensor]:
        """Loss of images `pixels` [n, 3, S, S] with the words `has` [n, words]: summed over words, mean over images."""
        features = self.tower(pixels).unflatten(1, (self.side, self.side))  # [n, side, side, D_vision]
        parts = F.adaptive_avg_pool2d(features.movedim(-1, 1), GRID)  # [n, D_vision, GRID, GRID]
        logits = self.head(parts.flatten(1))  # [n, words]
        return {"loss": F.binary_cross_entropy_with_logits(logits, has, reduction="sum") / len(has)}


def pretrain(args: argparse.Namespace) -> str:
    """Trains, writes `--out`, and returns what to print. Raises ValueError on a tower or data that do not serve."""
    tower, processor = load_vision_tower(args.vision_tower, args.select_layer, torch.float32)
    data = ImageWordDataset(args.data_path, args.image_folder, processor, args.augment, is_first_process())
    torch.manual_seed(args.seed)
    classifier = WordClassifier(tower, data.has.float().mean(0))
    how = args.epochs, args.learning_rate, args.batch_size, args.seed
    save = partial(save_vision_tower, tower, processor, args.vision_tower, args.out)
    course = train_plain(classifier, data, args.out, *how, save)
    return f"{args.out}: {len(data):,} images, {len(data.words)} words and pairs{course}"


def main() -> None:
    """The command line."""
    parser = argument_parser(__doc__)
    parser.add_argument("--vision_tower", required=True, help="SigLIP folder, open_clip: or timm: to start from")
    parser.add_argument("--data_path", required=True, help="LLaVA JSON file; of a record its first image and answer")
    parser.add_argument("--image_folder", required=True, help="folder that the records' images are relative to")
    parser.add_argument("--out", required=True, help="folder to write")
    parser.add_argument("--epochs", type=float, default=8, help="passes over the data")
    parser.add_argument("--batch_size", type=int, default=8, help="images of a step and process")
    parser.add_argument("--learning_rate", type=float, default=7e-4, help="the highest")
    parser.add_argument("--augment", action="store_true", help="vary the images: for a few thousand or less")
    parser.add_argument("--select_layer", type=int, default=-2, help="the layer that training uses later")
    parser.add_argument("--seed", type=int, default=0, help="of order and new weights")
    parser.add_argument("--allow_blank_images", action="store_true", help="let images pass that show nothing")
    args = parser.parse_args()
    allow_blank_images(args.allow_blank_images)
    run_plain("pretrain_tower", lambda: pretrain(args))


if __name__ == "__main__":
    main()
