"""The page of a preview: one inert file that can be read anywhere, searched and looked into."""

import base64
import hashlib
import json
import re
import unicodedata
from html.parser import HTMLParser
from pathlib import Path

import attrs
import pytest
from browser import opened, sideways
from colours import colours_of, contrast

from lmkit.previewing import Finding, Histogram, Lengths, Preview, Shown, Token, Totals
from lmkit.previewing.page import page
from lmkit.previewing.visible import parts

FOLDER = Path(page.__code__.co_filename).parent
EVIL = '</script><img src=x onerror="alert(1)"><!-- {{ 7 * 7 }} \'&amp;'
UNSEEN = "a\u202eb\u200dc\x00d\x1be\ufefff\ud800g"


def tokens(*texts, kind="read", first_id=100):
    return tuple(Token(id=first_id + i, text=text, kind=kind) for i, text in enumerate(texts))


def lengths(name="row"):
    return Lengths(
        name=name,
        shortest=2,
        median=5,
        p95=11,
        longest=14,
        mean=5.5,
        histogram=Histogram(edges=(0, 4, 8, 16), counts=(3, 5, 1)),
    )


KOREAN = Shown(
    index=0,
    where="train.jsonl:1",
    why="first",
    tokens=(
        *tokens("질문:", " 안녕", "하세요", "?\n", kind="read", first_id=100),
        *tokens(" 반", "", "갑습니다", kind="learned", first_id=200),
        Token(id=1, text="</s>", kind="learned", control=True),
    ),
    n_tokens=8,
    n_learned=4,
)
ENGLISH = Shown(
    index=16,
    where="train.jsonl:17",
    why="longest",
    tokens=(
        *tokens("Tell", " me", " a", " story", kind="cut", first_id=300),
        *tokens(" of", " the", " sea", first_id=400),
        *tokens(" Once", " there", " was", kind="learned", first_id=500),
    ),
    n_tokens=6,
    n_learned=3,
    n_cut=4,
)
FINDING = Finding(
    name="answer-cut",
    level="error",
    text="the answer's end was cut off",
    remedy="raise max_length",
    count=1,
    of=9,
    where="train.jsonl:17",
    excerpt="Once there was",
)
PREVIEW = Preview(
    task="ko-qa",
    family="causal",
    data="train.jsonl",
    model="gpt2",
    shown=(KOREAN, ENGLISH),
    totals=Totals(
        records=10,
        rows=9,
        dropped={"nothing to learn": 1},
        tokens=12345,
        learned=4000,
        cut_rows=1,
        cut_tokens=4,
        max_length=128,
        packing_fill=0.98,
    ),
    lengths=(lengths(), lengths("learned")),
    findings=(FINDING,),
    about={"versions": {"lmkit": "0.1.0"}},
)


@pytest.fixture
def saved(tmp_path):
    def save(preview=PREVIEW):
        file = tmp_path / "preview.html"
        file.write_text(page(preview), encoding="utf-8")
        return file

    return save


