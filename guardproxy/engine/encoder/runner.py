"""Encoder classifiers: texts in windows, batches of windows of similar length, one probability per output."""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeVar

import torch

from guardproxy.engine.encoder.packed import PackedEncoder, pack_windows
from guardproxy.engine.lanes import LanePool, balance
from guardproxy.engine.load import LoadedModel, calibration
from guardproxy.engine.number_format import NumberFormat
from guardproxy.engine.runner import WorkItem, WorkResult
from guardproxy.engine.tokenizer import PromptTokenizer
from guardproxy.errors import ConfigError, GuardUnavailable
from guardproxy.ports import ClassLogits, Prompt, Reading

Token = TypeVar("Token")
# Tokens that neighbouring windows share, and the most tokens of the previous turn that a reply is read with.
_OVERLAP = 64
_QUESTION = 96
# Streams whose windows are cached.
_STREAMS = 256
# The most padding in a batch of windows, as a share of its tokens.
_PADDING = 0.08
_BATCH_TOKENS = {"cpu": 2048, "cuda": 32768}
# A batch of windows takes at most this many seconds, so that no check waits long for a text of many windows.
_SLICE_S = 0.05


@dataclass(frozen=True, slots=True)
class _Template:
    """The control tokens around one text or a pair of texts, and the segment type of each text."""

    before: tuple[int, ...]
    between: tuple[int, ...]
    after: tuple[int, ...]
    types: tuple[int, int]

    @property
    def ids(self) -> tuple[tuple[int, ...], ...]:
        """The control tokens by their place."""
        return self.before, self.between, self.after

    @property
    def size(self) -> int:
        """The number of control tokens."""
        return sum(len(ids) for ids in self.ids)


@dataclass(frozen=True, slots=True)
class _ShortParts:
    """How texts of more than `over` tokens are also read: in parts of `size` tokens, neighbours sharing `overlap`.

    In a long window the model misses a short harmful passage; in a short part a harmless passage looks worse than it
    does in its context. So both are read, and `discount` is subtracted from the logits of a part.
    """

    over: int
    size: int
    overlap: int
    discount: float


@dataclass(frozen=True, slots=True)
class _EncodedWindow:
    """One window: token ids, segment types, how its outputs become probabilities, and the stream it belongs to.

    `discount` is subtracted from its logits.
    """

    ids: tuple[int, ...]
    types: tuple[int, ...]
    readout: ClassLogits
    stream: str | None = None
    discount: float = 0.0


