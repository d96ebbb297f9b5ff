import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from resnet_xf import draw_weights, get_spec, save_weights
from resnet_xf.data import load_dataset
from resnet_xf.support.files import list_checkpoints
from resnet_xf.training.checkpoint import EpochRecord, load_checkpoint

TINY = """
name = "tiny"
in_channels = 1
num_classes = 10
image_size = [16, 16]
stages = [{depth = 1, channels = 8}, {depth = 1, channels = 16, stride = 2}]
stem = {kind = "conv3", width = 8, stride = 1, pool = false}
"""
FAST = ("--device", "cpu", "--image-size", "16", "--epochs", "2", "--batch-size", "256")
BACKENDS = ["torch", "mxnet"]
USED = (
    "images: 16×16 pixels, crop resize, grey, values 0…1, mean 0, std 1 (the checkpoint's)\n"
    "classes: 10: 0, 1, 2, 3, 4, 5, 6, 7, 8, 9 (the checkpoint's)"
)

EPOCH = (
    r"epoch (\d)/2: train loss \d\.\d{4} accuracy \d+\.\d\d%, test loss \d\.\d{4} accuracy \d+\.\d\d%, [\d,]+ images/s"
)


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch) -> Path:
    """The current folder: it holds the spec, and the runs that are made."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.toml").write_text(TINY)
    return tmp_path


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """A finished run, begun by the command in a process of its own; not to be changed."""
    root = tmp_path_factory.mktemp("finished")
    (root / "tiny.toml").write_text(TINY)
    command = [sys.executable, "-W", "error", "-m", "resnet_xf", "train", "tiny.toml", "--out", "run", *FAST]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    return root / "run"


@pytest.fixture
def run(finished, folder) -> Path:
    """A copy of the finished run."""
    shutil.copytree(finished, folder / "run")
    return Path("run")


@pytest.fixture
def images(folder) -> list[str]:
    """Two test images of the digits."""
    test = load_dataset("digits").test
    for number in range(2):
        test.image(number, 1).save(f"{number}.png")
    return ["0.png", "1.png"]


def one_line(code: int, out: str, err: str) -> str:
    """What bad use is told: one line on stderr, and exit code 2."""
    assert code == 2
    assert all(line.startswith("tiny on ") for line in out.splitlines())  # what was begun, if it came to that
    assert err.startswith("resnet-xf: ")
    assert err.count("\n") == 1
    assert "Traceback" not in err
    return err


@pytest.mark.parametrize("backend", BACKENDS)
def test_train_tells_every_epoch_and_the_run(command, backend: str) -> None:
    code, out, err = command("train", "tiny.toml", "--backend", backend, "--out", "mine", *FAST)
    assert (code, err) == (0, "")
    opening, *lines = out.splitlines()
    assert opening.startswith("tiny on digits: 1,438 training images of 10 classes, ")
    assert opening.endswith(f"; {backend}; recipe digits, 2 epochs of 6 steps; the run is mine")
    assert [re.fullmatch(EPOCH, line)[1] for line in lines[:-1]] == ["1", "2"]
    assert re.fullmatch(r"done: test accuracy \d+\.\d\d% after epoch 2; the run is mine", lines[-1])
    header = load_checkpoint("mine").header
    assert f"test accuracy {header.history[-1].test_accuracy:.2%} after" in lines[-1]
    assert [record.backend for record in header.history] == [backend] * 2
    assert [path.name for path in list_checkpoints("mine")] == [f"step-{n:08d}.safetensors" for n in (0, 6, 12)]


def test_train_as_json_is_a_line_an_epoch_as_in_the_metrics(command) -> None:
    code, out, err = command("train", "tiny.toml", "--out", "mine", "--json", *FAST)
    assert (code, err) == (0, "")
    assert out == Path("mine/metrics.jsonl").read_text()
    lines = [json.loads(line) for line in out.splitlines()]
    assert [line["epoch"] for line in lines] == [1, 2]
    assert all(set(line) == set(EpochRecord.__struct_fields__) for line in lines)


def test_train_writes_a_new_folder_under_runs_where_none_is_named(command) -> None:
    for name in ("tiny-digits-torch", "tiny-digits-torch-2"):
        code, out, _ = command("train", "tiny.toml", *FAST, "--epochs", "1")
        assert code == 0
        assert out.endswith(f"the run is runs/{name}\n")
        assert len(load_checkpoint(f"runs/{name}").header.history) == 1


def test_options_stand_in_place_of_the_recipes_fields(command) -> None:
    options = ("--lr", "0.02", "--seed", "7", "--precision", "float64", "--keep", "1", "--recipe", "digits")
    code, _, _ = command("train", "tiny.toml", "--out", "mine", *FAST, *options, "--num-classes", "12")
    assert code == 0
    found = load_checkpoint("mine")
    recipe = found.header.recipe
    assert (recipe.name, recipe.epochs, recipe.batch_size, recipe.image_size) == ("digits", 2, 256, (16, 16))
    assert (recipe.optimizer.learning_rate, recipe.seed, recipe.precision) == (0.02, 7, "float64")
    assert (recipe.optimizer.momentum, recipe.schedule.kind) == (0.9, "cosine")
    assert found.spec.num_classes == 12
    assert found.weights["fc.weight"].dtype == np.float64
    assert len(list_checkpoints("mine")) == 1


def test_a_recipe_of_ones_own_is_read_from_its_file(command) -> None:
    Path("mine.toml").write_text(
        'name = "mine"\nepochs = 1\nbatch_size = 512\nimage_size = [16, 16]\n[optimizer]\nlearning_rate = 0.1\n'
    )
    assert command("train", "tiny.toml", "--out", "mine", "--recipe", "mine.toml", "--device", "cpu")[0] == 0
    header = load_checkpoint("mine").header
    assert (header.recipe.name, header.step) == ("mine", 3)
    assert header.mean[0] == pytest.approx(load_dataset("digits").train.images.mean() / 255)


def test_training_begins_from_weights_of_any_format(command) -> None:
    spec = get_spec("tiny.toml")
    save_weights("w.safetensors", draw_weights(spec, seed=5, scheme="probe"), spec)
    assert command("convert", "w.safetensors", "w.pth")[0] == 0
    for source in ("w.safetensors", "w.pth"):
        out = f"from-{source}"
        assert command("train", "tiny.toml", "--out", out, "--weights", source, *FAST)[0] == 0
        first = load_checkpoint(list_checkpoints(out)[0]).weights
        assert np.array_equal(first["fc.weight"], draw_weights(spec, seed=5, scheme="probe")["fc.weight"])
    save_weights("d.safetensors", draw_weights("d2l_resnet18"), get_spec("d2l_resnet18"))
    says = one_line(*command("train", "tiny.toml", "--weights", "d.safetensors", *FAST))
    assert "d.safetensors: does not hold the weights of tiny: " in says


def test_initial_weights_of_other_classes_need_a_new_head(command, run, pictures) -> None:
    assert command("convert", run, "out.pth")[0] == 0
    for source in (run, "out.pth"):
        says = one_line(*command("train", "tiny.toml", "--weights", source, "--dataset", pictures, *FAST))
        assert f"{source}: its output 0 is the class 0, and class 0 of folder:" in says
        assert says.rstrip().endswith(" is a; draw a new last layer (--new-head)")


@pytest.mark.parametrize("backend", BACKENDS)
def test_evaluate_gives_the_last_epochs_accuracy(command, run, backend: str) -> None:
    last = load_checkpoint(run).header.history[-1]
    code, out, err = command("evaluate", run, "--backend", backend, "--device", "cpu")
    assert (code, err) == (0, "")
    assert out.startswith(
        f"tiny on digits, 359 test images of 16×16 pixels, {backend} on cpu\n{USED}\naccuracy {last.test_accuracy:.2%}, loss "
    )
    code, out, _ = command("evaluate", run, "--backend", backend, "--device", "cpu", "--json", "--batch-size", "100")
    found = json.loads(out)
    assert code == 0
    assert found["accuracy"] == pytest.approx(last.test_accuracy)
    assert found["loss"] == pytest.approx(last.test_loss, rel=1e-5)
    assert (found["network"], found["dataset"], found["images"], found["backend"]) == ("tiny", "digits", 359, backend)


def test_evaluate_takes_weights_that_are_no_runs(command) -> None:
    spec = get_spec("tiny.toml")
    save_weights("w.safetensors", draw_weights(spec), spec)
    options = ("--dataset", "digits", "--recipe", "digits", "--device", "cpu", "--json")
    code, out, _ = command("evaluate", "w.safetensors", *options)
    assert code == 0
    wanted = json.loads(out)["loss"]
    assert command("convert", "w.safetensors", "w.params")[0] == 0
    found = json.loads(command("evaluate", "w.params", "--spec", "tiny.toml", *options)[1])
    assert found["loss"] == pytest.approx(wanted, rel=1e-6)
    assert "--dataset" in one_line(*command("evaluate", "w.safetensors"))


def test_names_and_preprocessing_are_options(command, images) -> None:
    spec = get_spec("tiny.toml")
    save_weights("w.safetensors", draw_weights(spec), spec)
    Path("names.txt").write_text("".join(f"digit {number}\n" for number in range(10)))
    options = ("--run", "w.safetensors", "--device", "cpu", "--image-size", "8x12", "--mean", "0.25", "--std", "0.5")
    code, out, _ = command("predict", "0.png", *options, "--classes", "names.txt", "--top", "1")
    assert code == 0
    assert out.startswith("images: 8×12 pixels, crop centre, grey, values 0…1, mean 0.25, std 0.5 (image_size, mean, ")
    assert "std given; otherwise assumed: recipe imagenet; the checkpoint does not tell)\nclasses: 10: digit 0, " in out
    code, out, _ = command("predict", "0.png", *options)
    assert (code, "classes: unknown; shown by their numbers from 0\n" in out) == (0, True)
    says = one_line(*command("predict", "0.png", *options, "--classes", "a, b"))
    assert "classes: expected a name for each of the 10 classes of tiny, got 2 (a, …)" in says
    long = ",".join(f"class {number} with a name of {'many' * 10} letters" for number in range(10))
    assert command("predict", "0.png", *options, "--classes", f"{long},")[0] == 0
    says = one_line(*command("predict", "0.png", *options, "--classes", "none.txt"))
    assert says == "resnet-xf: none.txt: No such file or directory\n"
    code, _, err = command("predict", "0.png", "--run", "w.safetensors", "--mean", "0.1;2", "--std", "1")
    assert (code, "'0.1;2' is no number, nor several by comma; write 0.5" in err) == (2, True)


@pytest.mark.parametrize("text, says", [("\n", "it is empty"), ("\ufeff\n \n", "names no class")])
def test_a_file_that_names_no_class_is_refused(command, run, images, text: str, says: str) -> None:
    Path("names.txt").write_text(text, "utf-8")
    for words in (("predict", *images, "--run", run), ("evaluate", run)):
        message = one_line(*command(*words, "--classes", "names.txt"))
        assert message.startswith("resnet-xf: names.txt: ")
        assert says in message


@pytest.mark.parametrize("backend", BACKENDS)
def test_predict_tells_the_likeliest_classes(command, run, images, backend: str) -> None:
    options = ("--run", run, "--backend", backend, "--device", "cpu", "--top", "3")
    code, out, err = command("predict", *images, *options, "--json")
    assert (code, err) == (0, "")
    found = json.loads(out)
    assert [one["image"] for one in found] == images
    view = found[0]["preprocessing"]
    assert (view["image_size"], view["crop"], view["mean"], view["scale"]) == ([16, 16], "resize", [0.0], 1)
    assert found[0]["preprocessing_from"] == "the checkpoint's"
    for one in found:
        assert [set(guess) for guess in one["top"]] == [{"label", "name", "probability"}] * 3
        chances = [guess["probability"] for guess in one["top"]]
        assert chances == sorted(chances, reverse=True)
        assert sum(chances) <= 1
    code, out, _ = command("predict", *images, *options)
    assert code == 0
    assert out.startswith(f"{USED}\n")
    lines = [line.split() for line in out.removeprefix(f"{USED}\n").splitlines()]
    assert lines[0] == ["image", "class", "probability"]
    best = found[0]["top"][0]
    assert lines[1] == ["0.png", best["name"], f"{best['probability']:.2%}"]
    assert len(lines) == 1 + 2 * 3


def test_an_existing_run_is_refused_and_left_alone(command, run) -> None:
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    says = one_line(*command("train", "tiny.toml", "--out", run, *FAST))
    assert "run: holds a run already; go on with it by --resume" in says
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_finished_run_is_done(command, run, backend: str) -> None:
    weights = list_checkpoints(run)[-1].read_bytes()
    accuracy = load_checkpoint(run).header.history[-1].test_accuracy
    code, out, err = command("train", "--resume", run, "--device", "cpu", "--backend", backend)
    assert (code, err) == (0, "")
    assert out == f"done: test accuracy {accuracy:.2%} after epoch 2; the run is run\n"
    assert list_checkpoints(run)[-1].read_bytes() == weights


def test_a_run_goes_on_from_an_earlier_checkpoint(command, run) -> None:
    whole = load_checkpoint(run)
    list_checkpoints(run)[-1].unlink()
    code, out, _ = command("train", "tiny.toml", "--resume", run, "--device", "cpu")
    assert code == 0
    assert [line.split(":")[0] for line in out.splitlines()] == ["tiny on digits", "epoch 2/2", "done"]
    again = load_checkpoint(run)
    assert all(np.array_equal(again.weights[name], whole.weights[name]) for name in whole.weights)
    assert len(Path("run/metrics.jsonl").read_text().splitlines()) == 2


@pytest.mark.parametrize("options", [("--prefix", "p"), ("--new-head",)])
def test_what_is_taken_of_weights_needs_weights(command, tmp_path, options) -> None:
    says = one_line(*command("train", "--out", tmp_path / "run", *options))
    assert says == "resnet-xf: --prefix and --new-head say what is taken of a checkpoint; name it with --weights\n"


@pytest.mark.parametrize(
    "options",
    [
        ("--limit", "9"),
        ("--batch-size", "8"),
        ("--lr", "0.5"),
        ("--lr", "0"),
        ("--seed", "0"),
        ("--precision", "float64"),
        ("--image-size", "16"),
        ("--recipe", "d2l"),
        ("--out", "elsewhere"),
        ("--weights", "w.pth"),
        ("--prefix", "p"),
        ("--in-channels", "1"),
        ("--in-channels", "0"),
        ("--num-classes", "0"),
    ],
)
def test_a_run_goes_on_as_it_began(command, run, options) -> None:
    says = one_line(*command("train", "--resume", run, "--device", "cpu", *options))
    assert "run: a run resumes with its own settings; with --resume give only --backend" in says


def test_a_run_trains_longer_and_says_what_changes(command, run) -> None:
    code, out, err = command("train", "--resume", run, "--device", "cpu", "--epochs", "3")
    assert (code, err) == (0, "")
    first, _, epoch, done = out.splitlines()
    # Half a cosine from step 3, the end of the warm-up, to step 18: step 13 is two thirds of the way.
    assert first == ("epochs: 2 → 3; schedule cosine: the learning rate of step 13 is 0.0173, and the run was finished")
    assert epoch.startswith("epoch 3/3: ")
    assert done.endswith("after epoch 3; the run is run")
    assert load_checkpoint(run).header.recipe.epochs == 3
    says = one_line(*command("train", "--resume", run, "--device", "cpu", "--epochs", "2"))
    assert "run: epochs: it is in epoch 3 already; expected 3 or more, got 2" in says


def test_files_given_to_resume_are_told_weights(command, folder) -> None:
    for name, says in (
        ("net.params", "net.params: no such folder; expected the folder of a run; to begin a run from the weights in this "
         "file: --weights net.params"),
        ("net.states", "net.states: no such folder; expected the folder of a run; a .states file holds an optimizer as a "
         "pickle, which is not read; begin a run from the weights that were saved with it: --weights net.params"),
    ):  # fmt: skip
        Path(name).write_bytes(b"text")
        assert says in one_line(*command("train", "--resume", name))
    says = one_line(*command("train", "tiny.toml", "--weights", "net.states"))
    assert "net.states: a .states file holds an optimizer as a pickle, which is not read; begin a run from the " in says


def test_a_limit_is_kept_in_the_run(command, folder) -> None:
    code, out, _ = command("train", "tiny.toml", *FAST, "--limit", "300", "--out", "run")
    assert code == 0
    assert "tiny on digits: 300 training images of 10 classes, " in out
    assert load_checkpoint("run").header.limit == 300
    list_checkpoints("run")[-1].unlink()
    code, out, _ = command("train", "--resume", "run", "--device", "cpu")
    assert code == 0
    assert "300 training images" in out
    assert "limit: expected 1 training image or more, got 0" in one_line(*command("train", *FAST, "--limit", "0"))


def test_another_network_is_refused_naming_both(command, run) -> None:
    says = one_line(*command("train", "resnet18", "--resume", run, "--device", "cpu"))
    assert "run: is a run of tiny, and resnet18 was asked for; they differ in name, " in says
    Path("tiny.toml").write_text(TINY.replace("channels = 8", "channels = 4"))
    says = one_line(*command("train", "tiny.toml", "--resume", run, "--device", "cpu"))
    assert "is a run of tiny, and tiny was asked for; they differ in stages" in says


@pytest.fixture
def pictures(folder) -> str:
    """A data set of one's own: two classes of three pictures in colour."""
    for name in ("a", "b"):
        (folder / "pictures" / name).mkdir(parents=True)
        for number in range(3):
            Image.new("RGB", (9, 9), (80 * number, 0, 0)).save(folder / "pictures" / name / f"{number}.png")
    return "folder:pictures"


