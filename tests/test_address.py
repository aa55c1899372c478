"""Foreign URLs: what is requested is what was given."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fetcher.core.address import Address, follow, parse_url


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("https://h/a?b=c", Address("https", "h", 443, "/a?b=c")),
        ("HTTP://H:8080/A", Address("http", "h", 8080, "/A")),
        ("http://h", Address("http", "h", 80, "/")),
        ("http://h?x=1", Address("http", "h", 80, "/?x=1")),
        ("http://h/a?", Address("http", "h", 80, "/a?")),
        ("http://h/a#f?x", Address("http", "h", 80, "/a")),
        ("http://h/%2f%2F+/..//./%zz", Address("http", "h", 80, "/%2f%2F+/..//./%zz")),
        ("http://h/?a=%20&&b=[x]{y}|", Address("http", "h", 80, "/?a=%20&&b=[x]{y}|")),
        ("http://h/تس", Address("http", "h", 80, "/تس")),
        ("http://h/a b", Address("http", "h", 80, "/a%20b")),
        ("http://[::1]:5/a", Address("http", "[::1]", 5, "/a")),
        ("http://u:p%40@h/a", Address("http", "h", 80, "/a", "u:p%40")),
        ("http://مثال.example/a", Address("http", "xn--mgbh0fb.example", 80, "/a")),
        ("https://h:/a", Address("https", "h", 443, "/a")),
        ("http://h/a:b@c", Address("http", "h", 80, "/a:b@c")),
    ],
)
def test_a_url_is_taken_apart_and_nothing_else(url: str, expected: Address) -> None:
    assert parse_url(url) == expected


@pytest.mark.parametrize(
    "url",
    [
        *("", "garbage", "/a/b", "//h/a", "file:///etc/passwd", "ftp://h/a", "javascript:x"),
        *("http:", "http://", "http:///a", "http://:80/", "http://h:0/", "http://h:65536/"),
        *("http://h:x/", "http://[::1/", "http://h h/", "http://h/a\r\nX: y", "http://h/\x00"),
        *("http://@/a", "https://\udcff/a"),
    ],
)
def test_what_is_no_http_url_is_refused_without_repeating_it(url: str) -> None:
    with pytest.raises(ValueError, match=r"URL|http") as caught:
        parse_url(url)
    assert str(caught.value).isprintable()


BASE = parse_url("https://u:p@h:444/a/b/c?q=1")


@pytest.mark.parametrize(
    ("location", "expected"),
    [
        ("https://other/x?", Address("https", "other", 443, "/x?")),
        ("https://h:444/x/../y%2f", Address("https", "h", 444, "/x/../y%2f", "u:p")),
        ("//other/x", Address("https", "other", 443, "/x")),
        ("/x//y?z", Address("https", "h", 444, "/x//y?z", "u:p")),
        ("d", Address("https", "h", 444, "/a/b/d", "u:p")),
        ("../d?e=%20", Address("https", "h", 444, "/a/d?e=%20", "u:p")),
        ("?e", Address("https", "h", 444, "/a/b/c?e", "u:p")),
        (" /x y ", Address("https", "h", 444, "/x%20y", "u:p")),
        ("/\udcff\udc80", Address("https", "h", 444, "/%FF%80", "u:p")),
        ("http://h:444/x", Address("http", "h", 444, "/x")),
        ("https://v@h:444/x", Address("https", "h", 444, "/x", "v")),
    ],
)
def test_a_redirect_leads(location: str, expected: Address) -> None:
    assert follow(BASE, location) == expected


@pytest.mark.parametrize("location", ["", "#x"])
def test_a_redirect_to_nowhere_leads_back(location: str) -> None:
    assert follow(BASE, location) == BASE


@pytest.mark.parametrize("location", ["file:///x", "http://", "/a\nb", "//"])
def test_a_redirect_that_cannot_be_followed_is_refused(location: str) -> None:
    with pytest.raises(ValueError, match=r"URL|http"):
        follow(BASE, location)


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://127.0.0.1:5/", True),
        ("http://127.8.9.1/", True),
        ("http://[::1]/", True),
        ("http://localhost:8/", True),
        ("http://api.localhost/", True),
        ("http://10.0.0.1/", False),
        ("http://127.0.0.1.example/", False),
        ("http://localhost.example/", False),
    ],
)
def test_loopback_is_this_machine(url: str, expected: bool) -> None:
    assert parse_url(url).loopback is expected


def test_a_message_shows_neither_user_nor_query() -> None:
    address = parse_url("https://u:p@h/a/b?X-Signature=s#f")
    assert address.bare == "https://h/a/b"
    assert address.credentials() == ("u", "p")


@given(st.text(st.characters(min_codepoint=0x21, exclude_characters="#\x7f"), max_size=40))
def test_any_target_is_kept(text: str) -> None:
    assert parse_url(f"http://h/{text}").target == f"/{text}"


@given(st.text(max_size=60))
def test_any_text_is_a_url_or_refused(text: str) -> None:
    try:
        address = parse_url(text)
    except ValueError:
        return
    assert address.scheme in {"http", "https"}
