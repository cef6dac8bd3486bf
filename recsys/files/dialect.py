"""The dialect of a text file: its delimiter, quotes, encoding and header, found from its first lines."""

import codecs
import csv
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from recsys.data.columns import normalize_name
from recsys.data.limits import MAX_COLUMNS
from recsys.data.messages import quote_value
from recsys.errors import InputError
from recsys.files.columns import looks_like_header
from recsys.files.entries import HEAD_BYTES, Entry
from recsys.files.foreign import refuse_foreign

DELIMITERS = ("::", "\t", ",", ";", "|", " ")
"""Possible delimiters, the most reliable first; " " is any run of blanks and tabs."""

N_SAMPLED = 100
"""Number of rows that are compared."""

SHARE_OF_PADDED = 0.9
"""Share of the rows with blanks beside their delimiters from which these belong to no value."""

BLANKS = re.compile(r"[ \t]+")
SEP_LINE = re.compile(rb'"?sep=(.|\\t|::)"?\s*', re.IGNORECASE)
"""Excel's first line, which names the delimiter."""
TYPED_NAME = re.compile(
    r"(.+):(?:token|token_seq|float|float_seq|id|int|integer|long|double|number|str|string|text|bool|boolean|date|datetime"
    r"|timestamp|category)",
    re.IGNORECASE,
)
"""A name with a type, as in `user_id:token`."""
QUOTED_ESCAPED = re.compile(r'"((?:[^"\\]|\\.|"")*+)"', re.DOTALL)
ESCAPE = re.compile(r'\\(["\\])|""')
QUOTED_FIELD = re.compile(r'(?:^|[,;|\t])"')


@dataclass(frozen=True, slots=True)
class Dialect:
    """How to read the lines of one text file.

    Attributes:
        delimiter: one of `DELIMITERS`.
        quoted: whether a field that starts with `"` extends to the closing `"`, with `""` for a quote inside.
        encoding: `utf-8` or `latin-1`.
        header: names of the columns, `None` if the first line is data.
        n_columns: number of fields of a row.
        first_line: 1-based number of the first line after the header.
        n_skipped_bytes: bytes before that line: byte order mark, blank lines, comments, `sep=` line and header.
        n_filled: number of columns without those at the end that have no name and no values.
        padded: whether blanks stand beside the delimiters, which belong to no value.
        escaped: whether `\\"` stands for a quote inside a quoted field.
    """

    delimiter: str
    quoted: bool
    encoding: str
    header: tuple[str, ...] | None
    n_columns: int
    first_line: int
    n_skipped_bytes: int
    n_filled: int
    padded: bool = False
    escaped: bool = False


