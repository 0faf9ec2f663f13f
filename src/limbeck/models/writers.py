"""Who writes a model's texts: transformers token by token, or vLLM, which takes over its weights."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, Protocol

from pydantic import Field
from torch import Tensor, nn

from limbeck.config import Config, choice
from limbeck.errors import LimbeckError
from limbeck.models.sampling import Ends, Mixed, continued, drawn, writes
from limbeck.models.vllm import engine

Written = list[tuple[Tensor, Tensor]]
"""For each prompt the tokens, int64 [n], their end included if it came, and the log-probability of each, float32 [n], nats."""


class Writes(Protocol):
    """Goes on with prompts."""

    def __call__(
        self,
        module: nn.Module,
        prompts: Sequence[Tensor],
        seeds: Sequence[int] | None,
        most: int,
        temperature: float = 1.0,
        mixed: Mixed | None = None,
    ) -> Written:
        """What the model as it is now writes after each prompt, up to its end or ``most`` tokens; its mode is put back.

        ``seeds``: one a text, from which alone its draws are made; None for the likeliest token at every step.
        ``temperature``: of the drawing, from the whole distribution. ``mixed``: who else has a say.

        Raises:
            LimbeckError: it cannot.
        """
        ...


class Transformers(Config):
    """The model itself writes, by transformers."""

    mixes: ClassVar[bool] = True
    """Whether another model may have a say in each token."""
    name: Literal["transformers"] = "transformers"

    def of(self, module: nn.Module, who: str, ends: Ends, room: int) -> Writes:
        """Who writes for this model. ``who``: whose it is. ``room``: the longest text, prompt included, in tokens.

        Raises:
            LimbeckError: it cannot write.
        """
        writes(module, who)
        return lambda module, prompts, seeds, most, temperature=1.0, mixed=None: continued(
            module, prompts, ends, most, None if seeds is None else drawn(seeds, most), temperature, mixed
        )


class Vllm(Config):
    """vLLM writes (Kwon et al. 2023, arXiv:2309.06180), in a process of its own that is handed the weights as they are then.

    A text hangs on its seed, the weights and, by rounding, on what is written beside it: a run that is gone on with may end a
    little otherwise than one that was not cut off.
    """

    mixes: ClassVar[bool] = False
    name: Literal["vllm"] = "vllm"
    memory: Annotated[float, Field(gt=0, lt=1)] = 0.3
    """The share of the GPU's memory that vLLM takes, weights included."""
    eager: bool = False
    """Without compiling and CUDA graphs: it is ready sooner, and slower then."""

    def of(self, module: nn.Module, who: str, ends: Ends, room: int) -> Writes:
        """See `Transformers.of`; vLLM is started when the first text is written."""
        writes(module, who)
        if ends.begin is not None:
            raise LimbeckError(
                f"{who} is an encoder with a decoder, which vLLM does not write with here: leave 'writer' out."
            )
        return lambda module, prompts, seeds, most, temperature=1.0, mixed=None: (
            engine(module, room, self.memory, self.eager).continued(module, prompts, seeds, ends, most, temperature)
            if prompts
            else []
        )


if TYPE_CHECKING:
    Writer = Transformers | Vllm
else:
    Writer = choice(Transformers, Vllm)