def test_other_classes_are_refused(command, run, pictures) -> None:
    says = one_line(*command("train", "--resume", run, "--dataset", pictures))
    assert f"folder:{Path('pictures').resolve()}: has other classes than digits, which the run was begun on" in says
    says = one_line(*command("evaluate", run, "--dataset", pictures))
    assert "pictures: has the class a, and tiny has no class of this name (0, 1, 2, " in says


@pytest.mark.parametrize("recipe", [(), ("--recipe", "d2l"), ("--recipe", "cifar")])
def test_a_network_for_other_channels_is_refused(command, pictures, recipe) -> None:
    says = one_line(*command("train", "tiny.toml", "--dataset", pictures, *FAST, *recipe))
    assert "its images have 3 channels and tiny takes 1; change the spec's in_channels (--in-channels 3)" in says


def test_ones_own_pictures_are_learnt(command, pictures) -> None:
    options = ("--in-channels", "3", "--num-classes", "2", "--batch-size", "4")
    code, out, _ = command("train", "tiny.toml", "--dataset", pictures, *FAST, *options)
    assert code == 0
    assert out.endswith("the run is runs/tiny-folder-torch\n")
    header = load_checkpoint("runs/tiny-folder-torch").header
    assert (header.recipe.name, header.dataset, header.classes) == (
        "small",
        f"folder:{Path('pictures').resolve()}",
        ("a", "b"),
    )
    assert command("evaluate", "runs/tiny-folder-torch", "--device", "cpu")[0] == 0
    code, out, _ = command("predict", "pictures/a/0.png", "--run", "runs/tiny-folder-torch", "--json")
    assert code == 0
    assert {guess["name"] for guess in json.loads(out)[0]["top"]} == {"a", "b"}


