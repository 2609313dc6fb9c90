"""The HTML page."""

import base64
import hashlib
import re
from html.parser import HTMLParser

import pytest
from hypothesis import given, settings

from tokenwire_conformance.model import Status
from tokenwire_conformance.reports.html import HTML_MAX_BYTES, render_html
from tokenwire_conformance.reports.markup import Html, element, join
from tokenwire_conformance.reports.text import printable

from .made import CONTROL, XSS, a_full_result, a_log, a_result, a_verdict, texts

VOID = {"meta", "input"}


class Page(HTMLParser):
    """The tags, attributes and texts of a page; fails where they do not nest."""

    def __init__(self, content: bytes) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str, str | None]] = []
        self.texts: dict[str, list[str]] = {}
        self.ids: list[str] = []
        self._open: list[tuple[str, str]] = []
        self.feed(content.decode("utf-8"))
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value) for name, value in attrs]
        self.ids += [value or "" for name, value in attrs if name == "id"]
        if tag not in VOID:
            kind = f"{tag}.{dict(attrs).get('class') or ''}"
            self._open.append((tag, kind))
            self.texts.setdefault(kind, []).append("")

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop()[0] == tag

    def handle_data(self, data: str) -> None:
        if self._open:
            self.texts[self._open[-1][1]][-1] += data

    def handle_comment(self, data: str) -> None:
        raise AssertionError(data)


def test_the_page_needs_nothing_else_and_allows_nothing_else() -> None:
    content = render_html(a_full_result())
    page = Page(content)
    assert not {"link", "img", "iframe", "object", "base", "form"} & set(page.tags)
    assert all(name not in {"src", "style"} and not name.startswith("on") for _, name, _ in page.attributes)
    assert all((value or "").startswith("#") for _, name, value in page.attributes if name == "href")
    style, script = page.texts["style."][0], page.texts["script."][0]
    assert "url(" not in style
    assert "@import" not in style
    policy = next(value for tag, name, value in page.attributes if tag == "meta" and "default-src" in (value or ""))
    for kind, text in (("style", style), ("script", script)):
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"{kind}-src 'sha256-{digest}'" in (policy or "")
    assert "prefers-color-scheme: dark" in style


@given(texts.map("t".__add__))
@settings(deadline=None, max_examples=60)
def test_any_text_comes_back_as_text_and_adds_no_tag(text: str) -> None:
    page, plain = Page(render_html(a_full_result(text))), Page(render_html(a_full_result("plain")))
    assert page.tags == plain.tags
    assert page.ids == plain.ids
    assert len(page.attributes) == len(plain.attributes)
    shown = printable(text, keep="\n\t")
    assert [message for message in page.texts["div.message"] if message != shown] == []
    assert page.texts["td.payload"] == [shown] * 10
    assert page.texts["span.message"] == [shown] * 5
    assert page.texts["dd."][0] == shown
    assert shown in page.texts["li."]


def test_what_a_peer_sends_is_never_markup() -> None:
    content = render_html(a_full_result(XSS + CONTROL)).decode("utf-8")
    assert content.count("<script") == 1
    assert "<img" not in content
    assert "\x1b" not in content
    assert "\x00" not in content


