"""Every planted defect is found by the rung and at the place that the table says."""

import pytest

from helpers.sabotage import Saboteur
from mutants.accuracy import ACCURACY, Slip, judged
from mutants.mutant import BOTH, NETWORKS, Mutant, climbed
from mutants.table import DOCUMENT, MUTANTS, NUMBERS, document, rows
from resnet_xf import assert_parity

PLANTED = [(mutant, side) for mutants in MUTANTS.values() for mutant in mutants for side in mutant.sides or ("both",)]


@pytest.mark.parametrize("mutant, side", PLANTED, ids=[f"{mutant.defect}, {side}" for mutant, side in PLANTED])
def test_a_planted_defect_fails_the_right_rung_at_the_right_place(mutant: Mutant, side: str) -> None:
    report = climbed(mutant, side)
    failure = report.failure
    assert failure is not None, report.verdict()
    assert (failure.name, failure.where) == (mutant.rung, mutant.where), report.verdict()
    at = report.rungs.index(failure)
    assert [rung.status for rung in report.rungs[:at]] == ["pass"] * at
    assert all(rung.status == "skip" for rung in report.rungs[at + 1 :])
    assert f"rung {failure.number} ({mutant.rung}) at {mutant.where}" in report.verdict()


@pytest.mark.parametrize("slip", ACCURACY, ids=[slip.defect for slip in ACCURACY])
def test_accuracies_of_another_recipe_are_told_apart(slip: Slip) -> None:
    finding = judged(slip.change)
    assert finding.status == "fail"
    assert finding.where == slip.where
    assert finding.accuracy is not None
    assert finding.accuracy.verdict == "different"


HIGHEST = {
    name: max(NUMBERS[mutant.rung] for mutants in MUTANTS.values() for mutant in mutants if mutant.network == name)
    for name in NETWORKS
}
"""By network, the highest rung at which a defect of it is found."""


@pytest.mark.parametrize("name", NETWORKS)
def test_a_saboteur_that_breaks_nothing_is_not_noticed(name: str) -> None:
    """So it is the defects that are found, and not the hands that plant them."""
    spec, side = NETWORKS[name]
    level = "quick" if HIGHEST[name] <= 5 else "standard"
    report = assert_parity(spec, [Saboteur(backend) for backend in BOTH], level=level, image_size=(side, side))
    assert len(report.rungs) == {"quick": 5, "standard": 8}[level]


def test_every_rung_has_a_defect_that_it_finds() -> None:
    assert {rung for mutants in MUTANTS.values() for rung in (mutant.rung for mutant in mutants)} == set(NUMBERS) - {
        "accuracy"
    }
    assert {slip.rung for slip in ACCURACY} == {"accuracy"}
    assert len({mutant.defect for mutant, _ in PLANTED}) + len(ACCURACY) == len(rows()) >= 36


def test_the_document_is_the_table() -> None:
    assert DOCUMENT.read_text(encoding="utf-8") == document(), "run python tests/mutants/table.py"
