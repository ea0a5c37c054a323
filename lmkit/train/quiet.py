"""Keep the libraries' own talk out of the terminal, where lmkit speaks for itself."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator

# What the libraries warn about beside their own work; drop a line once its cause is gone upstream.
_KNOWN_WARNINGS = (
    "Version v4.12.0",  # EncoderDecoderModel of its loss in 2021, whenever it is given labels
    "Position ids are not supported",  # generate() brings them, and it counts its own
    "`is_gradient_checkpointing` is deprecated",  # it asks transformers in an old way
    "fan_in_fan_out is set to False",  # said of GPT-2's layers, and then set right
)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep transformers' and peft's bars and notices out of the terminal for a while."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            for message in _KNOWN_WARNINGS:
                warnings.filterwarnings("ignore", message=message)
            yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


@contextlib.contextmanager
def quiet_gguf() -> Iterator[None]:
    """Let the bar of a GGUF file's reader obey `quiet` too.

    Workaround: transformers 5.23 takes tqdm's bar there, which no setting of transformers hides, and
    not its own. Delete this when it takes its own.
    """
    from transformers import modeling_gguf_pytorch_utils as reader
    from transformers.utils import logging

    theirs = reader.tqdm
    reader.tqdm = logging.tqdm
    try:
        yield
    finally:
        reader.tqdm = theirs
