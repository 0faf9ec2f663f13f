"""Distillation in a script that has a Trainer of the transformers library."""

from collections.abc import Mapping, Sequence
from itertools import islice
from math import ceil, isfinite
from pathlib import Path
from typing import Any, Final

import safetensors.torch
from accelerate.utils import broadcast
from torch import Tensor, nn

from limbeck.data.batch import SUPERVISED
from limbeck.data.tokenizers import library
from limbeck.errors import DataError, LimbeckError, SignalError
from limbeck.integrations.columns import Columns, each, length
from limbeck.integrations.given import teacher_of, terms_of
from limbeck.integrations.lesson import Lesson
from limbeck.integrations.tally import Tally
from limbeck.models.seeded import seeded
from limbeck.objective import Objective, Term
from limbeck.objective.schedules import Place
from limbeck.signals.capture import bare
from limbeck.teachers.teacher import Teacher
from limbeck.training.optimizers import clip

OBJECTIVE: Final = "objective.safetensors"
"""In a checkpoint: what the objective trains and remembers beside the student."""
_FEW: Final = 64  # rows that are looked at before training


def _trainer() -> Any:
    transformers = library()
    if not hasattr(transformers.Trainer, "loss_is_scaled_for_ga"):
        raise LimbeckError(
            f"The Trainer of transformers {transformers.__version__} divides every loss by the number of micro-batches: "
            "pip install --upgrade transformers"
        )
    return transformers.Trainer


