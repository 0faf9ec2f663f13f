"""Files that would run code if they were trusted: each is refused in one paragraph, or read as data, and nothing is ever run."""

import ast
import hashlib
import json
import pickle
import shutil
import struct
from pathlib import Path

import pytest
import torch
from tests.fakes.rows import LOGITS, Named, batch_of, examples

import limbeck
from limbeck.data.gguf import converted
from limbeck.data.tokenizers import loaded as tokenizer_of
from limbeck.data.writing.models import loaded as model_of
from limbeck.errors import LimbeckError
from limbeck.evidence.schema import Evidence
from limbeck.federation.letters import decoded
from limbeck.recipe.reading import parse
from limbeck.run.experiment import from_recipe
from limbeck.teachers.cached import CachedTeacher
from limbeck.teachers.onnx.settings import Onnx
from limbeck.teachers.onnx.teacher import OnnxTeacher
from limbeck.teachers.stored import StoredTeacher
from limbeck.training.checkpoint import latest, save

RECIPE = """
limbeck: 1
name: a
data: {source: DATA}
teacher: {model: mlp, training: {steps: 1}}
student: STUDENT
training: {steps: 1}
"""


class Bomb:
    """What runs as soon as it is unpickled."""

    def __init__(self, mark: Path):
        self.mark = str(mark)

    def __reduce__(self):
        return open, (self.mark, "w")


def pickled(mark):
    return pickle.dumps({"w": Bomb(mark)})


def recipe(data="uci-digits", student="mlp", more=""):
    return from_recipe(parse(RECIPE.replace("DATA", f"{data}{more}").replace("STUDENT", student)))


def rows(folder) -> str:
    """A table of texts, as a source."""
    lines = [f"a day number {row},{('no', 'yes')[row % 2]}" for row in range(60)]
    (folder / "rows.csv").write_text("text,label\n" + "\n".join(lines) + "\n")
    return f"{{name: table, path: {folder / 'rows.csv'}, text: text, label: label}}"


def weights(name, zipped=None):
    def opened(folder, mark):
        path = folder / name
        if zipped is None:
            path.write_bytes(pickled(mark))
        else:
            torch.save({"w": Bomb(mark)}, path, _use_new_zipfile_serialization=zipped)
        recipe(student=f"{{name: mlp, weights: {path}}}").plan(folder, 0, print).start.module()

    return opened


def checkpoint(name):
    def opened(folder, mark):
        save(folder, 1, {"step": 1})
        save(folder, 2, {"step": 2})
        newest = folder / "step-000000002"
        (newest / name).write_bytes(pickled(mark))
        sums = {
            one: hashlib.sha256((newest / one).read_bytes()).hexdigest()
            for one in ("tensors.safetensors", "state.json")
        }
        (newest / "checksums.json").write_text(json.dumps(sums))  # whoever can write the one can write the other
        assert latest(folder) == {"step": 1}

    return opened


def shard(folder, mark):
    with CachedTeacher(Named(), folder, "inputs") as cached:
        cached.observe(batch_of(examples(20), range(5)), LOGITS)
    (path,) = folder.glob("*/w-*/*.safetensors")
    content = pickled(mark)
    path.rename(path.with_name(f"00000-{hashlib.sha256(content).hexdigest()}.safetensors")).write_bytes(content)
    StoredTeacher(folder).observe(batch_of(examples(20), range(5)), LOGITS)


def key(folder, mark):
    with CachedTeacher(Named(), folder, "inputs") as cached:
        cached.observe(batch_of(examples(20), range(5)), LOGITS)
    (path,) = folder.glob("*/key.json")
    path.write_bytes(pickled(mark))
    StoredTeacher(folder)


def tagged(text):
    def opened(folder, mark):
        recipe(student=text.replace("MARK", str(mark)))

    return opened


def code(folder, mark):
    (folder / "evil_code.py").write_text(f"open({str(mark)!r}, 'w')\ndef run(*_): pass\n")


def named_code(where):
    def opened(folder, mark):
        code(folder, mark)
        evil = "{name: python, target: 'evil_code:run'}"
        if where == "student":
            recipe(student=evil).plan(folder, 0, print).start.module()
        elif where == "filter":
            recipe(rows(folder), more=f", filter: [{evil}]")
        else:
            text = (
                RECIPE.replace("DATA", "uci-digits").replace("STUDENT", "mlp").replace("model: mlp", f"model: {evil}")
            )
            from_recipe(parse(text.replace(", training: {steps: 1}}", "}")))

    return opened


