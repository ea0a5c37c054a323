"""The surface: what every route works with, and the steps that they share."""

from __future__ import annotations

import functools
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from typing import Any

import attrs
from starlette.types import Receive

from lmkit.batching import Request as Asked
from lmkit.batching import Update
from lmkit.errors import Busy, UnknownName
from lmkit.runtime.generator import Generator
from lmkit.serve.asking import Desk, Finished, Note, answers, updates
from lmkit.serve.metrics import Metrics
from lmkit.serve.models import Models, Served
from lmkit.serve.news import Bell
from lmkit.serve.problems import SERVER, Problem, problem_of
from lmkit.serve.settings import Settings
from lmkit.serve.task_schemas import Endpoint


@attrs.frozen(kw_only=True, eq=False)
class Surface:
    """One server's parts.

    Attributes:
        models: what answers.
        settings: what is allowed.
        desk: where requests are handed in.
        metrics: what is counted.
        endpoints: the typed endpoint of each model, by its name.
        document: returns the OpenAPI document.
    """

    models: Models
    settings: Settings
    desk: Desk
    metrics: Metrics
    endpoints: Mapping[str, Endpoint]
    document: Callable[[], dict[str, Any]]

    def served(self, name: str) -> Served:
        """Return the model of a name.

        Raises:
            Problem: there is none; 404, as OpenAI has it.
        """
        try:
            return self.models[name]
        except UnknownName as error:
            raise Problem(str(error), status=404, code="model_not_found", param="model") from None

    def limited(self, served: Served, options: Mapping[str, Any], param: str) -> dict[str, Any]:
        """Return options that keep to the server's bound on tokens and to the model's vocabulary.

        Raises:
            Problem: more tokens were asked for than one answer may have, or a token that is none.
        """
        model = served.model
        if not isinstance(model, Generator) or not served.writes:
            return dict(options)
        for name in ("forced_bos_token_id", "forced_eos_token_id"):
            if options.get(name, 0) >= model.session.vocab_size:
                raise Problem(
                    f"{name} is {options[name]}; expected an id below {model.session.vocab_size}",
                    code="invalid_option",
                    param=name,
                )
        most = self.settings.max_tokens
        if most is None:
            return dict(options)
        asked = options.get("max_new_tokens")
        if asked is not None and asked > most:
            raise Problem(
                f"{param} is {asked}; an answer of this server has {most} tokens at the most",
                code="max_tokens_exceeded",
                param=param,
            )
        own = served.task.generation.max_new_tokens
        return {**options, "max_new_tokens": min(own, most) if asked is None else asked}

    def submit(
        self, served: Served, requests: Sequence[Asked], receive: Receive, *, streams: bool
    ) -> Bell:
        """Hand requests in; see `Desk.submit`."""
        return self.desk.submit(served.engine, requests, receive, streams=streams)

    async def answers(self, served: Served, bell: Bell) -> list[Finished]:
        """Return what a bell's tickets became, counted; see `lmkit.serve.asking.answers`."""
        return await answers(bell, self._note(served))

    def updates(self, served: Served, bell: Bell) -> AsyncGenerator[tuple[int, Update], None]:
        """Return what comes of a bell's tickets, counted; see `lmkit.serve.asking.updates`."""
        return updates(bell, self._note(served))

    def problem(self, error: Exception) -> Problem:
        """Return what a client is told of an error; of a server that stops, that it does."""
        if isinstance(error, Busy) and self.models.is_closing:
            return Problem(
                "the server is stopping; ask again, and another one may answer",
                status=503,
                code="stopping",
                kind=SERVER,
                headers={"retry-after": "5"},
            )
        return problem_of(error)

    def _note(self, served: Served) -> Note:
        return functools.partial(self.metrics.answered, served.name)
