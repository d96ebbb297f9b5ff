"""Record what an MXNet network computes, to compare a converted checkpoint with it on another machine.

    python capture.py net-symbol.json net-0000.params --out evidence.npz
    python capture.py --block package.module:function --out evidence.npz

It needs Python 3.6 or later, NumPy, and MXNet 1.3 or later. ``evidence.npz`` has 1 to 3 MB. It holds the graph, the
images, the outputs in float32 and float64, the digests of the weights, and the versions. Of every layer's output, of
every gradient of one training step, and of every weight it holds at most 256 values: sums that stand for all. Then,
where PyTorch is:

    resnet-xf parity tuned.pth --against evidence.npz

``resnet-xf capture-script`` prints this file. It is Apache-2.0 licensed, as resnet-xf is.
"""

import argparse
import contextlib
import hashlib
import importlib
import io
import json
import os
import platform
import sys
import warnings
from typing import Any, Dict, Iterator, List, Optional, Tuple

import numpy as np

FORMAT = 1  # the version of the file's format

CHUNKS = 256  # the number of sums that stand for a large array

SOFTMAX = ("SoftmaxOutput", "Softmax", "softmax", "SoftmaxActivation", "log_softmax", "_npx_log_softmax")
LOSSES = ("MakeLoss", "make_loss", "SVMOutput", "LinearRegressionOutput", "MAERegressionOutput")
ENDINGS = SOFTMAX + LOSSES + ("L2Normalization",)  # operators at the end of a graph that are left out
CASTS = ("Cast", "cast", "_npi_cast", "_npx_cast", "amp_cast", "amp_multicast")  # operators that change a type
FLOATS = ("float16", "bfloat16", "float32", "float64")  # casts to these types are left out

SIDES = (64, 112, 32, 28, 224, 96, 128, 299, 320, 448, 512)  # heights and widths to try, if no --shape is given

MOST_VALUES = 2**26  # about how many values of layers' outputs are held in memory at a time


class CaptureError(Exception):
    """An error that the user can mend; its message is one line."""


@contextlib.contextmanager
def blaming(what: str) -> Iterator[None]:
    """Turn any error within the block into a CaptureError of one line that begins with ``what``."""
    try:
        yield
    except CaptureError:
        raise
    except Exception as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()] or ["no message"]
        raise CaptureError(f"{what}: {type(error).__name__}: {lines[0][:300]}") from None


