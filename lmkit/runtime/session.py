"""What the loop needs of a graph, whatever its family, and how onnxruntime opens one.

A session reads prompts and gives a state that is stepped token by token. `lmkit.runtime.causal` and
`lmkit.runtime.seq2seq` are sessions; `lmkit.runtime.rows` is the loop.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import numpy as np
import onnxruntime as ort

from lmkit.answering.logits import Logits, LogProbs, log_probs_of
from lmkit.encoding import Encoded, Ids
from lmkit.errors import BundleError, ModelError, TaskError, UnknownName
from lmkit.runtime.buffers import Pool
from lmkit.runtime.cores import available_cores
from lmkit.runtime.hugepages import in_huge_pages
from lmkit.saving.manifest import Tensor

SPIN_US = 1000  # how long a thread looks for work before it sleeps

# onnxruntime's execution providers, the first preferred; each may come with its options.
Providers: TypeAlias = Sequence[str | tuple[str, dict[str, Any]]]

_NO_TILES = "ORT_GQA_DISABLE_FLASH_ATTENTION"  # onnxruntime's own switch
_opening = threading.Lock()  # one graph at a time: the switch is the whole process's
# What onnxruntime raises at a graph that is whole and has nodes, or a form, which it does not know.
_TOO_NEW = ("InvalidGraph", "NotImplemented", "Fail")
# What onnxruntime calls numpy's types.
_TYPES = {"int64": "tensor(int64)", "float32": "tensor(float)"}


class State(Protocol):
    """Rows that are being written."""

    def step(self, tokens: Sequence[int | None]) -> Logits:
        """Append one token to each row and return the logits behind it.

        Args:
            tokens: B ids; None for a row that is finished, which stays as it is.
        Returns:
            float32 [B, V], overwritten by the next step.
        """

    def reorder(self, rows: Sequence[int]) -> None:
        """Replace the rows by copies of some of them.

        Args:
            rows: which row each new one is a copy of; there may be more or fewer than before.
        """

    def renew(self, row: int, prompt: Ids, limit: int) -> Logits | None:
        """Let another text take a row's place while the others are in the midst of theirs.

        Args:
            row: whose place.
            prompt: int64 [P].
            limit: the most tokens that will follow it.
        Returns:
            The logits behind the prompt, float32 [V], overwritten by the next call; None, and nothing
            has changed, where there is no room for it or rows must begin together.
        """

    def close(self) -> None:
        """Hand the buffers back; no row can be written from then on. A second call does nothing."""


class Session(Protocol):
    """A loaded graph, or two of them, that text can be generated with.

    Attributes:
        pool: where the memory of keys and values comes from, and goes back to.
    """

    pool: Pool

    @property
    def vocab_size(self) -> int:
        """The numbers in a row of logits."""

    def room(self, prompt: Ids) -> int | None:
        """Return the most tokens that can follow a prompt, or None."""

    def history(self, prompt: Ids) -> Ids:
        """Return the ids, int64 [T], that an answer continues: what penalties look back on."""

    def row_size(self, n_prompt: int, limit: int) -> int:
        """Return how many numbers are kept while a row is written.

        Args:
            n_prompt: the tokens of its prompt.
            limit: the most tokens that will follow.
        """

    def begin(self, prompts: Sequence[Ids], limits: Sequence[int]) -> tuple[State, Logits]:
        """Read prompts into fresh buffers.

        Args:
            prompts: B prompts, each int64 [P], of any lengths.
            limits: the most tokens that will follow each.
        Returns:
            The state to continue from, and the logits behind each prompt, float32 [B, V].
        """

    def forced(self, prompt: Ids, answer: Ids) -> Logits:
        """Return the logits that predict each token of an answer, and the one behind it.

        Args:
            prompt: int64 [P].
            answer: int64 [L].
        Returns:
            float32 [L + 1, V].
        """

    def log_probs(self, rows: Sequence[Encoded]) -> list[LogProbs]:
        """Return the log-probability of each row's learned tokens, float64 [L] a row."""


