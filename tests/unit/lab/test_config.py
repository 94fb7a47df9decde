from ipvs_lab.config import FRAGMENT, KERNELS, cache_name, fragment_hash, fragment_of, lost, newest, parse

SMALL = 'CONFIG_IP_VS=y\nCONFIG_MODULES=n\nCONFIG_LOCALVERSION="-lab"\n'


def test_an_option_that_got_lost_is_named_with_what_is_there() -> None:
    result = 'CONFIG_LOCALVERSION="-lab"\n# CONFIG_IP_VS is not set\nCONFIG_MODULES=y\n'
    assert lost(SMALL, result) == ["CONFIG_IP_VS=y is n", "CONFIG_MODULES=n is y"]


def test_an_option_that_is_absent_counts_as_not_set() -> None:
    assert lost(SMALL, 'CONFIG_IP_VS=y\nCONFIG_LOCALVERSION="-lab"\n') == []


def test_comments_and_order_do_not_make_another_kernel() -> None:
    shuffled = "# words\n" + "".join(sorted(SMALL.splitlines(keepends=True)))
    assert fragment_hash(shuffled) == fragment_hash(SMALL)


def test_another_option_makes_another_kernel() -> None:
    assert fragment_hash(SMALL + "CONFIG_VETH=y\n") != fragment_hash(SMALL)


def test_the_newest_kernel_with_this_fragment_is_taken() -> None:
    old, new = cache_name("7.2.12-1~bpo13+1", SMALL), cache_name("7.10.1-1", SMALL)
    foreign = cache_name("7.11.1-1", SMALL + "CONFIG_VETH=y\n")
    assert newest([new, old, foreign, "build-x"], SMALL) == new
    assert newest([foreign], SMALL) == ""


def test_the_cache_name_is_a_plain_file_name() -> None:
    assert cache_name("7.2.12-1~bpo13+1", SMALL) == f"kernel-7.2.12_1_bpo13+1-{fragment_hash(SMALL)}"


def test_the_fragment_asks_for_what_the_tests_cannot_do_without() -> None:
    options = parse(FRAGMENT.read_text())
    needed = (
        "IP_VS",
        "IP_VS_IPV6",
        "IP_VS_MH",
        "NF_TABLES_ARP",
        "NET_FOU_IP_TUNNELS",
        "UML_TIME_TRAVEL_SUPPORT",
        "HOSTFS",
    )
    assert {name: options.get(f"CONFIG_{name}") for name in needed} == dict.fromkeys(needed, "y")


def test_the_modular_kernel_has_the_same_as_modules() -> None:
    builtin, modular = parse(fragment_of("builtin")), parse(fragment_of("modular"))
    changed = {option: value for option, value in modular.items() if builtin.get(option) != value}
    assert changed == parse(KERNELS["modular"][-1].read_text())
    assert changed.pop("CONFIG_MODULES") == "y"
    assert {(builtin[option], value) for option, value in changed.items()} == {("y", "m")}
    assert {"CONFIG_IP_VS", "CONFIG_NF_CONNTRACK", "CONFIG_NF_TABLES", "CONFIG_NET_IPIP"} <= changed.keys()
