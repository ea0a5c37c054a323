"""Tasks and their parts as JSON, and back.

Every part is an object with a `type`: the class's name for lmkit's own, `plugin:Class` for one that
a plugin offers through `lmkit_components`. Reading refuses unknown types and keys; it never imports
what the JSON names, so a task from a stranger's bundle can run no code.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar, get_args, get_origin

import attrs
import cattrs
from cattrs.gen import make_dict_structure_fn, make_dict_unstructure_fn, override

from lmkit.chat import Chat
from lmkit.collating import Collator
from lmkit.collating.blocks import BlockCollator
from lmkit.collating.causal import CausalCollator
from lmkit.collating.masked import MaskedCollator
from lmkit.collating.seq2seq import Seq2SeqCollator
from lmkit.decoding import Decoder
from lmkit.decoding.fills import FillMaskDecoder
from lmkit.decoding.labels import LabelDecoder
from lmkit.decoding.text import TextDecoder
from lmkit.errors import PluginError, SerialError, near
from lmkit.formatting import Choice, Formatter, Part, Piece, Template
from lmkit.generation import EarlyStopping, Generation
from lmkit.losses import KeytokenWeighted, LossFunction
from lmkit.metrics import Accuracy, ExactMatch, MacroF1, Metric, Rouge
from lmkit.mixing import Mixture
from lmkit.renaming import Renamed
from lmkit.saving.absent import Absent
from lmkit.task import Task
from lmkit.transforms import Lost, Map, RecordFunction, Transform, Where, function_at, path_of

T = TypeVar("T")

OWN: tuple[type, ...] = (
    Accuracy,
    BlockCollator,
    CausalCollator,
    Chat,
    ExactMatch,
    FillMaskDecoder,
    Generation,
    KeytokenWeighted,
    LabelDecoder,
    Lost,
    MacroF1,
    Map,
    MaskedCollator,
    Mixture,
    Renamed,
    Rouge,
    Seq2SeqCollator,
    Task,
    Template,
    TextDecoder,
    Where,
)
_JSON_NAMES = {str: "a string", bool: "true or false", int: "a whole number", float: "a number"}
_ROLES: tuple[Any, ...] = (Formatter, Collator, Decoder, LossFunction, Metric, Transform)
_ROLE_NAMES: dict[Any, str] = {LossFunction: "loss"}  # where it is not the class's
_UNASKED: tuple[Any, ...] = (LossFunction, Metric, Transform)  # by whatever answers


def to_json(part: Any) -> dict[str, Any]:
    """Return a task, or a part of one, as JSON objects and lists.

    Raises:
        SerialError: it has a part that JSON cannot name; the text says which and what to do.
    """
    components = _components_for(part)
    _check_known(part, components)
    converter = _converter(components)
    result: dict[str, Any] = converter.unstructure(part)
    _check_plain(result, "$")
    return result


def from_json(data: Mapping[str, Any], kind: type[T]) -> T:
    """Return the task, or the part of one, that JSON describes.

    Args:
        data: what `to_json` returned.
        kind: what is expected, such as `Task`.
    Raises:
        SerialError: the JSON is no such thing; the text has the path of each problem.
        PluginError: it names a class whose plugin is not installed, of a part that answering needs;
            for another part an `Absent` stands.
    """
    try:
        converter = _converter(_components_named(data))
        return converter.structure(data, kind)
    except cattrs.BaseValidationError as error:
        raise SerialError("\n".join(_problems(error, "$"))) from error
    except RecursionError as error:
        raise SerialError("$: its parts are nested too deeply") from error


def dump(data: Any) -> str:
    """Return JSON text as lmkit writes it into files."""
    return json.dumps(data, ensure_ascii=False, indent=2) + "\n"


def plugin_types(data: Any) -> list[str]:
    """Return the plugin classes, as `plugin:Class`, that some JSON names."""
    return sorted({name for name in _types(data) if ":" in name})


def _types(data: Any) -> Iterator[str]:
    if isinstance(data, Mapping):
        if isinstance(data.get("type"), str):
            yield data["type"]
        for part in data.values():
            yield from _types(part)
    elif isinstance(data, (list, tuple)):
        for part in data:
            yield from _types(part)


def _components_for(part: Any) -> dict[str, type]:
    """Return the classes by name: lmkit's own, and the plugins' if a part is not one of them."""
    own = {cls.__name__: cls for cls in OWN}
    if all(type(p) in OWN or not _is_role(p) for p in _parts(part)):
        return own
    return own | _plugin_components()


def _parts(part: Any) -> Iterator[Any]:
    """Yield a part, and the parts of it."""
    yield part
    if isinstance(part, tuple):
        for inner in part:
            yield from _parts(inner)
    elif attrs.has(type(part)):
        for field in attrs.fields(type(part)):
            yield from _parts(getattr(part, field.name))


def _is_role(part: Any) -> bool:
    return attrs.has(type(part)) and any(isinstance(part, role) for role in _ROLES)


def _components_named(data: Any) -> dict[str, type]:
    own = {cls.__name__: cls for cls in OWN}
    return own | _plugin_components() if plugin_types(data) else own


def _plugin_components() -> dict[str, type]:
    from lmkit.plugins import installed

    return dict(installed().components)


def _converter(components: Mapping[str, type]) -> cattrs.Converter:
    converter = cattrs.Converter(forbid_extra_keys=True)
    for plain in (str, bool, int, float):
        converter.register_structure_hook(plain, _read_plain)
    converter.register_structure_hook(EarlyStopping, _read_early_stopping)
    converter.register_structure_hook_func(_is_tuple, functools.partial(_read_tuple, converter))
    converter.register_structure_hook(Part, functools.partial(_read_template_part, converter))
    converter.register_structure_hook(RecordFunction, lambda path, _: function_at(path))
    converter.register_unstructure_hook(RecordFunction, path_of)
    write_piece: Any = make_dict_unstructure_fn(
        Piece, converter, cut=override(omit_if_default=True)
    )
    converter.register_unstructure_hook(Piece, write_piece)
    for role in _ROLES:
        converter.register_structure_hook(
            role, functools.partial(_read_any, components, converter, role)
        )
        converter.register_unstructure_hook(
            role, functools.partial(_write_any, components, converter)
        )
    converter.register_unstructure_hook(
        LossFunction | None,
        lambda part: None if part is None else _write_any(components, converter, part),
    )
    wholes = (Task, Mixture)  # after their parts, whose hooks are built into theirs
    for name, cls in sorted(
        components.items(), key=lambda item: wholes.index(item[1]) if item[1] in wholes else -1
    ):
        write: Any = make_dict_unstructure_fn(cls, converter)
        converter.register_unstructure_hook(cls, functools.partial(_write, name, write))
        read: Any = make_dict_structure_fn(cls, converter)
        converter.register_structure_hook(cls, functools.partial(_read_one, name, read))
    return converter


def _write(name: str, write: Callable[[Any], dict[str, Any]], part: Any) -> dict[str, Any]:
    return {"type": name, **write(part.portable() if isinstance(part, Chat) else part)}


def _write_any(components: Mapping[str, type], converter: cattrs.Converter, part: Any) -> Any:
    if isinstance(part, Absent):
        return part.content
    _check_known(part, components)
    return converter.unstructure(part, unstructure_as=type(part))


def _check_known(part: Any, components: Mapping[str, type]) -> None:
    """Refuse a class that JSON has no name for; a subclass is not its parent."""
    if type(part) not in components.values():
        raise SerialError(
            f"{type(part).__name__} has no name in JSON; offer the class in a plugin's "
            "lmkit_components"
        )


def _is_tuple(kind: Any) -> bool:
    return get_origin(kind) is tuple


def _read_tuple(converter: cattrs.Converter, data: Any, kind: Any) -> tuple[Any, ...]:
    if not isinstance(data, (list, tuple)):
        raise SerialError(f"expected a list, found {data!r}")
    inner = get_args(kind)[0]
    return tuple(converter.structure(data, list[inner]))  # type: ignore[valid-type]


def _read_template_part(converter: cattrs.Converter, data: Any, union: Any) -> Part:
    """Return a piece of a template, or a choice, which is told by its alternatives."""
    if not isinstance(data, Mapping):
        raise SerialError(f"expected an object, a piece of a template, found {data!r}")
    kind: Any = Choice if "alternatives" in data else Piece
    found: Part = converter.structure(data, kind)
    return found


def _read_plain(data: Any, kind: Any) -> Any:
    """Return a string, number or boolean as it stands; nothing becomes true or whole by force."""
    if type(data) is kind or (kind is float and type(data) is int):
        return kind(data)
    raise SerialError(f"expected {_JSON_NAMES[kind]}, found {data!r}")


def _read_early_stopping(data: Any, kind: Any) -> Any:
    if isinstance(data, bool) or data == "never":
        return data
    raise SerialError(f'expected true, false or "never", found {data!r}')


def _read_one(name: str, read: Callable[[Any, Any], Any], data: Any, cls: Any) -> Any:
    if not isinstance(data, Mapping):
        raise SerialError(f'expected an object with "type": "{name}", found {data!r}')
    if data.get("type") != name:
        raise SerialError(f'expected "type": "{name}", found {data.get("type")!r}')
    return read({key: part for key, part in data.items() if key != "type"}, cls)


def _read_any(
    components: Mapping[str, type], converter: cattrs.Converter, role: type, data: Any, cls: Any
) -> Any:
    kind = _ROLE_NAMES.get(role, role.__name__.lower())
    if not isinstance(data, Mapping) or not isinstance(data.get("type"), str):
        raise SerialError(f'expected a {kind}, an object with a "type", found {data!r}')
    name = data["type"]
    found = components.get(name)
    if found is None:
        unknown = _unknown_type(name, components)
        if role in _UNASKED and isinstance(unknown, PluginError):
            return Absent.of(data, kind, unknown)
        raise unknown
    if found in (Map, Where) and isinstance(data.get("function"), str):
        try:
            function_at(data["function"])
        except PluginError as error:
            return Absent.of(data, kind, error)
        except SerialError:
            pass  # which is told with its place below
    part: Any = converter.structure(data, found)
    if not isinstance(part, role):
        raise SerialError(f'"type": "{name}" is no {kind}')
    return part


def _unknown_type(name: str, components: Mapping[str, type]) -> Exception:
    if ":" in name:
        plugin = name.partition(":")[0]
        return PluginError(
            f"'{name}' comes from the plugin '{plugin}', which is not installed or does not offer "
            "it; run 'lmkit plugins' to see what is"
        )
    close = near(name, components)
    hint = f"; close to: {', '.join(close)}" if close else ""
    return SerialError(f'no class is known by "type": "{name}"{hint}')


def _problems(error: BaseException, path: str) -> Iterator[str]:
    """Yield one line a problem, with the path to it; plugin errors pass through unwrapped."""
    if isinstance(error, PluginError):
        raise error
    if not isinstance(error, cattrs.BaseValidationError):
        if isinstance(error, cattrs.ForbiddenExtraKeysError):
            yield f"{path}: unknown key {', '.join(sorted(error.extra_fields))}"
        elif isinstance(error, KeyError):
            yield f"{path}: {error} is missing"
        else:
            yield f"{path}: {error}"
        return
    for inner in error.exceptions:
        yield from _problems(inner, path + _step(inner))


def _step(error: BaseException) -> str:
    """Return the step of the path that cattrs noted on an error: a field, an index, or nothing."""
    for note in getattr(error, "__notes__", ()):
        if isinstance(note, cattrs.AttributeValidationNote):
            return f".{note.name}"
        if isinstance(note, cattrs.IterableValidationNote):
            return f"[{note.index}]"
    return ""


def _check_plain(data: Any, path: str) -> None:
    """Refuse what JSON has no word for, naming where it stands."""
    if isinstance(data, Mapping):
        for key, part in data.items():
            _check_plain(part, f"{path}.{key}")
    elif isinstance(data, (list, tuple)):
        for index, part in enumerate(data):
            _check_plain(part, f"{path}[{index}]")
    elif data is not None and not isinstance(data, (str, int, float, bool)):
        raise SerialError(
            f"{path} is a {type(data).__name__}, which cannot become JSON; a class must be offered "
            "by a plugin's lmkit_components, and a function must be one that a plugin's module "
            "defines by name"
        )