def test_labels_beyond_the_classes_are_refused(command) -> None:
    says = one_line(*command("train", "tiny.toml", "--num-classes", "9", *FAST))
    assert (
        "digits: its labels go up to 9 and tiny has 9 classes; change the spec's num_classes (--num-classes 10)" in says
    )


@pytest.mark.parametrize(
    "options, says",
    [
        (("--epochs", "0"), "recipe digits as changed by the options: $.epochs: "),
        (("--batch-size", "0"), "recipe digits as changed by the options: $.batch_size: "),
        (("--lr", "0"), "$.optimizer.learning_rate: "),
        (("--lr=-1",), "$.optimizer.learning_rate: "),
        (("--lr", "nan"), "$.optimizer.learning_rate: "),
        (("--lr", "inf"), "$.optimizer.learning_rate: "),
        (("--seed=-1",), "$.seed: "),
        (("--precision", "int8"), "$.precision: invalid enum value 'int8'; expected one of bfloat16, float16, float32"),
        (("--in-channels", "0"), "$.in_channels: "),
        (("--num-classes", "0"), "its labels go up to 9 and tiny has 0 classes; change the spec's num_classes"),
        (("--num-classes", "-1"), "$.num_classes: "),
        (("--dataset", "nope"), "no data set is called 'nope'; choose one of digits, "),
        (("--dataset", "folder:none"), "none: no such folder"),
        (("--recipe", "nope"), "no recipe is called 'nope'; choose one of digits, d2l, cifar, imagenet"),
        (("--recipe", "none.toml"), "none.toml: No such file"),
        (("--recipe", "tiny.toml"), "tiny.toml: $: object "),
        (("--backend", "nope"), "no backend is called 'nope'; choose one of torch, mxnet"),
        (("--device", "nope"), "no device is called 'nope'; choose auto, cpu, cuda or cuda:1"),
        (("--device", "nope", "--backend", "mxnet"), "no device is called 'nope'; choose auto, cpu, cuda or cuda:1"),
        (("--weights", "none.pth"), "none.pth: No such file"),
    ],
)
def test_bad_values_are_one_line(command, folder, options, says: str) -> None:
    recipe = () if "--recipe" in options else ("--recipe", "digits")
    assert says in one_line(*command("train", "tiny.toml", *FAST, *recipe, *options))
    assert [path.name for path in folder.iterdir()] == ["tiny.toml"]


