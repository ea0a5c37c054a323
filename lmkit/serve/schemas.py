"""What bodies and queries may hold: pydantic models, from which both the checks and OpenAPI come."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

# Numbers are bounded so that none of them can fail deep inside, where numpy counts in 64 bits.
_MOST = (1 << 31) - 1


def _whole(given: Any) -> Any:
    """Return a whole number that came with a decimal point as what it is; JSON knows one kind."""
    return int(given) if isinstance(given, float) and given.is_integer() else given


# It stands last in an annotation: what comes before it are the whole number's own bounds.
WHOLE = BeforeValidator(_whole)
Positive = Annotated[int, Field(ge=1, le=_MOST), WHOLE]
Count = Annotated[int, Field(ge=0, le=_MOST), WHOLE]
TokenId = Annotated[int, Field(ge=0, le=_MOST), WHOLE]
MOST_BEAMS = 16
MOST_STOPS = 16
Stop = Annotated[str, Field(min_length=1, max_length=256)]

# Query parameters that are text even where they look like a number, and those that may be repeated.
TEXTS = frozenset({"stop"})
LISTS = frozenset({"stop", "suppress_tokens"})


class Body(BaseModel):
    """What a client sends: types are not guessed, and a field that nobody knows is a mistake."""

    model_config = ConfigDict(
        strict=True,
        extra="forbid",
        allow_inf_nan=False,
        protected_namespaces=(),
        use_attribute_docstrings=True,
    )


class Content(BaseModel):
    """What a server sends."""

    model_config = ConfigDict(protected_namespaces=(), use_attribute_docstrings=True)


class Options(Body):
    """The fields of `Generation`; what is left out, or null, is as the task has it."""

    max_new_tokens: Positive | None = None
    """The most tokens of an answer."""
    min_new_tokens: Count | None = None
    """How many tokens come before an end token is allowed."""
    temperature: Annotated[float, Field(ge=0, le=100)] | None = None
    """What the logits are divided by; 0 takes the likeliest token every time."""
    top_k: Count | None = None
    """Draw from the k likeliest tokens only; 0 is off."""
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    """Draw from the likeliest tokens that hold this much probability; 1 is off."""
    min_p: Annotated[float, Field(ge=0, lt=1)] | None = None
    """Draw from tokens with at least this share of the top token's probability; 0 is off."""
    repetition_penalty: Annotated[float, Field(gt=0, le=100)] | None = None
    """Above 1 makes tokens that are already there less likely; 1 is off."""
    no_repeat_ngram_size: Count | None = None
    """Never write an n-gram of this size twice; 0 is off."""
    encoder_no_repeat_ngram_size: Count | None = None
    """Never write an n-gram of this size that the prompt has; 0 is off."""
    forced_bos_token_id: TokenId | None = None
    """The id that a seq2seq answer begins with."""
    forced_eos_token_id: TokenId | None = None
    """The id that comes last where an answer reaches its full length."""
    suppress_tokens: Annotated[list[TokenId], Field(max_length=1024, fail_fast=True)] | None = None
    """Ids that an answer never has."""
    num_beams: Annotated[int, Field(ge=1, le=MOST_BEAMS), WHOLE] | None = None
    """How many texts a beam search follows at once; more than 1 wants a temperature of 0."""
    length_penalty: Annotated[float, Field(ge=-100, le=100)] | None = None
    """Above 0 favours long texts, below 0 short ones; for beams only."""
    early_stopping: bool | Literal["never"] | None = None
    """When a beam search ends: true, with the first whole texts; "never", when none can be better."""
    prompt_lookup_num_tokens: Count | None = None
    """The most tokens that are guessed and then checked at once; 0 is off. The text stays the same."""
    seed: Annotated[int, Field(ge=-(1 << 63), le=(1 << 63) - 1), WHOLE] | None = None
    """Makes draws repeatable."""
    stop: Annotated[list[Stop], Field(max_length=MOST_STOPS, fail_fast=True)] | Stop | None = None
    """Texts that end the answer and are not part of it."""

    def overrides(self) -> dict[str, Any]:
        """Return what of `Generation` was asked for."""
        asked = {
            name: content
            for name in Options.model_fields
            if (content := getattr(self, name)) is not None
        }
        if "seed" in asked:  # numpy's generators take no negative one
            asked["seed"] %= 1 << 64
        return asked


class ErrorBody(Content):
    """What went wrong."""

    message: str
    """What happened, what was expected, and what to try."""
    type: str
    """The class of the error, such as `invalid_request_error`."""
    param: str | None
    """The part of the request that is at fault."""
    code: str | None
    """A word for programs, such as `context_length_exceeded`."""


class ErrorAnswer(Content):
    """An error in OpenAI's shape."""

    error: ErrorBody


class Usage(Content):
    """What a request cost, in tokens."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
