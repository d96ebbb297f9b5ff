"""A parity report as a page."""

import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

from helpers.reports import failing, holding, hostile, rung
from resnet_xf.errors import MissingExtraError

pytest.importorskip("jinja2")

from resnet_xf.ladder.climb import LADDER
from resnet_xf.ladder.report.html import to_html, write_html
from resnet_xf.ladder.report.wording import RUNGS, number, rung_in_words

SCREENSHOT = Path(__file__).parent.parent / "benchmarks" / "report_screenshot.py"
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
VOID = {"meta", "link", "br"}
FETCHING = ("src", "srcset", "href", "xlink:href", "action", "data", "poster", "background", "ping", "manifest")


class Page(HTMLParser):
    """A page's elements; refuses tags that are not closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.styles: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes) -> None:
        assert len(dict(attributes)) == len(attributes), f"an attribute of {tag} is given twice"
        self.elements.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes) -> None:
        assert "svg" in self.open, f"<{tag}/> outside of an SVG"
        self.elements.append((tag, dict(attributes)))

    def handle_endtag(self, tag) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data) -> None:
        (self.styles if "style" in self.open else self.words).append(data)

    @property
    def text(self) -> str:
        return " ".join("".join(self.words).split())

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]

    def values(self, *names: str) -> list[str]:
        return [value or "" for _, found in self.elements for key, value in found.items() if key in names]

    def classes(self, tag: str) -> list[str | None]:
        return [attributes.get("class") for attributes in self.all(tag)]


PAGES = {name: Page(to_html(make())) for name, make in (("holds", holding), ("fails", failing), ("hostile", hostile))}


@pytest.mark.parametrize("name", PAGES)
def test_a_page_fetches_nothing_and_runs_nothing(name) -> None:
    page = PAGES[name]
    assert {tag for tag, _ in page.elements}.isdisjoint(
        {"script", "iframe", "img", "image", "object", "embed", "base", "foreignobject"}
    )
    targets = page.values(*FETCHING)
    assert [target for target in targets if not target.startswith("#")] == ["data:,"]
    css = " ".join([*page.styles, *page.values("style"), *page.values("clip-path", "fill", "filter", "mask")])
    assert "@import" not in css
    assert all(target.startswith("#") for target in re.findall(r"url\(\s*['\"]?([^)]*)", css))
    assert not [key for _, found in page.elements for key in found if key.startswith("on")]
    policy = next(one["content"] for one in page.all("meta") if "http-equiv" in one)
    assert policy == "default-src 'none'; style-src 'unsafe-inline'; img-src data:"


@pytest.mark.parametrize("name", PAGES)
def test_ids_are_unique_and_what_points_to_one_finds_it(name) -> None:
    page = PAGES[name]
    ids = page.values("id")
    assert len(ids) == len(set(ids))
    pointing = re.findall(r"#([\w.\-]+)", " ".join(page.values("href", "xlink:href")))
    pointing += re.findall(r"url\(#([\w.\-]+)\)", " ".join(page.values("clip-path", "style", "fill")))
    assert pointing
    assert set(pointing) <= set(ids)


@pytest.mark.parametrize("name", PAGES)
def test_a_page_can_be_read_by_those_who_do_not_see_it(name) -> None:
    page = PAGES[name]
    assert page.all("html") == [{"lang": "en"}]
    assert len(page.all("h1")) == 1
    assert all(one["scope"] in ("col", "row") for one in page.all("th"))
    assert len(page.all("caption")) == len(page.all("table"))
    assert all(one["role"] == "img" and one["aria-label"] for one in page.all("svg"))
    assert all(one["aria-label"] for one in page.all("div") if "tabindex" in one)


def test_it_says_all_that_a_report_holds() -> None:
    report, page = holding(), PAGES["holds"]
    told = [report.verdict(), "torch 2.9.1 on cuda; mxnet 1.9.1 on cpu", "scikit-learn's digits, 4 × 1 × 12 × 12"]
    told += [report.weights, report.command, "7 of 7 hold", "x86_64", report.accuracy.sentence(), 'name = "tiny"']
    told += ["2026-01-02 03:04 UTC, by resnet_xf 0.1.0", f"digest {report.weights_digest}"]
    told += [rung_in_words(one.name, one.metric) for one in report.rungs]
    told += [layer.name for layer in report.layers] + [one.name for one in report.rungs]
    assert [one for one in told if " ".join(one.split()) not in page.text] == []
    assert "Parity holds" in page.text
    assert page.classes("header") == ["good"]
    assert page.values("id")[0] == "ladder"
    assert [one for one in page.classes("tr") if one] == ["pass"] * 7
    assert page.classes("b") == []


def test_a_failure_stands_out_by_word_and_mark() -> None:
    report, page = failing(), PAGES["fails"]
    assert "Parity fails on rung 5: layers" in page.text
    assert page.classes("header") == ["bad"]
    assert page.all("svg")[0]["aria-label"] == "fail"
    assert [one for one in page.classes("tr") if one] == ["pass"] * 4 + ["fail", "skip"]
    assert "✗ fail" in page.text
    assert f"2 of 30 layers are beyond a bound, first {report.failure.where}." in page.text
    assert "NaN" in page.text
    assert "∞" in page.text
    assert len(page.classes("b")) == 4


@pytest.mark.parametrize("before", range(3))
def test_a_failure_on_a_rung_that_allows_nothing_is_drawn(before: int) -> None:
    exact = [rung(1 + n, name, 0, 0) for n, name in enumerate(("shapes", "weights", "determinism"))]
    failed = rung(1 + before, exact[before].name, 2, 0, status="fail", where="conv1")
    page = Page(to_html(holding(rungs=(*exact[:before], failed))))
    assert f"Parity fails on rung {1 + before}" in page.text


def test_others_texts_are_shown_and_not_obeyed() -> None:
    text = to_html(hostile())
    assert "<script" not in text
    assert "<script>alert('$x')</script>" in PAGES["hostile"].text
    assert not re.search("[\x00\x1b\ud800\uffff]", text)


def test_what_is_missing_is_left_out() -> None:
    report = holding(layers=(), curves=None, accuracy=None, command="", spec=None)
    page = Page(to_html(report))
    assert [one["id"] for one in page.all("section")] == ["ladder", "room", "glossary", "environment"]
    assert [one["id"] for one in PAGES["holds"].all("section")] == [
        "ladder", "room", "layers", "curves", "accuracy", "glossary", "environment",
    ]  # fmt: skip
    assert "Command" not in page.text
    assert "TOML" not in page.text
    layers = holding().layers
    alone = [type(one)(name=one.name, kind="conv", inherited=0.0, inherited_bound=0.0) for one in layers]
    assert "Own" in Page(to_html(holding(layers=tuple(alone)))).text
    assert "skipped" in Page(to_html(holding(rungs=(rung(1, "shapes", None, None, status="skip"),)))).text


def test_the_same_report_gives_the_same_bytes(tmp_path) -> None:
    write_html(holding(), tmp_path / "first.html")
    write_html(holding(), tmp_path / "second.html")
    assert (tmp_path / "first.html").read_bytes() == (tmp_path / "second.html").read_bytes()
    assert len(list(tmp_path.iterdir())) == 2


def test_every_rung_of_the_ladder_is_explained() -> None:
    for one in LADDER:
        text = rung_in_words(one.name, one.metric)
        assert text == RUNGS.get(one.name, "Each network's output in float32 against the float64 result of rung 4.")
    assert rung_in_words("accuracy", "points").startswith("The test accuracies of networks")
    assert rung_in_words("forward tf32", "") == "Each network's output in tf32 against the float64 result of rung 4."


def test_each_word_is_explained_once() -> None:
    words = re.findall("<dt.*?</dt>", to_html(holding()))
    assert "<dt>Nudge</dt>" in words
    assert len(words) == len(set(words))
    assert "Nudge" not in " ".join(re.findall("<dt.*?</dt>", to_html(holding(curves=None))))


@pytest.mark.parametrize("many", [1, 700])
def test_any_number_of_layers_is_drawn(many) -> None:
    text = to_html(holding(many))
    assert text.count('class="tip"') == many
    assert len(text) < 60_000 + 1_500 * many + 60_000


def test_without_jinja_it_says_how_to_get_it(monkeypatch, tmp_path) -> None:
    monkeypatch.setitem(sys.modules, "jinja2", None)
    with pytest.raises(
        MissingExtraError, match=r"Jinja, which is not installed; run: pip install 'resnet-xf\[report\]'"
    ):
        write_html(holding(), tmp_path / "report.html")
    assert not list(tmp_path.iterdir())


def test_numbers_are_short() -> None:
    values = (None, 0, 12345.0, 1.23456e-16, float("inf"), float("-inf"), float("nan"))
    assert [number(value) for value in values] == ["", "0", "1.23e+04", "1.23e-16", "∞", "-∞", "NaN"]


@pytest.fixture(scope="module")
def chromium() -> str:
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        pytest.skip("no Chromium is installed")
    return found


def opened(browser: str, page: Path, *arguments: str) -> tuple[int, str]:
    command = [
        sys.executable,
        SCREENSHOT,
        page,
        f"--out={page.with_suffix('.png')}",
        f"--browser={browser}",
        *arguments,
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100)
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize("make", [holding, hostile])
def test_on_a_phone_nothing_is_fetched_clipped_or_complained_of(chromium, make, tmp_path) -> None:
    write_html(make(), tmp_path / "report.html")
    code, said = opened(chromium, tmp_path / "report.html", "--width=390")
    assert code == 0, said
    assert "no request, no message" in said
    assert (tmp_path / "report.png").stat().st_size < 300_000


def test_a_browser_would_show_what_a_page_asks_for(chromium, tmp_path) -> None:
    page = tmp_path / "bad.html"
    page.write_text(
        "<img src='http://127.0.0.1:9/a.png'><script>console.error('lost'); nothing()</script>"
        "<div style='width:2000px'>x</div><div style='overflow-x:auto'><p style='width:9000px'>y"
    )
    code, said = opened(chromium, page)
    assert code == 1
    for complaint in (
        "request: http://127.0.0.1:9/a.png",
        "console error: ['lost']",
        "exception: ",
        "pixels wide",
        "scroll",
    ):
        assert complaint in said
