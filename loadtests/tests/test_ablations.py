"""Every mistake made on purpose is found, and soon."""

import pytest

from loadtests.faults.ablations import ABLATIONS, hunt
from loadtests.faults.invariants import RULES


@pytest.mark.parametrize("name", ABLATIONS)
def test_the_simulation_finds(name: str) -> None:
    ablation = ABLATIONS[name]
    found = hunt(ablation)
    assert found is not None, f"not within {ablation.within} seeds: {ablation.text}"
    assert ablation.breaks & {*found.invariants}


def test_every_ablation_is_described_and_names_rules_that_exist() -> None:
    for ablation in ABLATIONS.values():
        assert ablation.text.endswith(".")
        assert ablation.breaks <= {*RULES, "defect"}
        assert ablation.within <= 500