def open_graph(
    file: Path,
    ports: Sequence[Tensor],
    *,
    providers: Providers | None = None,
    threads: int | None = None,
) -> ort.InferenceSession:
    """Load an ONNX graph whose inputs and outputs are the ones that are written down.

    Its threads look for work while a graph runs, and for a millisecond at most, then they sleep.
    onnxruntime's own default, to look for work all the time and long after a run, is no faster, and
    takes the cores from whatever else is to run: with 20 ms between tokens it used 1.24 cores where
    half a core does. Not to look at all leaves more to a busy neighbour, and takes 9.5 ms a token
    instead of 6.6 without one, since threads are woken for each of hundreds of nodes (SmolLM2-135M
    in int4, two cores, onnxruntime 1.31).

    Args:
        file: the ONNX file.
        ports: its inputs and outputs, in any order.
        providers: onnxruntime's execution providers; the CPU's if None.
        threads: how many threads one step may use; all cores of the process if None.
    Raises:
        BundleError: onnxruntime cannot load it, or it has other inputs or outputs.
        TaskError: there are no threads to use.
        UnknownName: this onnxruntime has no such provider.
    """
    providers = [providers] if isinstance(providers, str) else list(providers or ())
    for provider in providers:
        name = provider if isinstance(provider, str) else provider[0]
        if name not in ort.get_available_providers():
            known = ort.get_available_providers()
            raise UnknownName("execution provider in this onnxruntime", name, known)
    if threads is not None and threads < 1:
        raise TaskError(f"threads is {threads}; expected 1 or more, or None for all cores")
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads or available_cores()
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.spin_duration_us", str(SPIN_US))
    # What an onnxruntime without that setting knows: to stop at least when a run ends.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    options.log_severity_level = 3  # its warnings are about graphs in general, not this one
    try:
        with _plain_attention(), in_huge_pages():
            onnx = ort.InferenceSession(
                str(file), options, providers=providers or ["CPUExecutionProvider"]
            )
    except Exception as error:  # onnxruntime raises its own kinds, without a common base
        problem = f"onnxruntime cannot load '{file}': {error}"
        if type(error).__name__ in _TOO_NEW:
            problem += (
                f"; this is onnxruntime {ort.__version__}, which may be too old for it: pip install "
                "--upgrade onnxruntime (int8 and int4 need 1.23), or choose another precision"
            )
        raise BundleError(problem) from error
    found = {port.name: port for port in (*onnx.get_inputs(), *onnx.get_outputs())}
    for tensor in ports:
        _check_port(file, tensor, found.pop(tensor.name, None))
    if found:
        raise BundleError(f"'{file}' has '{min(found)}', which is not written down")
    return onnx


@contextmanager
def _plain_attention() -> Iterator[None]:
    """Let the graphs that are opened meanwhile not split their attention into tiles.

    Measured with 9 heads on 2 threads, tiles / whole: a prompt of 512 tokens 2.8 / 2.1 ms a layer, one
    token behind 511 0.04 / 0.03 ms, behind 8191 0.62 / 0.46 ms, 512 tokens behind 3584 the same. The
    operator reads this when it is made; what the user has set holds.
    """
    with _opening:
        given = os.environ.get(_NO_TILES)
        if given is None:
            os.environ[_NO_TILES] = "1"
        try:
            yield
        finally:
            if given is None:
                os.environ.pop(_NO_TILES, None)


def run(onnx: ort.InferenceSession, binding: ort.IOBinding) -> None:
    """Run a graph on what is bound.

    Raises:
        ModelError: onnxruntime gives up.
    """
    try:
        onnx.run_with_iobinding(binding)
    except Exception as error:  # onnxruntime raises its own kinds, without a common base
        raise ModelError(f"onnxruntime cannot run the model: {error}") from error


def stepped(session: Session, prompts: Sequence[Ids], answers: Sequence[Ids]) -> list[LogProbs]:
    """Return the log-probability of each answer's tokens, float64 [L] an answer.

    A prompt that several answers follow is read once.

    Args:
        session: the loaded graph.
        prompts: B prompts, each int64 [P].
        answers: what follows each, int64 [L].
    """
    known: dict[bytes, int] = {}
    which = [known.setdefault(prompt.tobytes(), len(known)) for prompt in prompts]
    longest = max(map(len, answers))
    once = [prompts[which.index(number)] for number in range(len(known))]
    state, logits = session.begin(once, [longest] * len(once))
    try:
        if len(once) < len(prompts):
            state.reorder(which)
            logits = logits[which]
        return _steps(state, logits, answers)
    finally:
        state.close()


def _steps(state: State, logits: Logits, answers: Sequence[Ids]) -> list[LogProbs]:
    longest = max(map(len, answers))
    found: list[list[float]] = [[] for _ in answers]
    for place in range(longest):
        going = [row for row, answer in enumerate(answers) if place < len(answer)]
        scores = log_probs_of(logits[going], np.array([answers[row][place] for row in going]))
        for row, score in zip(going, scores.tolist(), strict=True):
            found[row].append(score)
        if place + 1 < longest:
            more = [int(answer[place]) if place + 1 < len(answer) else None for answer in answers]
            logits = state.step(more)
    return [np.array(scores, dtype=np.float64) for scores in found]


def _check_port(file: Path, tensor: Tensor, found: Any) -> None:
    """Refuse a graph whose input or output is not the one that is written down."""
    if found is None:
        raise BundleError(f"'{file}' does not have '{tensor.name}', which is written down")
    axes = tuple(axis if isinstance(axis, int) else None for axis in found.shape)
    wanted = tuple(axis if isinstance(axis, int) else None for axis in tensor.axes)
    if axes != wanted or found.type != _TYPES.get(tensor.dtype):
        raise BundleError(
            f"in '{file}' '{tensor.name}' is a {found.type} {list(found.shape)}; written down is "
            f"{tensor.dtype} {list(tensor.axes)}"
        )
