import numpy as np
import pytest

from resnet_xf.ladder.perturb import PERTURBATION, next_values, perturb, perturb_all


@pytest.mark.parametrize("size", [PERTURBATION, 1e-6, 0.5])
def test_values_change_by_normal_noise_of_a_relative_size(size: float) -> None:
    array = np.linspace(1, 9, 100_000).reshape(10, 10, 1000).astype("float32")
    noise = (perturb(array, size, "key") / array.astype("float64") - 1) / size
    assert noise.dtype == np.float64
    assert abs(noise.mean()) < 0.02
    assert noise.std() == pytest.approx(1, abs=0.02)
    assert 3.5 < np.abs(noise).max() < 6
    assert np.mean(np.abs(noise) < 1) == pytest.approx(0.683, abs=0.01)


def test_the_key_is_the_seed() -> None:
    array = np.ones(1000)
    first, again, other = (perturb(array, 0.1, key) for key in ("one", "one", "other"))
    assert np.array_equal(first, again)
    assert abs(np.corrcoef(first, other)[0, 1]) < 0.1
    assert np.array_equal(perturb_all({"one": array}, 0.1)["one"], first)


@pytest.mark.parametrize("shape", [(), (0, 3), (1,)])
def test_any_shape_is_kept(shape: tuple[int, ...]) -> None:
    array = np.full(shape, 2.0)
    for changed in (perturb(array, 0.1, "key"), next_values({"a": array}, 0)["a"]):
        assert isinstance(changed, np.ndarray)
        assert changed.shape == shape


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_next_values_are_neighbours_as_often_above_as_below(dtype: str) -> None:
    array = np.linspace(-1, 1, 10_001).astype(dtype)
    changed = next_values({"a": array}, 1)["a"]
    assert changed.dtype == array.dtype
    up = changed > array
    assert np.array_equal(changed, np.nextafter(array, np.where(up, np.inf, -np.inf).astype(dtype)))
    assert up.mean() == pytest.approx(0.5, abs=0.03)
