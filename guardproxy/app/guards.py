"""Build the guard that a configuration describes."""

from collections.abc import Collection, Mapping, Sequence

from guardproxy.app.engine_link import EngineConnection
from guardproxy.app.finders import open_finder, reaches, single_guards
from guardproxy.app.images import image_reading, seeing
from guardproxy.app.kinds import answers_in_chat, gives_labels, has_model, is_finder, is_remote, runs_model
from guardproxy.app.languages import languages_of_guard
from guardproxy.app.registries import open_family
from guardproxy.app.replicas import chat_guard, completions_guard, replica_guard
from guardproxy.errors import ConfigError
from guardproxy.guards.cache import Cached
from guardproxy.guards.combine import AllOf, ByLanguage, ByRole, Cascade
from guardproxy.guards.local import LocalGuard, LocalLimits, ModelOptions, open_local_guard
from guardproxy.guards.replicas import ReplicaGuard
from guardproxy.guards.rules import FinderGuard
from guardproxy.pipeline.traits import GuardTraits
from guardproxy.ports import Guard, LabelList, SharedState
from guardproxy.settings import MULTILINGUAL, ByRoleSettings, MemberSettings, ServiceSettings, Settings
from guardproxy.types import Check, Conversation, Message, Part

# Size of the verdict cache; a verdict takes about a kilobyte.
_CACHED_VERDICTS = 20_000
# Any check: families name their readouts only in the prompts that they render.
_SAMPLE_CHECK = Check(Conversation((Message("user", (Part("check", "Hello."),)),)), "user")


def guard(settings: Settings, data_dir: str | None = None) -> Guard:
    """The guard of a configuration, with a verdict cache, not started. `data_dir` as for `members`."""
    return with_cache(combined(settings, members(settings, data_dir=data_dir)))


def with_cache(inner: Guard, shared: SharedState | None = None) -> Guard:
    """A guard that caches the verdicts of `inner`, which processes with the same `shared` state know as well."""
    return Cached(inner, _CACHED_VERDICTS, shared)


def guard_name(settings: Settings) -> str:
    """The name of the guard of a configuration, as verdicts have it. It is not opened, so it needs no key."""
    single = settings.guard
    if not settings.members:
        return single.model if has_model(single) else single.family
    if single.by_role is not None:
        return ByRole.JOINED_BY.join(settings.members)
    kind = Cascade if single.cascade is not None else ByLanguage if single.by_language is not None else AllOf
    return kind.JOINED_BY.join(settings.members)


def combined(settings: Settings, members: Sequence[Guard]) -> Guard:
    """The members as the single guard that `guard.all`, `cascade`, `by_language` or `by_role` describes."""
    cascade, by_language = settings.guard.cascade, settings.guard.by_language
    if cascade is not None:
        first, second = members
        return Cascade(first, second, cascade.low, cascade.high, see=seeing(settings))
    if by_language is not None:
        first, others = members
        reads = languages_of_guard(settings.members[by_language.first].guard)
        return ByLanguage(first, others, reads or frozenset(), see=seeing(settings))
    if settings.guard.by_role is not None:
        return _by_role(settings.guard.by_role, dict(zip(settings.members, members, strict=True)), seeing(settings))
    return AllOf(members, settings.guard.mean, see=seeing(settings)) if settings.guard.all is not None else members[0]


def _by_role(roles: ByRoleSettings, named: Mapping[str, Guard], see: Collection[str]) -> Guard:
    def of(names: Sequence[str]) -> Guard:
        return AllOf([named[name] for name in names], see=see) if len(names) > 1 else named[names[0]]

    return ByRole(
        [*named.values()],
        user=of(roles.of("user")),
        assistant=of(roles.of("assistant")),
        tool=of(roles.of("tool")),
    )


def reads_label_lists(settings: Settings) -> bool:
    """Whether a guard reads categories from label lists, and so only above the floor with which it was started."""
    families = [
        open_family(member.guard.family, member.guard.options, member.taxonomy)
        for member in _described(settings).values()
        if has_model(member.guard) and not answers_in_chat(member.guard)
    ]
    prompts = [prompt for family in families for prompt in family.render(_SAMPLE_CHECK)]
    return any(isinstance(prompt.readout, LabelList) for prompt in prompts)


def members(
    settings: Settings, *, floor: float = 0.0, data_dir: str | None = None, engine: EngineConnection | None = None
) -> list[Guard]:
    """The guards of a configuration, not started. Engines read categories only if P(unsafe) is above `floor`.

    The floor does not apply to a weighted mean: the mean can reach a threshold that a member's probability is below.
    `data_dir` is the folder of guardproxy's files, with the weights that do not ship; None for the user's own. With an
    `engine`, that process runs the models. Raises ConfigError if the variable of a key is not set.
    """
    for name in settings.members:
        settings.require("guards", name)
    if not settings.members:
        settings.require("guard")
    floor = lowest(settings, floor)
    return [_open(name, member, floor, data_dir, engine) for name, member in _described(settings).items()]


