from . import data, errors
from .architecture.plan import plan
from .architecture.spec import ResNetSpec, SqueezeExcitation, Stage, Stem
from .architecture.trace import trace
from .architecture.weights import draw_weights, load_weights, save_weights
from .architecture.zoo import get_spec, list_models
from .backend.contract import Backend
from .backend.registry import build, features, get_backend, list_backends
from .codegen.writer import source
from .data import load_dataset
from .formats.convert import convert, write_checkpoint
from .formats.files import read_checkpoint
from .formats.load import load
from .ladder.capture.against import capture, parity_against
from .ladder.climb import assert_parity, parity
from .ladder.pair.pairs import suggest_names
from .ladder.report.report import Report
from .ladder.rungs.accuracy import Trial
from .speed.optimize import optimize
from .support.version import __version__
from .training.inference import evaluate, predict
from .training.recipe import Recipe, get_recipe
from .training.runs import resume, train

__all__ = [
    "Backend",
    "Recipe",
    "Report",
    "ResNetSpec",
    "SqueezeExcitation",
    "Stage",
    "Stem",
    "Trial",
    "__version__",
    "assert_parity",
    "build",
    "capture",
    "convert",
    "data",
    "draw_weights",
    "errors",
    "evaluate",
    "features",
    "get_backend",
    "get_recipe",
    "get_spec",
    "list_backends",
    "list_models",
    "load",
    "load_dataset",
    "load_weights",
    "optimize",
    "parity",
    "parity_against",
    "plan",
    "predict",
    "read_checkpoint",
    "resume",
    "save_weights",
    "source",
    "suggest_names",
    "trace",
    "train",
    "write_checkpoint",
]
