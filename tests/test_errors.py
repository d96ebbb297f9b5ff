"""The errors, and the helpers that raise and print them."""

import pickle

import pytest

from resnet_xf.errors import BackendError, DataError, MissingExtraError, one_line, refuse
from resnet_xf.support.optional import optional


def test_the_first_true_complaint_is_raised() -> None:
    refuse(DataError, {})
    refuse(DataError, {"too small": False, "odd": False})
    with pytest.raises(DataError, match="^odd$"):
        refuse(DataError, {"too small": False, "odd": True, "too large": True})


def test_a_missing_library_names_the_line_that_installs_it() -> None:
    with pytest.raises(ImportError, match="^pages are made by No, which") as refused:
        optional("no_such_module_here", "pages are made by No", "pip install no")
    error = pickle.loads(pickle.dumps(refused.value))
    assert isinstance(error, MissingExtraError)
    assert isinstance(error, BackendError)
    assert str(error) == "pages are made by No, which is not installed; run: pip install no"
    assert (error.problem, error.mend) == ("pages are made by No, which is not installed", "pip install no")
    assert optional("json", "JSON is read by json").__name__ == "json"


def test_an_error_takes_one_line() -> None:
    assert one_line(ValueError("\n  first \nsecond")) == "first"
    assert (
        one_line(ValueError("Traceback (most recent call last):\n  File x\nMXNetError: lost\n")) == "MXNetError: lost"
    )
    assert one_line(KeyError()) == "KeyError"
