"""`lmkit chat` with a model that writes a character every few milliseconds, so that it can be stopped."""

import sys
import time
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))
    import lmkit.cli.chat
    from chatting.conftest import Counter
    from lmkit.cli.main import main

    class Slow(Counter):
        """Numbers its answers, and never comes to their end."""

        def stream(self, record, **options):
            for character in self(record, **options).text:
                time.sleep(0.005)
                yield character
            raise AssertionError("nobody stopped it")

    lmkit.cli.chat.open_source = lambda *args, **settings: Slow(
        says="{}번째 답: " + "가나다라 " * 2000
    )
    main(["chat", "slow", "--max-new-tokens", "9999", *sys.argv[1:]])
