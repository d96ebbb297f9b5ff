"""How many images a second reach a network's input: ours, torchvision's DataLoader and MXNet's ImageRecordIter.

All read the same JPEGs of 500×375 pixels, in a folder or in a ``.rec`` file, and give batches of random boxes, resized
to 224×224 and mirrored at random. They take turns, with one and with two threads or worker processes. Torchvision
antialiases, as ours does unless the row says "bilinear"; MXNet's resizing is bilinear.
``python benchmarks/data.py`` writes ``results/data.json`` and a table in ``docs/training.md``. ``--smoke`` tries it
and keeps nothing.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from common import DOCS, RESULTS, write_between, write_results
from PIL import Image
from sklearn.datasets import load_sample_images

from resnet_xf import get_backend, load_dataset
from resnet_xf.data import IMAGENET_MEAN, IMAGENET_STD, Batches, Interpolation, Transform
from resnet_xf.errors import ResNetXFError
from resnet_xf.support.environment import environment, hardware

WIDTH, HEIGHT, SIZE, BATCH, QUALITY = 500, 375, 224, 32, 90
THREADS = (1, 2)

Pass = Callable[[], int]
"""Read all images once; return their number."""


def main() -> None:
    """Measure, print a table and write the results."""
    multiprocessing.set_forkserver_preload(["torchvision.transforms.v2"])
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--images", type=int, default=384, help="number of JPEGs")
    parser.add_argument("--rounds", type=int, default=8, help="passes of each reader")
    parser.add_argument("--out", type=Path, default=RESULTS / "data.json", help="the file of the results")
    parser.add_argument("--readers", default="", help="only readers with this in their names, as '.rec'")
    parser.add_argument("--smoke", action="store_true", help="few images, one round, and keep nothing")
    options = parser.parse_args()
    images, rounds = (32, 1) if options.smoke else (options.images, options.rounds)
    with TemporaryDirectory() as folder:
        write_images(Path(folder), images)
        results = measure(Path(folder), options.readers, rounds)
    print(table(results))
    if not options.smoke:
        write_between(DOCS / "training.md", "data", f"\n{table(results)}\n\n")
        command = f"python benchmarks/data.py --images {images} --rounds {rounds}"
        machine = {"machine": hardware(), "environment": environment()}
        write_results(options.out, {"command": command, "images": images, "readers": results, **machine})


def write_images(folder: Path, count: int) -> None:
    """Write JPEGs, made of parts of scikit-learn's two photographs, into a folder for each class, and a ``.rec`` file.

    One image of each class is for testing: a data set of ours has a test half.
    """
    draw = np.random.default_rng(0)
    photographs = [Image.fromarray(pixels) for pixels in load_sample_images().images]
    for number in range(count + 2):
        name, photograph = ("china", "flower")[number % 2], photographs[number % 2]
        share = draw.uniform(0.5, 1)
        across, down = int(photograph.width * share), int(photograph.height * share)
        left, top = (int(draw.integers(0, room + 1)) for room in (photograph.width - across, photograph.height - down))
        path = folder / "images" / ("train" if number < count else "test") / name / f"{number:05}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        part = photograph.crop((left, top, left + across, top + down))
        part.resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC).save(path, quality=QUALITY)
    with suppress(ResNetXFError):
        get_backend("mxnet")
        for half in ("train", "test"):
            write_records(folder / half, sorted((folder / "images" / half).rglob("*.jpg")))


def write_records(path: Path, images: Sequence[Path]) -> None:
    """Write JPEGs into a ``.rec`` file with an index, by MXNet itself."""
    from resnet_xf_mxnet.numpy_compat import mx

    record = mx.recordio.MXIndexedRecordIO(f"{path}.idx", f"{path}.rec", "w")
    for number, image in enumerate(images):
        header = mx.recordio.IRHeader(0, float(image.parent.name == "flower"), number, 0)
        record.write_idx(number, mx.recordio.pack(header, image.read_bytes()))
    record.close()


def ours(name: str, interpolation: Interpolation, *, floats: bool) -> Callable[[int], Pass]:
    """Our batches: bytes for a GPU, or float32 tensors as on a CPU."""

    def start(threads: int) -> Pass:
        data = load_dataset(name)
        normal = {"mean": IMAGENET_MEAN, "std": IMAGENET_STD, "interpolation": interpolation}
        transform = Transform((SIZE, SIZE), 3, "random_resized", True, **normal)
        epochs = iter(range(10**6))

        def read() -> int:
            batches = Batches(data.train, transform, BATCH, seed=0, epoch=next(epochs), threads=threads)
            return sum(len(batch.images if floats else batch.pixels.store) for batch in batches)

        return read

    return start


def read_tensor(path: str) -> Any:
    """Decode a JPEG as a tensor; a function by name, which worker processes can be given."""
    from torchvision.io import decode_jpeg, read_file  # type: ignore[import-untyped]

    return decode_jpeg(read_file(path))


def torchvisions(folder: Path, *, tensors: bool, floats: bool) -> Callable[[int], Pass]:
    """Torchvision's ImageFolder and PyTorch's DataLoader, with Pillow's images or with tensors from the beginning."""

    def start(threads: int) -> Pass:
        import torch
        from torchvision.datasets import ImageFolder  # type: ignore[import-untyped]
        from torchvision.transforms import v2  # type: ignore[import-untyped]

        steps = [v2.RandomResizedCrop(SIZE, antialias=True), v2.RandomHorizontalFlip(), v2.ToImage()]
        if floats:
            steps += [v2.ToDtype(torch.float32, scale=True), v2.Normalize(IMAGENET_MEAN, IMAGENET_STD)]
        reader = {"loader": read_tensor} if tensors else {}
        images = ImageFolder(str(folder / "images" / "train"), v2.Compose(steps), **reader)
        settings = {"num_workers": threads, "persistent_workers": True, "multiprocessing_context": "forkserver"}
        loader = torch.utils.data.DataLoader(images, BATCH, shuffle=True, **settings)  # type: ignore[arg-type]
        return lambda: sum(len(batch) for batch, _ in loader)

    return start


