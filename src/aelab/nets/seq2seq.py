"""A recurrent pair: one net reads a sequence, and one writes it step by step, each step seeing what was written before.

In training the decoder is shown the clean sequence, shifted by one step (teacher forcing). Without it, it generates. A
share of the shown steps may be hidden, so that it has to use the code: `input_dropout`, the word dropout of Bowman,
Vilnis, Vinyals, Dai, Jozefowicz & Bengio, Generating sentences from a continuous space, 2016. Sutskever, Vinyals & Le,
Sequence to sequence learning, 2014; Srivastava, Mansimov & Salakhutdinov, 2015, for `reverse`.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from aelab.nets.base import Net, joined
from aelab.ranges import Count, Share, Whole
from aelab.tokens import END, PADDING, UNKNOWN

CELLS = {"lstm": nn.LSTM, "gru": nn.GRU}


class Steps(nn.Module):
    """Maps ids (B, 1, T) or numbers (B, C, T) to one vector per step, (B, T, dim)."""

    def __init__(self, recipe: "Seq2Seq", extra: int = 0) -> None:
        super().__init__()
        self.vocabulary = recipe.vocabulary
        self.embed: nn.Module
        if recipe.vocabulary:
            self.embed = nn.Embedding(recipe.vocabulary, recipe.dim, padding_idx=PADDING)
        else:
            self.embed = nn.Linear(recipe.shape[0], recipe.dim)
        self.width = recipe.dim + extra

    def forward(self, x: Tensor, *extra: Tensor) -> Tensor:
        steps: Tensor = self.embed(x[:, 0] if self.vocabulary else x.transpose(1, 2))
        return joined(steps.transpose(1, 2), *extra).transpose(1, 2)


class Encoder(nn.Module):
    """Maps a sequence to (B, out_dim). A linear layer reads the state after the last step that is no padding."""

    def __init__(self, recipe: "Seq2Seq", out_dim: int, extra: int) -> None:
        super().__init__()
        self.steps = Steps(recipe, extra)
        self.cells = CELLS[recipe.cell](
            self.steps.width,
            recipe.hidden_dim,
            recipe.layers,
            batch_first=True,
            bidirectional=recipe.bidirectional,
        )
        self.hidden_dim, self.bidirectional = recipe.hidden_dim, recipe.bidirectional
        self.code = nn.Linear((1 + recipe.bidirectional) * recipe.hidden_dim, out_dim)

    def forward(self, x: Tensor, *extra: Tensor) -> Tensor:
        states = self.cells(self.steps(x, *extra))[0]
        if self.steps.vocabulary:
            last = ((x[:, 0] != PADDING).sum(1) - 1).clamp_min(0)
            end = states.gather(1, last[:, None, None].expand(-1, 1, states.shape[2]))[:, 0]
        else:
            end = states[:, -1]
        if self.bidirectional:  # the backward direction ends at the first step
            end = torch.cat([end[:, : self.hidden_dim], states[:, 0, self.hidden_dim :]], 1)
        code: Tensor = self.code(end)
        return code


class Decoder(nn.Module):
    """Maps codes (B, in_dim) to (B, maps · C, T). The code sets the first state, and joins the input of every step."""

    def __init__(self, recipe: "Seq2Seq", in_dim: int, maps: int) -> None:
        super().__init__()
        self.recipe, self.channels = recipe, recipe.shape[0]
        self.steps = Steps(recipe)
        states = recipe.layers * recipe.hidden_dim * (2 if recipe.cell == "lstm" else 1)
        self.start = nn.Linear(in_dim, states)
        self.cells = CELLS[recipe.cell](recipe.dim + in_dim, recipe.hidden_dim, recipe.layers, batch_first=True)
        self.out = nn.Linear(recipe.hidden_dim, maps * self.channels)

    def forward(self, z: Tensor, x: Tensor | None = None) -> Tensor:
        """`x`: the clean sequence (B, C, T) that is shown. Without it the decoder generates."""
        out = self.generate(z) if x is None else self.forced(z, x.flip(2) if self.recipe.reverse else x)
        return out.flip(2) if self.recipe.reverse else out

    def forced(self, z: Tensor, x: Tensor) -> Tensor:
        shown = torch.cat([self.first(z), x[:, :, :-1]], 2)
        if not self.recipe.vocabulary:
            shown = shown.nan_to_num(0)
        if self.training and self.recipe.input_dropout:
            gone = torch.rand(shown.shape[0], 1, shown.shape[2], device=z.device) < self.recipe.input_dropout
            gone[:, :, 0] = False
            shown = torch.where(gone, UNKNOWN if self.recipe.vocabulary else 0, shown)
        steps = self.steps(shown)
        states = self.cells(torch.cat([steps, z[:, None].expand(-1, steps.shape[1], -1)], 2), self.state(z))[0]
        if self.recipe.vocabulary:
            kept = x[:, 0] != PADDING  # logits of a large vocabulary are most of the work, and padding needs none
            logits = self.out(states[kept])
            out: Tensor = logits.new_zeros(*kept.shape, logits.shape[1])
            out[kept] = logits
        else:
            out = self.out(states)
        return out.transpose(1, 2)

    def generate(self, z: Tensor) -> Tensor:
        """Write step by step. With `generation: sample`, the logits are those of the tokens that were drawn."""
        state, shown, outs = self.state(z), self.first(z), []
        for _ in range(self.recipe.shape[1]):
            states, state = self.cells(torch.cat([self.steps(shown), z[:, None]], 2), state)
            out = self.out(states).transpose(1, 2)
            if not self.recipe.vocabulary:
                shown = out
            elif self.recipe.generation == "sample":
                shown = torch.multinomial(out[:, :, 0].softmax(1), 1)[:, None]
                out = 100.0 * F.one_hot(shown[:, 0], self.recipe.vocabulary).to(out).transpose(1, 2)
            else:
                shown = out.argmax(1, keepdim=True)
            outs.append(out)
        return torch.cat(outs, 2)

    def first(self, z: Tensor) -> Tensor:
        """Return what is seen before the first step: the end of a text, or zeros."""
        shape = (z.shape[0], self.channels, 1)
        if self.recipe.vocabulary:
            return torch.full(shape, END, device=z.device)
        return z.new_zeros(shape)

    def state(self, z: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        parts: Tensor = self.start(z).view(z.shape[0], -1, self.recipe.hidden_dim).transpose(0, 1).contiguous().tanh()
        if self.recipe.cell == "gru":
            return parts
        hidden, cell = parts.chunk(2)
        return hidden.contiguous(), cell.contiguous()


@dataclass(frozen=True)
class Seq2Seq(Net):
    """An encoder and a decoder of `layers` layers of `hidden_dim` cells. Each step is a vector of `dim` numbers.

    `vocabulary` is the number of ids, and 0 for numbers. Numbers are fed back as the decoder gave them, so the
    reconstruction term needs `link: identity`. cuDNN's cells cannot be differentiated twice, so on a GPU `cae` needs
    another net.
    """

    ranks: ClassVar[tuple[int, ...]] = (1,)
    domains: ClassVar[tuple[str, ...]] = ("real", "tokens")
    autoregressive: ClassVar[bool] = True

    shape: tuple[Count, ...]
    vocabulary: Whole
    dim: Count
    cell: Literal["lstm", "gru"]
    hidden_dim: Count
    layers: Count
    bidirectional: bool
    """Whether the encoder reads in both directions."""
    input_dropout: Share
    """Share of the shown steps that is hidden from the decoder in training."""
    reverse: bool
    """Whether the decoder writes the last step first."""
    generation: Literal["greedy", "sample"]

    def encoder(self, out_dim: int, extra: int = 0) -> nn.Module:
        return Encoder(self, out_dim, extra)

    def decoder(self, in_dim: int, maps: int) -> nn.Module:
        return Decoder(self, in_dim, maps)