class Tags(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.names, self.attributes, self.text = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.names.append(tag)
        self.attributes += attrs

    def handle_data(self, data):
        self.text.append(data)


def with_text(text):
    return attrs.evolve(
        PREVIEW,
        task=text,
        family=text,
        data=text,
        model=text,
        about={text: {text: text}},
        shown=(
            attrs.evolve(KOREAN, where=text, tokens=tokens(text), target=tokens(text)),
            attrs.evolve(ENGLISH, why=text, where=text, tokens=tokens(text)),
        ),
        findings=(
            Finding(
                name=text,
                level="note",
                text=text,
                remedy=text,
                count=1,
                of=1,
                where=text,
                excerpt=text,
            ),
        ),
        totals=attrs.evolve(PREVIEW.totals, dropped={text: 1}),
    )


def embedded(text):
    return json.loads(re.search(r'id="data">(.*?)</script>', text, re.DOTALL).group(1))


# The file


def test_what_a_masked_model_learns_may_be_hidden():
    said = " ".join(Tags(page(attrs.evolve(PREVIEW, family="masked"))).text)

    assert "4 may be hidden (50%)" in said
    assert "4 learned" not in said


def test_the_page_says_what_was_measured():
    said = " ".join(" ".join(Tags(page(PREVIEW)).text).split())

    for part in ("ko-qa", "train.jsonl", "gpt2", "lmkit 0.1.0", "the answer's end was cut off"):
        assert part in said
    for part in ("1 of 9 rows (11%)", "raise max_length", "12,345", "nothing to learn", "98%"):
        assert part in said


def test_a_finding_links_to_its_row():
    assert '<a href="#row-1" data-word="see-row"' in page(PREVIEW)


def test_a_page_without_findings_says_so():
    assert "Nothing wrong was found." in page(attrs.evolve(PREVIEW, findings=()))


def test_a_page_without_rows_is_a_page():
    empty = attrs.evolve(
        PREVIEW,
        shown=(),
        findings=(),
        totals=Totals(
            records=0, rows=0, tokens=0, learned=0, cut_rows=0, cut_tokens=0, max_length=8
        ),
        lengths=(attrs.evolve(lengths(), histogram=Histogram(edges=(), counts=())),),
    )

    assert "<svg" not in page(empty)


def test_the_tokens_travel_with_their_ids_and_kinds():
    row = embedded(page(PREVIEW))["rows"][0]

    assert row["tokens"][0]["ids"] == [100, 101, 102, 103, 200, 201, 202, 1]
    assert row["tokens"][0]["kinds"] == "rrrrlllL"
    assert "".join(row["tokens"][0]["texts"]) == "질문: 안녕하세요?\n 반갑습니다</s>"


def test_only_this_style_and_script_are_allowed():
    text = page(PREVIEW)
    policy = dict(Tags(text).attributes)["content"]
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', text).group(1)
    policy = policy.replace("&#39;", "'")

    assert policy.startswith("default-src 'none'; ")
    assert "unsafe" not in policy
    for tag in ("style", "script"):
        content = re.search(rf"<{tag}>(.*?)</{tag}>", text, re.DOTALL).group(1)
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy


def test_nothing_is_fetched():
    links = [
        link
        for name, link in Tags(page(PREVIEW)).attributes
        if name in {"href", "src", "srcset", "action", "poster", "data"}
    ]

    assert all(link.startswith(("#", "data:,")) for link in links)
    assert "url(" not in page(PREVIEW)
    assert "@import" not in page(PREVIEW)


# What is in the data cannot act


def test_markup_in_the_data_stays_text():
    tags = Tags(page(with_text(EVIL)))

    assert "img" not in tags.names
    assert tags.names.count("script") == Tags(page(PREVIEW)).names.count("script")
    assert embedded(page(with_text(EVIL)))["rows"][0]["tokens"][0]["texts"] == [EVIL]
    assert EVIL in tags.text


def test_invisible_characters_are_named():
    text = page(with_text(UNSEEN))

    assert not re.search(r"[\u202e\u200d\x00\x1b\ufeff\ud800]", text)
    for name in ("RLO", "ZWJ", "NUL", "ESC", "BOM", "U+D800"):
        assert name in text
    text.encode()


def test_parts_join_to_the_text():
    text = UNSEEN + "가각\u1160👨\u200d👩"

    assert "".join(part for part, _ in parts(text)) == text
    assert [name for _, name in parts("x\u00ady\nz") if name] == ["SHY", "↵"]


# Words and colours


def test_both_languages_have_the_same_words():
    words = json.loads((FOLDER / "page.words.json").read_text(encoding="utf-8"))

    def blanks(language):
        return {
            key: sorted(re.findall(r"{\w+}", said))
            for key, said in words[language].items()
            if not key.startswith(("finding-", "remedy-"))
        }

    assert blanks("ko") == blanks("en")


def test_every_finding_has_korean_words():
    sources = [*FOLDER.glob("*.py"), *FOLDER.glob("checks/*.py")]
    names = {
        name
        for source in sources
        for name in re.findall(r'name="([a-z-]+)"', source.read_text(encoding="utf-8"))
    }
    korean = json.loads((FOLDER / "page.words.json").read_text(encoding="utf-8"))["ko"]

    assert {"answer-cut", "double-bos"} <= names
    assert {name for name in names if f"finding-{name}" not in korean} == set()
    assert {name for name in names if f"remedy-{name}" not in korean} == set()


def test_every_word_that_the_page_uses_is_known():
    text = page(attrs.evolve(PREVIEW, shown=(attrs.evolve(KOREAN, target=KOREAN.tokens), ENGLISH)))
    used = set(re.findall(r'data-word(?:-[a-z-]+)?="([^"]*)"', text))

    assert used <= set(embedded(text)["words"]["en"])


COLOURS = colours_of(FOLDER / "page.css")


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
@pytest.mark.parametrize(
    ("ink", "grounds"),
    [
        ("ink", ["paper", "panel", "learned", "read", "hit"]),
        ("muted", ["paper", "panel", "read", "learned"]),
        ("accent", ["paper", "panel"]),
        ("paper", ["accent"]),
        ("cut-ink", ["cut", "paper"]),
        ("unseen-ink", ["unseen"]),
        ("error", ["paper", "panel"]),
        ("warning", ["paper", "panel"]),
        ("note", ["paper", "panel"]),
        ("fine", ["paper", "panel"]),
    ],
)
def test_text_stands_out_from_its_ground(scheme, ink, grounds):
    for ground in grounds:
        assert contrast(COLOURS[ink][scheme], COLOURS[ground][scheme]) >= 4.5, ground


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
@pytest.mark.parametrize(
    ("line", "grounds"),
    [("learned-line", ["learned"]), ("control-line", ["learned", "read", "cut"])],
)
def test_lines_that_mean_something_stand_out(scheme, line, grounds):
    for ground in grounds:
        assert contrast(COLOURS[line][scheme], COLOURS[ground][scheme]) >= 3, ground


# In a browser


def token_at(tab, i, block="#row-0 .tokens"):
    """The token, once its row is in sight and drawn."""
    tab.locator(block).first.scroll_into_view_if_needed()
    return tab.locator(f"{block} .t").nth(i)


def visible_rows(tab):
    return tab.locator(".row:visible").evaluate_all("rows => rows.map(row => row.id)")


def test_hover_shows_a_tokens_id(browser, saved):
    with opened(browser, saved(), locale="en-US") as tab:
        token_at(tab, 1).hover()

        said = tab.locator("#inspector").inner_text()
        assert "id 101" in said
        assert "read" in said
        assert "안녕" in said
        assert "token 2 of 8" in said
        assert "U+C548" in said


def test_keys_go_from_token_to_token(browser, saved):
    with opened(browser, saved(), locale="en-US") as tab:
        token_at(tab, 0).focus()
        tab.keyboard.press("End")

        said = tab.locator("#inspector").inner_text()
        assert "id 1\n" in said or "id 1 " in said or said.startswith("id 1")
        assert "learned · control" in said
        tab.keyboard.press("ArrowLeft")
        assert "id 202" in tab.locator("#inspector").inner_text()
        tab.keyboard.press("Escape")
        assert not tab.locator("#inspector").is_visible()


@pytest.mark.parametrize(
    ("wanted", "rows"),
    [
        ("안녕하세요", ["row-0"]),
        (unicodedata.normalize("NFD", "안녕하세요"), ["row-0"]),
        ("ONCE there", ["row-1"]),
        ("train.jsonl:17", ["row-1"]),
        ("402", ["row-1"]),
        ("nowhere", []),
        ("", ["row-0", "row-1"]),
    ],
)
def test_search_finds_text_place_and_id(browser, saved, wanted, rows):
    with opened(browser, saved()) as tab:
        tab.keyboard.press("/")
        tab.keyboard.insert_text(wanted)
        tab.wait_for_timeout(200)

        assert visible_rows(tab) == rows
        tab.keyboard.press("Escape")
        assert visible_rows(tab) == ["row-0", "row-1"]


def test_search_marks_the_tokens_it_found(browser, saved):
    with opened(browser, saved()) as tab:
        tab.locator("#search").fill("녕하세")

        tab.wait_for_selector(".hit")
        assert tab.locator(".hit").all_inner_texts() == [" 안녕", "하세요"]


def test_rows_are_chosen_by_why_they_are_shown(browser, saved):
    with opened(browser, saved(), locale="en-US") as tab:
        tab.get_by_role("button", name="longest").click()
        assert visible_rows(tab) == ["row-1"]


def test_a_findings_link_shows_a_row_that_is_filtered_out(browser, saved):
    with opened(browser, saved(), locale="en-US") as tab:
        for _ in range(2):
            tab.get_by_role("button", name="first").click()
            assert visible_rows(tab) == ["row-0"]
            tab.get_by_role("link", name="see the row").click()
            assert visible_rows(tab) == ["row-0", "row-1"]


def test_ids_and_line_breaks_can_be_switched(browser, saved):
    with opened(browser, saved(), locale="en-US") as tab:
        token = token_at(tab, 1)
        tall = tab.locator("#row-0 .tokens").bounding_box()["height"]
        tab.get_by_label("Break at ↵").uncheck()
        assert tab.locator("#row-0 .tokens").bounding_box()["height"] < tall

        tab.get_by_label("Token ids").check()
        assert token.evaluate("token => getComputedStyle(token, '::after').content") == '"101"'


def test_the_interface_is_korean_for_a_korean_reader(browser, saved):
    with opened(browser, saved(), locale="ko-KR") as tab:
        assert tab.locator("html").get_attribute("lang") == "ko"
        assert "발견한 점" in tab.locator("#findings").inner_text()
        assert "9행 중 1행 (11%)" in tab.locator(".finding").inner_text()
        assert "답의 일부가" in tab.locator(".finding").inner_text()
        assert "the answer's end" not in tab.locator(".finding").inner_text()

        tab.get_by_role("button", name="View in English").click()
        assert tab.locator("html").get_attribute("lang") == "en"
        assert "1 of 9 rows (11%)" in tab.locator(".finding").inner_text()


def test_light_and_dark(browser, saved):
    def ground(tab):
        return tab.evaluate("getComputedStyle(document.body).backgroundColor")

    file = saved()
    grounds = []
    for scheme in ("light", "dark"):
        with opened(browser, file, color_scheme=scheme) as tab:
            grounds.append(ground(tab))
            tab.locator("#theme").click()
            grounds.append(ground(tab))

    assert grounds == [
        "rgb(255, 255, 255)",
        "rgb(20, 23, 28)",
        "rgb(20, 23, 28)",
        "rgb(255, 255, 255)",
    ]


@pytest.mark.parametrize("locale", ["en-US", "ko-KR"])
@pytest.mark.parametrize("ids", [False, True])
def test_a_phone_never_scrolls_sideways(browser, saved, locale, ids):
    long = attrs.evolve(
        ENGLISH, where="a-folder/" * 20 + "train.jsonl:17", tokens=tokens("x" * 300, "가" * 300)
    )
    wide = attrs.evolve(PREVIEW, shown=(KOREAN, long), data="d" * 300, about={"command": "c" * 300})
    file = saved(attrs.evolve(wide, findings=(attrs.evolve(FINDING, excerpt="e" * 500),)))

    with opened(browser, file, viewport={"width": 360, "height": 800}, locale=locale) as tab:
        tab.locator("#show-ids").set_checked(ids)
        token_at(tab, 0, "#row-1 .tokens").hover()

        assert sideways(tab) == 0


def test_hangul_has_glyphs(browser, saved):
    with opened(browser, saved()) as tab:
        pictures = tab.evaluate("""() => {
            const font = getComputedStyle(document.querySelector(".tokens")).font;
            return ["가", "힣", "\\u{10fffd}", "\\u{effff}"].map((text) => {
                const canvas = new OffscreenCanvas(60, 60).getContext("2d");
                canvas.font = font.replace(/^[\\d.]+px/, "40px");
                canvas.fillText(text, 5, 45);
                return canvas.getImageData(0, 0, 60, 60).data.join();
            });
        }""")

    first, last, *boxes = pictures
    assert first != last
    assert first not in boxes
    assert last not in boxes


def test_data_cannot_act_in_the_page(browser, saved):
    with opened(browser, saved(with_text(EVIL))) as tab:
        token_at(tab, 0).hover()

        assert EVIL in tab.locator("#inspector").inner_text()
        assert tab.locator("img").count() == 0
        assert EVIL in tab.locator("#row-0 .tokens").first.inner_text()


def test_invisible_characters_show_in_tokens(browser, saved):
    with opened(browser, saved(with_text(UNSEEN))) as tab:
        token_at(tab, 0).hover()

        shown = tab.locator("#row-0 .tokens").first.inner_text()
        assert shown == "aRLObZWJcNULdESCeBOMfU+D800g"


def test_source_and_target_are_apart(browser, saved):
    pair = attrs.evolve(ENGLISH, target=tokens("The", " sea", kind="learned", first_id=900))
    with opened(browser, saved(attrs.evolve(PREVIEW, shown=(pair,))), locale="en-US") as tab:
        token_at(tab, 1, "#row-0 [data-side='1']").hover()

        assert "id 901" in tab.locator("#inspector").inner_text()
        assert tab.locator("#row-0 .label").all_inner_texts() == ["Source", "Target"]


def test_without_script_the_page_can_be_read(browser, saved):
    with opened(browser, saved(), java_script_enabled=False) as tab:
        assert "반갑습니다" in tab.locator("#row-0").inner_text()
        assert tab.locator("#row-0 .learned").count() > 0


def test_two_hundred_long_rows_are_drawn_as_they_come_into_sight(browser, saved):
    row = tokens(*(f" word{i}" for i in range(1000)))
    many = tuple(
        attrs.evolve(ENGLISH, index=i, where=f"train.jsonl:{i + 1}", tokens=row) for i in range(200)
    )
    with opened(browser, saved(attrs.evolve(PREVIEW, shown=many))) as tab:
        assert tab.locator(".t[data-i]").count() < 20_000

        tab.locator("#search").fill("train.jsonl:200")
        tab.wait_for_timeout(300)
        assert visible_rows(tab) == ["row-199"]
        token_at(tab, 0, "#row-199 .tokens").focus()
        tab.keyboard.press("End")
        assert tab.locator("#row-199 .t").nth(999).inner_text() == " word999"