def test_heading_matrix_and_cases() -> None:
    verdicts = [
        a_verdict("S-MB-01", logs=(a_log(entries=3),)),
        a_verdict("S-MB-02", Status.FAILED),
        a_verdict("S-MB-03", Status.FAILED),
    ]
    page = Page(render_html(a_result(*verdicts, known=["S-MB-03", "S-MB-01"])))
    assert page.texts["p.verdict s-FAILED"] == ["FAILED: 1 of 3 cases failed, 1 known failure, 1 known failure passes"]
    assert page.texts["h3."] == ["MB: Messages in general", "MS: Subscriptions", "EP: Endpoint and WebSocket"]
    assert page.texts["a.badge s-FAILED"] == ["S-MB-02 FAILED", "S-MB-03 FAILED"]
    assert page.texts["a.badge s-OK"] == ["S-MB-01 OK"]
    assert page.ids == ["S-MB-01", "S-MB-02", "S-MB-03"]
    links = [(value or "")[1:] for _, name, value in page.attributes if name == "href"]
    assert set(links) == set(page.ids)
    assert '"MB.sequence" <quoted>' in page.texts["blockquote."]
    for said in ("nothing", "numbers in order", "gaps would go unseen", "1.25 s of at most 5 s"):
        assert page.texts["dd."].count(said) == 3
    assert [text for text in page.texts["td."] if text in "→←"].count("→") == 2
    assert "compressed" in page.texts["td."]
    summaries = page.texts["summary."]
    assert " Title of S-MB-03 (known failure)" in summaries
    assert " Title of S-MB-01 (listed as a known failure: remove the line)" in summaries


def test_a_failing_case_is_open() -> None:
    def opened(strict: bool) -> list[str]:
        verdicts = [a_verdict("S-MB-01"), a_verdict("S-MB-02", Status.NON_STRICT), a_verdict("S-MB-03", Status.FAILED)]
        content = render_html(a_result(*verdicts, strict=strict)).decode()
        return re.findall(r'id="([^"]+)" data-status="[A-Z-]+"><details open>', content)

    assert opened(strict=False) == ["S-MB-03"]
    assert opened(strict=True) == ["S-MB-02", "S-MB-03"]


def test_each_status_has_its_filter_and_nothing_is_hidden_without_script() -> None:
    page = Page(render_html(a_full_result()))
    boxes = {value for tag, name, value in page.attributes if (tag, name) == ("input", "value")}
    assert boxes == {status.value for status in Status} | {"NOT-JUDGED"}
    marked = {value for _, name, value in page.attributes if name == "data-status"}
    assert marked <= boxes
    assert not [name for _, name, _ in page.attributes if name == "hidden"]


@pytest.mark.parametrize("text", ["\x00" * 600, "\U0001ffff" * 600, "&" * 600])
def test_bounded_and_failures_keep_their_logs(text: str) -> None:
    verdicts = []
    for number in range(80):
        status = Status.FAILED if number in {11, 70} else Status.OK
        logs = tuple(a_log(connection, 300, text) for connection in range(10))
        verdicts.append(a_verdict(f"S-MB-{number:02}", status, text * 5, logs=logs, notes=(text,) * 60))
    content = render_html(a_result(*verdicts))
    assert HTML_MAX_BYTES // 4 < len(content) <= HTML_MAX_BYTES
    articles = dict(re.findall(r'<article class="case" id="([^"]+)"(.*?)</article>', content.decode(), re.DOTALL))
    rows = {case: article.count('class="payload"') for case, article in articles.items()}
    assert len(rows) == 80
    assert min(rows["S-MB-11"], rows["S-MB-70"]) > 5 * max(
        number for case, number in rows.items() if case not in {"S-MB-11", "S-MB-70"}
    )
    assert "entries are not shown" in articles["S-MB-70"]
    assert "further notes" in articles["S-MB-70"]


def test_text_is_escaped_wherever_it_is_put() -> None:
    made = element("a", "<b>", Html("<i>"), join(["&", Html("&amp;")]), href='"><x>', hidden=True, title="", open=False)
    assert made == '<a href="&quot;&gt;&lt;x&gt;" hidden>&lt;b&gt;<i>&amp;&amp;</a>'


def test_logs_of_a_case_that_passed_are_cut_harder_even_where_there_is_room() -> None:
    logs = tuple(a_log(connection, 300, "x" * 600) for connection in range(3))
    content = render_html(a_result(a_verdict("S-MB-01", logs=logs), a_verdict("S-MB-02", Status.FAILED, logs=logs)))
    failed, passed = content.decode().split('id="S-MB-01"')  # what fails comes first
    assert failed.count('class="payload"') == 900
    assert 10 < passed.count('class="payload"') < 200