def lowest(settings: Settings, floor: float) -> float:
    """The P(unsafe) from which on the guards read categories; `floor` is that of the policies."""
    return floor if settings.guard.mean is None else 0.0


def model_guards(settings: Settings, *, floor: float, data_dir: str | None) -> list[LocalGuard]:
    """Those of `members` that run a model on this machine; `floor` is `lowest`."""
    described = _described(settings).items()
    return [_open_model(name, member, floor, data_dir) for name, member in described if runs_model(member.guard)]


def needs_engine(settings: Settings) -> bool:
    """Whether a guard of the configuration runs a model on this machine."""
    return any(runs_model(member.guard) for member in _described(settings).values())


def _described(settings: Settings) -> Mapping[str, MemberSettings]:
    """Every guard that answers checks by itself, by its name."""
    return settings.members or {guard_name(settings): MemberSettings(settings.guard, settings.taxonomy)}


def location(model: str, data_dir: str | None = None) -> str:
    """Where a model is: its name, or its directory in the folder of guardproxy's files if it lies there."""
    if model != MULTILINGUAL:
        return model
    from guardproxy.sinks.database import data_folder  # noqa: PLC0415 - few models need what it imports

    return str(data_folder(data_dir) / model)


def _open(
    name: str, member: MemberSettings, floor: float, data_dir: str | None, engine: EngineConnection | None
) -> Guard:
    guard = member.guard
    if is_finder(guard):
        return FinderGuard(name, open_finder(guard))
    if runs_model(guard) and engine is None:
        return _open_model(name, member, floor, data_dir)
    family = open_family(guard.family, guard.options, member.taxonomy)
    if guard.runner == "openai":
        open_guard = chat_guard if answers_in_chat(guard) else completions_guard
        return open_guard(name, guard, family, floor)
    if is_remote(guard):
        return replica_guard(name, guard, family.taxonomy, floor)
    if guard.service is not None:
        from guardproxy.guards.services import open_service  # noqa: PLC0415 - it imports an HTTP client

        return open_service(
            name=name,
            family=family,
            key=_key(guard.service),
            base_url=guard.service.url or "",
            timeout_s=guard.timeout_s,
            attempts=guard.service.attempts,
            concurrency=guard.service.concurrency,
            per_second=guard.service.per_second,
        )
    assert engine is not None  # noqa: S101 - all other guards are opened above
    return engine.guard(name, family.taxonomy, timeout_s=guard.timeout_s, floor=floor)


def _open_model(name: str, member: MemberSettings, floor: float, data_dir: str | None) -> LocalGuard:
    guard = member.guard
    family = open_family(guard.family, guard.options, member.taxonomy)
    options = ModelOptions(location(guard.model, data_dir), guard.device, guard.dtype, guard.threads, floor)
    limits = LocalLimits(guard.timeout_s, guard.max_wait_s, guard.max_batch_tokens)
    return open_local_guard(name, family, options, limits)


def traits(settings: Settings) -> GuardTraits:
    """What the pipeline has to know of the guard."""
    by_role = settings.guard.by_role
    return GuardTraits(
        reaches=reaches(settings),
        reads_tools=by_role is not None and by_role.tool is not None,
        images=image_reading(settings),
        has_model=any(not is_finder(guard) for guard in single_guards(settings)),
        tells_canaries=_tells_canaries(settings),
        timeout_s=max(guard.timeout_s for guard in single_guards(settings)),
    )


def _tells_canaries(settings: Settings) -> bool:
    """Whether a guard that was trained to tell harm reads the canaries of both sides, and not one by a policy text."""
    models = [guard for guard in single_guards(settings) if not is_finder(guard)]
    labelling = sum(map(gives_labels, models))
    divided = settings.guard.by_role is not None or settings.guard.by_language is not None
    return bool(models) and not labelling if divided else labelling < len(models)


def _key(service: ServiceSettings) -> str:
    if service.key is None:
        raise ConfigError("the key of a moderation service is not set")
    return service.key


def local_guards(guards: Sequence[Guard]) -> list[LocalGuard]:
    """The guards that run a model in this process, those inside of combinations of two included."""
    return [guard for guard in _parts(guards) if isinstance(guard, LocalGuard)]


def replica_guards(guards: Sequence[Guard]) -> list[ReplicaGuard]:
    """The guards whose models run in other processes."""
    return [guard for guard in _parts(guards) if isinstance(guard, ReplicaGuard)]


def _parts(guards: Sequence[Guard]) -> list[Guard]:
    found: list[Guard] = []
    for guard in guards:
        found += _parts(guard.parts) if isinstance(guard, Cascade | ByLanguage) else [guard]
    return found
