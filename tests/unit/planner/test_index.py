"""Who names a value, while parties come and go."""

from ipvs_planner.index import Index, Key, Owner, Party

EDGE, FAR = Owner("shop", "edge"), Owner("zoo", "far")
A, B, C = Party(EDGE, Key("shop", "a")), Party(EDGE, Key("shop", "b")), Party(FAR, Key("zoo", "c"))


def test_a_party_that_names_a_value_twice_is_forgotten_as_often_as_one_likes() -> None:
    index: Index[str] = Index()
    for party in (A, B, C, C):
        index.add("192.0.2.1", party)
    for left in ({A.key, B.key}, {A.key, B.key}):
        index.discard("192.0.2.1", C)
        assert index["192.0.2.1"] == left
    for _ in range(2):
        index.discard("192.0.2.1", A)
        assert list(index.parties("192.0.2.1")) == [B]
    index.discard("192.0.2.1", B)
    index.discard("192.0.2.1", B)
    assert index["192.0.2.1"] == set()
    assert not index.shared("192.0.2.1")


def test_others_of_the_same_owner_stay() -> None:
    index: Index[str] = Index()
    for party in (A, B, C):
        index.add("192.0.2.1", party)
    index.discard("192.0.2.1", Party(FAR, A.key))
    assert set(index.parties("192.0.2.1")) == {A, B, C}
