import json
import re
from pathlib import Path

import pytest

from lmkit.scaffold.rendering import TEMPLATE


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_it_writes_a_folder_and_ends_with_the_next_three_commands(lmkit):
    done = lmkit("new", "haiku")

    assert done.code == 0, done.err
    assert done.out.endswith(
        "Next:\n"
        "  cd lmkit-haiku && pip install -e '.[test]'\n"
        "  lmkit show haiku --data haiku.jsonl\n"
        "  pytest\n"
    )
    named = re.findall(r"^  (\S+)$", done.out.partition("Next:")[0], re.M)
    assert named == [
        ".gitignore",
        "LICENSE",
        "README.md",
        "haiku.jsonl",
        "lmkit_haiku.py",
        "pyproject.toml",
        "tests/test_haiku.py",
        ".github/workflows/test.yml",
    ]
    assert all((Path("lmkit-haiku") / path).is_file() for path in named)


def test_json_has_the_same_facts(lmkit):
    facts = json.loads(lmkit("new", "ko_qa", "--json").out)

    assert facts["name"] == "ko_qa"
    assert facts["folder"] == "lmkit-ko-qa"
    assert "lmkit_ko_qa.py" in facts["files"]
    assert len(facts["next"]) == 3


def test_the_written_plugin_is_seen_without_being_installed(lmkit, command):
    lmkit("new", "haiku", "--family", "labels", "--with", "decoder,command")
    place = Path("lmkit-haiku")

    shown = command("--plugin", place / "lmkit_haiku.py", "show", "haiku", "--json")
    found = command("--plugin", place / "lmkit_haiku.py", "haiku-repeats", place / "haiku.jsonl")

    assert json.loads(shown.stdout)["task"]["decoder"]["type"] == "lmkit_haiku:WeighedLabelDecoder"
    assert found.stdout == "12 records, and no two ask the same\n"


def test_parts_are_given_with_commas_or_one_by_one(lmkit):
    lmkit("new", "one", "--with", "decoder, metric")
    lmkit("new", "two", "--with", "metric", "--with", "decoder")

    one, two = (Path(f"lmkit-{name}/lmkit_{name}.py").read_text("utf-8") for name in ("one", "two"))
    assert one.replace("one", "two").replace("ONE", "TWO") == two.replace("one", "two")


def test_a_folder_elsewhere_may_have_spaces_in_its_name(lmkit):
    done = lmkit("new", "haiku", "--output", "my plugins/haiku")

    assert Path("my plugins/haiku/lmkit_haiku.py").is_file()
    assert "  cd 'my plugins/haiku' && pip" in done.out


def test_the_author_is_in_the_licence_and_in_the_package(lmkit):
    lmkit("new", "haiku", "--author", "Ann 'The Pen' \"Lee\" <ann@example.org>")

    assert "Ann 'The Pen' \"Lee\"\n" in Path("lmkit-haiku/LICENSE").read_text("utf-8")


@pytest.mark.parametrize("author", ["", "  ", "<ann@example.org>", "Ann <ann>", "Ann\nLee"])
def test_an_author_without_a_name_is_refused(lmkit, author):
    done = lmkit("new", "haiku", "--author", author)

    assert done.code == 1
    assert "expected a name, or 'Name <name@example.org>'" in done.err
    assert not Path("lmkit-haiku").exists()


def test_a_folder_that_is_there_is_left_alone(lmkit):
    Path("lmkit-haiku").mkdir()
    Path("lmkit-haiku/mine.txt").write_text("mine", "utf-8")
    done = lmkit("new", "haiku")

    assert done.code == 1
    assert done.err == (
        "error: 'lmkit-haiku' already exists; choose another folder with --output, or remove it\n"
    )
    assert [path.name for path in Path("lmkit-haiku").iterdir()] == ["mine.txt"]


def test_an_empty_folder_is_filled(lmkit):
    Path("lmkit-haiku").mkdir()

    assert lmkit("new", "haiku").code == 0


def test_nothing_is_left_where_writing_fails(lmkit, monkeypatch):
    def full(*args, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    done = lmkit("new", "haiku")

    assert done.code == 1
    assert "No space left on device" in done.err
    assert list(Path().iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["하이쿠"], 1, "try 'haiku'"),
        (["qa"], 1, "the name 'qa' is taken"),
        (["a", "--with", "colator"], 1, "close to: collator"),
        (["a", "--family", "masked", "--with", "metric"], 1, "leave 'metric' out"),
        (["a", "--family", "mask"], 2, "'masked'"),
        ([], 2, "Missing argument 'NAME'"),
    ],
)
def test_what_cannot_be_is_told_before_anything_is_written(lmkit, arguments, code, said):
    done = lmkit("new", *arguments)

    assert done.code == code
    assert said in done.err
    assert list(Path().iterdir()) == []


def test_its_help_has_an_example_that_works(lmkit):
    shown = lmkit("new", "--help").out
    example = re.search(r"Example: lmkit (new .*)\Z", " ".join(shown.split())).group(1)

    assert lmkit(*["new", "haiku", "--with", "decoder,command"]).code == 0
    assert example.startswith("new haiku --with decoder,command --author")


def test_the_list_of_verbs_has_it(lmkit):
    assert re.search(r"^  new +Write a plugin of your own", lmkit("--help").out, re.M)


def test_it_imports_nothing_heavy(command):
    done = command("new", "haiku", absent=("torch", "transformers", "onnxruntime", "datasets"))

    assert done.returncode == 0, done.stderr


def test_the_template_is_small():
    files = [path for path in TEMPLATE.rglob("*") if path.is_file()]
    lines = sum(len(path.read_text("utf-8").splitlines()) for path in files)

    assert len(files) <= 30
    assert lines < 1000
