from .architecture.plan import Plan, plan, plan_block, plan_features
from .architecture.spec import ResNetSpec, SqueezeExcitation, Stage, Stem
from .architecture.trace import Row, trace
from .architecture.weights import draw_weights, load_weights, save_weights
from .architecture.zoo import get_spec, list_models, with_output_stride
from .backend.registry import build, features, get_backend, list_backends
from .data import Dataset, load_dataset, photographs
from .errors import (
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
from .formats.convert import Conversion, convert, write_checkpoint
from .formats.files import read_checkpoint
from .ladder.capture.against import capture, parity_against
from .ladder.climb import assert_parity, parity
from .ladder.pair.pairs import suggest_names
from .ladder.report.report import Report
from .ladder.rungs.accuracy import Trial
from .speed.optimize import Optimized, optimize
from .support.version import __version__
from .training.inference import evaluate, predict
from .training.loop import Progress, Run
from .training.recipe import Recipe, get_recipe
from .training.runs import resume, train

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
