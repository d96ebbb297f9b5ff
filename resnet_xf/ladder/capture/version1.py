"""Captures of version 1, whose manifest had a field for each measurement and a name for each array."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def upgrade(old: Mapping[str, Any]) -> dict[str, Any]:
    """Return a manifest of version 1 as one of version 2. Its arrays stay in their files.

    Raises:
        LookupError, TypeError, AttributeError: if it is malformed.
    """
    fields = ["spec", "level", "seed", "backend", "backend_version", "device", "unbiased_variance", "environment"]
    fields += ["recipe", "precisions", "weights", "images"]
    return {field: old[field] for field in fields} | {"version": 2, "evidence": _evidence(old)}


def _evidence(old: Mapping[str, Any]) -> dict[str, Any]:
    """Return the measurements by their keys."""
    arrays: Mapping[str, str] = old["arrays"]

    def below(prefix: str) -> dict[str, str]:
        return {name.removeprefix(prefix): mark for name, mark in arrays.items() if name.startswith(prefix)}

    def steps(run: str) -> list[dict[str, Any]]:
        rates = enumerate(old.get("rates", {}).get(run, ()))
        return [
            {part: arrays[f"{run}/{number}/{part}"] for part in ("images", "targets")} | {"learning_rate": rate}
            for number, rate in rates
        ]

    evidence: dict[str, Any] = {
        "inputs": {
            "weights": below("weights/"),
            "images": arrays["images"],
            "probe": below("probe/") or None,
            "lockstep_run": steps("lessons"),
            "curve_start": below("start/") or None,
            "curve_run": steps("course"),
        },
        "trace": {"layers": old["layers"], "error": old.get("broken")},
        "gain": old["gain"],
        "repeated output": arrays["output/float32 again"],
    }
    for dtype in ("float32", "float64"):
        evidence |= {f"shapes/{dtype}": old["held"][dtype], f"digests/{dtype}": old["returned"][dtype]}
    for name, mark in below("output/").items():
        precision, _, weights = name.partition(" ")
        evidence[f"output/{precision}/{weights or 'given'}"] = mark
    evidence |= {f"gain/{layer}": gain for layer, gain in old.get("gains", {}).items()}
    renamed = {"own": "rounding", "sensitivity": "sensitivity", "curve": "curve", "trial": "accuracy"}
    evidence |= {key: old[field] for field, key in renamed.items() if old.get(field)}
    for dtype, loss in old.get("losses", {}).items():
        gradients, statistics = below(f"gradient/{dtype}/"), below(f"statistic/{dtype}/")
        evidence[f"step/{dtype}"] = {"loss": loss, "gradients": gradients, "statistics": statistics}
    states = old.get("lockstep", [])
    for number, step in enumerate(states, start=1):
        state = {"loss": step["loss"], "growth": step["gain"], "sketched": number < len(states)}
        evidence[f"lock-step/{number}"] = state | {"arrays": below(f"state/{number}/")}
    return evidence | _inside(below("passed/"))


def _inside(passed: Mapping[str, str]) -> dict[str, Any]:
    """Return the inputs and the output of each layer; of each container, those of the last layer inside it."""
    layers: dict[str, Any] = {}
    for name, mark in passed.items():
        layer, _, part = name.rpartition("/")
        layers.setdefault(layer, {})[part] = mark
    found = {
        layer: {"output": parts.pop("output"), "inputs": [parts[part] for part in sorted(parts)]}
        for layer, parts in layers.items()
    }
    for layer in layers:
        words = layer.split(".")
        containers = [".".join(words[:end]) for end in range(1, len(words))]
        found |= {container: found[layer] for container in containers if container not in layers}
    return {f"inside/float64/given/{layer}": one for layer, one in found.items()}
