"""Learning to answer around an example as the teacher answers at it."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field
from torch import Tensor, nn

from limbeck import losses
from limbeck.data.batch import Batch
from limbeck.objective.pairs import Answers, same_classes
from limbeck.objective.schedules import Place
from limbeck.objective.term import About, Needs
from limbeck.signals.capture import Signals
from limbeck.signals.perturbed import perturbed


class Perturbed(Answers):
    """Soft targets at an input that is moved to where the student's own answer is less likely.

    The student is to answer there as the teacher does at the input as it is. The cheap form of adversarially robust
    distillation (ARD, Goldblum et al. 2020), which takes ten steps against the label from a random place in a box, stays in
    the range of the pixels and has a robust teacher. Here it is one step of given length against the student's own answer:
    no label is needed, and nothing brings the input back into a range.

    It costs the way back to the input, a second forward and a second backward pass through the student.
    """

    about: ClassVar[About] = About(
        "responses",
        "Goldblum et al. 2020, arXiv:1905.09747; Goodfellow et al. 2015, arXiv:1412.6572; Miyato et al. 2017, arXiv:1605.07725",
        "sum over classes times T^2, mean over examples",
        "beside soft targets, for inputs with noise: it holds the student's answer in place around each example",
    )
    looks_at: ClassVar[str] = "the student's logits at an input that is moved, and the teacher's as it is"
    zero_at_match: ClassVar[bool] = False

    name: Literal["perturbed"] = "perturbed"
    epsilon: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0
    """How far the whole example is moved: a Euclidean distance, in units of what the model reads. 1 suits the embeddings of a
    text. Images: some 0.03 times the root of the number of pixel values, by the standard deviation that they were
    normalised with; 3 for MNIST."""

    def needs(self) -> Needs:
        """The student's logits at the moved input, the teacher's as it is."""
        return Needs(frozenset({perturbed(self.epsilon)}), frozenset({"logits"}))

    def build(self, student: Signals, teacher: Signals, examples: int) -> nn.Module | None:
        """The temperature, if it is learned. Both sides must have the same classes."""
        same_classes({"logits": student[perturbed(self.epsilon)]}, teacher)
        return self.temperature.build()

    def values(self, student: Signals, teacher: Signals, batch: Batch, place: Place, part: nn.Module | None) -> Tensor:
        """See `limbeck.losses.kl_divergence`."""
        ours, theirs = student[perturbed(self.epsilon)], teacher["logits"]
        return losses.kl_divergence(ours, theirs, self.temperature.of(place, theirs, part))
