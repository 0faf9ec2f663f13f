"""The recorder of attention leaves nothing behind, mixes no two models, and says what it cannot show."""

import copy
import threading

import pytest
import torch
from tests.fakes.attending import EVERY, IDS, MASK, SMALL, TEXT, build, eager, seen
from torch import nn

from limbeck.errors import SignalError
from limbeck.signals.attention import AttentionRecorder, is_attention

models = pytest.mark.parametrize("kind", ["bert", "llama", "gpt2", "vit"])


class TestNothingLeaks:
    def interface(self):
        from transformers import AttentionInterface

        return AttentionInterface.get_interface, dict(AttentionInterface._global_mapping)

    def test_configs_and_the_interface_are_as_before(self):
        model, before = build("bert"), self.interface()
        config = model.config.to_json_string(use_diff=False)
        with AttentionRecorder(model, EVERY):
            assert model.config._attn_implementation == "sdpa"
            assert self.interface()[0] is not before[0]
            model(**TEXT)
        assert self.interface() == before
        assert model.config._attn_implementation == "sdpa"
        assert model.config.to_json_string(use_diff=False) == config

    def test_after_an_exception(self):
        model, before = build("bert"), self.interface()
        recorder = AttentionRecorder(model, EVERY)
        model.pooler.forward = lambda _: 1 / 0
        with pytest.raises(ZeroDivisionError), recorder:
            model(**TEXT)
        assert self.interface() == before
        del model.pooler.forward
        model(**TEXT)
        with pytest.raises(SignalError, match="did not attend"):
            recorder.read(EVERY[0])

    def test_recorders_close_in_any_order(self):
        model, before = build("bert"), self.interface()
        one, two = AttentionRecorder(model, EVERY[:2]), AttentionRecorder(model, EVERY[:1])
        one.start()
        two.start()
        one.stop()
        one.stop()
        model(**TEXT)
        assert two.read(EVERY[0]).shape == (2, 4, 5, 5)
        two.stop()
        assert self.interface() == before

    def test_a_recorder_that_nobody_closed_is_forgotten(self):
        model, before = build("bert"), self.interface()
        recorder = AttentionRecorder(model, EVERY)
        recorder.start()
        del recorder
        model(**TEXT)
        with AttentionRecorder(model, EVERY[:1]) as other:
            model(**TEXT)
            other.read(EVERY[0])
        assert self.interface() == before

    def test_a_copy_of_a_watched_model_is_not_watched(self):
        model, other = build("bert"), {"input_ids": IDS.flip(1)}
        with AttentionRecorder(model, EVERY) as recorder:
            model(**TEXT)
            kept = recorder.read(EVERY[0])
            copy.deepcopy(model)(**other)
            assert recorder.read(EVERY[0]) is kept


