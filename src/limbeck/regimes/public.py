"""What a federation's server learns from: public rows, or pictures that a generator makes of the clients' models."""

from collections.abc import Sequence
from dataclasses import replace

from torch import Tensor

from limbeck.data.examples import Examples
from limbeck.federation.averaging import Counting, agreed
from limbeck.federation.consensus import Consensus
from limbeck.federation.letters import Letter
from limbeck.models.identity import of_module
from limbeck.models.peers import Peers
from limbeck.regimes.clients import on_public, thought
from limbeck.regimes.generator import Generator
from limbeck.regimes.imagined import unmade
from limbeck.regimes.plan import Plan
from limbeck.synthesis.norms import demand_norms
from limbeck.synthesis.space import InputSpace
from limbeck.teachers.local import LocalTeacher
from limbeck.teachers.teacher import Teacher
from limbeck.training.settings import Training
from limbeck.training.stage import Origin, Stage

_WHO = "'made' in the regime 'federated'"


def public_of(plan: Plan) -> Examples:
    """The rows that everybody has: those without a label."""
    whole = plan.splits.train
    return replace(whole, rows=whole.rows[~whole.supervised[whole.rows]], mixup=0.0)


def demand_pictures(plan: Plan, made: Generator) -> None:
    """Refuses what no generator can be trained by.

    Raises:
        LimbeckError: the rows are no images, or statistics are asked of models that keep none.
    """
    InputSpace.of(plan.splits.train, _WHO)
    if made.game.statistics:
        demand_norms(plan.start.module(), "federated", "leave made.game.statistics out")


def models_of(plan: Plan, letters: Sequence[Letter], by: Counting, made: Generator | None) -> Teacher:
    """The mean of the logits of the models that came in letters: about the public rows, or of any picture where they are made."""
    modules = []
    for letter in letters:
        module = plan.start.module()
        module.load_state_dict(dict(letter.tensors))
        modules.append(module)
    if made is None:
        public = public_of(plan)
        said = [thought(module, public, plan.device) for module in modules]
        return Consensus(public.rows, mean_of(letters, said, by))
    whole = Peers(modules, numbers=True).eval().requires_grad_(False)
    return LocalTeacher(whole, of_module(whole), plan.asking)


def mean_of(letters: Sequence[Letter], said: Sequence[Tensor], by: Counting) -> Tensor:
    """The mean of what each sender says, float32 [P, C]."""
    return agreed(said, [one.rows for one in letters], [one.classes for one in letters], by)


def server_stage(
    plan: Plan, name: str, start: Origin, teacher: Teacher, training: Training, made: Generator | None
) -> Stage:
    """The server's training, by the terms that read a teacher."""
    if made is None:
        stage = on_public(plan, name, public_of(plan), start, teacher)
    else:
        space = InputSpace.of(plan.splits.train, _WHO)
        noise = unmade(plan, space, training.batch_size, labelled=False)
        stage = replace(on_public(plan, name, noise, start, teacher), writing=made)
    return replace(stage, training=training)