def factors(width: int) -> Any:
    """Return ``width`` fixed factors from 0.5 to 1.5, with fixed random signs (splitmix64, Steele et al. 2014)."""
    words = np.arange(1, width + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    words = words ^ (words >> np.uint64(31))
    sizes = 0.5 + (words >> np.uint64(11)).astype(np.float64) * 2.0**-53
    return np.where(words & np.uint64(1), sizes, -sizes)


def sketch(array: Any) -> Any:
    """Return an array's values, if there are at most ``CHUNKS``; else ``CHUNKS`` sums that stand for them.

    Each sums a chunk times :func:`factors`, over sqrt(chunk). A change or swap changes it by 1 / sqrt(chunk) of itself.
    """
    flat = np.asarray(array, dtype=np.float64).ravel()
    if flat.size <= CHUNKS:
        return flat
    chunks = np.append(flat, np.zeros(-flat.size % CHUNKS)).reshape(CHUNKS, -1)
    return chunks.dot(factors(chunks.shape[1])) / np.sqrt(chunks.shape[1])


def digest(array: Any) -> str:
    """Return the SHA-256 of an array's values, little-endian."""
    return hashlib.sha256(array.astype(array.dtype.newbyteorder("<")).tobytes()).hexdigest()


def say(text: str) -> None:
    """Print a line of progress to standard error."""
    print(f"capture: {text}", file=sys.stderr)


def rewritten(graph: Dict[str, Any], exact: bool) -> Dict[str, Any]:
    """Return a graph (decoded JSON) of one type that computes the same, without casts and labels, with ordinary norms.

    If ``exact``, also with simple operators for leaky ReLUs. MXNet's own computes in float32, as SyncBatchNorm does.
    """
    nodes = []  # type: List[Dict[str, Any]]
    sources = {}  # type: Dict[Tuple[int, int], List[int]]

    def add(op: str, name: str, inputs: List[List[int]], attributes: Dict[str, str]) -> List[int]:
        nodes.append({"op": op, "name": name, "inputs": inputs, "attrs": attributes})
        return [len(nodes) - 1, 0, 0]

    def source(entry: List[int]) -> List[int]:
        return sources.get((entry[0], entry[1]), [sources[entry[0], 0][0], entry[1], 0])

    for number, node in enumerate(graph["nodes"]):
        inputs, op, name = [source(entry) for entry in node["inputs"]], node["op"], node["name"]
        # Variables say what they are, as __dtype__; here they have the type of the network.
        attributes = {key: text for key, text in node.get("attrs", {}).items() if not key.startswith("__")}
        if op in CASTS and attributes.get("dtype", "float16") in FLOATS:
            sources.update({(number, output): given for output, given in enumerate(inputs)})
            continue
        if exact and op == "LeakyReLU" and attributes.get("act_type", "leaky") in ("leaky", "prelu"):
            low = add("negative", name + "_negative", inputs[:1], {})
            low = add("Activation", name + "_low", [low], {"act_type": "relu"})
            if attributes.get("act_type", "leaky") == "prelu":
                slopes = add("Reshape", name + "_slopes", inputs[1:2], {"shape": "(1, -1, 1, 1)"})
                low = add("broadcast_mul", name + "_product", [low, slopes], {})
            else:
                slope = float(np.float32(attributes.get("slope", "0.25")))
                low = add("_mul_scalar", name + "_product", [low], {"scalar": repr(slope)})
            high = add("Activation", name + "_high", inputs[:1], {"act_type": "relu"})
            op, inputs, attributes = "elemwise_sub", [high, low], {}
        elif op == "LogisticRegressionOutput":
            op, inputs, attributes = "Activation", inputs[:1], {"act_type": "sigmoid"}
        elif op == "_contrib_SyncBatchNorm":
            op, attributes = "BatchNorm", {k: text for k, text in attributes.items() if k not in ("key", "ndev")}
        sources[number, 0] = add(op, name, inputs, attributes)
    arguments = [number for number, node in enumerate(nodes) if node["op"] == "null"]
    heads = [source(entry) for entry in graph["heads"]]
    return {"nodes": nodes, "arg_nodes": arguments, "heads": heads, "attrs": graph.get("attrs", {})}


class Network:
    """An MXNet network: its graph up to the last layer before a softmax or a loss, and its arrays in float32.

    Attributes:
        graph: the whole graph as text.
        symbol, exact: the graph without a softmax or a loss at the end, for float32 and for float64.
        softmax, head, data: names: of what was left out (or empty), of the last node that is used, of the input.
        arrays: weights and running statistics by name.
    """

    def __init__(self, mx: Any, symbol: Any, arrays: Dict[str, Any]) -> None:
        self.mx, self.graph = mx, symbol.tojson()
        if len(symbol.list_outputs()) != 1:
            raise CaptureError(f"the network has {len(symbol.list_outputs())} outputs; expected one")
        nodes = rewritten(json.loads(self.graph), exact=False)
        head, self.softmax = nodes["nodes"][nodes["heads"][0][0]], ""
        symbol = mx.sym.load_json(json.dumps(nodes))
        while head["op"] in ENDINGS and head["inputs"]:
            self.softmax = head["name"]
            head = nodes["nodes"][head["inputs"][0][0]]
            symbol = symbol.get_internals()[head["name"] + "_output"]
            say(f"{self.softmax} at the end is left out")
        self.symbol, self.head = symbol, head["name"]
        self.exact = mx.sym.load_json(json.dumps(rewritten(json.loads(symbol.tojson()), exact=True)))
        needed = symbol.list_arguments() + symbol.list_auxiliary_states()
        missing = [name for name in needed if name not in arrays]
        if len(missing) != 1:
            listed = f"expected one, the images; give the .params of this graph: {', '.join(missing[:4])}"
            raise CaptureError(f"{len(missing)} inputs of the graph have no array; {listed}")
        self.data = missing[0]
        names = [name for name in needed if name != self.data]
        self.arrays = {name: np.ascontiguousarray(arrays[name], dtype=np.float32) for name in names}
        wrong = [name for name in names if not np.isfinite(self.arrays[name]).all()]
        if wrong:
            raise CaptureError(f"{wrong[0]} holds NaN or infinite values")

    def shape(self, channels_and_size: Tuple[int, ...]) -> Tuple[int, ...]:
        """Return the shape (C, H, W) of one image: the given one, or if it is empty the first that fits the arrays."""
        tried = [channels_and_size] if channels_and_size else [(c, side, side) for side in SIDES for c in (3, 1, 4, 2)]
        for shape in tried:
            with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                try:
                    _, (output,), _ = self.symbol.infer_shape(**self.shapes(self.symbol, (1,) + shape))
                except Exception:  # MXNet's own error, of the first layer that such images do not fit
                    continue
            if output and all(output):
                return shape
        raise CaptureError(f"images of shape {tried[0]} do not fit the network; give --shape C,H,W")

    def pixels(self) -> bool:
        """Return whether the network takes pixels from 0 to 255: it scales them, or has a mean of that size."""
        nodes = json.loads(self.graph)["nodes"]
        early = [node for node in nodes if node["op"] != "null"][:2]
        means = [nodes[node["inputs"][3][0]]["name"] for node in early if node["op"] == "BatchNorm"]
        scaled = any(word in node["op"] for node in early for word in ("minus", "sub", "mul", "div", "broadcast"))
        return scaled or any(np.abs(self.arrays[name]).max() > 10 for name in means)

    def shapes(self, symbol: Any, images: Tuple[int, ...]) -> Dict[str, Tuple[int, ...]]:
        """Return the shape of each input of a graph, by name. ``images`` is the shape of the batch."""
        known = {name: array.shape for name, array in self.arrays.items()}
        known[self.data] = images
        return {name: known[name] for name in symbol.list_arguments()}

    def bind(self, symbol: Any, images: Any, dtype: str, grad: str = "null") -> Any:
        """Return an MXNet executor of a graph, with arrays and images loaded. ``grad``: "write" computes gradients."""
        types = {name: np.dtype(dtype) for name in symbol.list_arguments()}
        shapes = self.shapes(symbol, images.shape)
        executor = symbol.simple_bind(self.mx.cpu(), grad_req=grad, type_dict=types, **shapes)
        executor.arg_dict[self.data][:] = images.astype(dtype)
        for held in (executor.arg_dict, executor.aux_dict):
            for name in held:
                if name != self.data:
                    held[name][:] = self.arrays[name].astype(dtype)
        return executor

    def output(self, images: Any, dtype: str) -> Any:
        """Return the output (N, classes) for images in inference mode; raise CaptureError if it is not finite."""
        symbol = self.exact if dtype == "float64" else self.symbol
        output = self.bind(symbol, images, dtype).forward(is_train=False)[0].asnumpy()
        if output.ndim != 2 or not np.isfinite(output).all():
            raise CaptureError(f"the {dtype} output has the shape {output.shape}, or is not finite")
        return output

    def layers(self, images: Any) -> Tuple[Dict[str, List[int]], Any]:
        """Return the shape of each operator's float64 output in inference mode, and all their sketches, joined."""
        internals = self.exact.get_internals()
        names = internals.list_outputs()
        operators = [node["name"] for node in json.loads(self.graph)["nodes"] if node["op"] != "null"]
        operators = [name for name in operators if names.count(name + "_output") == 1]
        outputs = self.mx.sym.Group([internals[name + "_output"] for name in operators])
        _, shapes, _ = outputs.infer_shape(**self.shapes(outputs, images.shape))
        kept, parts, batch, total = {}, [], [], 0
        for place, (name, shape) in enumerate(zip(operators, shapes)):
            batch.append(name)
            total += int(np.prod(shape))
            if total >= MOST_VALUES or place == len(operators) - 1:
                say(f"layers, {place + 1} of {len(operators)}")
                group = self.mx.sym.Group([internals[one + "_output"] for one in batch])
                for one, output in zip(batch, self.bind(group, images, "float64").forward(is_train=False)):
                    kept[one] = list(output.shape)
                    parts.append(sketch(output.asnumpy()))
                batch, total = [], 0
        return kept, np.concatenate(parts)

    def step(self, images: Any, targets: Any, dtype: str) -> Tuple[float, Any, Dict[str, Any], Dict[str, Any]]:
        """Return the loss, the outputs, the gradients and the running statistics of a step in training mode.

        The loss is the sum of -targets * log_softmax(outputs). Dropout is off, and no batch norm is frozen.
        """
        graph = json.loads((self.exact if dtype == "float64" else self.symbol).tojson())
        for node in graph["nodes"]:
            changes = {"Dropout": {"p": "0.0"}, "BatchNorm": {"use_global_stats": "False"}}.get(node["op"])
            if changes:
                node["attrs"] = dict(node.get("attrs", {}), **changes)
        executor = self.bind(self.mx.sym.load_json(json.dumps(graph)), images, dtype, "write")
        outputs = executor.forward(is_train=True)[0].asnumpy()
        logits = outputs.astype(np.float64)
        logits = logits - logits.max(axis=1, keepdims=True)
        log_softmax = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
        slope = self.mx.nd.zeros(outputs.shape, dtype=dtype)
        slope[:] = (np.exp(log_softmax) * targets.sum(axis=1, keepdims=True) - targets).astype(dtype)
        executor.backward([slope])
        gradients = {name: executor.grad_dict[name].asnumpy() for name in self.arrays if name in executor.grad_dict}
        statistics = {name: array.asnumpy() for name, array in executor.aux_dict.items()}
        for name, array in list(gradients.items()) + list(statistics.items()):
            if not np.isfinite(array).all():
                raise CaptureError(f"the {dtype} training step makes {name} infinite or NaN")
        return float(-(log_softmax * targets).sum()), outputs, gradients, statistics


def exported(mx: Any, graph: str, params: str) -> Network:
    """Return the network in the files ``graph`` (``net-symbol.json``) and ``params`` (``net-0000.params``)."""
    for path in (graph, params):
        if not os.path.isfile(path):
            raise CaptureError(f"{path}: there is no such file")
    with blaming(f"{graph}: MXNet cannot read it as a graph"), open(graph, "rb") as file:
        text = file.read().decode("utf-8")
        symbol, numpy = mx.sym.load_json(text), json.loads(text).get("attrs", {}).get("is_np_shape", [0])[-1]
    numpy_shapes = mx.util.np_shape(True) if numpy else contextlib.ExitStack()  # as exported after npx.set_np()
    with blaming(f"{params}: MXNet cannot read it as parameters"), numpy_shapes:
        arrays = {name: array.asnumpy() for name, array in mx.nd.load(params).items()}
    return Network(mx, symbol, {name[4:] if name[:4] in ("arg:", "aux:") else name: arrays[name] for name in arrays})


def gluon(mx: Any, place: str, shape: Tuple[int, ...]) -> Network:
    """Call the function ``place`` (``module:function``), and return the Gluon block that it returns as a Network."""
    module, _, function = place.partition(":")
    sys.path.insert(0, os.getcwd())
    with blaming(f"--block {place}"):
        block = getattr(importlib.import_module(module), function)()
    with blaming(f"--block {place}: expected an initialised HybridBlock with one output"):
        numpy = getattr(getattr(mx, "util", None), "is_np_array", bool)()  # after npx.set_np(); old versions have none
        symbol = block(mx.sym.var("data").as_np_ndarray() if numpy else mx.sym.var("data"))
        params = block.collect_params()
        if any(not parameter.shape or min(parameter.shape) < 1 for parameter in params.values()):
            block((mx.np if numpy else mx.nd).zeros((1,) + (shape or (3, 224, 224))))  # now their shapes are known
        arrays = {name: parameter.list_data()[0].asnumpy() for name, parameter in params.items()}
        if numpy:
            mx.npx.reset_np()
        return Network(mx, symbol, arrays)


def images_of(network: Network, path: Optional[str], shape: Tuple[int, ...], batch: int, seed: int) -> Any:
    """Read float32 images from the ``.npy`` file ``path``, or if it is None draw ``batch`` images from ``seed``."""
    if path:
        with blaming(f"{path}: cannot be read as a .npy file"):
            images = np.load(path, allow_pickle=False)
        if images.ndim != 4 or images.dtype.kind not in "fui" or not np.isfinite(images).all():
            raise CaptureError(f"{path}: holds {images.dtype} {images.shape}; expected images (N, C, H, W)")
        network.shape(tuple(images.shape[1:]))
        return images.astype(np.float32)
    drawn = np.random.RandomState(seed).standard_normal((batch,) + network.shape(shape))
    return (np.clip(np.round(128 + 50 * drawn), 0, 255) if network.pixels() else drawn).astype(np.float32)


def measure(network: Network, images: Any) -> Dict[str, Any]:
    """Run the network, and return all arrays of the evidence file, by name."""
    say(f"outputs of images {images.shape}")
    arrays = {"images": images, "output_float64": network.output(images, "float64")}
    arrays["output_float32"], arrays["repeated_output"] = (network.output(images, "float32") for _ in range(2))
    shapes, arrays["layers"] = network.layers(images)
    count, classes = arrays["output_float64"].shape
    targets = np.full((count, classes), 0.1 / classes)  # smoothed labels
    targets[np.arange(count), np.arange(count) * 7 % classes] += 0.9
    arrays["targets"] = targets / count
    losses = {}
    for dtype in ("float64", "float32"):
        say(f"one training step in {dtype}")
        losses[dtype], arrays["step_" + dtype], gradients, statistics = network.step(images, arrays["targets"], dtype)
        order = [name for name in network.arrays if name in gradients]
        arrays["gradients_" + dtype] = np.concatenate([sketch(gradients[name]) for name in order])
        states = [statistics[name].ravel() for name in network.arrays if name in statistics]
        arrays["statistics_" + dtype] = np.concatenate(states + [np.zeros(0)]).astype(np.float64)
    arrays["weights"] = np.concatenate([sketch(array) for array in network.arrays.values()])
    facts = {"format": FORMAT, "python": platform.python_version()}  # type: Dict[str, Any]
    facts.update({"mxnet": network.mx.__version__, "numpy": np.__version__})
    facts.update({"head": network.head, "softmax": network.softmax, "layers": shapes, "losses": losses})
    facts["arrays"] = {
        name: {"shape": array.shape, "sha256": digest(array), "zero": not array.any(), "learns": name in order}
        for name, array in network.arrays.items()
    }
    arrays["graph"] = np.frombuffer(network.graph.encode("utf-8"), dtype=np.uint8)
    facts["sha256"] = {name: digest(array) for name, array in arrays.items()}
    arrays["facts"] = np.frombuffer(json.dumps(facts).encode("utf-8"), dtype=np.uint8)
    return arrays


def write(path: str, arrays: Dict[str, Any]) -> None:
    """Write arrays to a ``.npz`` file, under a temporary name first."""
    temporary = f"{path}.{os.getpid()}.tmp"
    try:
        with open(temporary, "wb") as file:
            np.savez_compressed(file, **arrays)
        os.replace(temporary, path)
    finally:
        if os.path.exists(temporary):
            os.remove(temporary)


def sizes(text: str) -> Tuple[int, ...]:
    """Parse a text such as ``3,224,224`` to three integers."""
    channels, height, width = map(int, text.split(","))
    return channels, height, width


def run(options: Any) -> None:
    """Record the network that the command line names, and write the file. Raises CaptureError for wrong options."""
    if bool(options.block) == bool(options.params) or bool(options.block and options.graph):
        raise CaptureError("give net-symbol.json and net-0000.params, or --block module:function")
    if options.batch < 2:
        raise CaptureError(f"--batch is {options.batch}; a training step needs 2 images or more")
    if os.path.isdir(options.out) or not os.path.isdir(os.path.dirname(os.path.abspath(options.out))):
        raise CaptureError(f"--out {options.out}: is a folder, or its folder is missing")
    with blaming("MXNet, which needs NumPy below 1.24, cannot be imported"):
        mx = importlib.import_module("mxnet")
    network = gluon(mx, options.block, options.shape) if options.block else exported(mx, options.graph, options.params)
    images = images_of(network, options.images, options.shape, options.batch, options.seed)
    write(options.out, measure(network, images))
    say(f"{options.out}: {os.path.getsize(options.out) / 1e6:.1f} MB")


def main(arguments: Optional[List[str]] = None) -> int:
    """Record a network as the command line says. Return 0; or print in one line what went wrong, and return 2."""
    parser = argparse.ArgumentParser(prog="capture.py", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("graph", nargs="?", help="net-symbol.json")
    parser.add_argument("params", nargs="?", help="net-0000.params")
    parser.add_argument("--out", required=True, help="the file to write, evidence.npz")
    parser.add_argument("--block", help="module:function that returns an initialised Gluon HybridBlock")
    parser.add_argument("--shape", type=sizes, default=(), help="of one image, as 3,224,224; else what fits the arrays")
    parser.add_argument("--images", help=".npy file (N, C, H, W), as the network takes them; drawn if not given")
    parser.add_argument("--batch", type=int, default=4, help="number of drawn images, at least 2; 4 if not given")
    parser.add_argument("--seed", type=int, default=0, help="of the drawn images")
    options = parser.parse_args(arguments)
    try:
        with blaming("stopped"):
            run(options)
    except CaptureError as error:
        print(f"capture.py: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
