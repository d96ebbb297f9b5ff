import json
import warnings

import msgspec
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.optim import lr_scheduler

from resnet_xf import SqueezeExcitation, get_backend, get_spec, plan
from resnet_xf.errors import RecipeError
from resnet_xf.training.recipe import (
    RECIPES,
    Augmentation,
    Optimizer,
    Recipe,
    Schedule,
    check_recipe,
    decaying,
    get_recipe,
    learning_rates,
    rounded,
    targets,
)

STEPS = 7  # an epoch

SCHEDULES = {
    "constant": Schedule(),
    "step": Schedule(kind="step", milestones=(1.0, 2.5, 4.0), gamma=0.3),
    "cosine": Schedule(kind="cosine"),
    "constant, warmed up": Schedule(warmup_epochs=1.5, warmup_start=0.2),
    "step, warmed up": Schedule(kind="step", milestones=(2.0, 3.0), warmup_epochs=1.0, warmup_start=0.01),
    "cosine, warmed up": Schedule(kind="cosine", warmup_epochs=2.0, warmup_start=0.1),
}


def recipe_of(schedule: Schedule, epochs: int = 5, rate: float = 0.4) -> Recipe:
    optimizer = Optimizer(learning_rate=rate)
    return check_recipe(Recipe(name="r", epochs=epochs, batch_size=8, optimizer=optimizer, schedule=schedule))


