"""Names and URLs of images in Ceph, and what monitors say of themselves; no cluster is needed."""

from __future__ import annotations

import pytest

from cowshed.errors import InvalidRequest
from cowshed.model.disk import NetworkHost
from cowshed.tools.rbd import ImageSpec, Url, parse_url
from cowshed.tools.rbd.cluster import monitors


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("rbd://f/p/i/s", Url("f", ImageSpec("p", "i"), "s")),
        ("rbd://f/p/ns/i/s", Url("f", ImageSpec("p", "i", "ns"), "s")),
        ("rbd://f/a%2Fb/i%40j/s%20t", Url("f", ImageSpec("a/b", "i@j"), "s t")),
    ],
)
def test_a_url_names_a_snapshot(url: str, expected: Url) -> None:
    assert parse_url(url) == expected
    assert str(expected) == url


@pytest.mark.parametrize(
    "url",
    ["", "rbd:", "rbd://", "rbd:f/p/i/s", "file:///p/i/s", "rbd://f/p/i", "rbd://f/p/n/i/s/x", "rbd://f//i/s",
     "rbd://f/p/i/", "rbd:///p/i/s", "rbd://f/p/%20/s", "http://f/p/i/s"],
)  # fmt: skip
def test_other_urls_are_refused(url: str) -> None:
    with pytest.raises(InvalidRequest):
        parse_url(url)


@pytest.mark.parametrize("spec", [ImageSpec("p", "i"), ImageSpec("p", "i", "n")])
def test_a_spec_reads_back(spec: ImageSpec) -> None:
    assert ImageSpec.parse(str(spec)) == spec


@pytest.mark.parametrize("text", ["", "i", "p/", "/i", "p//i", "p/n/i/x"])
def test_other_specs_are_refused(text: str) -> None:
    with pytest.raises(InvalidRequest):
        ImageSpec.parse(text)


def test_monitors_speak_both_protocols_and_both_families() -> None:
    def monitor(*addresses: tuple[str, str]) -> dict[str, object]:
        return {
            "addr": "ignored:1/0",
            "public_addrs": {"addrvec": [{"type": kind, "addr": addr, "nonce": 0} for kind, addr in addresses]},
        }

    monmap = {
        "mons": [
            monitor(("v2", "192.0.2.1:3300"), ("v1", "192.0.2.1:6789")),
            monitor(("v2", "[2001:db8::2]:3300"), ("v1", "[2001:db8::2]:6789")),
        ]
    }
    assert monitors(monmap) == (
        NetworkHost("192.0.2.1", 3300),
        NetworkHost("2001:db8::2", 3300),
        NetworkHost("192.0.2.1", 6789),
        NetworkHost("2001:db8::2", 6789),
    )


def test_monitors_of_an_old_cluster() -> None:
    monmap = {"mons": [{"addr": "192.0.2.1:6789/0"}, {"addr": "[2001:db8::2]:6789/0"}]}
    assert monitors(monmap) == (NetworkHost("192.0.2.1", 6789), NetworkHost("2001:db8::2", 6789))
