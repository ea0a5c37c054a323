"""What a replay writes is what the template writes, whatever it does with the words."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lmkit.chat import CHATML
from lmkit.chat.rendering import Rendering, at_time
from lmkit.errors import TemplateError
from lmkit.tokenizing import Dialect

LOOP = "{% for m in messages %}BODY{% endfor %}"
# Each does something else with a message's content; those below are not followed, so they run each time.
FOLLOWED = [
    "{{ m.content }}",
    "{{ m.role + ': ' + m.content + '\n' }}",
    "{{ m['content'] | trim ~ '|' ~ loop.index }}",
    "{{ m.content.strip() }}{{ m.content.lstrip('\n') }}{{ m.content.rstrip() }}",
    "{% if m.content %}{{ m.content }}{% else %}nothing{% endif %}",
    "{% if '</think>' in m.content %}{{ m.content.split('</think>')[-1] }}{% else %}-{% endif %}",
    "{{ m.content.split('a')[0] }}{{ m.content.split() | length }}",
    "{% if m.content.startswith('a') or m.content.endswith('b') %}edge{% endif %}{{ m.content }}",
    "{{ m.content.startswith(('a', 'b')) }}{{ m.content[1:2] | replace('a', m.content, 1) }}",
    "{% if m.content == 'ab' %}same{% elif m.content != 'b' %}other{% endif %}",
    "{% if m.content == messages[0].content %}first{% endif %}",
    "{{ m.content.replace('a', m.content) }}",
    "{{ m.content | upper | replace('A', 'x') }}{{ m.content.title() }}",
    "{{ m.content[1:] }}{{ m.content[0] }}{{ m.content[-1] }}",
    "{{ m.content * 2 }}{{ m.content.count('a') }}{{ m.content.find('b') }}",
    "{% set c = m.content | trim %}{{ c if c | length > 0 else 'blank' }}",
    "{% set c %}<{{ m.content }}>{% endset %}{{ c | trim }}{{ '>' in c }}",
    "{% macro f(x) %}{{ x }}!{% endmacro %}{{ f(m.content) | trim }}{{ f(m.content)[1:] }}",
    "{% set ns = namespace(x='') %}{% set ns.x = ns.x + m.content %}{{ ns.x }}",
    "{{ m.get('content') }}{{ m.get('name', 'nobody') }}{{ m.content is string }}",
    "{{ m.content if m.content is defined and m.content is not none }}{{ m.content is sequence }}",
    "{{ strftime_now('%Y') }}{{ m.content | default('x') }}",
    "{% generation %}{{ m.content }}{% endgeneration %}{{ m.content is mapping }}",
    "{{ (messages | last).content }}{{ messages | map(attribute='role') | list }}",
]
NOT_FOLLOWED = [
    "{{ m.content | tojson }}{{ m | tojson }}",
    "{{ m.content | length }}",
    "{% for letter in m.content %}{{ letter }}.{% endfor %}",
    "{{ m.content in 'abc' }}{{ m.content not in ['a'] }}",
    "{{ 'abc'.replace('b', m.content) }}{{ ','.join([m.content]) }}",
    "{{ '%s' % m.content }}{{ '{}'.format(m.content) }}",
    "{{ messages | map(attribute='content') | join(',') }}",
    "{{ 'x' in (messages | map(attribute='content') | join) }}",
    "{{ [m.content] }}{{ m.content | list }}",
    "{{ {'a': 1}[m.content] is defined }}",
    "{{ m.content.encode().decode('utf-8') }}",
    "{{ m.items() | list | length }}{{ messages | string | length }}",
    "{{ 'yes' if 'a' in '%s' % (m.content,) }}{{ 'yes' if 'a' in '%(x)s' % {'x': m.content} }}",
    "{{ 'yes' if 'a' in ('bcb' | replace('c', m.content)) }}",
    "{{ 'bcb' | replace(m.content, '') }}{{ 'a b' | trim(m.content) }}",
    "{{ ['no', 'one', 'two'][m.content | length] }}{{ {1: 'one'}[m.content | length] }}",
    "{{ 'one' if m.content | length ~ '' == '1' }}{{ 'one' if (m.content | length).real == 1 }}",
    "{{ 'b' if m.content | length is number and m.content.startswith('b') }}",
    "{{ m.content.startswith(('a', messages[0].content)) }}",
    "{{ 'same' if m.content is sameas messages[0].content }}",
    "{{ m.content | first }}{{ messages | sort(attribute='content') | map(attribute='role') | list }}",
]
WORDS = st.text(alphabet="ab \n<>/</think>가\u0301", max_size=8)


def again(rendering, contents):
    """Return what a rendering writes for messages with these contents, replayed if it can be."""
    roles = itertools.cycle(["user", "assistant"])
    messages = [
        {"role": role, "content": text} for role, text in zip(roles, contents, strict=False)
    ]
    shapes = [rendering.replays.shape(message) for message in messages]
    words = [word for _, own in shapes for word in own]
    key = tuple(number for number, _ in shapes)
    try:
        expected = rendering.render(messages)
    except TemplateError:
        with pytest.raises(TemplateError):
            rendering.again(messages, None, ask=False, key=key, words=words)
        return False
    followed = rendering.replays.text(key, words) is not None

    assert rendering.again(messages, None, ask=False, key=key, words=words) == expected
    return followed


def rendering_of(body):
    return Rendering(LOOP.replace("BODY", body) if "{% for m" not in body else body, Dialect())


@pytest.mark.parametrize("body", [*FOLLOWED, *NOT_FOLLOWED, CHATML])
@settings(max_examples=25, deadline=None)
@given(st.lists(st.lists(WORDS, min_size=2, max_size=2), min_size=1, max_size=8))
def test_a_replay_writes_what_the_template_writes(body, conversations):
    rendering = rendering_of(body)
    for contents in conversations:
        again(rendering, contents)


@pytest.mark.parametrize("body", FOLLOWED)
def test_a_template_runs_twice_for_one_shape_and_is_replayed_then(body):
    rendering = rendering_of(body)

    assert [again(rendering, ["ab", "ba"]) for _ in range(4)] == [False, False, True, True]


@pytest.mark.parametrize("body", NOT_FOLLOWED)
def test_a_template_that_does_more_with_words_runs_each_time(body):
    rendering = rendering_of(body)

    assert not any(again(rendering, ["ab", "ba"]) for _ in range(4))


def test_words_that_lead_a_template_elsewhere_are_written_by_the_template():
    rendering = rendering_of("{% if 'x' in m.content %}[{{ m.content }}]{% endif %}")
    for _ in range(3):
        again(rendering, ["a", "b"])

    assert again(rendering, ["c", "d"])
    assert not again(rendering, ["cx", "d"])
    assert again(rendering, ["dx", "e"])  # now it is known too


def test_a_date_is_that_of_the_moment():
    rendering = rendering_of("{{ strftime_now('%Y-%m-%d') }}{{ m.content }}")
    with at_time("2024-02-29T12:00:00"):
        for _ in range(3):
            again(rendering, ["a"])

        assert again(rendering, ["b"])
    with at_time("2025-03-01T12:00:00"):
        assert not again(rendering, ["b"])


def test_no_more_shapes_are_remembered_than_some(monkeypatch):
    monkeypatch.setattr("lmkit.chat.replaying._MOST", 10)
    replays = rendering_of(CHATML).replays
    numbers = [replays.shape({"role": "tool", "tool_calls": [n]})[0] for n in range(100)]

    assert len(set(numbers)) == 100
    assert len(replays._numbers) <= 10
