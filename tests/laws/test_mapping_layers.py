"""A model's layers are what a person would name, and looking for them leaves it as it was."""

import pytest
import torch
from tests.fakes.layered import IMAGES, MODELS, Stages, columns_of
from torch import nn
from torch.nn import functional as F

from limbeck.models import nets
from limbeck.objective.mapping import layers_of
from limbeck.signals.capture import show


class TestLayers:
    @pytest.mark.parametrize("name", MODELS)
    def test_a_models_layers_are_what_a_person_would_name(self, name):
        make, expected = MODELS[name]
        model = make()
        found = layers_of(model, columns_of(name))
        assert found == expected
        # transformers leaves hooks of its own
        assert name == "bert" or not any(part._forward_hooks for part in model.modules())
        assert all(part.training for part in model.modules())
        if found:  # and each can be captured by its name
            shown = show(model, columns_of(name), found)
            assert all(len(shown[one]) == 3 for one in found)

    def test_the_mode_of_each_part_and_the_statistics_are_left_as_they_were(self):
        model = nets.SmallCnn(3, 4, 2, 4)
        model.blocks[0].eval()
        before = {name: value.clone() for name, value in model.state_dict().items()}
        layers_of(model, IMAGES)
        assert not model.blocks[0].training
        assert model.blocks[1].training
        assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())

    def test_hooks_and_mode_are_put_back_when_the_model_fails(self):
        model = nets.SmallCnn(3, 4, 2, 4)
        with pytest.raises(RuntimeError):
            layers_of(model, {"x": torch.zeros(2, 5, 8, 8)})
        assert model.training
        assert not any(part._forward_hooks for part in model.modules())

    def test_wrappers_are_looked_through(self):
        assert layers_of(nn.DataParallel(Stages(1, 1, 1)), IMAGES) == ["layer1", "layer2", "layer3"]
        compiled = torch.compile(nets.SmallCnn(3, 4, 2, 4), backend="eager")
        assert layers_of(compiled, IMAGES) == ["blocks.0", "blocks.1"]

    def test_a_part_called_base_layer_makes_no_adapter_of_its_module(self):
        class Based(nn.Module):
            def __init__(self):
                super().__init__()
                self.base_layer, self.head = nets.SmallCnn(3, 4, 2, 4), nn.Linear(4, 4)

            def forward(self, x):
                return self.head(self.base_layer(x))

        assert layers_of(Based(), IMAGES) == ["base_layer.blocks.0", "base_layer.blocks.1"]
        assert layers_of(nn.Sequential(Based()), IMAGES) == ["0.base_layer.blocks.0", "0.base_layer.blocks.1"]

    def test_what_runs_twice_or_is_written_over_is_no_layer(self):
        class Twice(nets.SmallResnet):
            def forward(self, x):
                x = self.stages[0](self.stem(x))
                x = self.stages[2](F.relu_(self.stages[1](x)))
                return self.head(self.stages[3](self.stages[3](x)).mean((2, 3)))

        model = Twice(3, 4, 1, 4, 4)
        model.stages[3] = nn.Sequential(nets.ResidualBlock(16, 16, 1))
        model.head = nn.Linear(16, 4)
        assert layers_of(model, IMAGES) == ["stages.0", "stages.2"]

    def test_one_example_is_enough(self):
        assert len(layers_of(nets.SmallCnn(3, 4, 2, 4), {"x": IMAGES["x"][:1]})) == 2