class TestTwoModels:
    def test_they_do_not_mix_even_of_one_config(self):
        first, second = build("bert"), build("bert", seed=1)
        second.config = first.config
        for module in second.modules():
            if hasattr(module, "config"):
                module.config = first.config
        alone = [seen(model, EVERY, TEXT) for model in (first, second)]
        with AttentionRecorder(first, EVERY) as one, AttentionRecorder(second, EVERY) as two:
            second(**TEXT)
            first(**TEXT)
            for recorder, expected in ((one, alone[0]), (two, alone[1])):
                assert all(torch.equal(recorder.read(name), expected[name]) for name in EVERY)
        assert not torch.equal(alone[0][EVERY[0]], alone[1][EVERY[0]])

    def test_in_two_threads(self):
        pair = [build("bert"), build("gpt2")]
        alone, found = [seen(model, EVERY, TEXT) for model in pair], [None, None]
        meet = threading.Barrier(2)

        def work(i):
            with AttentionRecorder(pair[i], EVERY) as recorder:
                for _ in range(5):
                    meet.wait(10)
                    pair[i](**TEXT)
                found[i] = {name: recorder.read(name) for name in EVERY}

        threads = [threading.Thread(target=work, args=(i,)) for i in (0, 1)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert all(torch.equal(found[i][name], alone[i][name]) for i in (0, 1) for name in EVERY)

    def test_a_model_inside_another(self):
        class Wrapped(nn.Module):
            def __init__(self):
                super().__init__()
                self.text, self.head = build("bert"), nn.Linear(16, 2)

            def forward(self, **given):
                return self.head(self.text(**given).pooler_output)

        model = Wrapped().eval()
        inner, outer = seen(model.text, EVERY, TEXT), seen(model, EVERY, TEXT)
        assert all(torch.equal(inner[name], outer[name]) for name in EVERY)


def test_only_what_was_asked_is_kept_and_the_latest_pass_counts():
    model, other = build("bert"), {"input_ids": IDS.flip(1), "attention_mask": MASK}
    with AttentionRecorder(model, ["attention.2.key", "attention.2.probs"]) as recorder:
        model(**TEXT)
        first = [recorder.read(name) for name in ("attention.2.key", "attention.2.probs")]
        model(**other)
        assert not torch.equal(recorder.read("attention.2.key"), first[0])
        assert not torch.equal(recorder.read("attention.2.probs"), first[1])
        for name in ("attention.2.query", "attention.1.key"):
            with pytest.raises(SignalError):
                recorder.read(name)
        recorder.clear()
        with pytest.raises(SignalError, match=r"attention\.2\.key.*did not attend"):
            recorder.read("attention.2.key")


class TestErrors:
    @pytest.mark.parametrize("name", ["attention.0.probs", "attention.4.key"])
    @models
    def test_a_number_out_of_range_names_the_range(self, kind, name):
        with pytest.raises(SignalError, match=rf"'{name}'.*attention\.1 to attention\.3"):
            AttentionRecorder(build(kind), [name])

    @pytest.mark.parametrize("name", ["attention.1.keys", "attention.x.key", "attention.1"])
    def test_another_form_of_name(self, name):
        with pytest.raises(SignalError, match=r"probs, \.scores, \.query, \.key, \.value"):
            AttentionRecorder(build("bert"), [name])

    def test_a_model_of_its_own_attention(self):
        own = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, batch_first=True), 2)
        with pytest.raises(SignalError, match=r"TransformerEncoder does not attend.*name a module"):
            AttentionRecorder(own, ["attention.1.probs"])

    def test_two_stacks_and_layers_that_run_again(self):
        import transformers as tf

        clip = nn.ModuleDict({"one": build("bert"), "two": build("vit")})
        with pytest.raises(SignalError, match=r"several stacks .*one\.encoder\.layer.*name a module"):
            AttentionRecorder(clip, ["attention.1.probs"])
        albert = tf.AlbertModel(tf.AlbertConfig(**SMALL, vocab_size=20, embedding_size=8))
        with pytest.raises(SignalError, match="more than once"):
            AttentionRecorder(albert, ["attention.1.probs"])

    def test_layers_that_are_lists_are_one_stack(self):
        import transformers as tf

        torch.manual_seed(0)
        t5 = tf.T5EncoderModel(tf.T5Config(vocab_size=20, d_model=16, d_kv=4, num_heads=4, num_layers=3, d_ff=16))
        t5.set_attn_implementation("sdpa")
        shown = seen(t5.eval(), EVERY, TEXT)
        own = eager(t5)(**TEXT, output_attentions=True).attentions
        assert all(torch.allclose(shown[f"attention.{n}.probs"], a, atol=1e-6) for n, a in enumerate(own, 1))

    def test_a_layer_that_never_ran(self):
        model = build("bert")
        recorder = AttentionRecorder(model, ["attention.1.probs"])
        with recorder, pytest.raises(SignalError, match=r"attention\.1\.probs.*did not attend"):
            recorder.read("attention.1.probs")

    def test_an_implementation_whose_maps_nobody_sees(self):
        from transformers import AttentionInterface
        from transformers.integrations.sdpa_attention import sdpa_attention_forward
        from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, sdpa_mask

        model = build("bert")
        AttentionInterface.register("other", sdpa_attention_forward)
        ALL_MASK_ATTENTION_FUNCTIONS.register("other", sdpa_mask)
        try:
            model.config._attn_implementation = "other"
            assert seen(model, ["attention.1.key"], TEXT)["attention.1.key"].shape == (2, 5, 16)
            with pytest.raises(SignalError, match=r"attention\.1 of BertModel.*'other'.*sdpa"):
                seen(model, ["attention.1.probs"], TEXT)
        finally:
            del AttentionInterface._global_mapping["other"]
            del ALL_MASK_ATTENTION_FUNCTIONS._global_mapping["other"]

    def test_an_attention_that_adds_something_of_its_own(self, monkeypatch):
        from transformers.models.bert import modeling_bert

        original = modeling_bert.eager_attention_forward

        def odd(module, query, key, value, attention_mask, **options):
            return original(module, query, key.roll(1, 2), value, attention_mask, **options)

        monkeypatch.setattr(modeling_bert, "eager_attention_forward", odd)
        model = build("bert", "eager")
        with pytest.raises(SignalError, match="not softmax"):
            seen(model, ["attention.1.scores"], TEXT)
        assert seen(model, ["attention.1.value"], TEXT)


def test_which_names_are_signals_of_attention():
    assert all(is_attention(name) for name in (*EVERY, "attention.0.key", "attention.12.anything"))
    assert not any(
        is_attention(name) for name in ("logits", "attention", "attention.1", "x.attention.1.key", "hidden.1")
    )


def test_no_names_touch_nothing():
    from transformers import AttentionInterface

    before = AttentionInterface.get_interface
    with AttentionRecorder(nn.Linear(2, 2), []):
        assert AttentionInterface.get_interface is before