def torchs_rates(recipe: Recipe, steps_per_epoch: int) -> list[float]:
    """What PyTorch's own schedulers give, stepped once a step."""
    schedule, steps = recipe.schedule, recipe.epochs * steps_per_epoch
    warm = round(schedule.warmup_epochs * steps_per_epoch)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=recipe.optimizer.learning_rate)
    if schedule.kind == "step":
        drops = [round(epoch * steps_per_epoch) - warm for epoch in schedule.milestones]
        scheduler = lr_scheduler.MultiStepLR(optimizer, drops, schedule.gamma)
    elif schedule.kind == "cosine":
        scheduler = lr_scheduler.CosineAnnealingLR(optimizer, steps - warm)
    else:
        scheduler = lr_scheduler.ConstantLR(optimizer, 1.0)
    if warm:
        climb = lr_scheduler.LinearLR(optimizer, schedule.warmup_start, total_iters=warm)
        scheduler = lr_scheduler.SequentialLR(optimizer, [climb, scheduler], [warm])
    rates = []
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The epoch parameter in `scheduler.step", UserWarning)  # SequentialLR's own
        for _ in range(steps):
            rates.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            scheduler.step()
    return rates


@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)
def test_rates_are_those_of_pytorchs_schedulers(schedule: Schedule) -> None:
    recipe = recipe_of(schedule)
    rates = learning_rates(recipe, STEPS)
    assert rates.dtype == np.float32
    assert rates.shape == (5 * STEPS,)
    np.testing.assert_allclose(rates, torchs_rates(recipe, STEPS), rtol=1e-5, atol=1e-7)


def test_a_step_schedule_drops_at_its_milestones_first_step_and_not_before() -> None:
    rates = learning_rates(recipe_of(Schedule(kind="step", milestones=(2.0, 3.0)), rate=1.0), STEPS)
    wanted = [1.0] * (2 * STEPS) + [0.1] * STEPS + [0.01] * (2 * STEPS)
    assert rates.tolist() == np.array(wanted, np.float32).tolist()


def test_a_cosine_begins_at_the_peak_and_ends_one_step_short_of_nothing() -> None:
    rates = learning_rates(recipe_of(Schedule(kind="cosine"), rate=1.0), STEPS)
    assert rates[0] == 1
    assert rates[-1] == pytest.approx((1 - np.cos(np.pi / len(rates))) / 2, rel=1e-5)
    assert np.all(np.diff(rates) < 0)


def test_a_warm_up_climbs_in_equal_steps_to_the_peak() -> None:
    schedule = Schedule(kind="cosine", warmup_epochs=1.0, warmup_start=0.25)
    rates = learning_rates(recipe_of(schedule, rate=0.8), STEPS)
    assert rates[0] == np.float32(0.2)
    assert rates[STEPS] == np.float32(0.8)
    np.testing.assert_allclose(np.diff(rates[: STEPS + 1]), 0.6 / STEPS, rtol=1e-5)
    assert rates.argmax() == STEPS


def test_a_warm_up_from_nothing_begins_at_zero() -> None:
    rates = learning_rates(recipe_of(Schedule(warmup_epochs=1.0, warmup_start=0.0)), STEPS)
    assert rates[0] == 0
    assert np.all(rates[1:] > 0)


def test_a_milestone_within_the_warm_up_counts_from_the_first_step() -> None:
    schedule = Schedule(kind="step", milestones=(1.0,), warmup_epochs=2.0, warmup_start=0.5)
    rates = learning_rates(recipe_of(schedule, rate=1.0), STEPS)
    climb = 0.5 + 0.5 * np.arange(2 * STEPS) / (2 * STEPS)
    np.testing.assert_allclose(rates[: 2 * STEPS], climb * np.repeat([1, 0.1], STEPS), rtol=1e-6)
    np.testing.assert_allclose(rates[2 * STEPS :], 0.1, rtol=1e-6)


@pytest.mark.parametrize("kind", ["constant", "cosine"])
@pytest.mark.parametrize("steps_per_epoch", [1, 2, 3])
def test_rates_are_finite_where_the_warm_up_takes_all_of_a_short_run(kind, steps_per_epoch: int) -> None:
    recipe = recipe_of(Schedule(kind=kind, warmup_epochs=0.9), epochs=1)
    rates = learning_rates(recipe, steps_per_epoch)
    assert np.all(np.isfinite(rates))
    assert np.all(rates > 0)


@pytest.mark.parametrize("name", RECIPES)
def test_presets_round_trip_and_are_sound(name: str, tmp_path) -> None:
    recipe = get_recipe(name)
    assert recipe.name == name
    assert check_recipe(recipe) == recipe
    assert Recipe.from_toml(recipe.to_toml()) == recipe
    assert Recipe.from_json(recipe.to_json()) == recipe
    path = tmp_path / f"{name}.toml"
    path.write_text(recipe.to_toml())
    assert get_recipe(path) == recipe


def numbers(low: float, high: float, **options: bool) -> st.SearchStrategy[float]:
    return st.floats(low, high, allow_nan=False, **options)


@st.composite
def recipes(draw: st.DrawFn) -> Recipe:
    """Any sound recipe."""
    epochs = draw(st.integers(1, 1000))
    kind = draw(st.sampled_from(["constant", "step", "cosine"]))
    milestones = draw(st.lists(numbers(0.001, 2000), min_size=1, max_size=4, unique=True)) if kind == "step" else []
    channels = draw(st.none() | st.integers(1, 3))
    momentum = draw(numbers(0, 1, exclude_max=True))
    return Recipe(
        name=draw(st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,9}", fullmatch=True)),
        epochs=epochs,
        batch_size=draw(st.integers(1, 1_000_000)),
        optimizer=Optimizer(
            learning_rate=draw(numbers(1e-9, 1e9)),
            momentum=momentum,
            nesterov=momentum > 0 and draw(st.booleans()),
            weight_decay=draw(numbers(0, 1e9)),
            decay=draw(st.sampled_from(["all", "weights"])),
        ),
        schedule=Schedule(
            kind=kind,
            milestones=tuple(sorted(milestones)),
            gamma=draw(numbers(0, 1, exclude_min=True)),
            warmup_epochs=draw(numbers(0, epochs, exclude_max=True)),
            warmup_start=draw(numbers(0, 1)),
        ),
        augmentation=Augmentation(
            crop=draw(st.sampled_from(["resize", "centre", "padded", "random_resized"])),
            padding=draw(st.integers(0, 512)),
            flip=draw(st.booleans()),
            mean=channels and tuple(draw(numbers(-9, 9)) for _ in range(channels)),
            std=channels and tuple(draw(numbers(0, 9, exclude_min=True)) for _ in range(channels)),
            interpolation=draw(st.sampled_from(["antialias", "bilinear"])),
        ),
        label_smoothing=draw(numbers(0, 1, exclude_max=True)),
        image_size=draw(st.none() | st.tuples(st.integers(1, 8192), st.integers(1, 8192))),
        init=draw(st.sampled_from(["he", "xavier"])),
        seed=draw(st.integers(0, 2**70)),
        precision=draw(st.sampled_from(["float32", "float64", "bfloat16", "float16"])),
        drop_last=draw(st.booleans()),
        freeze_statistics=draw(st.booleans()),
    )


@given(recipes())
def test_every_recipe_round_trips_exactly(recipe: Recipe) -> None:
    assert check_recipe(recipe) == recipe
    assert Recipe.from_toml(recipe.to_toml()) == recipe
    assert Recipe.from_json(recipe.to_json()) == recipe


GOOD = {"name": "x", "epochs": 4, "batch_size": 8, "optimizer": {"learning_rate": 0.1}}
MISSING = "to be left out"

# What is wrong, and how the error must begin: with the path of the field.
MALFORMED = {
    "epochs zero": ({"epochs": 0}, "$.epochs: expected `int` >= 1"),
    "epochs a fraction": ({"epochs": 1.5}, "$.epochs: "),
    "epochs a truth": ({"epochs": True}, "$.epochs: "),
    "epochs endless": ({"epochs": 10**9}, "$.epochs: "),
    "epochs missing": ({"epochs": MISSING}, "$: object missing required field `epochs`"),
    "batch of none": ({"batch_size": 0}, "$.batch_size: "),
    "batch a word": ({"batch_size": "big"}, "$.batch_size: "),
    "no optimizer": ({"optimizer": MISSING}, "$: object missing required field `optimizer`"),
    "no learning rate": ({"optimizer": {}}, "$.optimizer: object missing required field `learning_rate`"),
    "learning rate zero": ({"optimizer": {"learning_rate": 0}}, "$.optimizer.learning_rate: "),
    "learning rate negative": ({"optimizer": {"learning_rate": -0.1}}, "$.optimizer.learning_rate: "),
    "momentum one": ({"optimizer": {"learning_rate": 1, "momentum": 1}}, "$.optimizer.momentum: "),
    "decay negative": ({"optimizer": {"learning_rate": 1, "weight_decay": -1}}, "$.optimizer.weight_decay: "),
    "decay of something else": (
        {"optimizer": {"learning_rate": 1, "decay": "biases"}},
        "$.optimizer.decay: invalid enum value 'biases'; expected one of all, weights",
    ),
    "unknown optimizer field": (
        {"optimizer": {"learning_rate": 1, "momentun": 0.9}},
        "$.optimizer: object contains unknown field `momentun`; expected one of learning_rate, momentum",
    ),
    "unknown field": ({"colour": 1}, "$: object contains unknown field `colour`; expected one of name, epochs"),
    "unknown schedule": (
        {"schedule": {"kind": "poly"}},
        "$.schedule.kind: invalid enum value 'poly'; expected one of constant, cosine, step",
    ),
    "milestone zero": ({"schedule": {"kind": "step", "milestones": [0]}}, "$.schedule.milestones[0]: "),
    "gamma above one": ({"schedule": {"kind": "step", "milestones": [1], "gamma": 2}}, "$.schedule.gamma: "),
    "warm-up negative": ({"schedule": {"warmup_epochs": -1}}, "$.schedule.warmup_epochs: "),
    "warm-up from above the peak": ({"schedule": {"warmup_start": 1.5}}, "$.schedule.warmup_start: "),
    "unknown crop": ({"augmentation": {"crop": "random"}}, "$.augmentation.crop: invalid enum value 'random'; expected one"),
    "padding negative": ({"augmentation": {"padding": -1}}, "$.augmentation.padding: "),
    "mean of nothing": ({"augmentation": {"mean": [], "std": []}}, "$.augmentation.mean: "),
    "smoothing one": ({"label_smoothing": 1}, "$.label_smoothing: "),
    "image of no height": ({"image_size": [0, 8]}, "$.image_size[0]: "),
    "image of three sides": ({"image_size": [8, 8, 8]}, "$.image_size: "),
    "seed negative": ({"seed": -1}, "$.seed: "),
    "unknown init": ({"init": "probe"}, "$.init: invalid enum value 'probe'; expected one of he, xavier"),
    "unknown precision": ({"precision": "int8"}, "$.precision: invalid enum value 'int8'; expected one of bfloat16, float16"),
    "a name with a slash": ({"name": "a/b"}, "$.name: "),
    "nesterov without momentum": ({"optimizer": {"learning_rate": 1, "nesterov": True}}, "$.optimizer.nesterov: "),
    "milestones of a constant": ({"schedule": {"milestones": [1]}}, "$.schedule.milestones: belong to the kind 'step'"),
    "steps without milestones": ({"schedule": {"kind": "step"}}, "$.schedule.milestones: belong to the kind 'step'"),
    "milestones that fall": ({"schedule": {"kind": "step", "milestones": [2, 1]}}, "$.schedule.milestones: must increase"),
    "a milestone twice": ({"schedule": {"kind": "step", "milestones": [1, 1]}}, "$.schedule.milestones: must increase"),
    "warm-up to the end": ({"schedule": {"warmup_epochs": 4}}, "$.schedule.warmup_epochs: must be less than epochs, which is 4"),
    "mean without std": ({"augmentation": {"mean": [0.5]}}, "$.augmentation.mean: give mean and std both or neither"),
    "std without mean": ({"augmentation": {"std": [0.5]}}, "$.augmentation.mean: give mean and std both or neither"),
    "std zero": ({"augmentation": {"mean": [0.5], "std": [0]}}, "$.augmentation.std: must be above 0"),
}  # fmt: skip

ENDLESS = {
    "learning rate infinite": ({"optimizer": {"learning_rate": float("inf")}}, "$.optimizer.learning_rate: "),
    "learning rate not a number": ({"optimizer": {"learning_rate": float("nan")}}, "$.optimizer.learning_rate: "),
    "weight decay infinite": (
        {"optimizer": {"learning_rate": 1, "weight_decay": float("inf")}},
        "$.optimizer.weight_decay: ",
    ),
    "milestone infinite": (
        {"schedule": {"kind": "step", "milestones": [float("inf")]}},
        "$.schedule.milestones",
    ),
    "warm-up not a number": ({"schedule": {"warmup_epochs": float("nan")}}, "$.schedule.warmup_epochs: "),
    "mean infinite": ({"augmentation": {"mean": [float("inf")], "std": [1.0]}}, "$.augmentation.mean"),
    "std not a number": ({"augmentation": {"mean": [0.5], "std": [float("nan")]}}, "$.augmentation.std"),
}


def changed(change: dict[str, object]) -> dict[str, object]:
    return {field: value for field, value in (GOOD | change).items() if value is not MISSING}


@pytest.mark.parametrize("suffix", ["toml", "json"])
@pytest.mark.parametrize("change, begins", MALFORMED.values(), ids=MALFORMED)
def test_malformed_recipe_is_refused_with_file_and_path_of_the_field(
    tmp_path, change, begins: str, suffix: str
) -> None:
    path = tmp_path / f"bad.{suffix}"
    path.write_bytes(getattr(msgspec, suffix).encode(changed(change)))
    with pytest.raises(RecipeError) as refused:
        get_recipe(path)
    message = str(refused.value)
    assert message.startswith(f"{path}: {begins}")
    assert "\n" not in message


@pytest.mark.parametrize("change, begins", ENDLESS.values(), ids=ENDLESS)
def test_numbers_that_are_not_finite_are_refused_with_the_path_of_the_field(tmp_path, change, begins: str) -> None:
    path = tmp_path / "bad.toml"
    path.write_bytes(msgspec.toml.encode(changed(change)))
    with pytest.raises(RecipeError) as refused:
        get_recipe(path)
    assert str(refused.value).startswith(f"{path}: {begins}")
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("field", ["learning_rate", "weight_decay"])
def test_a_number_beyond_float32_is_refused(field: str) -> None:
    optimizer = Optimizer(**{"learning_rate": 0.1, field: 1e39})
    with pytest.raises(RecipeError, match=rf"^\$\.optimizer\.{field}: "):
        check_recipe(Recipe(name="r", epochs=1, batch_size=1, optimizer=optimizer))


def test_forty_kinds_of_malformed_recipe_are_tried_on_a_sound_one() -> None:
    assert len(MALFORMED) + len(ENDLESS) >= 40
    check_recipe(Recipe.from_json(json.dumps(GOOD)))


@pytest.mark.parametrize(
    "fields, begins",
    [
        ({"epochs": 0}, r"^\$\.epochs: "),
        ({"optimizer": None}, r"^\$\.optimizer: "),
        ({"optimizer": Optimizer(learning_rate="high")}, r"^\$\.optimizer\.learning_rate: "),  # type: ignore[arg-type]
        ({"seed": object()}, r"^\$: expected plain data"),
        ({"schedule": Schedule(kind="step")}, r"^\$\.schedule\.milestones: "),
    ],
)
def test_a_recipe_made_in_python_is_checked_too(fields: dict[str, object], begins: str) -> None:
    recipe = Recipe(**{"name": "r", "epochs": 1, "batch_size": 1, "optimizer": Optimizer(learning_rate=1)} | fields)
    with pytest.raises(RecipeError, match=begins) as refused:
        check_recipe(recipe)
    assert "\n" not in str(refused.value)


def test_numpys_numbers_are_taken() -> None:
    optimizer = Optimizer(learning_rate=np.float32(0.5))
    recipe = check_recipe(Recipe(name="r", epochs=np.int64(3), batch_size=1, optimizer=optimizer))
    assert type(recipe.epochs) is int
    assert type(recipe.optimizer.learning_rate) is float


@pytest.mark.parametrize(
    "name, content, says",
    [
        ("a.toml", b"epochs = [", r"a\.toml: \$: "),
        ("a.toml", b"\xff\xfe", r"a\.toml: not UTF-8"),
        ("a.json", b"[" * 100_000, r"a\.json: \$: "),
        ("a.yaml", b"epochs: 3", r"a\.yaml: a recipe is a \.toml or \.json file"),
    ],
)
def test_unreadable_recipe_files_are_named(tmp_path, name: str, content: bytes, says: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(RecipeError, match=says) as refused:
        get_recipe(path)
    assert "\n" not in str(refused.value)


def test_an_unknown_recipe_is_told_the_known_ones(tmp_path) -> None:
    with pytest.raises(RecipeError, match=r"no recipe is called 'nope'; choose one of digits, d2l, cifar, imagenet"):
        get_recipe("nope")
    with pytest.raises(RecipeError, match=r"no recipe is called 'n{300}'; choose one"):  # longer than a file's name
        get_recipe("n" * 300)
    with pytest.raises(RecipeError, match=r"none\.toml: No such file"):
        get_recipe(tmp_path / "none.toml")


@pytest.mark.parametrize("name", ["d2l_resnet18", "resnet50", "se_resnet18_v2"])
def test_all_that_decays_is_what_pytorch_calls_parameters(name: str) -> None:
    spec = get_spec("d2l_resnet18") if name.startswith("se") else get_spec(name)
    if name.startswith("se"):  # a network with every kind of layer
        spec = msgspec.structs.replace(spec, se=SqueezeExcitation(bias=True), preactivation=True)
    with torch.device("meta"):  # names alone
        network = get_backend("torch").build(plan(spec).root)
    everything = recipe_of(Schedule())
    assert decaying(spec, everything) == {name for name, _ in network.named_parameters()}
    weights = msgspec.structs.replace(everything, optimizer=Optimizer(learning_rate=1, decay="weights"))
    kernels = {
        f"{name}.weight"
        for name, module in network.named_modules()
        if isinstance(module, torch.nn.Conv2d | torch.nn.Linear)
    }
    assert decaying(spec, weights) == kernels


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.7])
@pytest.mark.parametrize("classes", [2, 10])
def test_targets_give_pytorchs_cross_entropy(classes: int, smoothing: float) -> None:
    generator = np.random.default_rng(0)
    labels = generator.integers(0, classes, 12)
    outputs = torch.tensor(generator.normal(size=(12, classes)) * 4)
    wanted = torch.nn.functional.cross_entropy(outputs, torch.tensor(labels), label_smoothing=smoothing)
    held = targets(labels, classes, smoothing, 12)
    assert held.dtype == np.float64
    np.testing.assert_allclose(held.sum(axis=1), 1 / 12)
    loss = -(torch.log_softmax(outputs, dim=1) * torch.tensor(held)).sum()
    assert loss.item() == pytest.approx(wanted.item(), rel=1e-12)


def test_targets_of_a_batchs_parts_are_those_of_the_batch() -> None:
    labels = np.array([3, 0, 1, 1, 2])
    whole = targets(labels, 4, 0.2, 5)
    parts = [targets(labels[:2], 4, 0.2, 5), targets(labels[2:], 4, 0.2, 5), targets(labels[5:], 4, 0.2, 5)]
    assert np.array_equal(np.concatenate(parts), whole)
    assert whole.argmax(axis=1).tolist() == labels.tolist()


def test_rounding_is_to_the_nearest_float32() -> None:
    assert rounded(0.9) == float(torch.tensor(0.9, dtype=torch.float32))
    assert rounded(0.5) == 0.5


def test_float64_alone_has_float64_weights() -> None:
    recipe = recipe_of(Schedule())
    kinds = {kind: msgspec.structs.replace(recipe, precision=kind).dtype for kind in ("float32", "float64", "bfloat16")}
    assert kinds == {"float32": "float32", "float64": "float64", "bfloat16": "float32"}


def test_d2l_is_the_books_notebook() -> None:
    """`d2l.train_ch6(net, train_iter, test_iter, num_epochs=10, lr=0.05)`, batches of 256 resized to 96, Xavier's draw."""
    recipe = RECIPES["d2l"]
    assert (recipe.epochs, recipe.batch_size, recipe.image_size, recipe.init) == (10, 256, (96, 96), "xavier")
    assert recipe.optimizer == Optimizer(learning_rate=0.05)
    assert recipe.augmentation == Augmentation(mean=(0.0,), std=(1.0,))  # ToTensor alone
    assert set(learning_rates(recipe, 235)) == {np.float32(0.05)}


def test_cifar_is_he_and_others_64_thousand_steps() -> None:
    recipe = RECIPES["cifar"]
    steps = -(-50_000 // recipe.batch_size)
    rates = learning_rates(recipe, steps)
    assert recipe.batch_size == 128
    assert len(rates) == pytest.approx(64_000, abs=steps / 2)
    assert np.flatnonzero(np.diff(rates)) + 1 == pytest.approx([32_000, 48_000], abs=steps / 2)
    assert sorted(set(rates.tolist()), reverse=True) == pytest.approx([0.1, 0.01, 0.001])
    assert (recipe.optimizer.momentum, recipe.optimizer.weight_decay) == (0.9, 1e-4)
    augmentation = recipe.augmentation
    assert (augmentation.crop, augmentation.padding, augmentation.flip) == ("padded", 4, True)


def test_imagenet_is_torchvisions_reference() -> None:
    """`train.py`'s defaults: 90 epochs, lr 0.1, momentum 0.9, weight decay 1e-4, StepLR(30, 0.1), 8 times 32 images."""
    recipe = RECIPES["imagenet"]
    assert (recipe.epochs, recipe.batch_size, recipe.label_smoothing) == (90, 8 * 32, 0)
    assert recipe.optimizer == Optimizer(learning_rate=0.1, momentum=0.9, weight_decay=1e-4)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    scheduler, rates = lr_scheduler.StepLR(optimizer, 30, 0.1), []
    for _ in range(90):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    np.testing.assert_allclose(learning_rates(recipe, 3), np.repeat(rates, 3), rtol=1e-6)
    from torchvision.transforms._presets import ImageClassification

    preset = ImageClassification(crop_size=224)
    assert recipe.augmentation == Augmentation(
        crop="random_resized", flip=True, mean=tuple(preset.mean), std=tuple(preset.std)
    )


def test_digits_fits_its_data_set() -> None:
    recipe = RECIPES["digits"]
    rates = learning_rates(recipe, -(-1438 // recipe.batch_size))
    assert recipe.image_size == (32, 32)
    assert rates.max() == np.float32(0.05)
    assert 0 < rates[-1] < 1e-5


def test_more_steps_than_a_run_may_have_are_refused() -> None:
    with pytest.raises(RecipeError, match=r"^\$\.epochs: make 16,777,218 steps; at most 16,777,216 are allowed"):
        learning_rates(recipe_of(Schedule(), epochs=2), 2**23 + 1)
