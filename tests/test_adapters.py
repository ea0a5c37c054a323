"""Adapters as values: what they say, how a command line spells them, and what is refused."""

import pytest

import lmkit as lk
from lmkit.adapters import Lora, PromptTuning, as_adapter, parse_adapter
from lmkit.errors import TaskError, UnknownName, UnknownOption


class TestBuilding:
    def test_the_public_names_build_them(self):
        assert lk.lora(r=4) == Lora(r=4, lora_alpha=16, lora_dropout=0.0, target_modules=None)
        assert lk.prompt_tuning(num_virtual_tokens=8, init_text="네?") == PromptTuning(8, "네?")

    def test_the_defaults_are_pefts(self):
        peft = pytest.importorskip("peft")
        theirs = peft.LoraConfig()

        ours = lk.lora()

        assert (ours.r, ours.lora_dropout, ours.use_rslora) == (
            theirs.r,
            theirs.lora_dropout,
            theirs.use_rslora,
        )
        assert ours.lora_alpha == 16

    def test_print_is_short(self):
        assert repr(lk.lora()) == "Lora()"
        assert repr(lk.lora(r=2, target_modules=["a"])) == "Lora(r=2, target_modules=('a',))"

    @pytest.mark.parametrize(
        ("build", "near"),
        [
            (lambda: lk.lora(alpha=1), "lora_alpha"),
            (lambda: lk.lora(target_module="a"), "target_modules"),
            (lambda: lk.prompt_tuning(num_virtual_token=1), "num_virtual_tokens"),
        ],
    )
    def test_an_unknown_option_is_refused_with_the_near_name(self, build, near):
        with pytest.raises(UnknownOption, match=f"close to: .*{near}"):
            build()

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"r": 0}, "r is 0; expected a whole number of 1 or more"),
            ({"r": 2.5}, "r is 2.5"),
            ({"r": True}, "r is True"),
            ({"lora_alpha": 0}, "lora_alpha is 0; expected a number above 0"),
            ({"lora_dropout": 1}, "lora_dropout is 1; expected a number from 0 to below 1"),
            ({"target_modules": []}, "target_modules is empty"),
            ({"target_modules": ["a", ""]}, "target_modules is"),
            ({"target_modules": 3}, "target_modules is 3"),
            ({"use_rslora": "yes"}, "use_rslora is 'yes'"),
        ],
    )
    def test_a_lora_out_of_range_is_refused(self, options, message):
        with pytest.raises(TaskError, match=message):
            lk.lora(**options)

    @pytest.mark.parametrize("count", [0, -1, 1.5, "8", True])
    def test_a_soft_prompt_has_at_least_one_virtual_token(self, count):
        with pytest.raises(TaskError, match=r"num_virtual_tokens is .*; expected a whole number"):
            lk.prompt_tuning(num_virtual_tokens=count)

    def test_an_empty_init_text_is_refused(self):
        with pytest.raises(TaskError, match="init_text is ''; expected a string that is not empty"):
            lk.prompt_tuning(num_virtual_tokens=1, init_text="")

    def test_the_class_for_a_value_lacks_its_parentheses(self):
        with pytest.raises(TaskError, match=r"expected lora\(\.\.\.\) or .* its parentheses"):
            as_adapter(lk.lora)

    def test_another_value_is_no_adapter(self):
        with pytest.raises(TaskError, match=r"adapter is 8; expected lora\(\.\.\.\)"):
            as_adapter(8)
        assert as_adapter(None) is None


class TestOnTheCommandLine:
    @pytest.mark.parametrize(
        ("text", "adapter"),
        [
            ("lora", lk.lora()),
            ("lora:r=4", lk.lora(r=4)),
            (
                'lora:r=4,lora_alpha=8,target_modules=["q_proj","v_proj"],lora_dropout=0.1',
                lk.lora(r=4, lora_alpha=8, target_modules=["q_proj", "v_proj"], lora_dropout=0.1),
            ),
            ("lora:target_modules=all-linear", lk.lora(target_modules="all-linear")),
            ("lora:use_rslora=true", lk.lora(use_rslora=True)),
            ("prompt_tuning:num_virtual_tokens=8", lk.prompt_tuning(8)),
            (
                "prompt_tuning:num_virtual_tokens=8,init_text=맞나요, 아닌가요?",
                lk.prompt_tuning(8, "맞나요, 아닌가요?"),
            ),
            ("prompt_tuning:init_text=1, 2,num_virtual_tokens=3", lk.prompt_tuning(3, "1, 2")),
        ],
    )
    def test_each_has_a_spelling(self, text, adapter):
        assert parse_adapter(text) == adapter
        assert parse_adapter(str(adapter)) == adapter

    def test_an_unknown_kind_is_refused_with_the_near_name(self):
        with pytest.raises(UnknownName, match=r"no adapter named 'loro'\n.*close to: lora"):
            parse_adapter("loro:r=8")

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("lora:8", r"'8' in 'lora:8' is not name=value, such as r=8"),
            ("lora:r=", "r is ''"),
            ("lora:r=many", "r is 'many'"),
            ("prompt_tuning", "does not say num_virtual_tokens="),
            ("prompt_tuning:num_virtual_tokens=0", "num_virtual_tokens is 0"),
        ],
    )
    def test_what_cannot_be_read_is_said(self, text, message):
        with pytest.raises(TaskError, match=message):
            parse_adapter(text)

    def test_an_unknown_option_is_refused_with_the_near_name(self):
        with pytest.raises(UnknownOption, match="close to: lora_alpha"):
            parse_adapter("lora:alpha=3")
