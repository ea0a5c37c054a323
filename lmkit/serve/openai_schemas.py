"""OpenAI's requests and answers, as far as a bundle can serve them.

What a bundle cannot do is in the models too, as a field that must be null and whose description begins
with "Not supported": a client that sends it is told so, and OpenAPI says it beforehand.

A list that is sent is read up to its first mistake (`fail_fast`): a small body may hold hundreds of
thousands, and to tell them all would keep everybody waiting.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from lmkit.chat.messages import ROLES
from lmkit.serve.schemas import (
    MOST_STOPS,
    WHOLE,
    Body,
    Content,
    Options,
    Positive,
    Stop,
    TokenId,
    Usage,
)

Role = Literal["system", "developer", "user", "assistant", "tool"]
assert set(Role.__args__) == set(ROLES)  # type: ignore[attr-defined]

FinishReason = Literal["stop", "length"]
MOST_CHOICES = 64
MOST_PROMPTS = 64


class TextPart(Body):
    """A part of a message's content."""

    type: Literal["text"]
    text: str


class Message(Body):
    """One turn of a conversation. An answer of this server can be sent back as it came."""

    role: Role
    content: str | Annotated[list[TextPart], Field(fail_fast=True)] | None = None
    name: str | None = None
    reasoning_content: str | None = None
    """What an answer was thought over with, for templates that read it."""
    tool_calls: Annotated[list[dict[str, Any]], Field(fail_fast=True)] | None = None
    """For templates that read them; this server's answers have none."""
    tool_call_id: str | None = None
    refusal: str | None = None
    """Read and left out."""
    annotations: list[Any] | None = None
    """Read and left out."""
    audio: None = None
    """Not supported."""
    function_call: None = None
    """Not supported."""

    @property
    def turn(self) -> dict[str, Any]:
        """The message as a record's column holds it."""
        unread = {"refusal", "annotations", "audio", "function_call"}
        return dict(self.model_dump(exclude_none=True, exclude=unread))


class StreamOptions(Body):
    """What a stream tells besides its pieces."""

    include_usage: bool | None = None
    """Send a last chunk with the usage of the whole request."""
    include_obfuscation: bool | None = None
    """Read and left out: nothing is obfuscated."""


class TextFormat(Body):
    """The one form that answers have."""

    type: Literal["text"]


class CommonRequest(Options):
    """What both of OpenAI's endpoints take.

    The names are OpenAI's; the further fields are those of `Generation`. What is left out is as the
    task has it: a missing temperature is the task's own, and not OpenAI's 1.
    """

    model: str
    """The name of a model, as `GET /v1/models` lists them."""
    n: Annotated[int, Field(ge=1, le=MOST_CHOICES), WHOLE] | None = None
    """How many answers each prompt gets."""
    max_tokens: Positive | None = None
    """The most tokens of an answer; another name for `max_new_tokens`."""
    stop: Annotated[list[Stop], Field(max_length=MOST_STOPS, fail_fast=True)] | Stop | None = None
    """Texts that end the answer and are not part of it."""
    stream: bool | None = None
    """Send the answer in pieces, as server-sent events."""
    stream_options: StreamOptions | None = None
    """Only with `stream`."""
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    """What a token's logit loses once the answer has it."""
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    """What a token's logit loses each time that the answer has it."""
    logit_bias: (
        Annotated[
            dict[
                Annotated[str, Field(pattern=r"^[0-9]{1,9}$")],
                Annotated[float, Field(ge=-100, le=100)],
            ],
            Field(max_length=1024),
        ]
        | None
    ) = None
    """What is added to the logits of tokens, by id."""
    user: str | None = None
    """Read and left out."""

    @property
    def limit(self) -> dict[str, int]:
        """The names and values under which the length of an answer was asked for."""
        names = ("max_new_tokens", "max_tokens", "max_completion_tokens")
        return {name: value for name in names if (value := getattr(self, name, None)) is not None}

    @property
    def bias(self) -> dict[int, float]:
        """What is added to logits, by id."""
        return {int(token): added for token, added in (self.logit_bias or {}).items()}


