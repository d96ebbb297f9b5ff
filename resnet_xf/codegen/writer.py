"""Writes a network as one Python file: a class for each kind of block, and one for the network."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import groupby
from keyword import iskeyword
from textwrap import indent

from resnet_xf.architecture import nodes
from resnet_xf.architecture.nodes import Children, Container, Node, Residual
from resnet_xf.architecture.plan import Plan, plan
from resnet_xf.architecture.spec import Spec
from resnet_xf.architecture.trace import totals
from resnet_xf.backend.contract import Backend, WritesSource, require
from resnet_xf.backend.dialect import Dialect
from resnet_xf.backend.registry import get_backend
from resnet_xf.codegen.layout import lines
from resnet_xf.codegen.template import Option, Template, templates
from resnet_xf.support.version import __version__

STARTS_A_LINE = nodes.Conv | nodes.Linear | nodes.Pool | nodes.GlobalPool | Container
"""Layers that begin a new line in ``forward``; norms and activations stay with the layer before them."""


def source(network: Plan | Spec | str, backend: str | Backend | None = None) -> str:
    """A network as the text of one Python file, which needs the backend's framework alone.

    The file's class ``ResNet`` has the layers, names and shapes of what :func:`resnet_xf.build` returns, so the same
    ``state_dict`` fits. Its first weights are drawn by the framework.

    Args:
        network: a plan, a spec, the name of one, or the path of its file.
        backend: as :func:`resnet_xf.get_backend` chooses it.

    Raises:
        BackendError: if the backend cannot write source.
        SpecError: if there is no such network.
    """
    return _Writer(plan(network), require(get_backend(backend), WritesSource).dialect).text()


class _Writer:
    """Writes one network."""

    def __init__(self, planned: Plan, dialect: Dialect) -> None:
        self.plan, self.dialect = planned, dialect
        self.templates = templates(planned.root)

    def text(self) -> str:
        """The whole file."""
        classes = ["\n".join(self.block(template)) for template in self.templates]
        classes.append("\n".join(self.network()))
        code = "\n\n\n".join(classes)
        helpers: list[str] = []
        for name, helper in reversed([*self.dialect.helpers.items()]):  # a helper may need those before it
            if _has(name, "\n".join([code, *helpers])):
                helpers.insert(0, helper.strip())
        code = "\n\n\n".join([*helpers, code])
        groups = ([line for word, line in group.items() if _has(word, code)] for group in self.dialect.imports)
        imports = "\n\n".join("\n".join(group) for group in groups if group)
        return f"{self.docstring()}\n\n{imports}\n\n\n{code}\n"

    def docstring(self) -> str:
        """What the file is, and how to load weights."""
        spec = self.plan.spec
        sizes = ", ".join(map(str, ("N", spec.in_channels, *spec.image_size)))
        parameters, _ = totals(self.plan.root, (1, spec.in_channels, *spec.image_size))
        return (
            f'"""{self.plan.spec.name} for {self.dialect.title}: {parameters:,} parameters.\n\n'
            f"Images ({sizes}) become outputs (N, {self.plan.outputs}). Written by resnet_xf {__version__}.\n\n"
            f"{indent(self.dialect.load, '    ')}\n"
            '"""'
        )

    # Classes

    def network(self) -> Iterator[str]:
        """The lines of the network's class."""
        yield from self.module("ResNet", "", f"The network {self.plan.spec.name}.", self.plan.root)

    def block(self, template: Template) -> Iterator[str]:
        """The lines of a block's class."""
        root = template.root
        convs = [node for _, node in root.body if isinstance(node, nodes.Conv)]
        sizes = ", ".join(f"{conv.kernel}×{conv.kernel}" for conv in convs)
        order = ", each after its norm," if root.pre else ""
        title = f"Convolutions of {sizes}{order} and a shortcut around them." if sizes else "A shortcut around layers."
        yield from self.module(template.name, template.signature(), title, root)

    def module(self, name: str, parameters: str, title: str, root: Container) -> Iterator[str]:
        """The lines of a class that holds a container's children and runs them."""
        yield f"class {name}({self.dialect.module}):"
        yield f'    """{title}"""'
        yield ""
        yield from lines(f"def __init__({', '.join(filter(None, ('self', parameters)))})", 4, ":")
        yield "        super().__init__()"
        for child, node in root.named_children():
            if not isinstance(node, nodes.Add):
                yield from self.attribute(child, node)
        yield ""
        yield f"    def {self.dialect.forward}:"
        for line in _Forward(root).statements:
            yield from lines(line, 8)

    def attribute(self, name: str, node: Node) -> Iterator[str]:
        """The lines that make a child of a module."""
        target = f"self.{name} = {{}}" if _is_name(name) else f'setattr(self, "{name}", {{}})'
        if not isinstance(node, Option):
            yield from lines(target.format(self.expression(node)), 8)
            return
        present = self.expression(node.node)
        if name == "downsample":
            yield from lines(target.format("None"), 8)
        yield f"        if {node.when}:"
        yield from lines(target.format(present), 12)
        if name != "downsample":
            yield "        else:"
            yield from lines(target.format(self.dialect.identity), 12)

    # Expressions

    def expression(self, node: Node) -> str:
        """The expression that makes a layer or a container."""
        match node:
            case Residual():
                return next(one for one in self.templates if node in one.blocks).call(node)
            case Option(inner, when):
                return f"{self.expression(inner)} if {when} else {self.dialect.identity}"
            case nodes.Gate(children):
                return self.dialect.gate.format(self.named(children))
            case nodes.Sequential(children):
                if [name for name, _ in children] == [*map(str, range(len(children)))]:
                    return f"{self.dialect.sequence}({', '.join(self.repeated(children))})"
                return self.dialect.named_sequence.format(self.named(children))
        return self.dialect.layer(node)

    def named(self, children: Children) -> str:
        """The expressions of children as keywords."""
        pairs = [(name, self.expression(node)) for name, node in children]
        if all(_is_name(name) for name, _ in pairs):
            return ", ".join(f"{name}={expression}" for name, expression in pairs)
        return "**{" + ", ".join(f'"{name}": {expression}' for name, expression in pairs) + "}"

    def repeated(self, children: Children) -> Iterator[str]:
        """The expressions of children; equal blocks one after another come from a loop."""
        for expression, run in groupby(children, lambda child: self.expression(child[1])):
            blocks = [*run]
            if len(blocks) > 1 and isinstance(blocks[0][1], Residual):
                yield f"*({expression} for _ in range({len(blocks)}))"
            else:
                yield from [expression] * len(blocks)