def mxnets(path: Path, *, floats: bool) -> Callable[[int], Pass]:
    """MXNet's ImageRecordIter, with one batch in memory ahead as it has by default."""
    from resnet_xf_mxnet.numpy_compat import mx

    def start(threads: int) -> Pass:
        mean = {f"mean_{c}": 255 * value for c, value in zip("rgb", IMAGENET_MEAN, strict=True)}
        std = {f"std_{c}": 255 * value for c, value in zip("rgb", IMAGENET_STD, strict=True)}
        batches = (mx.io.ImageRecordIter if floats else mx.io.ImageRecordUInt8Iter)(
            path_imgrec=str(path),
            path_imgidx=str(path.with_suffix(".idx")),
            data_shape=(3, SIZE, SIZE),
            batch_size=BATCH,
            shuffle=True,
            rand_mirror=True,
            random_resized_crop=True,
            min_random_area=0.08,
            max_random_area=1.0,
            min_aspect_ratio=3 / 4,
            max_aspect_ratio=4 / 3,
            preprocess_threads=threads,
            **((mean | std) if floats else {}),
        )

        def read() -> int:
            batches.reset()
            count = 0
            for batch in batches:
                batch.data[0].wait_to_read()
                count += len(batch.data[0]) - batch.pad
            return count

        return read

    return start


def readers(folder: Path) -> Iterator[tuple[str, Callable[[int], Pass]]]:
    """All readers by name, of those libraries that are installed."""
    for floats, kind in ((False, "bytes"), (True, "float32")):
        images, records = f"folder:{folder / 'images'}", f"recordio:{folder / 'train.rec'}"
        yield f"ours, folder, {kind}", ours(images, "antialias", floats=floats)
        if find_spec("cv2"):
            yield f"ours, bilinear, folder, {kind}", ours(images, "bilinear", floats=floats)
        if find_spec("torchvision"):
            yield f"torchvision, tensors, {kind}", torchvisions(folder, tensors=True, floats=floats)
            if floats:
                yield "torchvision, Pillow, float32", torchvisions(folder, tensors=False, floats=True)
        if (folder / "train.rec").exists():
            yield f"ours, .rec, {kind}", ours(records, "antialias", floats=floats)
            if find_spec("cv2"):
                yield f"ours, bilinear, .rec, {kind}", ours(records, "bilinear", floats=floats)
            yield f"MXNet's ImageRecordIter, .rec, {kind}", mxnets(folder / "train.rec", floats=floats)


def measure(folder: Path, word: str, rounds: int) -> list[dict[str, Any]]:
    """Let the readers whose names have a word take turns; the first round is not counted.

    Processor seconds count this process and its worker processes: they change less on a busy machine.
    """
    chosen = [(name, start) for name, start in readers(folder) if word in name]
    passes = {(name, threads): start(threads) for name, start in chosen for threads in THREADS}
    rates: dict[tuple[str, int], list[float]] = {key: [] for key in passes}
    costs: dict[tuple[str, int], list[float]] = {key: [] for key in passes}
    for _ in range(rounds + 1):
        for key, read in passes.items():
            start, used = time.perf_counter(), processor_seconds()
            count = read()
            rates[key].append(count / (time.perf_counter() - start))
            costs[key].append(1e3 * (processor_seconds() - used) / count)
    return [
        {
            "reader": name,
            "threads": threads,
            "images per second": round(statistics.median(rates[name, threads][1:]), 1),
            "processor ms per image": round(statistics.median(costs[name, threads][1:]), 3),
            "rounds": [round(rate, 1) for rate in rates[name, threads][1:]],
        }
        for name, threads in passes
    ]


def processor_seconds() -> float:
    """The processor time of this process and its living child processes."""
    ticks, total = os.sysconf("SC_CLK_TCK"), time.process_time()
    for child in multiprocessing.active_children():
        fields = Path(f"/proc/{child.pid}/stat").read_text().rpartition(")")[2].split()
        total += (int(fields[11]) + int(fields[12])) / ticks
    return total


def table(results: list[dict[str, Any]]) -> str:
    """Markdown: a line for each reader."""
    lines = ["| | 1 thread, images/s | 2 threads | processor ms per image |", "| --- | --- | --- | --- |"]
    for name in dict.fromkeys(row["reader"] for row in results):
        one, two = (row for row in results if row["reader"] == name)
        cost = min(one["processor ms per image"], two["processor ms per image"])
        lines.append(f"| {name} | {one['images per second']:.0f} | {two['images per second']:.0f} | {cost:.2f} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
