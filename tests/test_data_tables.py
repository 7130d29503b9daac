"""Tables as Excel, pandas and old programs write them, and text in other encodings than UTF-8."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from biddable.data.readers import ReadResult, read
from biddable.errors import BiddableError

PAIRS = [(f"Who keeps no. {k}?", f"Keeper {k} keeps it.") for k in range(4)]


def written(path: Path, data: bytes | str) -> ReadResult:
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return read([str(path)])


def pairs(result: ReadResult) -> list[tuple[str, ...]]:
    assert not result.errors()
    return [tuple(m.content for m in c.messages) for c in result.conversations]


def as_text(delimiter: str = ",", end: str = "\n", head: str = "", tail: str = "") -> str:
    rows = [("question", "answer"), *PAIRS]
    return head + "".join(delimiter.join(row) + tail + end for row in rows)


@pytest.mark.parametrize(
    "text",
    [
        *(as_text(mark) for mark in ",;\t|"),
        *(as_text(end=end) for end in ("\r\n", "\r")),
        as_text(";", head="sep=;\n"),
        as_text(";", head='"sep=;"\r\n', end="\r\n"),
        as_text("|", head="\ufeffSEP=|\n"),
        as_text(tail=",,"),
        as_text(head=",\n , \n"),
        as_text() + ",\n\n,,,\n",
        as_text(head="\ufeff"),
    ],
)
def test_every_way_of_writing_a_table_gives_its_rows(tmp_path: Path, text: str) -> None:
    result = written(tmp_path / "data.csv", text)
    assert pairs(result) == PAIRS
    assert not result.findings


def test_the_delimiter_is_the_one_that_gives_every_row_the_cells_of_the_header(
    tmp_path: Path,
) -> None:
    text = '"question, if any, as asked";"answer, in short"\n' + "".join(
        f"{question};{answer}, of course, {k}\n" for k, (question, answer) in enumerate(PAIRS)
    )
    path = tmp_path / "data.csv"
    path.write_text(text)
    mapping = {"user": "question, if any, as asked", "assistant": "answer, in short"}
    result = read([str(path)], mapping=mapping)
    assert [c.messages[1].content for c in result.conversations] == [
        f"{answer}, of course, {k}" for k, (_, answer) in enumerate(PAIRS)
    ]


@pytest.mark.parametrize("header", [",question,answer", "Unnamed: 0,question,answer"])
def test_the_index_that_pandas_writes_is_left_out_and_said(tmp_path: Path, header: str) -> None:
    rows = "".join(f"{k},{question},{answer}\n" for k, (question, answer) in enumerate(PAIRS))
    result = written(tmp_path / "data.csv", f"{header}\n{rows}")
    assert pairs(result) == PAIRS
    [note] = result.findings
    assert (note.code, note.severity) == ("unused_columns", "note")


def test_cells_keep_their_line_breaks_and_decimal_commas_and_rows_their_lines(
    tmp_path: Path,
) -> None:
    text = 'question;answer\r\n"two\nlines";3,50\r\nu;a;\r\nu;a;b\r\nu\r\n'
    result = written(tmp_path / "data.csv", text)
    first = result.conversations[0]
    assert [m.content for m in first.messages] == ["two\nlines", "3,50"]
    assert [(f.code, f.line) for f in result.errors()] == [("column_count", 5), ("column_count", 6)]


def test_an_old_mac_table_with_line_feeds_in_its_cells_has_its_line_numbers(tmp_path: Path) -> None:
    result = written(tmp_path / "data.csv", 'question,answer\r"two\nlines",a\ru,b\r')
    assert [c.line for c in result.conversations] == [2, 3]
    assert result.conversations[0].messages[0].content == "two\nlines"


def test_columns_of_the_same_name_are_named(tmp_path: Path) -> None:
    result = written(tmp_path / "data.csv", "q,answer,x,answer,x\n1,2,3,4,5\n")
    [error] = result.errors()
    assert (error.code, error.line) == ("invalid_header", 1)
    assert "'answer' (2 times), 'x' (2 times)" in error.message


def test_keys_that_differ_in_case_only_do_not_hide_each_other(tmp_path: Path) -> None:
    result = written(tmp_path / "data.jsonl", '{"user": "u", "Answer": "a", "ANSWER": "b"}\n')
    assert not result.conversations
    assert [f.severity for f in result.findings] == ["error"]


ENCODINGS = ("cp1252", "latin-1", "cp1251", "gb18030", "shift_jis", "utf-16", "utf-16-be", "utf-32")
KINDS = st.sampled_from(["data.csv", "data.jsonl", "data.json"])


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(ENCODINGS), KINDS, st.data())
def test_text_comes_back_from_every_named_encoding(
    tmp_path_factory: pytest.TempPathFactory, encoding: str, name: str, data: st.DataObject
) -> None:
    import json

    alphabet = st.characters(
        codec=encoding, exclude_categories=["Cs", "Cc"], exclude_characters="¥‾"
    )
    content = data.draw(st.text(alphabet, min_size=1, max_size=20).filter(str.strip))
    row = {"question": f"<{content}>", "answer": f"({content})"}
    stream = io.StringIO()
    if name == "data.csv":
        csv.writer(stream, quoting=csv.QUOTE_ALL).writerows([row, row.values()])
    else:
        texts = json.dumps(row, ensure_ascii=False)
        stream.write(texts if name == "data.jsonl" else f"[\n{texts}\n]")
    path = tmp_path_factory.mktemp("encodings") / name
    path.write_bytes(stream.getvalue().encode(encoding))
    result = read([str(path)], encoding=encoding)
    assert pairs(result) == [tuple(row.values())]


@pytest.mark.parametrize(
    ("encoding", "codes"),
    [
        ("utf-8-sig", []),
        ("utf-16", []),
        ("utf-32", []),
        ("utf-16-le", ["encoding_guessed"]),
        ("utf-16-be", ["encoding_guessed"]),
    ],
)
def test_what_cannot_be_mistaken_is_read_without_a_name(
    tmp_path: Path, encoding: str, codes: list[str]
) -> None:
    result = written(tmp_path / "data.csv", as_text().encode(encoding))
    assert pairs(result) == PAIRS
    assert [f.code for f in result.findings] == codes


@pytest.mark.parametrize(
    ("name", "text", "line"),
    [
        ("data.csv", "Frage;Lösung\nu;a\n", 1),
        ("data.csv", "question;answer\nu;schön\n", 2),
        ("data.jsonl", '{"user": "u", "assistant": "schön"}\n', 1),
        ("data.json", '[\n{"user": "u", "assistant": "schön"}]\n', 2),
    ],
)
def test_another_encoding_is_refused_with_what_it_may_be(
    tmp_path: Path, name: str, text: str, line: int
) -> None:
    [error] = written(tmp_path / name, text.encode("cp1252")).errors()
    assert (error.code, error.line) == ("invalid_utf8", line)
    assert "--encoding cp1252, with which it reads" in error.fix
    assert ("Lösung" in error.fix) or ("schön" in error.fix)


def test_wrong_names_of_encodings_are_told(tmp_path: Path) -> None:
    path = tmp_path / "data.csv"
    path.write_bytes("question,answer\nu,caf\x81\n".encode("latin-1"))
    for name in ("cp1253x", "base64", "rot13", "undefined", "a\0b"):
        with pytest.raises(BiddableError, match="no known text encoding"):
            read([str(path)], encoding=name)
    with pytest.raises(BiddableError, match="0x81 is not cp1252") as caught:
        read([str(path)], encoding="cp1252")
    assert caught.value.finding.line == 2
    path.write_bytes(as_text(head="\ufeff").encode())
    with pytest.raises(BiddableError, match="byte order mark of utf-8"):
        read([str(path)], encoding="cp1252")
    path.write_text("question,answer\nu,schön\n", encoding="utf-8")
    assert [f.code for f in read([str(path)], encoding="cp1252").findings] == ["mojibake"]


ONE = '[{"role": "user", "content": "u"}, {"role": "assistant", "content": "a"}]'
OBJECT = '{"user": "u",\n "assistant": "a"}'


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        (f"{ONE}\n{ONE}\n", 2),
        (ONE, 1),
        (f"[{ONE},\n{ONE}]", 2),
        (ONE.replace("role", "from").replace("content", "value") + "\n", 1),
        (f"{OBJECT}\n{OBJECT}\n", 2),
        (f"[{OBJECT}]", 1),
        ('[{"user": "u", "assistant": "a"}]', 1),
        (ONE.replace('"u"', '"' + "u" * 70_000 + '"') + f"\n{ONE}\n", 2),
    ],
)
def test_json_is_read_however_it_is_laid_out(tmp_path: Path, text: str, rows: int) -> None:
    assert len(pairs(written(tmp_path / "data.json", text))) == rows


@pytest.mark.parametrize(
    ("line", "seen"),
    [
        ('{"user": "u", "assistant": "a",}', "comma stands before a closing bracket"),
        ('{"user": "u", "assistant": "a"}{"user": "v", "assistant": "a"}', "a second value begins"),
        ('{"user": "u", "assistant": "a"} # mine', "more text stands behind"),
    ],
)
def test_what_is_wrong_with_a_line_of_json_is_said_in_words(
    tmp_path: Path, line: str, seen: str
) -> None:
    errors = written(tmp_path / "data.jsonl", f"{line}\n{line}\n").errors()
    assert [(f.code, f.line) for f in errors] == [("invalid_json", 1), ("invalid_json", 2)]
    assert all(seen in f.message for f in errors)


def test_a_folder_of_saved_data_sets_gives_its_training_split(tmp_path: Path) -> None:
    arrow = pytest.importorskip("pyarrow")
    table = arrow.Table.from_pylist([{"question": q, "answer": a} for q, a in PAIRS])
    for split in ("train", "test"):
        folder = tmp_path / "saved" / split
        folder.mkdir(parents=True)
        (folder / "state.json").write_text('{"_split": null}')
        (folder / "dataset_info.json").write_text("{}")
        with arrow.ipc.new_stream(str(folder / "data-00000-of-00001.arrow"), table.schema) as out:
            out.write_table(table)
    assert pairs(read([str(tmp_path / "saved" / "train")])) == PAIRS
    (tmp_path / "saved" / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    result = read([str(tmp_path / "saved")])
    assert pairs(result) == PAIRS
    assert [f.code for f in result.findings] == ["files_left_out"]
    assert str(tmp_path / "saved" / "test") in result.findings[0].fix
    file = tmp_path / "data.arrow"
    with arrow.ipc.new_file(str(file), table.schema) as out:
        out.write_table(table)
    assert pairs(read([str(file)])) == PAIRS
    file.write_bytes(file.read_bytes()[:60])
    assert [f.code for f in read([str(file)]).errors()] == ["unreadable_file"]


def test_a_misspelled_file_is_told_with_the_one_beside_it(tmp_path: Path) -> None:
    (tmp_path / "training.jsonl").write_text("{}")
    with pytest.raises(BiddableError, match=r"Did you mean .*training\.jsonl"):
        read([str(tmp_path / "trainig.jsonl")])


@pytest.mark.parametrize("above", ["Export of May\n\n", "# by a tool\n"])
def test_a_line_above_the_header_is_named_as_the_cause(tmp_path: Path, above: str) -> None:
    path = tmp_path / "data.csv"
    path.write_text(f"{above}user,assistant\nu,a\n", encoding="utf-8")
    findings = read([str(path)]).findings
    assert {f.code for f in findings} == {"column_count"}
    assert "remove what stands above it" in str(findings[0].fix)