def bert(folder) -> Path:
    """A small model in a folder."""
    from tokenizers import Tokenizer, models
    from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({"[UNK]": 0, "a": 1}, unk_token="[UNK]"))
    PreTrainedTokenizerFast(tokenizer_object=words, unk_token="[UNK]", pad_token="[UNK]").save_pretrained(folder)
    sizes = {
        "hidden_size": 8,
        "num_hidden_layers": 1,
        "num_attention_heads": 1,
        "intermediate_size": 8,
        "vocab_size": 2,
    }
    BertForSequenceClassification(BertConfig(**sizes)).save_pretrained(folder)
    return folder


def altered(folder, name, **changes):
    path = folder / name
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def model_folder(change, open_it):
    def opened(folder, mark):
        bert(folder)
        code(folder, mark)
        shutil.copy(folder / "evil_code.py", folder / "modeling_evil.py")
        shutil.copy(folder / "evil_code.py", folder / "configuration_evil.py")
        shutil.copy(folder / "evil_code.py", folder / "tokenization_evil.py")
        change(folder, mark)
        open_it(str(folder))

    return opened


def read_model(place):
    recipe(rows(Path(place)), f"{{name: huggingface, path: {place}}}").plan(Path(place), 0, print).start.module()


def read_filter(place):
    model_of(place, "AutoModelForSequenceClassification")


AUTO = {"AutoConfig": "configuration_evil.EvilConfig", "AutoModelForSequenceClassification": "modeling_evil.Evil"}


def as_pickle(folder, mark):
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickled(mark))


def pickle_in_disguise(folder, mark):
    (folder / "model.safetensors").write_bytes(pickled(mark))


def index_of_pickles(folder, mark):
    (folder / "model.safetensors").unlink()
    (folder / "part.bin").write_bytes(pickled(mark))
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": {"w": "part.bin"}}))
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"metadata": {}, "weight_map": {"w": "part.bin"}}))


def tokenizer_pickle(folder, mark):
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).write_bytes(pickled(mark))
    (folder / "vocab.pkl").write_bytes(pickled(mark))


def template(folder, mark):
    evil = "{{ cycler.__init__.__globals__.os.system('touch " + str(mark) + "') }}"
    (folder / "chat_template.jinja").write_text(evil)
    altered(folder, "tokenizer_config.json", chat_template=evil)


def read_tokenizer(place):
    found = tokenizer_of(place).tokenizer
    found.apply_chat_template([{"role": "user", "content": "hello"}])


def picture(folder, mark):
    for name in "ab":
        (folder / "pictures" / name).mkdir(parents=True)
        for number in range(3):
            (folder / "pictures" / name / f"{number}.png").write_bytes(pickled(mark))
    recipe(f"{{name: image-folder, path: {folder / 'pictures'}}}")


def table(suffix):
    def opened(folder, mark):
        (folder / f"rows{suffix}").write_bytes(pickled(mark))
        recipe(f"{{name: table, path: {folder / f'rows{suffix}'}, text: text, label: label}}")

    return opened


def idx(folder, mark):
    for name in ("images", "labels"):
        (folder / name).write_bytes(pickled(mark))
    recipe(f"{{name: idx, images: {folder / 'images'}, labels: {folder / 'labels'}}}")


def data_script(folder, mark):
    code(folder, mark)
    shutil.copy(folder / "evil_code.py", folder / f"{folder.name}.py")
    recipe(f"{{name: huggingface, path: {folder}}}")


def saved_data(folder, mark):
    (folder / "dataset_info.json").write_bytes(pickled(mark))
    (folder / "state.json").write_bytes(pickled(mark))
    recipe(f"{{name: huggingface, path: {folder}}}")


def evidence(folder, mark):
    (folder / "evidence.json").write_bytes(pickled(mark))
    Evidence.read(folder)


def letter(folder, mark):
    decoded(pickled(mark), "weights", 1, 1, {"w": torch.zeros(1)})


def onnx(folder, mark):
    (folder / "a.onnx").write_bytes(pickled(mark))
    OnnxTeacher(Onnx(path=str(folder / "a.onnx")))


def gguf(folder, mark):
    (folder / "a.gguf").write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 1, 1) + pickled(mark))
    converted(folder / "a.gguf")


def words(folder, mark):
    (folder / "words.txt").write_bytes(pickled(mark))
    recipe(rows(folder), more=f", filter: [{{name: words, file: {folder / 'words.txt'}}}]")


