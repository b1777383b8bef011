"""Generative guards: exact probabilities from packed passes that share policy texts, conversations and streams."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import torch
import transformers

from guardproxy.engine.decoder.grammar import Search, State
from guardproxy.engine.decoder.layers import read_only, work_in_place
from guardproxy.engine.decoder.packed import NAME, Lane, Plan, Segment, Span, blockwise, packed_attention, plan_of
from guardproxy.engine.decoder.pending import (
    PendingCheck,
    append_forced_tokens,
    build_segments,
    done,
    reads,
    runs,
    set_continuation_start,
    tree,
)
from guardproxy.engine.decoder.prefix_cache import Match, PrefixCache
from guardproxy.engine.decoder.prompts import Choice, EncodedPrompt, PromptEncoder
from guardproxy.engine.lanes import Lanes
from guardproxy.engine.load import Loaded, end_tokens, window
from guardproxy.engine.runner import WorkItem, WorkResult
from guardproxy.engine.text import PromptTokenizer
from guardproxy.ports import Prompt

# Label lists read in one round, and in all: a model that is unsure of everything must not hold the queue.
_WIDTH = 32
_MOST = 512
# A lane of fewer rows would mostly wait for the weights.
_LANE = 32
# A CPU's rate in attention, as a share of its rate in matrix products (52 of 87 GFLOP/s on one core).
_ATTENTION = 0.6
_BATCH_TOKENS = {"cpu": 1024, "cuda": 16384}
_STATE_BYTES = {"cpu": 512 << 20, "cuda": 8 << 30}

transformers.AttentionInterface.register(NAME, packed_attention)


class GenerativeRunner:
    """Reads a causal language model for label lists and token choices.

    Categories are computed where P(unsafe) is over `floor`. `state_bytes` bounds what is kept between passes, `threads`
    (None: as many as torch takes) the CPU threads.
    """

    def __init__(
        self,
        loaded: Loaded,
        device: torch.device,
        *,
        max_batch_tokens: int | None = None,
        floor: float = 0.0,
        state_bytes: int | None = None,
        threads: int | None = None,
    ) -> None:
        self.max_batch_tokens = max_batch_tokens or _BATCH_TOKENS[device.type]
        self._device = device
        self._floor = floor
        self._lanes = Lanes((threads or torch.get_num_threads()) if device.type == "cpu" else 1)
        self._model = loaded.model
        config = loaded.model.config.get_text_config()
        self._model.set_attn_implementation(NAME)
        self._layers = int(config.num_hidden_layers)
        decoder = self._model.get_decoder()
        weights = sum(each.numel() for each in decoder.layers.parameters() if each.ndim == 2)
        if device.type == "cpu" and self._model.dtype == torch.float32:
            work_in_place(decoder)
        self._reading = read_only(decoder.layers[-1])
        heads = int(config.num_attention_heads)
        self._kv_heads = int(getattr(config, "num_key_value_heads", None) or heads)
        self._head_size = int(getattr(config, "head_dim", None) or config.hidden_size // heads)
        # A weight is one multiplication a token; a key that is attended to is two for each of the head's dimensions.
        self._linear = int(_ATTENTION * weights / (2 * self._layers * heads * self._head_size))
        self._cap = float(getattr(config, "final_logit_softcapping", None) or 0.0)
        self._divide = float(getattr(config, "logits_scaling", None) or 1.0)
        self._output: torch.Tensor = loaded.model.get_output_embeddings().weight
        self._encoder = PromptEncoder(PromptTokenizer(loaded.backend), window(config), end_tokens(loaded))
        self.store = PrefixCache(_STATE_BYTES[device.type] if state_bytes is None else state_bytes)

    # --- the runner port ------------------------------------------------------------------------------------------

    def encode(self, prompt: Prompt, stream: str | None = None) -> tuple[WorkItem, ...]:
        """The windows of `prompt`; each weighs its tokens behind the policy text."""
        prompts = (replace(prompt, stream=stream) for prompt in self._encoder.encode(prompt))
        return tuple(WorkItem(len(prompt.ids) - prompt.head, prompt) for prompt in prompts)

    @torch.inference_mode()
    def run(self, batch: Sequence[WorkItem]) -> list[WorkResult]:
        """One reading per work. Out of memory on the device: without kept state, and then in halves."""
        try:
            return self._run([work.data for work in batch])
        except torch.OutOfMemoryError:
            self.store.clear()
            torch.cuda.empty_cache()
            if len(batch) == 1:
                return self._run([batch[0].data])
        half = len(batch) // 2
        return [*self.run(batch[:half]), *self.run(batch[half:])]

    def forget(self, stream: str) -> None:
        """A stream has ended: its state is the first to go."""
        self.store.forget(stream)

    def close(self) -> None:
        """Release the weights and the state."""
        self._lanes.close()
        self.store.clear()
        self._model = None

    # --- one batch ------------------------------------------------------------------------------------------------

    def _run(self, prompts: Sequence[EncodedPrompt]) -> list[WorkResult]:
        checks = [PendingCheck(each, self.store.find(each.key, each.ids, len(each.ids) - 1)) for each in prompts]
        roots = self._forest(checks)
        inline = self._floor <= 0
        if inline:
            for check in checks:
                append_forced_tokens(check)
        hidden, plan = self._forward(roots, lambda: reads(checks, inline=inline))
        self._verdicts(checks, hidden, inline=inline)
        for check in checks:
            set_continuation_start(check, plan, inline=inline)
        self._explore(checks)
        self._keep(checks, plan)
        self.store.shrink()
        return [done(check) for check in checks]

    def _forest(self, checks: Sequence[PendingCheck]) -> list[Segment]:
        """The segments to compute, shared where checks have tokens in common."""
        groups: dict[tuple[int, int, str], list[PendingCheck]] = {}
        for check in checks:
            groups.setdefault((id(check.match.tail), check.match.length, check.prompt.key), []).append(check)
        roots: list[Segment] = []
        for group in groups.values():
            match = group[0].match
            past = tuple(Span(node.kv, 0, upto - node.start) for node, upto in match.path)
            for check in group:
                check.reused = match.length
            build_segments(sorted(group, key=lambda check: check.prompt.ids), match.length, None, past, roots)
        return roots

    def _forward(self, roots: list[Segment], read: Callable[[], list[int]]) -> tuple[torch.Tensor, Plan]:
        """Hidden states behind the final norm of the rows that `read` names once the segments are laid out.

        Also the plan, with the keys and values of the whole row.
        """
        size = sum(segment.size for segment in roots)
        lanes = max(1, min(self._lanes.threads, size // _LANE))
        plan = plan_of(roots, lanes, self._scratch, blockwise, linear=self._linear)
        wanted = read()
        rows = torch.tensor(wanted, device=self._device)
        found = self._lanes.run([partial(self._lane, lane, rows) for lane in plan.lanes(wanted)])
        hidden = found[0].new_empty((len(rows), found[0].shape[-1]))
        for low, high, part in zip(plan.edges, plan.edges[1:], found, strict=False):
            hidden[(rows >= low) & (rows < high)] = part
        return hidden, plan

    def _scratch(self, row: int) -> torch.Tensor:
        return self._output.new_empty((self._layers, 2, self._kv_heads, row, self._head_size))

    def _lane(self, lane: Lane, rows: torch.Tensor) -> torch.Tensor:
        """Compute a lane: the hidden states of those of `rows` that are its own."""
        mine = rows[(rows >= lane.low) & (rows < lane.high)] - lane.low
        self._reading.rows = mine
        try:
            hidden: torch.Tensor = self._model.get_decoder()(
                input_ids=torch.tensor([lane.tokens], device=self._device),
                position_ids=torch.tensor([lane.positions], device=self._device),
                use_cache=False,
                lane=lane,
            ).last_hidden_state[0, mine]
        except BaseException:
            lane.progress.broke()
            raise
        return hidden

    def _logits(self, hidden: torch.Tensor, rows: torch.Tensor | None = None) -> torch.Tensor:
        """Logits in float32, of the whole vocabulary or of some rows of the output layer."""
        weight = self._output if rows is None else self._output[rows]
        logits = (hidden @ weight.T).float() / self._divide
        return torch.tanh(logits / self._cap) * self._cap if self._cap else logits

    def _verdicts(self, checks: Sequence[PendingCheck], hidden: torch.Tensor, *, inline: bool) -> None:
        """Read every check at its verdict position, over the full softmax."""
        share = torch.softmax(self._logits(hidden[: len(checks)]), -1).cpu()
        behind = iter(hidden[len(checks) :])
        for check, row in zip(checks, share, strict=True):
            read = check.prompt.read
            if isinstance(read, Choice):
                sums = [float(row[list(group)].sum()) for group in read.groups]
                check.probabilities = tuple(value / sum(sums) for value in sums)
                check.outside = max(0.0, 1.0 - sum(sums))
                continue
            safe, unsafe = float(row[read.safe]), float(row[read.unsafe])
            check.unsafe = unsafe / (safe + unsafe)
            check.outside = max(0.0, 1.0 - safe - unsafe)
            first = next(behind) if inline else None
            if check.unsafe > self._floor:
                check.search = Search(read, check.unsafe)
                if first is not None:
                    check.known[()] = first

    # --- label lists ----------------------------------------------------------------------------------------------

    def _explore(self, checks: Sequence[PendingCheck]) -> None:
        """Read label lists, most probable first, all checks' in one pass a round."""
        open_items = [check for check in checks if check.search is not None]
        left = dict.fromkeys(map(id, open_items), _MOST)
        while open_items:
            asked = [(check, states) for check in open_items if (states := self._ask(check, left))]
            if asked:
                self._round(asked)
            open_items = [check for check, _ in asked]

    def _ask(self, check: PendingCheck, left: dict[int, int]) -> list[State]:
        """The check's next states to compute, after those whose logits are at hand."""
        assert check.search is not None  # noqa: S101
        while states := check.search.take(min(_WIDTH, left[id(check)])):
            left[id(check)] -= len(states)
            asked: list[State] = []
            for state in states:
                if state.tokens in check.known:
                    self._tell(check, state, check.known[state.tokens])
                else:
                    asked.append(state)
            if asked:
                return asked
        return []

    def _tell(self, check: PendingCheck, state: State, hidden: torch.Tensor) -> None:
        assert check.search is not None  # noqa: S101
        check.search.tell(
            state, lambda tokens: self._logits(hidden[None], torch.tensor(tokens, device=self._device))[0].tolist()
        )

    def _round(self, asked: Sequence[tuple[PendingCheck, Sequence[State]]]) -> None:
        segments: list[Segment] = []
        places: list[list[int]] = []
        for check, states in asked:
            segment, where = tree(check, states, self._output)
            check.computed += len(segment.tokens)
            segments.append(segment)
            places.append(where)
        hidden, plan = self._forward(
            segments,
            lambda: [each.offset + at for each, where in zip(segments, places, strict=True) for at in where],
        )
        told = iter(hidden)
        for (check, states), segment in zip(asked, segments, strict=True):
            new = plan.scratch[:, :, :, segment.offset : segment.stop]
            check.tree.kv = new if check.tree.kv is None else torch.cat((check.tree.kv, new), 3)
            for state in states:
                self._tell(check, state, next(told))

    # --- state ----------------------------------------------------------------------------------------------------

    def _keep(self, checks: Sequence[PendingCheck], plan: Plan) -> None:
        """Keep the policy text and the conversation of every check for the next ones."""
        kept: dict[int, Match] = {}
        for check in checks:
            match = check.match
            for pieces in runs(check.leaf):
                segment, start, low = pieces[-1], pieces[0].positions[0], pieces[0].offset
                if id(segment) in kept:
                    match = kept[id(segment)]
                    continue
                upto = max(other.prompt.keep for other in checks if segment in other.leaf.chain()) - start
                if upto <= 0 or match.length != start:
                    break
                tokens = [token for piece in pieces for token in piece.tokens][:upto]
                kv = plan.scratch[:, :, :, low : low + len(tokens)]
                fixed = start + len(tokens) <= check.prompt.head
                match = kept[id(segment)] = self.store.keep(check.prompt.key, match, tokens, kv, fixed=fixed)
            if check.prompt.stream is not None:
                self.store.tag(check.prompt.stream, match)