@pytest.mark.parametrize(
    "arguments",
    [
        ("train", "--workers", "0"),
        ("train", "--keep", "0"),
        ("train", "--epochs", "many"),
        ("train", "--image-size", "0"),
        ("train", "--image-size", "big"),
        ("train", "--timeout", "0"),
        ("train", "--frobnicate"),
        ("evaluate",),
        ("evaluate", "run", "--batch-size", "0"),
        ("predict", "--run", "run"),
        ("predict", "a.png"),
        ("predict", "a.png", "--run", "run", "--top", "0"),
    ],
)
def test_bad_arguments_exit_with_two_and_no_traceback(command, arguments) -> None:
    code, out, err = command(*arguments)
    assert (code, out) == (2, "")
    assert "Traceback" not in err
    assert "Usage" in err
    assert "Error: " in err


@pytest.mark.parametrize(
    "arguments, says",
    [
        (("evaluate", "none"), "none: No such file"),
        (("evaluate", "."), ".: Is a directory, and not the folder of a training run"),
        (("evaluate", "run", "--recipe", "imagenet"), "$.augmentation.mean: has 3 numbers and std 3, for 1 channels"),
        (("evaluate", "run", "--device", "cuda:99"), "no cuda:99; choose cpu"),
        (("predict", "0.png", "--run", "none"), "none: No such file"),
        (("predict", "none.png", "--run", "run"), "none.png: No such file or directory"),
        (("predict", "tiny.toml", "--run", "run"), "tiny.toml: not readable as an image: it is none of BMP, GIF, JPEG"),
        (("predict", "0.png", "--run", "run", "--recipe", "cifar"), "recipe cifar: takes mean and std from a data set"),
        (("train", "--resume", "none"), "none: no such folder; expected the folder of a run"),
        (("train", "--resume", "."), ".: holds no run; expected"),
        (("train", "--resume", "tiny.toml"), "tiny.toml: no such folder; expected the folder of a run"),
    ],
)
def test_what_is_not_there_is_one_line(command, run, images, arguments, says: str) -> None:
    assert says in one_line(*command(*arguments))


