from lmkit.chatting.screen import Screen


def test_a_terminal_is_not_made_to_obey_an_answer(capsys):
    Screen(terminal=True, colour=False).piece("a\x1b]0;title\x07b\tc\n")

    assert capsys.readouterr().out == "a\ufffd]0;title\ufffdb\tc\n"


def test_a_pipe_is_given_the_answer_as_it_is(capsys):
    Screen(terminal=False, colour=False).piece("a\x1b[1m")

    assert capsys.readouterr().out == "a\x1b[1m"
