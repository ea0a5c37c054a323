from pathlib import Path

import pytest

from lmkit.benching.sides import PEERS, WORKERS, peer_sides
from lmkit.errors import TaskError, UnknownName
from lmkit.family import Family

HERE = Path(__file__).parent


def sides(*against, family=Family.CAUSAL, bundle=HERE, **options):
    return peer_sides(against, bundle=bundle, family=family, **options)


def test_a_peer_is_a_name_a_precision_and_a_model():
    (side,), skipped = sides(f"openvino:int4={HERE}")

    assert (side.name, side.precision, side.model) == ("openvino", "int4", str(HERE))
    assert side.title == "openvino int4"
    assert not skipped


def test_what_a_peer_can_load_as_it_is_need_not_be_given(tmp_path):
    (tmp_path / "genai_config.json").touch()
    gguf = tmp_path / "model.gguf"
    gguf.touch()
    found, _ = sides("genai", "llama.cpp", "transformers", bundle=tmp_path, model=str(gguf))

    assert [side.model for side in found] == [str(tmp_path), str(gguf), str(gguf)]


@pytest.mark.parametrize("name", list(PEERS))
def test_a_peer_without_a_model_is_skipped_with_how_to_make_it(name):
    found, (skipped,) = sides(name)

    assert not found
    assert PEERS[name].model in skipped.reason


def test_a_model_that_is_not_there_is_told():
    _, (skipped,) = sides("ctranslate2=absent")

    assert skipped.reason.startswith("there is no 'absent'")


def test_a_peer_that_cannot_do_the_family_is_told():
    _, (skipped,) = sides(f"llama.cpp={HERE}", family=Family.MASKED)

    assert skipped.reason == "it runs no masked model"


def test_a_peer_runs_in_the_python_that_is_named_for_it():
    pythons = {"openvino": "a/python", "openvino:int8": "b/python"}
    found, _ = sides(f"openvino:int4={HERE}", f"openvino:int8={HERE}", pythons=pythons)

    assert [side.python for side in found] == ["a/python", "b/python"]


def test_unknown_peers_are_told_with_the_near_name():
    with pytest.raises(UnknownName, match="close to: openvino"):
        sides("openvin")
    with pytest.raises(UnknownName, match="close to: genai"):
        sides("genai", pythons={"genay": "python"})


def test_one_peer_twice_needs_labels():
    with pytest.raises(TaskError, match="asked for twice"):
        sides(f"genai={HERE}", f"genai={HERE}")


@pytest.mark.parametrize("peer", list(PEERS.values()), ids=list(PEERS))
def test_a_worker_imports_nothing_of_lmkit(peer):
    text = (WORKERS / peer.worker).read_text("utf-8")

    assert "import lmkit" not in text
    assert "from lmkit" not in text
