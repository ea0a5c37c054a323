"""What a server is told when it starts: wrong settings are refused, and keys are never shown."""

import pytest

from lmkit.errors import LmkitError, TaskError
from lmkit.serve.settings import Settings, is_loopback, read_keys


def test_nobody_needs_a_key_and_only_this_machine_can_ask_unless_it_is_said():
    settings = Settings()

    assert settings.api_keys == ()
    assert settings.cors_origins == ()
    assert settings.hosts == ("127.0.0.1", "localhost", "::1")
    assert not settings.log_prompts


@pytest.mark.parametrize(
    ("host", "alone"),
    [
        ("127.0.0.1", True),
        ("127.8.9.1", True),
        ("::1", True),
        ("[::1]", True),
        ("localhost", True),
        ("LOCALHOST.", True),
        ("0.0.0.0", False),
        ("::", False),
        ("192.168.0.7", False),
        ("localhost.example.org", False),
        ("", False),
    ],
)
def test_a_loopback_address_is_told_from_one_that_others_reach(host, alone):
    assert is_loopback(host) is alone


def test_keys_are_not_in_what_a_settings_value_shows():
    assert "geheim" not in repr(Settings(api_keys="geheim"))


@pytest.mark.parametrize("key", ["", "two words", "비밀", "a\nb", "x" * 513])
def test_a_key_that_cannot_be_sent_is_refused_and_not_shown(key):
    with pytest.raises(TaskError, match="api_keys is 1 texts") as caught:
        Settings(api_keys=(key,))

    assert not key or key not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "given"),
    [
        ("max_body_bytes", 0),
        ("max_tokens", -1),
        ("timeout", 0),
        ("timeout", float("inf")),
        ("max_choices", 0),
        ("log_prompts", "yes"),
        ("title", ""),
    ],
)
def test_a_setting_that_means_nothing_is_refused_by_name(name, given):
    with pytest.raises(TaskError, match=name):
        Settings(**{name: given})


class TestKeyFile:
    def test_has_a_key_on_each_line(self, tmp_path):
        file = tmp_path / "keys"
        file.write_text("# the web page\nfirst\n\n  second  \n", "utf-8")

        assert read_keys(file) == ("first", "second")

    def test_without_a_key_is_refused(self, tmp_path):
        file = tmp_path / "keys"
        file.write_text("# none yet\n", "utf-8")

        with pytest.raises(LmkitError, match="has no key; write one a line"):
            read_keys(file)

    def test_that_is_not_there_is_named(self, tmp_path):
        with pytest.raises(LmkitError, match=r"gone.*cannot be read: No such file"):
            read_keys(tmp_path / "gone")

    def test_with_a_line_that_is_no_key_names_the_line_and_does_not_show_it(self, tmp_path):
        file = tmp_path / "keys"
        file.write_text("first\nmy secret words\n", "utf-8")

        with pytest.raises(LmkitError, match=r"keys:2: this is no key") as caught:
            read_keys(file)
        assert "secret words" not in str(caught.value)