def sniff(
    entry: Entry,
    delimiters: Sequence[str],
    words: frozenset[str],
    min_columns: int,
    has_header: bool | None = None,
) -> Dialect:
    """Find the dialect of a text file from its first bytes.

    The delimiter is the one with which most of the first rows have the same number of fields. `::` files and
    MovieLens' `u.item` and `u.user` are UTF-8 if all of the file is, else Latin-1; all other files are UTF-8.

    Args:
        delimiters: the possible ones of `DELIMITERS`.
        words: known names of columns, normalized; see `looks_like_header`.
        min_columns: a delimiter that gives fewer columns is chosen only if no other one fits.
        has_header: whether the first line names the columns; `None` decides by its content.

    Raises:
        InputError: the file is empty, has only a header or too many columns, or is not a table in text.
    """
    head = entry.head
    is_whole = len(head) < HEAD_BYTES
    refuse_foreign(entry.name, head)
    n_mark_bytes = len(codecs.BOM_UTF8) if head.startswith(codecs.BOM_UTF8) else 0
    lines = head[n_mark_bytes:].split(b"\n")
    if not is_whole:
        lines.pop()  # cut in the middle
    filled = [i for i, line in enumerate(lines) if line.strip()]
    if not filled:
        if is_whole:
            raise InputError(f"{entry.name} is empty: expected ratings, items or users; write or copy the file again")
        raise not_a_table(entry, 1, head[n_mark_bytes:])
    is_movielens = entry.suffix in (".item", ".user") and b":token" not in lines[filled[0]]
    if named := SEP_LINE.fullmatch(lines[filled[0]]):
        delimiter_named = named[1].decode("latin-1").replace("\\t", "\t")
        if delimiter_named not in DELIMITERS[:-1]:
            raise InputError(
                f"{entry.name}:{filled[0] + 1}: the delimiter {quote_value(delimiter_named)} is not known: expected a "
                "comma, tab, semicolon, pipe or '::'; save the file with one of them"
            )
        delimiters, filled = (delimiter_named,), filled[1:]
        if not filled:
            raise InputError(f"{entry.name}: a sep= line and no rows: expected rows after it; write the file again")
    # One character per byte: the result does not depend on the encoding.
    sample = [lines[i].decode("latin-1").rstrip("\r") for i in filled[: 2 * N_SAMPLED]]
    if not is_movielens:
        sample = join_quoted_lines(sample)
    sample = sample[:N_SAMPLED]
    delimiter = find_delimiter(sample, delimiters, not is_movielens, min_columns)
    if delimiter is None:
        raise not_a_table(entry, filled[0] + 1, lines[filled[0]])
    quoted = not is_movielens and delimiter not in ("::", " ")
    escaped = quoted and is_escaped(sample, delimiter)
    fields = [split_any(line, delimiter, quoted, escaped) for line in sample]
    n_usual = Counter(map(len, fields)).most_common(1)[0][0]
    n_comments = 0
    while n_comments < len(fields) - 1 and sample[n_comments][:1] in ("#", "%") and len(fields[n_comments]) != n_usual:
        n_comments += 1
    sample, fields, filled = sample[n_comments:], fields[n_comments:], filled[n_comments:]
    padded = quoted and delimiter != "\t" and is_padded(fields)
    if padded:
        fields = [[field.strip() for field in row] for row in fields]
    encoding = "utf-8"
    if (delimiter == "::" or is_movielens) and not is_all_utf8(entry):
        encoding = "latin-1"
    fields[0][0] = fields[0][0].lstrip("#% ") if is_comment_header(fields[0], words) else fields[0][0]
    if has_header is None:
        has_header = looks_like_header(fields[0], fields[1:], words)
    n_columns = len(fields[0]) if has_header else n_usual
    if has_header and len(fields[0]) < n_usual and not any(any(map(str.strip, row[n_columns:])) for row in fields[1:]):
        n_columns = n_usual  # every row ends with delimiters
    if n_columns > MAX_COLUMNS:
        raise InputError(
            f"{entry.name}:{filled[0] + 1}: {n_columns:,} columns: expected at most {MAX_COLUMNS:,}; "
            "keep only the columns that are needed"
        )
    n_filled = max((i + 1 for row in fields for i, field in enumerate(row[:n_columns]) if field.strip()), default=1)
    if not has_header:
        n_before = sum(len(line) + 1 for line in lines[: filled[0]])
        return Dialect(
            delimiter,
            quoted,
            encoding,
            None,
            n_columns,
            filled[0] + 1,
            n_mark_bytes + n_before,
            n_filled,
            padded,
            escaped,
        )
    if len(filled) == 1 and is_whole:
        raise InputError(
            f"{entry.name}:{filled[0] + 1}: a header and no rows: expected rows after {quote_value(sample[0])}; "
            "write the file again"
        )
    names = [name.encode("latin-1").decode(encoding, "replace").strip() for name in fields[0]]
    typed = [TYPED_NAME.fullmatch(name) for name in names]
    header = tuple(found[1] if all(typed) and found else name for name, found in zip(names, typed, strict=True))
    header += ("",) * (n_columns - len(header))
    last = filled[sample[0].count("\n")]  # a name in quotes may hold line breaks
    n_header_bytes = sum(len(line) + 1 for line in lines[: last + 1])
    return Dialect(
        delimiter,
        quoted,
        encoding,
        header,
        n_columns,
        last + 2,
        n_mark_bytes + n_header_bytes,
        n_filled,
        padded,
        escaped,
    )


def is_comment_header(fields: Sequence[str], words: frozenset[str]) -> bool:
    """Return whether a first line that begins with `#` names the columns."""
    return fields[0][:1] in ("#", "%") and sum(normalize_name(field.lstrip("#% ")) in words for field in fields) >= 2


def is_padded(fields: Sequence[Sequence[str]]) -> bool:
    """Return whether nearly all rows have blanks after (or before) each of their delimiters."""
    rows = [row for row in fields if len(row) > 1]
    n_after = sum(all(field[:1] == " " for field in row[1:] if field) for row in rows)
    n_before = sum(all(field[-1:] == " " for field in row[:-1] if field) for row in rows)
    return max(n_after, n_before) >= SHARE_OF_PADDED * len(rows) > 0


