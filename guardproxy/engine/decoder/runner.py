"""Generative guards: exact probabilities from packed passes that share policy texts, conversations and streams."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import torch
import transformers

from guardproxy.engine.decoder.attention import NAME, blockwise_attention, packed_attention
from guardproxy.engine.decoder.grammar import LISTS_PER_CHECK, ListSearch, PartialList
from guardproxy.engine.decoder.layers import select_rows, use_in_place_modules
from guardproxy.engine.decoder.packed import DecoderLane, PassPlan, Segment, plan_pass
from guardproxy.engine.decoder.pending import PendingBatch, PendingCheck, continuation_segment, uncut_runs
from guardproxy.engine.decoder.prefix_cache import PrefixCache, PrefixMatch
from guardproxy.engine.decoder.prompts import Choice, EncodedPrompt, PromptEncoder
from guardproxy.engine.lanes import LanePool
from guardproxy.engine.load import LoadedModel, context_length, end_tokens
from guardproxy.engine.number_format import NumberFormat, convert_parameters, format_linear_layers
from guardproxy.engine.runner import WorkItem, WorkResult
from guardproxy.engine.tokenizer import PromptTokenizer
from guardproxy.ports import Prompt

# Partial lists of one check that are computed in one pass.
_LISTS_PER_PASS = 32
# The least rows per lane: with fewer, a thread mostly waits for the weights to arrive from memory.
_MIN_LANE_ROWS = 32
# A CPU's FLOP rate in attention as a share of its rate in matrix products (52 of 87 GFLOP/s on one core).
_ATTENTION_RATE = 0.6
_BATCH_TOKENS = {"cpu": 1024, "cuda": 16384}
# A batch of checks takes at most this many seconds. A check is one window, which cannot be cut and takes some 0.3 s for
# a small model on a CPU; a batch of several computes the policy text's attention once.
_SLICE_S = 2.0
_CACHE_BYTES = {"cpu": 512 << 20, "cuda": 8 << 30}

transformers.AttentionInterface.register(NAME, packed_attention)


class GenerativeRunner:
    """Reads a causal language model for label lists and token choices; implements engine.runner.Runner.

    Label lists are read only if P(unsafe) is above `floor`. `cache_bytes` bounds the prefix cache, `threads` (None:
    torch's default) is the number of CPU threads. On a CPU, the layers are converted to `number_format` (None: the
    model's own type).
    """

    def __init__(
        self,
        loaded: LoadedModel,
        device: torch.device,
        *,
        max_batch_tokens: int | None = None,
        floor: float = 0.0,
        cache_bytes: int | None = None,
        threads: int | None = None,
        number_format: NumberFormat | None = None,
    ) -> None:
        self.max_batch_tokens = max_batch_tokens or _BATCH_TOKENS[device.type]
        self.slice_s = _SLICE_S
        self._device = device
        self._floor = floor
        self._lane_pool = LanePool((threads or torch.get_num_threads()) if device.type == "cpu" else 1)
        self._model = loaded.model
        number_format = number_format or NumberFormat(loaded.model.dtype)
        self.dtype, self._dtype = number_format.type_name, number_format.dtype
        config = loaded.model.config.get_text_config()
        self._model.set_attn_implementation(NAME)
        self._layers = int(config.num_hidden_layers)
        decoder = self._model.get_decoder()
        weights = sum(parameter.numel() for parameter in decoder.layers.parameters() if parameter.ndim == 2)
        if device.type == "cpu" and self._dtype != torch.float16:
            # The embeddings, the sum of all layers (the residual stream) and the output layer are in float32.
            for part in (self._model.get_input_embeddings(), self._model.get_output_embeddings()):
                convert_parameters(part, torch.float32)
            use_in_place_modules(decoder, self._dtype)
            format_linear_layers(decoder.layers, number_format)
        self._output: torch.Tensor = self._model.get_output_embeddings().weight
        self._selection = select_rows(decoder.layers[-1])
        heads = int(config.num_attention_heads)
        self._kv_heads = int(getattr(config, "num_key_value_heads", None) or heads)
        self._head_size = int(getattr(config, "head_dim", None) or config.hidden_size // heads)
        # A token takes one multiplication per weight, and two per key and dimension of every head: the cost of the
        # linear layers as a number of keys, for balancing lanes.
        self._linear = int(_ATTENTION_RATE * weights / (2 * self._layers * heads * self._head_size))
        self._cap = float(getattr(config, "final_logit_softcapping", None) or 0.0)
        self._divide = float(getattr(config, "logits_scaling", None) or 1.0)
        self._encoder = PromptEncoder(PromptTokenizer(loaded.backend), context_length(config), end_tokens(loaded))
        self.prefix_cache = PrefixCache(_CACHE_BYTES[device.type] if cache_bytes is None else cache_bytes)

    # --- the runner port ------------------------------------------------------------------------------------------

    def encode(self, prompt: Prompt, stream: str | None = None) -> tuple[WorkItem, ...]:
        """Encode the windows of `prompt`; the cost of each is its tokens behind the policy text."""
        prompts = (replace(encoded, stream=stream) for encoded in self._encoder.encode(prompt))
        return tuple(WorkItem(len(encoded.ids) - encoded.policy_size, encoded) for encoded in prompts)

    @torch.inference_mode()
    def run(self, batch: Sequence[WorkItem]) -> list[WorkResult]:
        """Read a batch: one result per work item. If the device runs out of memory, drop the cache and run halves."""
        try:
            return self._run([work.data for work in batch])
        except torch.OutOfMemoryError:
            self.prefix_cache.clear()
        # Outside the handler: inside it, the error's traceback would keep the failed pass's tensors alive.
        torch.cuda.empty_cache()
        if len(batch) == 1:
            return self._run([batch[0].data])
        half = len(batch) // 2
        return [*self.run(batch[:half]), *self.run(batch[half:])]

    def forget(self, stream: str) -> None:
        """Make the state of a stream that has ended the first to be evicted."""
        self.prefix_cache.forget(stream)

    def close(self) -> None:
        """Release the weights and the cache."""
        self._lane_pool.close()
        self.prefix_cache.clear()
        self._model = None

    # --- one batch ------------------------------------------------------------------------------------------------

    def _run(self, prompts: Sequence[EncodedPrompt]) -> list[WorkResult]:
        # At most len - 1 tokens from the cache: the last token's hidden state must be computed to be read.
        checks = [
            PendingCheck(prompt, self.prefix_cache.find(prompt.key, prompt.ids, len(prompt.ids) - 1))
            for prompt in prompts
        ]
        # At floor 0 every list will be read, so its first tokens are computed along with the verdict.
        batch = PendingBatch(checks, inline=self._floor <= 0)
        hidden, plan = self._forward(batch.segments(), batch.selected_rows)
        self._read_verdicts(batch, hidden)
        for check in checks:
            batch.set_continuation_start(check, plan)
        self._explore(checks)
        # Last: inserting may change the buffers of cache nodes, which the passes above read.
        self._cache_prefixes(checks, plan)
        self.prefix_cache.evict()
        return [check.result() for check in checks]

    def _forward(self, roots: list[Segment], selected_rows: Callable[[], list[int]]) -> tuple[torch.Tensor, PassPlan]:
        """Compute the segments; return the hidden states behind the final norm of the selected rows, and the plan.

        `selected_rows` is called when the segments are laid out: before that they have no rows. The plan's scratch then
        holds the keys and values of the whole row.
        """
        size = sum(segment.size for segment in roots)
        lanes = max(1, min(self._lane_pool.threads, size // _MIN_LANE_ROWS))
        plan = plan_pass(roots, lanes, self._scratch, blockwise_attention, linear=self._linear)
        selected = selected_rows()
        rows = torch.tensor(selected, device=self._device)
        parts = self._lane_pool.run([partial(self._run_lane, lane, rows) for lane in plan.lanes(selected)])
        hidden = parts[0].new_empty((len(rows), parts[0].shape[-1]))
        for low, high, part in zip(plan.edges, plan.edges[1:], parts, strict=False):
            hidden[(rows >= low) & (rows < high)] = part
        return hidden, plan

    def _scratch(self, rows: int) -> torch.Tensor:
        size = (self._layers, 2, self._kv_heads, rows, self._head_size)
        return torch.empty(size, dtype=self._dtype, device=self._device)

    def _run_lane(self, lane: DecoderLane, rows: torch.Tensor) -> torch.Tensor:
        """Compute a lane; return the hidden states of the `rows` inside it, in their order."""
        lane_rows = rows[(rows >= lane.low) & (rows < lane.high)] - lane.low
        self._selection.rows = lane_rows
        try:
            hidden: torch.Tensor = self._model.get_decoder()(
                input_ids=torch.tensor([lane.tokens], device=self._device),
                position_ids=torch.tensor([lane.positions], device=self._device),
                use_cache=False,
                lane=lane,  # transformers passes keywords that it does not know on to the attention function
            ).last_hidden_state[0, lane_rows]
        except BaseException:
            lane.progress.fail()
            raise
        return hidden

    def _logits(self, hidden: torch.Tensor, rows: torch.Tensor | None = None) -> torch.Tensor:
        """Logits in float32, of the whole vocabulary or of the tokens `rows` of the output layer."""
        weight = self._output if rows is None else self._output[rows]
        logits = (hidden.to(weight.dtype) @ weight.T).float() / self._divide
        return torch.tanh(logits / self._cap) * self._cap if self._cap else logits

    def _read_verdicts(self, batch: PendingBatch, hidden: torch.Tensor) -> None:
        """Read every check at its verdict position, over the full softmax. `hidden` is in the order of the rows."""
        shares = torch.softmax(self._logits(hidden[: len(batch.checks)]), -1).cpu()
        list_starts = iter(hidden[len(batch.checks) :])
        for check, share in zip(batch.checks, shares, strict=True):
            answer = check.prompt.answer
            if isinstance(answer, Choice):
                sums = [float(share[list(group)].sum()) for group in answer.groups]
                check.probabilities = tuple(value / sum(sums) for value in sums)
                check.outside = max(0.0, 1.0 - sum(sums))
                continue
            safe, unsafe = float(share[answer.safe]), float(share[answer.unsafe])
            check.unsafe = unsafe / (safe + unsafe)
            check.outside = max(0.0, 1.0 - safe - unsafe)
            # Taken even if it is not needed, so that the iterator stays in step with the checks.
            list_start = next(list_starts) if batch.inlined(check) else None
            if check.unsafe > self._floor:
                check.search = ListSearch(answer, check.unsafe)
                if list_start is not None:
                    check.hidden_states[()] = list_start

    # --- label lists ----------------------------------------------------------------------------------------------

    def _explore(self, checks: Sequence[PendingCheck]) -> None:
        """Read the label lists of all checks, the most probable first, in one pass per round."""
        searching = [check for check in checks if check.search is not None]
        left = dict.fromkeys(map(id, searching), LISTS_PER_CHECK)
        while searching:
            wanted = [(check, lists) for check in searching if (lists := self._next_lists(check, left))]
            if wanted:
                self._compute_lists(wanted)
            searching = [check for check, _ in wanted]

    def _next_lists(self, check: PendingCheck, left: dict[int, int]) -> list[PartialList]:
        """Expand the lists whose hidden states are known already; return the next ones that need a pass."""
        assert check.search is not None  # noqa: S101
        while lists := check.search.next_lists(min(_LISTS_PER_PASS, left[id(check)])):
            left[id(check)] -= len(lists)
            unknown: list[PartialList] = []
            for partial_list in lists:
                if partial_list.tokens in check.hidden_states:
                    self._expand(check, partial_list, check.hidden_states[partial_list.tokens])
                else:
                    unknown.append(partial_list)
            if unknown:
                return unknown
        return []

    def _expand(self, check: PendingCheck, partial_list: PartialList, hidden: torch.Tensor) -> None:
        """Continue a list from the hidden state behind it, with only the output rows that the grammar allows."""
        assert check.search is not None  # noqa: S101
        check.search.expand(
            partial_list,
            lambda tokens: self._logits(hidden[None], torch.tensor(tokens, device=self._device))[0].tolist(),
        )

    def _compute_lists(self, wanted: Sequence[tuple[PendingCheck, Sequence[PartialList]]]) -> None:
        """Compute the lists of all checks in one pass, and expand them."""
        segments: list[Segment] = []
        ends: list[list[int]] = []
        for check, lists in wanted:
            segment, list_ends = continuation_segment(check, lists, self._scratch(0))
            check.computed += len(segment.tokens)
            segments.append(segment)
            ends.append(list_ends)
        hidden, plan = self._forward(
            segments,
            lambda: [
                segment.offset + end for segment, list_ends in zip(segments, ends, strict=True) for end in list_ends
            ],
        )
        hidden_states = iter(hidden)
        for (check, lists), segment in zip(wanted, segments, strict=True):
            # A segment with a mask is never cut, so its rows are one range of the scratch.
            new = plan.scratch[:, :, :, segment.offset : segment.stop]
            check.tree.kv = new if check.tree.kv is None else torch.cat((check.tree.kv, new), 3)
            for partial_list in lists:
                self._expand(check, partial_list, next(hidden_states))

    # --- prefix cache ---------------------------------------------------------------------------------------------

    def _cache_prefixes(self, checks: Sequence[PendingCheck], plan: PassPlan) -> None:
        """Cache the policy text and the conversation of every check for later checks."""
        cached: dict[int, PrefixMatch] = {}
        for check in checks:
            match = check.match
            for pieces in uncut_runs(check.last_segment):
                # The pieces of a segment that was cut lie one behind the other, so they are one range of the scratch.
                segment, start, offset = pieces[-1], pieces[0].positions[0], pieces[0].offset
                if id(segment) in cached:
                    match = cached[id(segment)]
                    continue
                # A shared segment is cached as far as any of its checks wants it.
                size = (
                    max(other.prompt.cached_size for other in checks if segment in other.last_segment.chain()) - start
                )
                # A child can only be cached behind the whole of its parent.
                if size <= 0 or match.length != start:
                    break
                tokens = [token for piece in pieces for token in piece.tokens][:size]
                kv = plan.scratch[:, :, :, offset : offset + len(tokens)]
                fixed = start + len(tokens) <= check.prompt.policy_size
                match = self.prefix_cache.insert(check.prompt.key, match, tokens, kv, fixed=fixed)
                cached[id(segment)] = match
            if check.prompt.stream is not None:
                self.prefix_cache.assign_stream(check.prompt.stream, match)
