"""The teacher's own weights, in memory once: what adapters may stand on."""

from typing import Literal

from torch import nn

from limbeck.errors import LimbeckError
from limbeck.models.remade import config_of, without_weights
from limbeck.models.spec import BuildContext, Spec


class Shared(Spec):
    """The teacher's model, whose weights are the very tensors of the teacher: it must not be trained itself."""

    name: Literal["teacher"] = "teacher"

    def create(self, context: BuildContext) -> nn.Module:
        """A model of the teacher's class that holds the teacher's tensors; nothing is copied.

        Raises:
            LimbeckError: there is no teacher with weights here, or it is no transformers model.
        """
        donor = context.donor
        if donor is None:
            raise LimbeckError(
                "'of: teacher' shares the weights of a teacher that is a model here, and there is none: name a model."
            )
        module = without_weights(donor, config_of(donor, "'of: teacher'"))
        module.load_state_dict(donor.state_dict(keep_vars=True), assign=True)
        known = dict(donor.named_buffers())
        for path, _ in list(module.named_buffers()):  # those that are not saved, such as frequencies of positions
            parent, _, name = path.rpartition(".")
            module.get_submodule(parent).register_buffer(name, known[path], persistent=path in donor.state_dict())
        return module