class _Forward:
    """The statements of a method that computes a container, as the container's own ``flow`` says."""

    def __init__(self, root: Container) -> None:
        self.root = root
        self.statements: list[str] = []
        output = root.flow(self.run, lambda x, gate: f"{x} * {gate}", "x")
        last = self.statements.pop().removeprefix(f"{output} = ") if self.statements else output
        self.statements.append(f"return {last}")

    def run(self, children: Children, *inputs: str) -> str:
        """Write the statements that run children; return the variable that holds their output."""
        if not children:
            return inputs[0]
        variable = "x"
        if isinstance(self.root, Residual):
            named = {self.root.pre: "before", self.root.downsample: "shortcut"}
            variable = named.get(children, "y")
        value = ""
        for name, node in children:
            if isinstance(node, nodes.Add):
                value = " + ".join(inputs)
                continue
            if value and isinstance(node, STARTS_A_LINE):
                self.statements.append(f"{variable} = {value}")
                value = ""
            called = f"self.{name}" if _is_name(name) else f'getattr(self, "{name}")'
            value = f"{called}({value or (inputs[0] if node is children[0][1] else variable)})"
            if isinstance(node, Option) and name == "downsample":
                value = f"x if self.downsample is None else {value}"
        self.statements.append(f"{variable} = {value}")
        return variable


def _has(word: str, code: str) -> bool:
    return re.search(rf"\b{word}\b", code) is not None


def _is_name(text: str) -> bool:
    return text.isidentifier() and not iskeyword(text)