class DistillationTrainer(_trainer()):  # type: ignore[misc]
    """A Trainer of the transformers library whose model also learns from a teacher.

    Training's loss is the objective; all else is the Trainer's own. So is evaluation: ``eval_loss`` is the model's own loss
    on labels, as without a teacher. The model is any classifier of whole examples that a Trainer trains. Projectors and the
    like are fitted to a few training rows, optimised beside the model with its optimiser, kept in checkpoints, and not
    in what is saved at the end. Logs have each term's mean as ``loss/<term>``.

    The teacher reads the columns that its ``forward`` names, or, where there are any, the columns ``teacher.<name>``, which
    nobody else reads; a Trainer would drop them as unused, this one keeps them. A column ``ids`` or ``id`` of row numbers
    is needed only by terms that remember examples (such as ``crd``) and by a `Teacher` that is no module.

    It runs on one device, or in several processes with DistributedDataParallel; FSDP and DeepSpeed are refused.

    Args:
        positional: as a Trainer takes them.
        teacher: any module that gives logits for the model's classes, or a `Teacher`; None if no term needs one. It is
            put into evaluation mode, asked without a graph, and neither trained nor saved.
        objective: a mapping as in a recipe, a list of terms, or an `Objective` that trains nothing yet; by default
            ``{"labels": 0.1, "soft-targets": 0.9}``.
        given: what else a Trainer takes.

    Raises:
        LimbeckError: what was given does not fit together. What only models and data show, `train` raises before the
            first step.
    """

    loss_is_scaled_for_ga = True  # denominators are counted over all micro-batches of a step

    def __init__(
        self,
        *positional: Any,
        teacher: nn.Module | Teacher | None = None,
        objective: Objective | Sequence[Term] | Mapping[str, Any] | None = None,
        **given: Any,
    ) -> None:
        self._terms, self._teacher = terms_of(objective), teacher_of(teacher)
        self._students: frozenset[str] = frozenset()  # columns that the model reads
        self._lesson: Lesson | None = None
        self._tally: Tally | None = None
        self._counts: dict[str, Tensor] | None = None
        super().__init__(*positional, **given)
        self._columns = Columns(
            self.label_names or ["labels"],  # a model that takes no labels learns from them too
            any(term.mask == SUPERVISED for term in self._terms),
            self._teacher.module if self._teacher else None,
            by_row=teacher is not None and not isinstance(teacher, nn.Module),  # it may be a store
        )
        self._refuse()

    @property
    def objective(self) -> Objective:
        """What is trained with, once training has begun.

        Raises:
            LimbeckError: it has not.
        """
        if self._lesson is None:
            raise LimbeckError("The objective is fitted to the models when training begins: call train() first.")
        return self._lesson.objective

    def train(self, *positional: Any, **given: Any) -> Any:
        """See `transformers.Trainer.train`."""
        try:
            return super().train(*positional, **given)
        finally:
            self._counts = self._tally = None
            if self._lesson:
                self._lesson.close()

    # --- before the first step

    def get_train_dataloader(self) -> Any:
        """The Trainer's own, once it is known what has to be read."""
        if self.train_dataset is not None:
            self._prepared()
        return super().get_train_dataloader()

    def create_optimizer(self, model: nn.Module | None = None) -> Any:
        """The Trainer's own, with further parameter groups for what the objective trains."""
        lesson, fresh = self._prepared(), self.optimizer is None
        optimizer = super().create_optimizer(model)
        if fresh:
            for group in lesson.groups(optimizer.defaults["lr"], self.args.weight_decay):
                optimizer.add_param_group(group)
        known = {id(one) for group in optimizer.param_groups for one in group["params"]}
        if any(id(one) not in known for one in lesson.objective.parameters() if one.requires_grad):
            raise LimbeckError(
                "The objective trains something beside the model (a projector, say), which the optimizer in 'optimizers' does "
                "not know: leave 'optimizers' out and choose one with 'optim' or 'optimizer_cls_and_kwargs'."
            )
        return optimizer

    def _prepared(self) -> Lesson:
        """The lesson for the model that is trained now."""
        student = bare(self.model)
        if self._lesson is None or self._lesson.student is not student:
            self._lesson = self._begun(student)
        if self._tally is None:
            self._tally = Tally(self._lesson.objective.names, self._steps_of_an_epoch(), self._summed)
        self._lesson.open()
        return self._lesson

    def _begun(self, student: nn.Module) -> Lesson:
        rows = length(self.train_dataset)
        with seeded(self.args.seed):  # a data set may draw; the training does not miss what it draws here
            few = list(islice(each(self.train_dataset), _FEW))
            if not few:
                raise DataError("The training set is empty.")
            self._columns.see(few[0])
            collate, size = self._get_collator_with_removed_columns(self.data_collator), self._train_batch_size
            batches = [
                self._columns.batch(self._prepare_inputs(collate(few[at : at + size])))
                for at in range(0, len(few), size)
            ]
            lesson = Lesson(self._terms, student, self._teacher, batches, self.args.seed, rows or 0)
        if lesson.remembers:
            self._columns.remember(rows or 0, few[0])
        self._refuse_parts_of_a_batch(lesson.objective)
        if self.accelerator.num_processes > 1:
            for value in lesson.objective.state_dict().values():
                broadcast(value)
        return lesson

    def _set_signature_columns_if_needed(self) -> None:
        if self._signature_columns is None:
            super()._set_signature_columns_if_needed()
            self._students = frozenset(self._signature_columns or ())
        self._signature_columns += [name for name in self._columns.kept if name not in self._signature_columns]

    def _steps_of_an_epoch(self) -> int:
        rows = length(self.train_dataset)
        return 0 if rows is None else ceil(rows / self.get_total_train_batch_size(self.args))

    # --- a step

    def get_batch_samples(self, *positional: Any, **given: Any) -> Any:
        """The Trainer's own; denominators are counted over all micro-batches of the step, and all processes."""
        samples, items = super().get_batch_samples(*positional, **given)
        if samples:
            objective = self._prepared().objective
            objective.zero_grad(set_to_none=True)  # a Trainer does so with the model alone
            counts = objective.total_counts([self._columns.batch(self._prepare_inputs(one)) for one in samples])
            self._counts = {mask: self._summed(count) for mask, count in counts.items()}
        return samples, items

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """The objective while training; the model's own loss in evaluation."""
        if not model.training:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        lesson, place = self._prepared(), Place(self.state.global_step, max(1, self.state.max_steps))
        lesson.objective.at(place)
        loss, parts, shown = lesson(model, self._columns.batch(inputs), self._counts)
        if not isfinite(float(loss.detach())):
            raise self._not_finite("loss", parts)
        if self._tally:
            self._tally.add(parts)
        if self._counts is not None:
            loss = loss * self.accelerator.num_processes  # gradients are averaged over them, denominators are global
        return (loss, dict(shown)) if return_outputs else loss

    def training_step(self, *positional: Any, **given: Any) -> Any:
        """The Trainer's own; what the objective trains gets the same gradient in every process."""
        loss = super().training_step(*positional, **given)
        if self.accelerator.sync_gradients:
            if self.accelerator.num_processes > 1:
                for parameter in self.objective.parameters():
                    if parameter.grad is not None:
                        parameter.grad = self.accelerator.reduce(parameter.grad, "mean")
            if self._tally:
                self._tally.stepped()
        return loss

    def _clip_grad_norm(self, model: nn.Module) -> Any:
        norm = super()._clip_grad_norm(model)
        if own := [group for group in self.optimizer.param_groups if "clip" in group]:
            clip(own, self.args.max_grad_norm)
        return norm

    def _get_grad_norm(self, model: nn.Module, grad_norm: Any = None) -> Any:
        norm = super()._get_grad_norm(model, grad_norm)
        if not isfinite(float(norm)) and self.accelerator.scaler is None:  # a scaler skips such a step
            raise self._not_finite("gradient", {})
        return norm

    def _not_finite(self, what: str, parts: Mapping[str, Tensor]) -> LimbeckError:
        told = ", ".join(f"{name} {float(value):.4g}" for name, value in parts.items())
        return LimbeckError(
            f"The {what} of step {self.state.global_step + 1} is not finite{f' (parts: {told})' if told else ''}. Nothing was "
            "updated with it. A lower learning rate, a longer warm-up or bf16 in place of fp16 usually helps."
        )

    def _summed(self, value: Tensor) -> Tensor:
        """The sum over the processes."""
        if self.accelerator.num_processes == 1:
            return value
        total: Tensor = self.accelerator.reduce(value.to(self.args.device), "sum")
        return total

    # --- logs, evaluation, checkpoints

    def log(self, logs: dict[str, float], *positional: Any, **given: Any) -> None:
        """The Trainer's own; a log of the loss has its parts too."""
        if self._tally and "loss" in logs:
            logs = {**logs, **self._tally.means()}
        super().log(logs, *positional, **given)

    def prediction_step(self, model: nn.Module, inputs: dict[str, Any], *positional: Any, **given: Any) -> Any:
        """The Trainer's own, without the columns that only the teacher reads."""
        self._set_signature_columns_if_needed()
        foreign = self._columns.foreign(inputs, self._students)
        left = {name: value for name, value in inputs.items() if name not in foreign}
        return super().prediction_step(model, left, *positional, **given)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        super()._save_optimizer_and_scheduler(output_dir)
        if self.args.should_save and self._lesson:
            state = self._lesson.objective.state_dict()
            kept = {name: value.detach().to("cpu", copy=True).contiguous() for name, value in state.items()}
            safetensors.torch.save_file(kept, Path(output_dir, OBJECTIVE))

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is not None and self.objective.state_dict():
            self._load_objective(Path(checkpoint, OBJECTIVE))
        super()._load_optimizer_and_scheduler(checkpoint)

    def _load_objective(self, path: Path) -> None:
        try:
            self.objective.load_state_dict(safetensors.torch.load_file(path))
        except (OSError, RuntimeError, safetensors.SafetensorError) as error:
            raise LimbeckError(
                f"{path} cannot be read, and the objective trains or remembers something beside the model: the checkpoint is not "
                f"of this objective ({' '.join(str(error).split())[:200]}). Begin anew, or resume from another checkpoint."
            ) from error

    # --- what cannot be

    def _refuse(self) -> None:
        if self.args.label_smoothing_factor:
            raise LimbeckError(
                "label_smoothing_factor has no effect on an objective: set it there, objective={'labels': {'smoothing': "
                f"{self.args.label_smoothing_factor:g}, ...}}, ...}}."
            )
        if self.compute_loss_func is not None:
            raise LimbeckError("compute_loss_func and the objective are two losses for one training: leave one out.")
        if self.is_fsdp_enabled or self.is_deepspeed_enabled:
            raise LimbeckError(
                "Distillation with FSDP or DeepSpeed is not supported here: use DistributedDataParallel."
            )

    def _refuse_parts_of_a_batch(self, objective: Objective) -> None:
        terms = zip(objective.names, objective.terms, strict=True)
        comparing = [name for name, term in terms if term.scope == "batch"]
        if comparing and self.args.gradient_accumulation_steps > 1:
            raise SignalError(
                f"The term {comparing[0]!r} compares the examples of a batch with each other, and with "
                f"gradient_accumulation_steps={self.args.gradient_accumulation_steps} it would only see a part of them at a "
                "time: use 1."
            )
