"""Images as NumPy arrays, for every backend alike: samples, labelled data sets, and batches of them."""

from resnet_xf.data.batches import Batch, Batches
from resnet_xf.data.datasets import DATASETS, load_dataset
from resnet_xf.data.images import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    SUFFIXES,
    Images,
    Size,
    digits,
    photographs,
    sample_images,
)
from resnet_xf.data.kept import Kept, keep, kept_memory
from resnet_xf.data.pixels import Normalisation, Pixels
from resnet_xf.data.randomness import DRAWS, draws, order, share
from resnet_xf.data.splits import ArraySplit, Dataset, FileSplit, Split
from resnet_xf.data.transform import TEST_CROPS, Crop, Interpolation, Transform

__all__ = [
    "DATASETS",
    "DRAWS",
    "IMAGENET_MEAN",
    "IMAGENET_STD",
    "SUFFIXES",
    "TEST_CROPS",
    "ArraySplit",
    "Batch",
    "Batches",
    "Crop",
    "Dataset",
    "FileSplit",
    "Images",
    "Interpolation",
    "Kept",
    "Normalisation",
    "Pixels",
    "Size",
    "Split",
    "Transform",
    "digits",
    "draws",
    "keep",
    "kept_memory",
    "load_dataset",
    "order",
    "photographs",
    "sample_images",
    "share",
]
