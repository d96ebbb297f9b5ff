"""One description of a residual network, built in PyTorch and in MXNet Gluon, and proven to be the same network.

Importing this package imports no framework; :func:`build` and :func:`parity` import those that they are asked for.
"""

from resnet_xf.architecture.plan import Plan, plan, plan_block, plan_features
from resnet_xf.architecture.spec import ResNetSpec, SqueezeExcitation, Stage, Stem
from resnet_xf.architecture.trace import Row, trace
from resnet_xf.architecture.weights import draw_weights, load_weights, save_weights
from resnet_xf.architecture.zoo import get_spec, list_models, with_output_stride
from resnet_xf.backend.registry import build, features, get_backend, list_backends
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
from resnet_xf.formats.convert import Conversion, convert, write_checkpoint
from resnet_xf.formats.files import read_checkpoint
from resnet_xf.ladder.capture.against import capture, parity_against
from resnet_xf.ladder.climb import assert_parity, parity
from resnet_xf.ladder.pair.pairs import suggest_names
from resnet_xf.ladder.report.report import Report
from resnet_xf.ladder.rungs.accuracy import Trial
from resnet_xf.speed.optimize import Optimized, optimize
from resnet_xf.support.version import __version__
from resnet_xf.training.inference import evaluate, predict
from resnet_xf.training.loop import Progress, Run
from resnet_xf.training.recipe import Recipe, get_recipe
from resnet_xf.training.runs import resume, train

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
    "__version__",
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