def is_escaped(lines: Sequence[str], delimiter: str) -> bool:
    """Return whether more lines with `\\"` have the usual number of fields if it is an escape than if it is not."""
    suspects = [line for line in lines if '\\"' in line]
    if not suspects:
        return False
    n_usual = Counter(len(split_line(line, delimiter, True)) for line in lines if line not in suspects).most_common(1)
    wanted = n_usual[0][0] if n_usual else None
    n_escaped = n_plain = 0
    for line in suspects:
        fields = split_escaped(line, delimiter)
        try:
            plain = len(next(csv.reader([line], delimiter=delimiter, strict=True)))
        except csv.Error:
            plain = -1
        found = len(fields) if isinstance(fields, list) else -1
        n_escaped += found > 0 and (wanted is None or found == wanted)
        n_plain += plain > 0 and (wanted is None or plain == wanted)
    return n_escaped > n_plain


def split_escaped(text: str, delimiter: str) -> list[str] | str | None:
    """Return the fields of a record in which `\\"` and `\\\\` inside quotes stand for `"` and `\\`.

    Returns:
        The fields; what is wrong; or `None` if a quote is still open at the end.
    """
    fields: list[str] = []
    at = 0
    while True:
        if text.startswith('"', at):
            found = QUOTED_ESCAPED.match(text, at)
            if found is None:
                return None
            fields.append(ESCAPE.sub(lambda match: match[1] or '"', found[1]))
            at = found.end()
            if at < len(text) and not text.startswith(delimiter, at):
                return "characters after a closing quote"
            end = at if at < len(text) else -1
        else:
            end = text.find(delimiter, at)
            fields.append(text[at:] if end < 0 else text[at:end])
        if end < 0:
            return fields
        at = end + len(delimiter)


def split_any(line: str, delimiter: str, quoted: bool, escaped: bool) -> list[str]:
    """Return the fields of one sampled line."""
    fields = split_escaped(line, delimiter) if escaped else None
    return fields if isinstance(fields, list) else split_line(line, delimiter, quoted)


def split_line(line: str, delimiter: str, quoted: bool) -> list[str]:
    """Return the fields of one line."""
    if delimiter == " ":
        return BLANKS.split(line.strip(" \t\r\n"))
    if quoted and '"' in line:
        try:
            return next(csv.reader([line], delimiter=delimiter))
        except csv.Error:
            pass
    return line.split(delimiter)


def join_quoted_lines(lines: Sequence[str]) -> list[str]:
    """Return lines with those joined that a quoted field with line breaks spans."""
    joined: list[str] = []
    at = 0
    while at < len(lines):
        end = at + 1
        n_quotes = count_quotes(lines[at])
        if QUOTED_FIELD.search(lines[at]) and n_quotes % 2:
            while end < len(lines) and n_quotes % 2:
                n_quotes += count_quotes(lines[end])
                end += 1
            if n_quotes % 2:  # never closed: a stray quote
                end = at + 1
        joined.append("\n".join(lines[at:end]))
        at = end
    return joined


def count_quotes(line: str) -> int:
    """Return the number of quotes that are not after a backslash."""
    return line.count('"') - line.count('\\"')


def find_delimiter(lines: Sequence[str], delimiters: Sequence[str], quotable: bool, min_columns: int) -> str | None:
    """Return the delimiter with which most lines have the same number of fields; `None` if there is none."""
    agreeing: dict[str, tuple[bool, int]] = {}
    for delimiter in delimiters:
        quoted = quotable and delimiter not in ("::", " ")
        counts = Counter(len(split_any(line, delimiter, quoted, quoted and '\\"' in line)) for line in lines)
        n_columns, n_lines = counts.most_common(1)[0]
        # Prose has blanks too, but not the same number in each line.
        enough = len(lines) / 2 if delimiter == " " else 0
        if n_columns >= (min_columns if delimiter == " " else 2) and n_lines > enough:
            agreeing[delimiter] = (n_columns >= min_columns, n_lines)
    return max(agreeing, key=agreeing.__getitem__) if agreeing else None


def is_all_utf8(entry: Entry) -> bool:
    """Return whether all of a file is UTF-8; reads it once."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    try:
        for chunk in entry.chunks(1 << 22):
            decoder.decode(chunk)
        decoder.decode(b"", final=True)
    except UnicodeDecodeError:
        return False
    return True


def not_a_table(entry: Entry, line: int, text: bytes) -> InputError:
    """Return the error of a file whose lines have no columns."""
    return InputError(
        f"{entry.name}:{line}: {quote_value(text)} is not a row of a table: expected columns between commas, tabs, "
        "semicolons, pipes, '::' or blanks, or a Parquet file; check the file and --format"
    )