class ChatRequest(CommonRequest):
    """The body of `POST /v1/chat/completions`."""

    messages: Annotated[list[Message], Field(min_length=1, fail_fast=True)]
    """The conversation. A task that reads no messages gets the last user's text in its one column."""
    max_completion_tokens: Positive | None = None
    """The most tokens of an answer; OpenAI's newer name for it."""
    logprobs: bool | None = None
    """Tell each token's log-probability."""
    top_logprobs: Annotated[int, Field(ge=0, le=20), WHOLE] | None = None
    """How many of the likeliest tokens are told for each place; only with `logprobs`."""
    response_format: TextFormat | None = None
    """Not supported, but for text."""
    tools: Annotated[list[Any], Field(max_length=0)] | None = None
    """Not supported: `POST /v1/tasks/{name}` takes those of a chat template as a column."""
    tool_choice: Literal["none", "auto"] | None = None
    """Not supported: there are no tools to choose."""
    parallel_tool_calls: bool | None = None
    """Read and left out."""
    functions: None = None
    """Not supported."""
    function_call: None = None
    """Not supported."""
    audio: None = None
    """Not supported."""
    modalities: Annotated[list[Literal["text"]], Field(fail_fast=True)] | None = None
    """Not supported, but for text."""
    prediction: None = None
    """Not supported."""
    web_search_options: None = None
    """Not supported."""
    reasoning_effort: None = None
    """Not supported."""
    verbosity: None = None
    """Not supported."""
    store: Literal[False] | None = None
    """Not supported: nothing is stored."""
    metadata: dict[str, Any] | None = None
    """Read and left out."""
    service_tier: Literal["auto", "default"] | None = None
    """Not supported: there is one."""
    safety_identifier: str | None = None
    """Read and left out."""
    prompt_cache_key: str | None = None
    """Read and left out: what prompts have in common is found without it."""
    prompt_cache_retention: str | None = None
    """Read and left out."""
    prompt_cache_options: dict[str, Any] | None = None
    """Read and left out."""
    moderation: None = None
    """Not supported."""


class CompletionRequest(CommonRequest):
    """The body of `POST /v1/completions`."""

    prompt: (
        str
        | Annotated[list[str], Field(min_length=1, max_length=MOST_PROMPTS, fail_fast=True)]
        | Annotated[list[TokenId], Field(min_length=1, fail_fast=True)]
        | Annotated[
            list[Annotated[list[TokenId], Field(min_length=1, fail_fast=True)]],
            Field(min_length=1, max_length=MOST_PROMPTS, fail_fast=True),
        ]
    )
    """Texts fill the task's one prompt column; token ids are given to the model as they are."""
    logprobs: Annotated[int, Field(ge=0, le=20), WHOLE] | None = None
    """Tell each token's log-probability, and those of so many of the likeliest."""
    echo: bool | None = None
    """Put the prompt before its answer; not with `logprobs`."""
    best_of: Annotated[int, Field(ge=1, le=MOST_CHOICES), WHOLE] | None = None
    """Not supported, unless it equals `n`."""
    suffix: None = None
    """Not supported."""


class TopLogprob(Content):
    """A token that could have stood in a place."""

    token: str
    logprob: float
    bytes: list[int] | None


class TokenLogprob(TopLogprob):
    """A token of an answer."""

    top_logprobs: list[TopLogprob]


class ChatLogprobs(Content):
    """The log-probabilities of an answer's tokens, of the model's own logits."""

    content: list[TokenLogprob] | None
    refusal: None


class AnswerMessage(Content):
    """The answer's turn."""

    role: Literal["assistant"]
    content: str
    refusal: None


class ChatChoice(Content):
    """One answer."""

    index: int
    message: AnswerMessage
    logprobs: ChatLogprobs | None
    finish_reason: FinishReason


class ChatCompletion(Content):
    """The answer of `POST /v1/chat/completions`."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[ChatChoice]
    usage: Usage


class Delta(Content):
    """What a chunk adds to an answer."""

    role: Literal["assistant"] | None = None
    content: str | None = None


class ChunkChoice(Content):
    """What comes of one answer."""

    index: int
    delta: Delta
    logprobs: ChatLogprobs | None
    finish_reason: FinishReason | None


class ChatChunk(Content):
    """One event of a streamed chat completion."""

    id: str
    object: Literal["chat.completion.chunk"]
    created: int
    model: str
    choices: list[ChunkChoice]
    usage: Usage | None = None


class CompletionLogprobs(Content):
    """The log-probabilities of an answer's tokens, in columns."""

    tokens: list[str]
    token_logprobs: list[float]
    top_logprobs: list[dict[str, float]] | None
    text_offset: list[int]


class CompletionChoice(Content):
    """One answer."""

    index: int
    text: str
    logprobs: CompletionLogprobs | None
    finish_reason: FinishReason | None


class Completion(Content):
    """The answer of `POST /v1/completions`, and each event of a streamed one."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    choices: list[CompletionChoice]
    usage: Usage | None = None


class ModelCard(Content):
    """A model in OpenAI's list."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: Literal["lmkit"]


class ModelList(Content):
    """The answer of `GET /v1/models`."""

    object: Literal["list"]
    data: list[ModelCard]
