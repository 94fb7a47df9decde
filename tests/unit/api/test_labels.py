"""Names made of other names stay names, and stay different."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipvs_api.labels import node_label, plan_name, shortened

OBJECT_NAME = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
NAMES = st.from_regex(OBJECT_NAME, fullmatch=True).filter(lambda name: len(name) <= 253)


def test_a_node_of_usual_length_is_in_its_label_as_it_is() -> None:
    assert node_label("worker-1.example.com") == "node.ipvs.dev/worker-1.example.com"


def test_long_nodes_that_differ_at_their_end_have_labels_that_fit_and_differ() -> None:
    labels = [node_label("worker." * 20 + end) for end in ("a", "b")]
    assert len(set(labels)) == 2
    for label in labels:
        prefix, name = label.split("/")
        assert prefix == "node.ipvs.dev"
        assert len(name) <= 63
        assert re.fullmatch(r"([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]", name)


def test_a_plan_has_the_name_of_its_virtual_service_and_slice() -> None:
    assert plan_name("shop", "web.v2", 3) == "shop.web.v2.3"


def test_plans_of_long_names_keep_their_number() -> None:
    names = {plan_name("n" * 63, "s" * 250 + end, number) for end in ("a", "b") for number in (0, 999)}
    assert len(names) == 4
    assert {name.rpartition(".")[2] for name in names} == {"0", "999"}


@given(NAMES, NAMES, st.integers(0, 999))
def test_plan_names_are_object_names(namespace: str, name: str, number: int) -> None:
    made = plan_name(namespace.replace(".", "-")[:63].strip("-") or "a", name, number)
    assert len(made) <= 253
    assert OBJECT_NAME.fullmatch(made)


@pytest.mark.parametrize("cut", ["-", ".", "--", ".-."])
def test_what_is_cut_at_a_separator_is_a_name_all_the_same(cut: str) -> None:
    name = "a" * 46 + cut + "b" * 40
    assert OBJECT_NAME.fullmatch(shortened(name, 64))
