"""Encoder classifiers: texts in windows, batches of like length, one probability per output."""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch

from guardproxy.engine.encoder.packed import Bert, row_of
from guardproxy.engine.lanes import LanePool, balance
from guardproxy.engine.load import Loaded, calibration
from guardproxy.engine.runner import WorkItem, WorkResult
from guardproxy.engine.text import PromptTokenizer
from guardproxy.errors import ConfigError, GuardUnavailable
from guardproxy.ports import ClassLogits, Prompt, Reading

# Tokens that neighbouring windows share, and tokens of the turn before that an answer is read with.
_OVERLAP = 64
_QUESTION = 96
# Streams whose windows are kept.
_STREAMS = 256
# Of a batch's tokens, the share that may be padding: above it the batch is cut by length.
_PADDING = 0.08
_BATCH_TOKENS = {"cpu": 2048, "cuda": 32768}


@dataclass(frozen=True, slots=True)
class _Frame:
    """What the tokenizer puts around one text or a pair: control tokens, and the type of each segment."""

    before: tuple[int, ...]
    between: tuple[int, ...]
    after: tuple[int, ...]
    types: tuple[int, int]

    @property
    def size(self) -> int:
        return len(self.before) + len(self.between) + len(self.after)


@dataclass(frozen=True, slots=True)
class _Parts:
    """How texts of more than `over` tokens are also read: in parts of `size` tokens that share `overlap` with the next.

    In a long window a short passage is lost among the rest; in a short part a harmless one looks worse than it is where
    it stands. So both are read, and a part's logits count `discount` less.
    """

    over: int
    size: int
    overlap: int
    discount: float


@dataclass(frozen=True, slots=True)
class _Window:
    """One row: ids and segment types, how its outputs become probabilities, and the stream that it is of."""

    ids: tuple[int, ...]
    types: tuple[int, ...]
    readout: ClassLogits
    stream: str | None = None
    discount: float = 0.0  # what is taken off its logits