CASES = {
    "weights .pt": weights("w.pt"),
    "weights .pth": weights("w.pth"),
    "weights .bin": weights("w.bin"),
    "weights zipped": weights("w.pt", zipped=True),
    "weights of old": weights("w.pt", zipped=False),
    "weights in disguise": weights("w.safetensors"),
    "checkpoint tensors": checkpoint("tensors.safetensors"),
    "checkpoint state": checkpoint("state.json"),
    "shard": shard,
    "key": key,
    "yaml apply": tagged("!!python/object/apply:builtins.open ['MARK', 'w']"),
    "yaml new": tagged("!!python/object/new:builtins.open ['MARK', 'w']"),
    "yaml name": tagged("!!python/name:os.system"),
    "yaml module": tagged("!!python/module:os"),
    "yaml own tag": tagged("!include MARK"),
    "yaml tuple": tagged("!!python/tuple [!!python/object/apply:builtins.open ['MARK', 'w']]"),
    "code as student": named_code("student"),
    "code as teacher": named_code("teacher"),
    "code as filter": named_code("filter"),
    "model pickled": model_folder(as_pickle, read_model),
    "filter pickled": model_folder(as_pickle, read_filter),
    "model in disguise": model_folder(pickle_in_disguise, read_model),
    "model index": model_folder(index_of_pickles, read_model),
    "model with code": model_folder(
        lambda at, _: altered(at, "config.json", auto_map=AUTO, model_type="evil"), read_model
    ),
    "known model with code": model_folder(lambda at, _: altered(at, "config.json", auto_map=AUTO), read_model),
    "filter with code": model_folder(
        lambda at, _: altered(at, "config.json", auto_map=AUTO, model_type="evil"), read_filter
    ),
    "tokenizer with code": model_folder(
        lambda at, _: altered(
            at,
            "tokenizer_config.json",
            auto_map={"AutoTokenizer": ["tokenization_evil.Evil", None]},
            tokenizer_class="Evil",
        ),
        read_model,
    ),
    "tokenizer pickled": model_folder(tokenizer_pickle, read_model),
    "chat template": model_folder(template, read_tokenizer),
    "pictures": picture,
    "table .csv": table(".csv"),
    "table .jsonl": table(".jsonl"),
    "table .parquet": table(".parquet"),
    "idx": idx,
    "data with a script": data_script,
    "data on disk": saved_data,
    "evidence": evidence,
    "letter": letter,
    "onnx": onnx,
    "gguf": gguf,
    "words": words,
}


def test_there_are_enough_of_them():
    assert len(CASES) > 40


def refusal(opened, folder, mark) -> Exception | None:
    try:
        opened(folder, mark)
    except Exception as error:  # of any kind: what it is, is looked at
        return error
    return None


@pytest.mark.parametrize("case", CASES)
@pytest.mark.proof("Q13")
def test_nothing_is_run(case, tmp_path, monkeypatch, tried):
    monkeypatch.setenv("LIMBECK_HOME", str(tmp_path / "home"))
    folder, mark = tmp_path / "given", tmp_path / "it-ran"
    folder.mkdir()
    monkeypatch.syspath_prepend(folder)
    said = refusal(CASES[case], folder, mark)
    # limbeck renders no chat template; whoever does is stopped by the sandbox of transformers
    assert said is None or case == "chat template" or isinstance(said, LimbeckError), f"{case}: {type(said).__name__}"
    assert said is None or case == "chat template" or ("\n" not in str(said) and len(str(said)) < 900)
    assert not mark.exists(), f"{case} was run"
    tried(hostile_files=1)


@pytest.mark.proof("Q13")
def test_the_bomb_goes_off_where_it_is_trusted(tmp_path, tried):
    """Else none of the above would say anything."""
    pickle.loads(pickled(tmp_path / "mark"))
    assert (tmp_path / "mark").exists()
    code(tmp_path, tmp_path / "other")
    exec((tmp_path / "evil_code.py").read_text())
    assert (tmp_path / "other").exists()
    tried(hostile_files_that_run_where_trusted=2)


@pytest.mark.proof("Q13")
def test_whatever_is_loaded_by_torch_is_loaded_as_weights_alone(tried):
    """Nothing else of the package unpickles: a call that is new is found here."""
    calls = 0
    for path in Path(limbeck.__file__).parent.rglob("*.py"):
        tree = ast.parse(path.read_text())
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.load":
                given = {one.arg: ast.unparse(one.value) for one in node.keywords}
                assert given.get("weights_only") == "True", f"{path}:{node.lineno}"
                calls += 1
            names = [one.name for one in node.names] if isinstance(node, ast.Import | ast.ImportFrom) else []
            module = [node.module] if isinstance(node, ast.ImportFrom) else []
            assert not {"pickle", "dill", "cloudpickle", "joblib", "marshal", "shelve"} & {*names, *module}, path
            if isinstance(node, ast.keyword) and node.arg == "trust_remote_code":
                assert ast.unparse(node.value) == "False", path
            if isinstance(node, ast.Call) and ast.unparse(node.func) in (
                "yaml.load",
                "yaml.unsafe_load",
                "yaml.full_load",
            ):
                raise AssertionError(path)
    assert calls
    tried(calls_of_torch_load=calls)
