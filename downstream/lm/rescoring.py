"""Log-probabilities of texts by a causal language model of the hub (extra `hf`); natural logarithms."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from upstream.errors import FormatError, InputError, UsageError
from upstream.model.saving import tensors_hash


class CausalModel:
    """A causal language model with its tokeniser.

    Args:
        folder: local folder as transformers' `save_pretrained` writes it, or a name on the hub.
        device: where it computes.
        lower: give it lower-case text, for models of written text under recognisers of capitals.

    Raises:
        UsageError: transformers is not installed.
        FormatError: no causal language model there, or no tokeniser.
    """

    def __init__(self, folder: str | Path, device: torch.device | str = "cpu", lower: bool = False) -> None:
        try:
            from transformers import AutoModelForCausalLM, AutoTokenizer
        except ImportError as error:
            raise UsageError("neural rescoring needs transformers: pip install 'hubertkit[hf]'") from error
        try:  # safetensors only: a pickle from elsewhere never runs
            self._tokeniser: Any = AutoTokenizer.from_pretrained(str(folder))
            # Whatever it is stored in: in half precision scores depend on what else is in the batch.
            model: Any = AutoModelForCausalLM.from_pretrained(str(folder), use_safetensors=True, dtype=torch.float32)
        except (OSError, ValueError, KeyError) as error:
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise FormatError(f"{folder}: no causal language model with a tokeniser ({reason})") from error
        self._start = self._tokeniser.bos_token_id
        self._end = self._tokeniser.eos_token_id
        if self._start is None:
            self._start = self._end  # as GPT-2 was trained: one token parts texts
        if self._start is None:
            raise FormatError(f"{folder}: a tokeniser with neither a token of beginning nor of end; one is needed to "
                              "score the first word")
        self._device = torch.device(device)
        self._model = model.to(self._device).eval()
        self._lower = lower
        self._limit = getattr(self._model.config, "max_position_embeddings", None)

    @property
    def hash(self) -> str:
        """Of its weights: `upstream.model.saving.tensors_hash`."""
        return tensors_hash(self._model.state_dict())

    def scores(self, texts: Sequence[str], batch_tokens: int = 4096) -> list[float]:
        """Natural-log probability of each text after the token of beginning, with the token of end if there is one.

        Args:
            texts: each is scored by itself; equal ones once.
            batch_tokens: in a batch, padding included; padding changes nothing in what a text gets.

        Raises:
            InputError: a text longer than the model's positions.
        """
        unique = sorted(set(texts))  # so that batches are the same in every process
        rows = [self._tokens(text) for text in unique]
        order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
        found: dict[str, float] = {}
        while order:
            count = 1
            while count < len(order) and (count + 1) * len(rows[order[count]]) <= batch_tokens:
                count += 1
            batch, order = order[:count], order[count:]
            found.update(zip((unique[i] for i in batch), self._batch([rows[i] for i in batch]), strict=True))
        return [found[text] for text in texts]

    def _tokens(self, text: str) -> list[int]:
        inner = self._tokeniser(text.lower() if self._lower else text, add_special_tokens=False)["input_ids"]
        tokens = [self._start, *inner] + ([] if self._end is None else [self._end])
        if self._limit is not None and len(tokens) > self._limit:
            raise InputError(f"{text[:40]!r}...: {len(tokens)} tokens, the language model has {self._limit} positions; "
                             "decode shorter utterances")
        return tokens

    def _batch(self, rows: list[list[int]]) -> list[float]:
        longest = max(map(len, rows))
        ids = torch.tensor([row + [self._start] * (longest - len(row)) for row in rows], device=self._device)
        real = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows], device=self._device)
        with torch.inference_mode():
            logits = self._model(input_ids=ids, attention_mask=real).logits[:, :-1].float()
        losses = F.cross_entropy(logits.transpose(1, 2), ids[:, 1:], reduction="none")
        return [float(x) for x in -(losses * real[:, 1:]).sum(dim=1, dtype=torch.float64)]
