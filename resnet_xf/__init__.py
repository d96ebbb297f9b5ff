"""One description of a residual network, built in PyTorch and in MXNet Gluon, and proven to be the same network.

Importing this package imports no framework; :func:`build` and :func:`parity` import those that they are asked for.
"""

from resnet_xf.backend import build, features, get_backend, list_backends
from resnet_xf.data import Dataset, load_dataset, photographs
from resnet_xf.errors import (
    BackendError,
    BenchError,
    CheckpointError,
    DataError,
    EvidenceError,
    RecipeError,
    ResNetXFError,
    ShapeError,
    SpecError,
    TrainingError,
    TrainingStopped,
    WeightsError,
)
from resnet_xf.formats import Conversion, convert, read_checkpoint, write_checkpoint
from resnet_xf.inference import evaluate, predict
from resnet_xf.loop import Progress, Run
from resnet_xf.optimized import Optimized, optimize
from resnet_xf.parity import Report, Trial, assert_parity, capture, parity, parity_against, suggest_names
from resnet_xf.plan import Plan, plan, plan_block, plan_features
from resnet_xf.recipe import Recipe, get_recipe
from resnet_xf.spec import ResNetSpec, SqueezeExcitation, Stage, Stem
from resnet_xf.trace import Row, trace
from resnet_xf.training import resume, train
from resnet_xf.weights import draw_weights, load_weights, save_weights
from resnet_xf.zoo import get_spec, list_models, with_output_stride

__version__ = "0.1.0"

__all__ = [
    "BackendError",
    "BenchError",
    "CheckpointError",
    "Conversion",
    "DataError",
    "Dataset",
    "EvidenceError",
    "Optimized",
    "Plan",
    "Progress",
    "Recipe",
    "RecipeError",
    "Report",
    "ResNetSpec",
    "ResNetXFError",
    "Row",
    "Run",
    "ShapeError",
    "SpecError",
    "SqueezeExcitation",
    "Stage",
    "Stem",
    "TrainingError",
    "TrainingStopped",
    "Trial",
    "WeightsError",
    "assert_parity",
    "build",
    "capture",
    "convert",
    "draw_weights",
    "evaluate",
    "features",
    "get_backend",
    "get_recipe",
    "get_spec",
    "list_backends",
    "list_models",
    "load_dataset",
    "load_weights",
    "optimize",
    "parity",
    "parity_against",
    "photographs",
    "plan",
    "plan_block",
    "plan_features",
    "predict",
    "read_checkpoint",
    "resume",
    "save_weights",
    "suggest_names",
    "trace",
    "train",
    "with_output_stride",
    "write_checkpoint",
]