class ClassifierRunner:
    """Runs a sequence classifier; implements engine.runner.Runner.

    A prompt with a turn before the judged text is read as a pair. `threads` (None: torch's default) is the number of
    CPU threads. `number_format` (None: the model's own type) is that of the layers of a BERT or MPNet on a CPU.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        device: torch.device,
        *,
        max_batch_tokens: int | None = None,
        threads: int | None = None,
        number_format: NumberFormat | None = None,
    ) -> None:
        self.max_batch_tokens = max_batch_tokens or _BATCH_TOKENS[device.type]
        self.slice_s = _SLICE_S
        number_format = number_format or NumberFormat(loaded.model.dtype)
        self.dtype = number_format.type_name
        self._device = device
        self._lane_pool = LanePool((threads or torch.get_num_threads()) if device.type == "cpu" else 1)
        supported = PackedEncoder.supports(loaded.model, device)
        self._packed = PackedEncoder(loaded.model, number_format) if supported else None
        self._model: Any = None if supported else loaded.model  # the packed encoder has weights of its own
        self._tokenizer = PromptTokenizer(loaded.backend)
        self._single, self._pair = _templates(loaded)
        self._has_types = "token_type_ids" in getattr(loaded.tokenizer, "model_input_names", [])
        self._pad = loaded.tokenizer.pad_token_id or 0
        self._limit = _window_limit(loaded)
        self._parts = _short_parts(loaded)
        # Two models with equal layouts cut every text into the same tokens, control tokens, windows and parts.
        self.layout = (loaded.backend.get_vocab(), self._single.ids, self._pair.ids, self._limit, self._parts)
        self._streams: OrderedDict[str, dict[_EncodedWindow, tuple[float, ...]]] = OrderedDict()
        self._outputs = int(loaded.model.config.num_labels)
        temperature, bias = _calibration(loaded)
        self._temperature, self._bias = temperature.to(device), bias.to(device)

    def encode(self, prompt: Prompt, stream: str | None = None) -> tuple[WorkItem, ...]:
        """Encode `prompt` in windows of at most the model's length; the cost of each is its tokens."""
        readout = prompt.readout
        if not isinstance(readout, ClassLogits):
            raise GuardUnavailable("an encoder can only be read for its class logits")
        if len(readout.labels) != self._outputs:
            raise GuardUnavailable(f"the model has {self._outputs} outputs, the family names {len(readout.labels)}")
        turns = [piece.text for piece in prompt.pieces if piece.kind == "turn"]
        text = "".join(piece.text for piece in prompt.pieces if piece.kind == "judged")
        judged, spans = self._tokenizer.spans(text) if text else ([], [])
        # A reply whose question is unknown has an empty turn: it is still the second text of a pair, read as a reply.
        context = self._tokenizer.text(turns[-1])[: min(_QUESTION, self._limit // 2)] if turns else None
        room = self._limit - (self._single.size if context is None else self._pair.size + len(context))
        window = partial(self._window, context, readout=readout, stream=stream)
        encoded = [window(ids) for ids in windows(judged, room, _OVERLAP)]
        places = windows(spans, room, _OVERLAP)
        if self._parts is not None and len(judged) > self._parts.over:
            size, overlap = min(self._parts.size, room), self._parts.overlap
            encoded += [window(ids, discount=self._parts.discount) for ids in windows(judged, size, overlap)]
            places += windows(spans, size, overlap)
        if len(encoded) == 1:
            return (WorkItem(len(encoded[0].ids), encoded[0], least=prompt.least),)
        held = [(place[0][0], place[-1][1]) for place in places]
        return tuple(
            WorkItem(len(item.ids), item, span, least=prompt.least) for item, span in zip(encoded, held, strict=True)
        )

    def run(self, batch: Sequence[WorkItem]) -> list[WorkResult]:
        """One result per window, in order. Equal windows, and windows of a stream that were read, are computed once."""
        items: list[_EncodedWindow] = [work.data for work in batch]
        known = {item: cached for item in items if (cached := self._cached(item)) is not None}
        new = [item for item in dict.fromkeys(items) if item not in known]
        if new:
            known |= self._compute(new)
        uncounted = set(new)
        results: list[WorkResult] = []
        for item in items:
            # The tokens of equal windows count as computed for the first of them only.
            computed = len(item.ids) if item in uncounted else 0
            uncounted.discard(item)
            results.append(WorkResult(Reading(known[item]), computed, len(item.ids) - computed))
            self._cache(item, known[item])
        return results

    def _cached(self, item: _EncodedWindow) -> tuple[float, ...] | None:
        return None if item.stream is None else self._streams.get(item.stream, {}).get(item)

    def _cache(self, item: _EncodedWindow, probabilities: tuple[float, ...]) -> None:
        """Cache a stream's window: a reply that grows keeps all its windows except the last ones."""
        if item.stream is not None:
            self._streams.setdefault(item.stream, {})[item] = probabilities
            self._streams.move_to_end(item.stream)
            if len(self._streams) > _STREAMS:
                self._streams.popitem(last=False)

    def _compute(self, items: Sequence[_EncodedWindow]) -> dict[_EncodedWindow, tuple[float, ...]]:
        """The probabilities of the windows."""
        if self._packed is not None:
            row = pack_windows([(item.ids, item.types) for item in items])
            logits = torch.cat(self._lane_pool.run(self._packed.lanes(row, self._lane_pool.threads)))
        else:
            lanes = balance([len(item.ids) for item in items], self._lane_pool.threads)
            parts = self._lane_pool.run([partial(self._run_lane, [items[index] for index in lane]) for lane in lanes])
            order = [index for lane in lanes for index in lane]
            logits = torch.cat(parts)[torch.tensor(order).argsort()]  # back in the order of `items`
        with torch.inference_mode():
            discount = torch.tensor([[item.discount] for item in items], device=logits.device)
            logits = (logits.float() - discount) / self._temperature + self._bias
            return {item: self._activate(values, item.readout) for item, values in zip(items, logits, strict=True)}

    def _run_lane(self, items: Sequence[_EncodedWindow]) -> torch.Tensor:
        """Logits [windows, outputs] in the order of `items`, computed in batches of similar length."""
        groups = by_length([len(item.ids) for item in items], self.max_batch_tokens)
        logits = torch.cat([self._forward([items[index] for index in group]) for group in groups])
        return logits[torch.tensor([index for group in groups for index in group]).argsort()]

    def adopt(self, item: WorkItem) -> WorkItem:
        """A work item of a runner with the same layout, as this runner would have made it."""
        window: _EncodedWindow = item.data
        return item if self._has_types else replace(item, data=replace(window, types=(0,) * len(window.ids)))

    def forget(self, stream: str) -> None:
        """Drop the cached windows of a stream that has ended."""
        self._streams.pop(stream, None)

    def close(self) -> None:
        """Release the weights."""
        self._streams.clear()
        self._lane_pool.close()
        self._model = self._packed = None

    def _window(
        self,
        context: list[int] | None,
        text: list[int],
        *,
        readout: ClassLogits,
        stream: str | None,
        discount: float = 0.0,
    ) -> _EncodedWindow:
        if context is not None:
            template = self._pair
            ids = (*template.before, *context, *template.between, *text, *template.after)
            head = len(template.before) + len(context) + len(template.between)
            types = (template.types[0],) * head + (template.types[1],) * (len(ids) - head)
        else:
            template = self._single
            ids = (*template.before, *text, *template.after)
            types = (template.types[0],) * len(ids)
        if not self._has_types:
            types = (0,) * len(ids)  # the value that a model assumes when it gets no segment types
        return _EncodedWindow(ids, types, readout, stream, discount)

    def _forward(self, items: Sequence[_EncodedWindow]) -> torch.Tensor:
        """Logits [windows, outputs] of the model's own forward."""
        longest = max(len(item.ids) for item in items)
        ids = torch.full((len(items), longest), self._pad)
        types, mask = torch.zeros_like(ids), torch.zeros_like(ids)
        for row, item in enumerate(items):
            size = len(item.ids)
            ids[row, :size], types[row, :size], mask[row, :size] = torch.tensor(item.ids), torch.tensor(item.types), 1
        # Windows of one length need no mask, and without a mask the attention takes its fast path.
        unpadded = all(len(item.ids) == longest for item in items)
        inputs = {"input_ids": ids.to(self._device), "attention_mask": None if unpadded else mask.to(self._device)}
        if self._has_types:
            inputs["token_type_ids"] = types.to(self._device)
        logits: torch.Tensor = self._model(**inputs).logits
        return logits

    def _activate(self, logits: torch.Tensor, readout: ClassLogits) -> tuple[float, ...]:
        values = torch.sigmoid(logits) if readout.activation == "sigmoid" else torch.softmax(logits, -1)
        return tuple(values.tolist())


def windows(tokens: list[Token], room: int, overlap: int) -> list[list[Token]]:
    """Cut `tokens` into windows of at most `room`, neighbours sharing at least `overlap` (at most half of `room`).

    No tokens give one empty window.
    """
    if len(tokens) <= room:
        return [tokens]
    step = room - min(overlap, room // 2)
    starts = [*range(0, len(tokens) - room, step), len(tokens) - room]
    return [tokens[start : start + room] for start in starts]


def by_length(lengths: Sequence[int], budget: int) -> list[list[int]]:
    """Group indices by similar length: each group within `budget` padded tokens, and with little padding."""
    order = sorted(range(len(lengths)), key=lambda index: -lengths[index])
    groups: list[list[int]] = []
    used = 0
    for index in order:
        group = groups[-1] if groups else None
        if group is not None:
            padded = lengths[group[0]] * (len(group) + 1)  # sorted, so a group's first is its longest
            if padded <= budget and padded - used - lengths[index] <= _PADDING * padded:
                group.append(index)
                used += lengths[index]
                continue
        groups.append([index])
        used = lengths[index]
    return groups


def _templates(loaded: LoadedModel) -> tuple[_Template, _Template]:
    """The templates of one text and of a pair, found by encoding short texts with control tokens."""
    backend = loaded.backend
    text = backend.encode("a", add_special_tokens=False).ids
    single, pair = backend.encode("a"), backend.encode("a", "a")
    start = _find(single.ids, text, 0)
    first = _find(pair.ids, text, 0)
    second = _find(pair.ids, text, first + len(text))
    return (
        _Template(
            tuple(single.ids[:start]),
            (),
            tuple(single.ids[start + len(text) :]),
            (single.type_ids[start], single.type_ids[start]),
        ),
        _Template(
            tuple(pair.ids[:first]),
            tuple(pair.ids[first + len(text) : second]),
            tuple(pair.ids[second + len(text) :]),
            (pair.type_ids[first], pair.type_ids[second]),
        ),
    )


def _find(ids: list[int], part: list[int], start: int) -> int:
    for index in range(start, len(ids) - len(part) + 1):
        if ids[index : index + len(part)] == part:
            return index
    raise ConfigError("the classifier's tokenizer changes a text between its control tokens: it cannot be used here")


def _window_limit(loaded: LoadedModel) -> int:
    """The most tokens in a window: the tokenizer's limit, but at most the model's number of positions."""
    config = loaded.model.config
    positions = int(getattr(config, "max_position_embeddings", 512))
    if config.model_type in {"roberta", "xlm-roberta", "camembert", "mpnet"}:
        positions -= int(config.pad_token_id) + 1  # their positions begin behind the padding index
    return int(min(loaded.tokenizer.model_max_length, positions))


def _short_parts(loaded: LoadedModel) -> _ShortParts | None:
    """How the model's config wants long texts to be read: its object `guard`, as training/ writes it.

    None if the config has no such object. Raises ConfigError if the object is malformed.
    """
    guard = getattr(loaded.model.config, "guard", None)
    if guard is None:
        return None
    sizes = [guard.get(name) if isinstance(guard, dict) else None for name in ("over", "part", "overlap")]
    over, size, overlap = (value if isinstance(value, int) and value > 0 else None for value in sizes)
    discount = guard.get("discount") if isinstance(guard, dict) else None
    if over is None or size is None or overlap is None or not isinstance(discount, (int, float)):
        raise ConfigError(
            "config.json: guard: expected the positive numbers of tokens over, part and overlap, and the number "
            "discount"
        )
    return _ShortParts(over, size, overlap, float(discount))


def _calibration(loaded: LoadedModel) -> tuple[torch.Tensor, torch.Tensor]:
    """Temperature and bias of each output, in float32: 1 and 0 if no calibration.json lies beside the weights.

    The file has an object for each output, by its name in the config: `{"temperature": t, "bias": b}`; the calibrated
    logit is logit / t + b (Platt scaling).
    """
    config = loaded.model.config
    names = [str(config.id2label[index]) for index in range(int(config.num_labels))]
    outputs = calibration(loaded)
    if not outputs:
        return torch.ones(len(names)), torch.zeros(len(names))
    pairs: list[tuple[float, float]] = []
    for name in names:
        entry = outputs.get(name)
        values = (entry.get("temperature"), entry.get("bias")) if isinstance(entry, dict) else (None, None)
        temperature, bias = values
        if not isinstance(temperature, (int, float)) or not isinstance(bias, (int, float)) or temperature <= 0:
            raise ConfigError(f"calibration.json: {name}: expected a positive temperature and a bias")
        pairs.append((float(temperature), float(bias)))
    return torch.tensor([pair[0] for pair in pairs]), torch.tensor([pair[1] for pair in pairs])