class ClassifierRunner:
    """Runs a sequence classifier. A prompt with a turn before the judged text is read as a pair."""

    def __init__(
        self, loaded: Loaded, device: torch.device, *, max_batch_tokens: int | None = None, threads: int | None = None
    ) -> None:
        self.max_batch_tokens = max_batch_tokens or _BATCH_TOKENS[device.type]
        self._model = loaded.model
        self._device = device
        self._lanes = LanePool((threads or torch.get_num_threads()) if device.type == "cpu" else 1)
        self._bert = Bert(loaded.model) if Bert.fits(loaded.model, device) else None
        self._tokenizer = PromptTokenizer(loaded.backend)
        self._single, self._pair = _frames(loaded)
        self._takes_types = "token_type_ids" in getattr(loaded.tokenizer, "model_input_names", [])
        self._pad = loaded.tokenizer.pad_token_id or 0
        self._limit = _limit(loaded)
        self._parts = _parts(loaded)
        self._streams: OrderedDict[str, dict[_Window, tuple[float, ...]]] = OrderedDict()
        self._outputs = int(loaded.model.config.num_labels)
        temperature, bias = _calibration(loaded)
        self._temperature, self._bias = temperature.to(device), bias.to(device)

    def encode(self, prompt: Prompt, stream: str | None = None) -> tuple[WorkItem, ...]:
        """Windows of at most the model's length; each weighs its tokens."""
        readout = prompt.readout
        if not isinstance(readout, ClassLogits):
            raise GuardUnavailable("an encoder can only be read for its class logits")
        if len(readout.labels) != self._outputs:
            raise GuardUnavailable(f"the model has {self._outputs} outputs, the family names {len(readout.labels)}")
        turns = [piece.text for piece in prompt.pieces if piece.kind == "turn"]
        judged = self._tokenizer.text("".join(piece.text for piece in prompt.pieces if piece.kind == "judged"))
        # A reply whose question is not known is the second of a pair all the same: it is read as a reply.
        context = self._tokenizer.text(turns[-1])[: min(_QUESTION, self._limit // 2)] if turns else None
        room = self._limit - (self._single.size if context is None else self._pair.size + len(context))
        row = partial(self._row, context, readout=readout, stream=stream)
        rows = [row(window) for window in windows(judged, room, _OVERLAP)]
        if self._parts is not None and len(judged) > self._parts.over:
            parts = windows(judged, min(self._parts.size, room), self._parts.overlap)
            rows += [row(part, discount=self._parts.discount) for part in parts]
        return tuple(WorkItem(len(row.ids), row) for row in rows)

    def run(self, batch: Sequence[WorkItem]) -> list[WorkResult]:
        """One reading per window, in order. The windows of a stream that were read before are not computed again."""
        rows: list[_Window] = [work.data for work in batch]
        known = {row: found for row in rows if (found := self._kept(row)) is not None}
        new = [row for row in dict.fromkeys(rows) if row not in known]
        if new:
            known |= self._compute(new)
        left = set(new)
        done: list[WorkResult] = []
        for row in rows:
            computed = len(row.ids) if row in left else 0
            left.discard(row)
            done.append(WorkResult(Reading(known[row]), computed, len(row.ids) - computed))
            self._keep(row, known[row])
        return done

    def _kept(self, row: _Window) -> tuple[float, ...] | None:
        return None if row.stream is None else self._streams.get(row.stream, {}).get(row)

    def _keep(self, row: _Window, found: tuple[float, ...]) -> None:
        """A reply that grows is the same up to its last windows."""
        if row.stream is not None:
            self._streams.setdefault(row.stream, {})[row] = found
            self._streams.move_to_end(row.stream)
            if len(self._streams) > _STREAMS:
                self._streams.popitem(last=False)

    def _compute(self, rows: Sequence[_Window]) -> dict[_Window, tuple[float, ...]]:
        """The probabilities of the rows."""
        if self._bert is not None:
            lanes = self._bert.lanes(row_of([(row.ids, row.types) for row in rows]), self._lanes.threads)
            logits = torch.cat(self._lanes.run(lanes))
        else:
            parts = balance([len(row.ids) for row in rows], self._lanes.threads)
            found = self._lanes.run([partial(self._lane, [rows[index] for index in part]) for part in parts])
            order = [index for part in parts for index in part]
            logits = torch.cat(found)[torch.tensor(order).argsort()]
        with torch.inference_mode():
            discount = torch.tensor([[row.discount] for row in rows], device=logits.device)
            logits = (logits.float() - discount) / self._temperature + self._bias
            return {row: self._read(each, row.readout) for row, each in zip(rows, logits, strict=True)}

    def _lane(self, rows: Sequence[_Window]) -> torch.Tensor:
        """Logits [rows, outputs]; rows of like length go together."""
        groups = by_length([len(row.ids) for row in rows], self.max_batch_tokens)
        logits = torch.cat([self._forward([rows[at] for at in group]) for group in groups])
        return logits[torch.tensor([at for group in groups for at in group]).argsort()]

    def forget(self, stream: str) -> None:
        """A streamed reply has ended."""
        self._streams.pop(stream, None)

    def close(self) -> None:
        """Release the weights."""
        self._streams.clear()
        self._lanes.close()
        self._model = self._bert = None

    def _row(
        self,
        context: list[int] | None,
        part: list[int],
        *,
        readout: ClassLogits,
        stream: str | None,
        discount: float = 0.0,
    ) -> _Window:
        if context is not None:
            frame, first, second = self._pair, context, part
            ids = (*frame.before, *first, *frame.between, *second, *frame.after)
            head = len(frame.before) + len(first) + len(frame.between)
            types = (frame.types[0],) * head + (frame.types[1],) * (len(ids) - head)
        else:
            frame = self._single
            ids = (*frame.before, *part, *frame.after)
            types = (frame.types[0],) * len(ids)
        if not self._takes_types:
            types = (0,) * len(ids)  # what a model takes where it is given none
        return _Window(ids, types, readout, stream, discount)

    def _forward(self, rows: Sequence[_Window]) -> torch.Tensor:
        """Logits [rows, outputs] of the model's own forward."""
        longest = max(len(row.ids) for row in rows)
        ids = torch.full((len(rows), longest), self._pad)
        types, mask = torch.zeros_like(ids), torch.zeros_like(ids)
        for at, row in enumerate(rows):
            size = len(row.ids)
            ids[at, :size], types[at, :size], mask[at, :size] = torch.tensor(row.ids), torch.tensor(row.types), 1
        # Rows of one length need no mask, and without one the attention takes its fast path.
        whole = all(len(row.ids) == longest for row in rows)
        inputs = {"input_ids": ids.to(self._device), "attention_mask": None if whole else mask.to(self._device)}
        if self._takes_types:
            inputs["token_type_ids"] = types.to(self._device)
        logits: torch.Tensor = self._model(**inputs).logits
        return logits

    def _read(self, logits: torch.Tensor, readout: ClassLogits) -> tuple[float, ...]:
        values = torch.sigmoid(logits) if readout.activation == "sigmoid" else torch.softmax(logits, -1)
        return tuple(values.tolist())


def windows(ids: list[int], room: int, overlap: int) -> list[list[int]]:
    """`ids` in windows of at most `room`, neighbours sharing `overlap` (at most half of `room`); [[]] for no ids."""
    if len(ids) <= room:
        return [ids]
    step = room - min(overlap, room // 2)
    starts = [*range(0, len(ids) - room, step), len(ids) - room]
    return [ids[start : start + room] for start in starts]


def by_length(lengths: Sequence[int], budget: int) -> list[list[int]]:
    """Indices in groups of like length: each within `budget` padded tokens, and with little padding."""
    order = sorted(range(len(lengths)), key=lambda index: -lengths[index])
    groups: list[list[int]] = []
    used = 0
    for index in order:
        group = groups[-1] if groups else None
        if group is not None:
            padded = lengths[group[0]] * (len(group) + 1)
            if padded <= budget and padded - used - lengths[index] <= _PADDING * padded:
                group.append(index)
                used += lengths[index]
                continue
        groups.append([index])
        used = lengths[index]
    return groups


def _frames(loaded: Loaded) -> tuple[_Frame, _Frame]:
    """What stands around one text and around a pair, found by encoding short texts with control tokens."""
    backend = loaded.backend
    a = backend.encode("a", add_special_tokens=False).ids
    one, two = backend.encode("a"), backend.encode("a", "a")
    start = _find(one.ids, a, 0)
    first = _find(two.ids, a, 0)
    second = _find(two.ids, a, first + len(a))
    return (
        _Frame(
            tuple(one.ids[:start]), (), tuple(one.ids[start + len(a) :]), (one.type_ids[start], one.type_ids[start])
        ),
        _Frame(
            tuple(two.ids[:first]),
            tuple(two.ids[first + len(a) : second]),
            tuple(two.ids[second + len(a) :]),
            (two.type_ids[first], two.type_ids[second]),
        ),
    )


def _find(ids: list[int], part: list[int], start: int) -> int:
    for at in range(start, len(ids) - len(part) + 1):
        if ids[at : at + len(part)] == part:
            return at
    raise ConfigError("the classifier's tokenizer does not keep a text together between its control tokens")


def _limit(loaded: Loaded) -> int:
    """The most tokens in a row: what the tokenizer states, within what the model has positions for."""
    config = loaded.model.config
    positions = int(getattr(config, "max_position_embeddings", 512))
    if config.model_type in {"roberta", "xlm-roberta", "camembert"}:
        positions -= int(config.pad_token_id) + 1  # their positions begin behind the padding index
    return int(min(loaded.tokenizer.model_max_length, positions))


def _parts(loaded: Loaded) -> _Parts | None:
    """How the model's config wants long texts to be read: its object `guard`, as training/ writes it.

    None where it says nothing. Raises ConfigError.
    """
    found = getattr(loaded.model.config, "guard", None)
    if found is None:
        return None
    sizes = [found.get(name) if isinstance(found, dict) else None for name in ("over", "part", "overlap")]
    over, size, overlap = (value if isinstance(value, int) and value > 0 else None for value in sizes)
    discount = found.get("discount") if isinstance(found, dict) else None
    if over is None or size is None or overlap is None or not isinstance(discount, (int, float)):
        raise ConfigError(
            "config.json: guard: expected positive numbers of tokens, over, part and overlap, and a discount"
        )
    return _Parts(over, size, overlap, float(discount))


def _calibration(loaded: Loaded) -> tuple[torch.Tensor, torch.Tensor]:
    """Temperature and bias of each output, in float32: 1 and 0 where no calibration.json lies beside the weights.

    The file has an object for each output, by the name that the config gives it: `{"temperature": t, "bias": b}`;
    the calibrated logit is logit / t + b (Platt scaling).
    """
    config = loaded.model.config
    names = [str(config.id2label[index]) for index in range(int(config.num_labels))]
    found = calibration(loaded)
    if not found:
        return torch.ones(len(names)), torch.zeros(len(names))
    pairs: list[tuple[float, float]] = []
    for name in names:
        entry = found.get(name)
        values = (entry.get("temperature"), entry.get("bias")) if isinstance(entry, dict) else (None, None)
        temperature, bias = values
        if not isinstance(temperature, (int, float)) or not isinstance(bias, (int, float)) or temperature <= 0:
            raise ConfigError(f"calibration.json: {name}: expected a positive temperature and a bias")
        pairs.append((float(temperature), float(bias)))
    return torch.tensor([pair[0] for pair in pairs]), torch.tensor([pair[1] for pair in pairs])