def test_a_class_without_images_is_named(command) -> None:
    for name in ("a", "b"):
        Path("pictures", name).mkdir(parents=True)
    Image.new("L", (8, 8)).save("pictures/a/0.png")
    says = one_line(*command("train", "tiny.toml", "--dataset", "folder:pictures", *FAST))
    assert "pictures/b: holds no image; expected files that end in .bmp" in says
    Image.new("L", (8, 8)).save("pictures/b/0.png")
    says = one_line(*command("train", "tiny.toml", "--dataset", "folder:pictures", *FAST))
    assert "class a has 1 image, and a training and a test half need two" in says


def test_a_picture_that_cannot_be_read_is_named(command) -> None:
    for name in ("a", "b"):
        Path("pictures", name).mkdir(parents=True)
        for number in range(5):
            Image.new("RGB", (9, 9), (number, 0, 0)).save(f"pictures/{name}/{number}.png")
    for path in Path("pictures/b").iterdir():
        path.write_text("no image")
    options = ("--recipe", "d2l", "--in-channels", "3", "--num-classes", "2", "--batch-size", "8")
    says = one_line(*command("train", "tiny.toml", "--dataset", "folder:pictures", *FAST, *options))
    assert re.search(r"pictures/b/\d\.png: not readable as an image: it is none of BMP, GIF, JPEG", says)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_loss_that_is_not_finite_ends_the_run_with_the_step_and_the_last_good_checkpoint(
    command, backend: str
) -> None:
    Path("wild.toml").write_text('name = "wild"\nepochs = 2\nbatch_size = 256\n[optimizer]\nlearning_rate = 1e30\n')
    arguments = (
        "train",
        "tiny.toml",
        "--recipe",
        "wild.toml",
        "--out",
        "mine",
        "--device",
        "cpu",
        "--backend",
        backend,
    )
    says = one_line(*command(*arguments))
    assert re.search(r"(the loss is (nan|inf) at|is no longer finite after) step \d+ of 12 \(epoch 1 of 2\); ", says)
    named = re.search(
        r"; the last good checkpoint is (\S+); begin anew with a lower --lr, from there by --weights \1\n", says
    )
    assert named
    assert load_checkpoint(named[1]).header.step == 0
    assert [str(path) for path in list_checkpoints("mine")] == [named[1]]


