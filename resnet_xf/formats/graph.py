"""An exported graph as steps: the chain of its operators, with branches wherever it parts and joins again."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, replace

from resnet_xf.architecture import nodes
from resnet_xf.architecture.weights import Weights
from resnet_xf.errors import WeightsError
from resnet_xf.formats.converters import CONVERTERS, CROPS, LAST, LEFT_OUT, PRODUCTS, SUMS, WITH_CONSTANTS
from resnet_xf.formats.gluon_symbol import Symbol
from resnet_xf.formats.operators import Layer, Operator, Value
from resnet_xf.formats.steps import ACTIVATIONS, Step, all_steps

DEEPEST = 20
"""How deep branches may be nested in each other."""


@dataclass(frozen=True)
class Graph:
    """A network as it was exported.

    Attributes:
        steps: its layers.
        notes: remarks on operators that were left out.
        end: the number of the node whose output is the last layer's.
        head: the number of a node to compare: ``end``, or if a map is cropped before it, the one with this map.
        channels_last: whether it takes images ``(N, H, W, C)``.
    """

    steps: list[Step]
    notes: tuple[str, ...]
    end: int
    head: int
    channels_last: bool


def read_graph(symbol: Symbol, tensors: Weights, *, keep_softmax: bool = False, trunk: bool = False) -> Graph:
    """Return the steps of a checked graph.

    Args:
        symbol: the graph.
        tensors: the arrays of the file by the names of the graph's variables.
        keep_softmax: keep a softmax at the end.
        trunk: read the residual network in a larger one alone, up to the last sum of two branches.

    Raises:
        WeightsError: for an operator, an attribute or a connection that no plan has; the message names the node.
    """
    if not trunk:
        return _Reader(symbol, tensors).read(symbol.head, keep_softmax=keep_softmax)
    return _Reader(symbol, tensors).trunk(_Reader(symbol, tensors).end_of_trunk())


class _Reader:
    """Reads one graph."""

    def __init__(self, symbol: Symbol, tensors: Weights) -> None:
        self.symbol, self.tensors, self.nodes = symbol, tensors, symbol.nodes
        self.notes: list[str] = []
        self.values: dict[int, Value] = {}
        self.layers: dict[int, list[Step]] = {}
        self.sources: dict[int, tuple[int, ...]] = {}
        """By node, the inputs that come from the images: one, or two where branches join."""
        self.fork: dict[int, int] = {}
        """By node, the nearest node before it that every path from the images goes through."""
        self.depth: dict[int, int] = {}
        self.used: dict[str, str] = {}
        """By array, the operator that has it."""
        self.placed: set[int] = set()
        """The nodes that are in a chain already."""

    def read(self, head: int, *, keep_softmax: bool) -> Graph:
        """Read a whole network."""
        left_out = "{0.name} ({0.op}) at the end is left out; the outputs are the values before it"
        while (last := self.nodes[head]).op in LEFT_OUT and last.inputs:
            if keep_softmax and last.op.endswith("log_softmax"):
                raise WeightsError(f"node {last.name!r} ({last.op}): cannot be kept; leave --keep-softmax out")
            self.notes.append(left_out.format(last))
            head = self.symbol.inputs(head)[0]
        steps = self._steps(head)
        if last.op in LAST and not keep_softmax and len(steps) > 1:
            self.notes.append(left_out.format(last) + " (--keep-softmax keeps it)")
            steps.pop()
            head = self.symbol.inputs(head)[0]
        if self.values[head].axes != 2 or self.values[head].view:
            raise WeightsError(
                f"node {last.name!r}: the output is no (N, classes); is this a part of a network? convert --backbone "
                "takes the residual network out of it"
            )
        return self._graph(steps, head)

    def trunk(self, end: int) -> Graph:
        """Read a network up to a node, and end it with the means of its map."""
        graph = self._graph(self._steps(end), end)
        crop = next((number for number in self.symbol.reached(end) if self.nodes[number].op in CROPS), None)
        notes = [f"the trunk ends at {self.nodes[end].name}; its outputs are the means of the map there"]
        if crop is not None:
            end = self.symbol.inputs(crop)[0]
            notes.append(
                f"in the graph the layers after {self.nodes[end].name} run on regions of its map, which "
                f"{self.nodes[crop].name} ({self.nodes[crop].op}) cuts out; here on the whole map"
            )
        ending = [Step("global_pool", nodes.GlobalPool()), Step("flatten", nodes.Flatten())]
        return replace(graph, steps=graph.steps + ending, notes=graph.notes + tuple(notes), head=end)

    def end_of_trunk(self) -> int:
        """Return the node that ends the last residual block; parts of the graph that are no layers are passed over."""
        start = self._images(range(len(self.nodes)), several=True)
        self.values[start], self.depth[start] = Value(), 0
        for number in range(start + 1, len(self.nodes)):
            if self.nodes[number].op != "null":
                with suppress(WeightsError):
                    self._convert(number)
        sums = [n for n, sources in self.sources.items() if len(sources) == 2 and self.nodes[n].op in SUMS]
        if not sums:
            raise WeightsError("has no residual block that begins at the images")
        end = max(sums)
        consumers: dict[int, list[int]] = {}
        for number, node in enumerate(self.nodes):
            for connection in node.inputs:
                consumers.setdefault(connection[0], []).append(number)

        def following(number: int, kinds: tuple[type[nodes.Node], ...]) -> int | None:
            """The node of a layer of such a kind, if nothing else reads the output of a node."""
            after = consumers.get(number, [])
            layers = self.layers.get(after[0]) if len(after) == 1 else None
            return after[0] if layers and isinstance(layers[-1].node, kinds) else None

        norm = following(end, (nodes.Norm,))
        last = following(end if norm is None else norm, ACTIVATIONS)
        return end if last is None else last

    def _images(self, among: Iterable[int], *, several: bool = False) -> int:
        """Return the number of the input for the images."""
        images = [n for n in among if self.nodes[n].op == "null" and self.nodes[n].name not in self.tensors]
        images = [n for n in images if not self.nodes[n].name.endswith("label")]
        if not images or (len(images) > 1 and not several):
            names = [self.nodes[n].name for n in images if n != min(images)]
            if not names:
                raise WeightsError("has no input for the images: the file has an array of every name")
            more = f" and {len(names) - 3} more" if len(names) > 3 else ""
            raise WeightsError(
                f"{', '.join(names[:3])}{more} are not in the file; move the graph away if it is of another network"
            )
        return images[0]

    def _steps(self, head: int) -> list[Step]:
        """Return the steps from the images to a node."""
        reached = self.symbol.reached(head)
        start = self._images(reached)
        self.values[start], self.depth[start] = Value(), 0
        for number in reached:
            if number != start and self.nodes[number].op != "null":
                self._convert(number)
        return self._chain(head, start)

    def _graph(self, steps: list[Step], head: int) -> Graph:
        channels_last = any(self.nodes[number].op == "transpose" for number in self.symbol.reached(head))
        merged = _merged(steps)
        if casts := self.symbol.casts:
            more = f" and {len(casts) - 1} more" if len(casts) > 1 else ""
            self.notes.append(f"{casts[0]}{more}: casts to half precision are left out; one type is used throughout")
        self.notes += _preprocessing(merged)
        return Graph(merged, tuple(dict.fromkeys(self.notes)), head, head, channels_last)

    def _convert(self, number: int) -> None:
        """Convert one operator, whose inputs are converted."""
        node, inputs = self.nodes[number], self.symbol.inputs(number)
        sources = tuple(source for source in inputs if source in self.values)
        value = self.values[sources[0]] if sources else Value()
        names = [self.nodes[source].name for source in inputs]
        op = Operator(node.name, node.op, node.attributes(), names, replace(value), self.tensors, self.notes)
        if not sources or (sources[0] != inputs[0] and node.op not in PRODUCTS | SUMS):
            raise op.refuse("does not depend on the images")
        if len(sources) == 2 and node.op in SUMS | PRODUCTS and len(inputs) == 2:
            op.read |= {"num_args"}
            self._join(number, op, sources)
        elif len(sources) == 1 and node.op in WITH_CONSTANTS and len(inputs) == 2 and names[1] in self.tensors:
            self._add_layer(number, op, WITH_CONSTANTS[node.op](op))
        elif len(sources) == 1 and node.op in CONVERTERS | CROPS:
            self._add_layer(number, op, (CONVERTERS | CROPS)[node.op](op))
        else:
            raise op.refuse("no part of a plan computes this")
        op.finish()
        self.values[number], self.sources[number] = op.value, sources
        self.depth[number] = self.depth[self.fork[number]] + 1

    def _add_layer(self, number: int, op: Operator, layer: Layer) -> None:
        source = next(source for source in self.symbol.inputs(number) if source in self.values)
        self.fork[number], self.layers[number] = source, []
        if layer is None:
            return
        node, variables = layer
        for name in variables.values():
            if name not in self.tensors:
                raise op.refuse(f"{name} is no array in the file")
            if name in self.used:
                raise op.refuse(f"shares {name} with {self.used[name]}; a plan has each array once")
            self.used[name] = op.name
        if isinstance(node, nodes.Linear) and self.values[source].axes > 2:
            self.layers[number].append(Step(f"{op.name}_flatten", nodes.Flatten()))
        self.layers[number].append(Step(op.name, node, variables))
        if op.then is not None:
            self.layers[number].append(Step(f"{op.name}_{op.then.kind}", op.then))

    def _join(self, number: int, op: Operator, sources: tuple[int, ...]) -> None:
        """Two branches join: find where they part."""
        one, other = sources
        while one != other:
            if self.depth[one] >= self.depth[other]:
                one = self.fork[one]
            else:
                other = self.fork[other]
        self.fork[number] = one
        first, second = (self.values[source] for source in sources)
        if op.op in PRODUCTS:
            if one not in sources or first is second:
                raise op.refuse("is the product of two branches; expected a tensor and a gate made of it")
            gated = self.values[one]
            gate = second if sources[0] == one else first
            if (gated.axes, gate.axes) != (4, 4) or gated.view != gate.view:
                raise op.refuse("is no gate with a value for each channel, (N, C, 1, 1)")
            op.value = replace(gated)
        elif first.axes != second.axes or first.view or second.view:
            raise op.refuse("is the sum of tensors of other shapes")
        self.layers[number] = []

    def _chain(self, number: int, stop: int, depth: int = 0) -> list[Step]:
        """Return the steps from the output of ``stop`` to that of a node."""
        if depth > DEEPEST:
            raise WeightsError(
                f"node {self.nodes[number].name!r}: more than {DEEPEST} branches are nested in each other"
            )
        steps: list[Step] = []
        while number != stop:
            node, fork = self.nodes[number], self.fork[number]
            if number in self.placed:
                raise WeightsError(f"node {node.name!r}: is a part of two branches, which do not join as a pair")
            self.placed.add(number)
            if len(self.sources[number]) == 2:
                one, other = self.sources[number]
                if node.op in PRODUCTS:
                    body = self._chain(other if one == fork else one, fork, depth + 1)
                    steps.append(Step(node.name, nodes.Gate(()), branches=(_as_gate(body),)))
                else:
                    branches = [self._chain(source, fork, depth + 1) for source in (one, other)]
                    if _size(branches[1]) > _size(branches[0]):
                        branches.reverse()
                    steps.append(Step(node.name, nodes.Add(), branches=(branches[0], branches[1])))
            else:
                steps += reversed(self.layers[number])
            number = fork
        return steps[::-1]


def _preprocessing(steps: list[Step]) -> list[str]:
    """Return a remark if the network prepares the images itself."""
    first = next((n for n, step in enumerate(steps) if isinstance(step.node, nodes.Conv)), 0)
    words = [f"{step.name}, {step.node}" for step in steps[:first] if isinstance(step.node, nodes.Scale)]
    words += [f"{step.name}, a batch norm" for step in steps[:first] if isinstance(step.node, nodes.Norm)]
    said = f"the network prepares its images itself: {'; '.join(words)}; show it what the exported one is shown"
    return [said] if words else []


def _size(steps: list[Step]) -> int:
    return len([*all_steps(steps)])


def _as_gate(steps: list[Step]) -> list[Step]:
    """Return a gate's steps with 1×1 convolutions in place of dense layers, which compute the same on 1×1 maps."""
    gate = []
    for step in steps:
        match step.node:
            case nodes.Flatten():
                continue
            case nodes.Linear(inner, out, bias):
                gate.append(replace(step, node=nodes.Conv(inner, out, 1, bias=bias)))
            case nodes.Norm(axes=2):
                gate.append(replace(step, node=replace(step.node, axes=4)))
            case _:
                gate.append(step)
    return gate


def _merged(steps: list[Step]) -> list[Step]:
    """Return steps with consecutive constant scales joined into one."""
    merged: list[Step] = []
    for step in steps:
        before = merged[-1].node if merged else None
        if isinstance(before, nodes.Scale) and isinstance(step.node, nodes.Scale):
            merged[-1] = replace(merged[-1], node=_product(before, step.node))
        else:
            merged.append(replace(step, branches=tuple(map(_merged, step.branches))))
    return merged


def _product(first: nodes.Scale, second: nodes.Scale) -> nodes.Scale:
    """Return one scale in place of two: ``((x - s) * k - t) * m`` is ``(x - (s + t / k)) * (k * m)``."""
    length = max(len(values) for one in (first, second) for values in (one.shift, one.scale))

    def wide(values: tuple[float, ...]) -> tuple[float, ...]:
        return values * (length // len(values))

    parts = [*map(wide, (first.shift, first.scale, second.shift, second.scale))]
    shift = tuple(s + (t / k if t else 0.0) for s, k, t, _ in zip(*parts, strict=True))
    return nodes.Scale(shift, tuple(k * m for _, k, _, m in zip(*parts, strict=True)))
