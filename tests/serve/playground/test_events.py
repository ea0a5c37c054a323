"""Server-sent events are read as the standard says, however their bytes are cut."""

import pytest

READ = """async ([bytes, size]) => {
    const { events } = await import('./playground/events.js');
    const body = new ReadableStream({ start(controller) {
        for (let at = 0; at < bytes.length; at += size) {
            controller.enqueue(new Uint8Array(bytes.slice(at, at + size)));
        }
        controller.close();
    }});
    const found = [];
    for await (const data of events(body)) found.push(data);
    return found;
}"""


@pytest.fixture
def read(visit):
    with visit() as tab:
        yield lambda text, size: tab.evaluate(READ, [list(text.encode()), size])


@pytest.mark.parametrize("ending", ["\n", "\r\n", "\r"])
def test_any_cut_gives_the_same_events(read, ending):
    text = 'data: {"text": "안녕 👋"}\n\n: a comment\n\ndata:one\ndata: two\nid: 7\n\n'.replace(
        "\n", ending
    )
    for size in (1, 2, 3, 7, 1000):
        assert read(text, size) == ['{"text": "안녕 👋"}', "one\ntwo"]


def test_an_event_without_its_blank_line_is_none(read):
    assert read("data: one\n\ndata: tw", 4) == ["one"]