@pytest.mark.parametrize("backend", BACKENDS)
def test_float16_on_the_cpu_is_refused_by_name(command, folder, backend: str) -> None:
    says = one_line(*command("train", "tiny.toml", "--precision", "float16", "--backend", backend, *FAST))
    assert re.search(rf"{backend} (does not train|trains) in float16 .*choose .*bfloat16", says)
    assert [path.name for path in folder.iterdir()] == ["tiny.toml"]


@pytest.mark.parametrize("backend", BACKENDS)
def test_bfloat16_trains_on_the_cpu(command, backend: str) -> None:
    options = ("--precision", "bfloat16", "--backend", backend, "--out", "mine", *FAST)
    code, out, err = command("train", "tiny.toml", *options)
    assert (code, err) == (0, "")
    assert "done: test accuracy" in out
    found = load_checkpoint("mine")
    assert all(array.dtype == np.float32 for array in found.weights.values())
    assert found.header.history[1].train_loss < found.header.history[0].train_loss


def test_a_run_s_folder_is_read_as_a_checkpoint_and_its_head_drawn_anew(command, run, pictures) -> None:
    assert command("convert", run, "out.pth")[0] == 0
    assert "complete: yes" in command("inspect", run)[1]
    options = ("--weights", run, "--in-channels", "1", "--num-classes", "12", "--out", "mine", *FAST)
    assert "of the wrong shape: fc.weight" in one_line(*command("train", "tiny.toml", *options))
    assert command("convert", run, "trunk.safetensors", "--backbone")[0] == 0
    for source, folder in ((run, "mine"), ("trunk.safetensors", "other")):
        options = ("--weights", source, "--in-channels", "1", "--num-classes", "12", "--out", folder, *FAST)
        assert command("train", "tiny.toml", *options, "--new-head")[0] == 0
        before, after = load_checkpoint(run).weights, load_checkpoint(list_checkpoints(folder)[0]).weights
        assert after["fc.weight"].shape[0] == 12
        assert all(np.array_equal(before[name], after[name]) for name in before if not name.startswith("fc."))
