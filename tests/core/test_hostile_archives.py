"""Archives that somebody made to do harm, or that were damaged on the way.

What is refused is refused with a typed error that names the entry or the limit. Where the readings of
tar implementations differ, that of Go's archive/tar is right, or the archive is refused.
"""

from __future__ import annotations

import gzip
import io
import json
import re
import subprocess
import sys
import tarfile

import pytest

from sluice.core import tar
from sluice.core.errors import Code, LimitExceeded
from sluice.core.gzip import InvalidArchive
from sluice.core.limits import DEFAULT_LIMITS, GIB, KIB, MIB, Limits
from sluice.core.tree import Directory, File, MemoryContent
from sluice.core.untar import EXTRACT, SOURCE, Rules, index, read_archive

END = bytes(1024)
USTAR, OLD_GNU, V7 = b"ustar\x0000", b"ustar  \0", bytes(8)


def block(
    name: bytes = b"f",
    flag: bytes = b"0",
    *,
    size: bytes = b"%011o\0" % 0,
    mode: bytes = b"0000644\0",
    mtime: bytes = b"00000000000\0",
    link: bytes = b"",
    magic: bytes = USTAR,
    prefix: bytes = b"",
    tail: bytes = b"",
    signed: bool = False,
) -> bytes:
    """A header with whatever fields, its checksum right."""
    before = name.ljust(100, b"\0") + mode + b"0000000\0" * 2 + size + mtime
    after = flag + link.ljust(100, b"\0") + magic + bytes(64) + b"0000000\0" * 2 + prefix.ljust(155, b"\0")
    after += tail.rjust(12, b"\0")
    total = sum(before + b" " * 8 + after)
    if signed:
        total -= 256 * sum(byte > 127 for byte in before + after)
    return before + b"%06o\0 " % total + after


def entry(name: bytes, data: bytes = b"", flag: bytes = b"0", **fields: bytes) -> bytes:
    """An entry and its body."""
    size = fields.pop("size", b"%011o\0" % len(data))
    return block(name, flag, size=size, **fields) + data + bytes(-len(data) % 512)  # type: ignore[arg-type]  # all bytes


def record(key: bytes, value: bytes) -> bytes:
    rest = b" %b=%b\n" % (key, value)
    length = len(rest) + 1
    while len(b"%d" % length) + len(rest) != length:
        length += 1
    return b"%d" % length + rest


def pax(*records: tuple[bytes, bytes], flag: bytes = b"x") -> bytes:
    return entry(b"PaxHeaders.0/x", b"".join(record(key, value) for key, value in records), flag)


def read(stream: bytes, rules: Rules = SOURCE, limits: Limits = DEFAULT_LIMITS) -> dict[str, bytes]:
    """The files of a tar stream, by path."""
    tree = index([stream], MemoryContent(stream), rules, limits)
    return {path: found.read() for path, found in tree.walk() if isinstance(found, File)}


def base256(number: int, size: int = 12) -> bytes:
    data = bytearray(number.to_bytes(size, "big", signed=True))
    data[0] |= 0x80
    return bytes(data)


class TestNames:
    @pytest.mark.parametrize(
        ("name", "message"),
        [
            (b"../x", "archive holds '../x', which leaves the root"),
            (b"../etc/passwd", "archive holds '../etc/passwd', which leaves the root"),
            (b"a/../../x", "archive holds 'a/../../x', which leaves the root"),
            (b"a/../b", "archive holds 'a/../b', which leaves the root"),
            (b"foo../bar", "archive holds 'foo../bar', which leaves the root"),
            (b"./..//x", "archive holds './..//x', which leaves the root"),
            (b"/etc/passwd", "archive holds '/etc/passwd', which leaves the root"),
            (b"//x", "archive holds '//x', which leaves the root"),
            (b"a\\..\\b", "archive holds 'a\\..\\b', which has a backslash"),
            (b"C:\\x", "archive holds 'C:\\x', which has a backslash"),
            (b"", "archive holds an entry without a name"),
            (b".", "archive holds '.', a file that is named like a directory"),
            (b"./", "archive holds './', a file that is named like a directory"),
            (b"..", "archive holds '..', a file that is named like a directory"),
            (b"a/..", "archive holds 'a/..', a file that is named like a directory"),
            (b"../\n\x1b[31m\xff", "archive holds '../\\n\\x1b[31m\\\\xff', which leaves the root"),
        ],
    )
    @pytest.mark.parametrize("rules", [SOURCE, EXTRACT], ids=["source", "extract"])
    def test_a_file_that_is_refused(self, name: bytes, message: str, rules: Rules) -> None:
        with pytest.raises(InvalidArchive) as caught:
            read(entry(b"good", b"x") + entry(name) + END, rules)

        assert str(caught.value) == message
        assert caught.value.code is Code.INVALID_ARCHIVE

    @pytest.mark.parametrize("flag", [b"1", b"2", b"5"], ids=["hard link", "symbolic link", "directory"])
    def test_other_entries_are_held_to_the_same_names(self, flag: bytes) -> None:
        with pytest.raises(InvalidArchive, match=r"^archive holds '\.\./x', which leaves the root$"):
            read(block(b"../x", flag, link=b"y") + END)

    @pytest.mark.parametrize(
        ("name", "path"),
        [
            (b"./ok", "ok"),
            (b"a//b", "a/b"),
            (b"a/./b", "a/b"),
            (b"a/", "a"),
            (b"...", "..."),
            (b"x..", "x.."),
            (b"..x/y", "..x/y"),
            (b".hidden/.f", ".hidden/.f"),
            (b"C:x", "C:x"),
            (b"n\xff\xfe", "n\udcff\udcfe"),
            (b"line\nbreak", "line\nbreak"),
        ],
    )
    def test_a_file_that_is_kept(self, name: bytes, path: str) -> None:
        assert read(entry(name, b"x") + END) == {path: b"x"}

    @pytest.mark.parametrize("name", [b".", b"./", b"..", b"x/..", b"./.", b"x/../"[:4]])
    def test_a_directory_that_is_the_root_does_nothing(self, name: bytes) -> None:
        tree = index([block(name, b"5") + END], MemoryContent(b""), EXTRACT, DEFAULT_LIMITS)

        assert tree.digest == Directory.of({}).digest

    def test_a_record_cannot_hide_a_part_of_a_name(self) -> None:
        with pytest.raises(InvalidArchive, match=r"^archive is damaged: PAX header with path 'a\\x00b'$"):
            read(pax((b"path", b"a\0b")) + entry(b"x") + END)


class TestEntries:
    @pytest.mark.parametrize(
        ("flag", "what"),
        [
            (b"3", "a character device"),
            (b"4", "a block device"),
            (b"6", "a FIFO"),
            (b"S", "a sparse file"),
            (b"M", "a part of a multi-volume archive"),
            (b"V", "a volume label"),
            (b"Z", "of the unknown type 'Z'"),
            (b"\xff", "of the unknown type '\\xff'"),
        ],
    )
    def test_special_files_are_refused(self, flag: bytes, what: str) -> None:
        with pytest.raises(InvalidArchive) as caught:
            read(block(b"dev", flag) + END)

        assert str(caught.value) == f"archive holds 'dev', {what} (files and directories only)"

    @pytest.mark.parametrize("key", [b"GNU.sparse.major", b"GNU.sparse.map", b"GNU.sparse.name"])
    def test_sparse_files_of_pax_are_refused(self, key: bytes) -> None:
        with pytest.raises(InvalidArchive) as caught:
            read(pax((key, b"1")) + entry(b"f", b"x") + END)

        assert str(caught.value) == "archive holds 'f', a sparse file (files and directories only)"

    @pytest.mark.parametrize("target", [b"/etc", b"../..", b"k", b"nowhere", b"l"])
    def test_symbolic_links_are_left_out_of_sources_and_refused_by_extract(self, target: bytes) -> None:
        data = entry(b"k", b"k") + block(b"l", b"2", link=target) + entry(b"l/passwd", b"own") + END

        assert read(data) == {"k": b"k", "l/passwd": b"own"}
        with pytest.raises(InvalidArchive) as caught:
            read(data, EXTRACT)
        assert str(caught.value) == "archive holds 'l', a symbolic link (files and directories only)"

    def test_a_hard_link_is_another_name_of_a_file_before_it(self) -> None:
        data = entry(b"d/k", b"text", mode=b"0000755\0") + block(b"h", b"1", link=b"./d/k") + END
        tree = index([data], MemoryContent(data), EXTRACT, DEFAULT_LIMITS)

        assert tree.digest == Directory.of({"d/k": b"text", "h": b"text"}, executable=["d/k", "h"]).digest

    @pytest.mark.parametrize("target", [b"later", b"nowhere", b"d", b"d/k/x"])
    def test_a_hard_link_to_no_file_before_it_is_empty(self, target: bytes) -> None:
        data = entry(b"d/k", b"k") + block(b"h", b"1", link=target, size=b"%011o\0" % 9) + entry(b"later", b"x") + END

        assert read(data) == {"d/k": b"k", "h": b"", "later": b"x"}

    @pytest.mark.parametrize("target", [b"/etc/passwd", b"../../etc/passwd"])
    def test_a_hard_link_out_of_the_archive_is_refused(self, target: bytes) -> None:
        with pytest.raises(InvalidArchive) as caught:
            read(block(b"h", b"1", link=target) + END)

        assert str(caught.value) == f"archive holds '{target.decode()}', which leaves the root"

    @pytest.mark.parametrize(
        ("data", "message"),
        [
            pytest.param(
                entry(b"k") + block(b"k", b"5"), "'k', which needs a directory where a file is", id="onto a file"
            ),
            pytest.param(
                entry(b"k") + entry(b"k/x"), "'k/x', which needs a directory where a file is", id="below a file"
            ),
            pytest.param(entry(b"d/x") + entry(b"d"), "'d', a file where a directory is", id="onto a directory"),
        ],
    )
    def test_a_file_and_a_directory_of_one_name_are_refused(self, data: bytes, message: str) -> None:
        with pytest.raises(InvalidArchive) as caught:
            read(data + END)

        assert str(caught.value) == f"archive holds {message}"

    def test_the_last_content_and_the_first_mode_of_a_file_win(self) -> None:
        data = entry(b"a", b"1", mode=b"0000755\0") + entry(b"b", b"1") + entry(b"a", b"22")
        data += entry(b"./b", b"22", mode=b"0000755\0") + END
        tree = index([data], MemoryContent(data), SOURCE, DEFAULT_LIMITS)

        assert tree.digest == Directory.of({"a": b"22", "b": b"22"}, executable=["a"]).digest

    @pytest.mark.parametrize("mode", [b"0040755\0", b"0120777\0", b"0010644\0", b"0140644\0"])
    def test_a_file_whose_mode_says_otherwise_is_refused(self, mode: bytes) -> None:
        with pytest.raises(InvalidArchive) as caught:
            read(entry(b"f", b"x", mode=mode) + END)

        assert str(caught.value) == f"archive holds 'f', whose mode {int(mode[:7], 8):o} is of another type of entry"

    @pytest.mark.parametrize("mode", [b"0000000\0", b"0000111\0", b"0004755\0", b"0100644\0", b"     0 \0"])
    def test_other_modes_of_files_are_fine(self, mode: bytes) -> None:
        assert read(entry(b"f", b"x", mode=mode) + END) == {"f": b"x"}


class TestReadings:
    """One archive, two readers: the other reading is named where it differs."""

    HIDDEN = entry(b"hidden", b"h")

    @pytest.mark.parametrize(
        ("data", "files"),
        [
            pytest.param(
                pax((b"size", b"%d" % len(HIDDEN))) + block(b"f") + HIDDEN,
                {"f": HIDDEN},
                id="the size of a record counts, not that of the header",
            ),
            pytest.param(
                entry(b"L", b"long\0", b"L") + pax((b"path", b"pax")) + entry(b"f", b"x"),
                {"long": b"x"},
                id="a long name wins over a record, before it",
            ),
            pytest.param(
                pax((b"path", b"pax")) + entry(b"L", b"long\0rest", b"L") + entry(b"f", b"x"),
                {"long": b"x"},
                id="a long name wins over a record, after it",
            ),
            pytest.param(
                pax((b"path", b"first")) + pax((b"comment", b"second")) + entry(b"f", b"x"),
                {"f": b"x"},
                id="the last of several PAX headers counts alone",
            ),
            pytest.param(
                pax((b"path", b"one"), (b"path", b"two")) + entry(b"f", b"x"), {"two": b"x"}, id="the last record wins"
            ),
            pytest.param(pax((b"path", b"")) + entry(b"f", b"x"), {"f": b"x"}, id="an empty record changes nothing"),
            pytest.param(
                pax((b"path", b"g"), (b"size", b"0"), flag=b"g") + entry(b"f", b"x"),
                {"f": b"x"},
                id="a global header changes nothing",
            ),
            pytest.param(
                pax((b"path", b"lost")) + pax(flag=b"g") + entry(b"f", b"x"),
                {"f": b"x"},
                id="a global header separates an entry from records before it",
            ),
            pytest.param(
                pax((b"path", b"once")) + entry(b"f", b"x") + entry(b"g", b"y"),
                {"once": b"x", "g": b"y"},
                id="records are for one entry",
            ),
            pytest.param(
                block(b"d/", b"\0", size=b"%011o\0" % 512) + HIDDEN,
                {"hidden": b"h"},
                id="an old file with a slash is a directory, without a body",
            ),
            pytest.param(entry(b"f/", b"x"), {"f": b"x"}, id="a file with a slash is a file"),
            pytest.param(entry(b"old", b"x", b"\0"), {"old": b"x"}, id="an old file"),
            pytest.param(entry(b"cont", b"x", b"7"), {"cont": b"x"}, id="a contiguous file is a file"),
            pytest.param(
                block(b"d", b"5", size=b"%011o\0" % 512) + HIDDEN, {"hidden": b"h"}, id="a directory has no body"
            ),
            pytest.param(
                block(b"l", b"2", link=b"x", size=b"%011o\0" % 512) + HIDDEN, {"hidden": b"h"}, id="a link has no body"
            ),
            pytest.param(
                block(b"h", b"1", link=b"x", size=b"%011o\0" % 512) + HIDDEN,
                {"h": b"", "hidden": b"h"},
                id="a hard link has no body",
            ),
            pytest.param(entry(b"f", b"x", prefix=b"p/q"), {"p/q/f": b"x"}, id="the prefix of USTAR"),
            pytest.param(
                entry(b"f", b"x", prefix=b"p" * 131 + b"00000000000\0", tail=b"tar\0"),
                {"p" * 131 + "/f": b"x"},
                id="the shorter prefix of star",
            ),
            pytest.param(
                entry(b"f", b"x", magic=OLD_GNU, prefix=b"00000000001\x0000000000002\0"),
                {"f": b"x"},
                id="old GNU has times where others have a prefix",
            ),
            pytest.param(entry(b"f", b"x", magic=V7, prefix=b"p"), {"f": b"x"}, id="V7 has no prefix"),
            pytest.param(entry(b"f", b"x", size=base256(1)), {"f": b"x"}, id="a size in base 256"),
            pytest.param(entry(b"f", b"x", size=b"          1 "), {"f": b"x"}, id="a size padded with blanks"),
            pytest.param(entry(b"f", b"", size=bytes(12)), {"f": b""}, id="an empty size is zero"),
            pytest.param(entry(b"f", b"x", mtime=base256(-1)), {"f": b"x"}, id="a time before the epoch"),
            pytest.param(block(b"f\xff", signed=True), {"f\udcff": b""}, id="a checksum of signed bytes"),
            pytest.param(bytes(1024) + HIDDEN, {}, id="nothing follows the end marker"),
        ],
    )
    def test_the_reading_of_go(self, data: bytes, files: dict[str, bytes]) -> None:
        assert read(data + END) == files

    @pytest.mark.parametrize(
        ("data", "message"),
        [
            pytest.param(
                bytes(512) + HIDDEN,
                "archive is damaged: one zero block alone before byte 512",
                id="an entry after one zero block",
            ),
            pytest.param(
                entry(b"f", magic=OLD_GNU, prefix=b"dir/of/old/go"),
                "archive is damaged: a header has 'dir/of/old/g' where a number is needed",
                id="old GNU with a prefix",
            ),
            pytest.param(
                block(size=base256(-1)),
                "archive is damaged: negative size in the header at byte 0",
                id="a negative size",
            ),
            pytest.param(
                block(size=b"\xff" * 12), "archive is damaged: negative size in the header at byte 0", id="all bits set"
            ),
            pytest.param(
                block(size=b"\xbf" + b"\xff" * 11),
                f"archive is damaged: a header has '{chr(92)}xbf{f'{chr(92)}xff' * 11}' where a number is needed",
                id="a size beyond 64 bits",
            ),
            pytest.param(
                block(size=b"-0000000001\0"),
                "archive is damaged: a header has '-0000000001\\\\x00' where a number is needed",
                id="a size with a sign",
            ),
            pytest.param(
                block(size=b"0000000_001\0"),
                "archive is damaged: a header has '0000000_001\\\\x00' where a number is needed",
                id="a size as only Python reads it",
            ),
            pytest.param(
                block(mtime=b"yesterday\0\0\0"),
                "archive is damaged: a header has 'yesterday\\\\x00\\\\x00\\\\x00' where a number is needed",
                id="a time that is no number",
            ),
            pytest.param(
                pax((b"size", b"-1")) + entry(b"f"),
                "archive is damaged: PAX header with size '-1'",
                id="a negative record",
            ),
            pytest.param(
                pax((b"size", b"9" * 19)) + entry(b"f"),
                f"archive holds 'f', of the impossible size {'9' * 19}",
                id="a record beyond 64 bits",
            ),
            pytest.param(
                pax((b"size", b"9" * 9999)) + entry(b"f"),
                f"archive is damaged: PAX header with size '{'9' * 256}…'",
                id="a record of many digits",
            ),
            pytest.param(
                pax((b"mtime", b"soon")) + entry(b"f"),
                "archive is damaged: PAX header with mtime 'soon'",
                id="a bad time",
            ),
            pytest.param(
                pax((b"path", b"../x")) + entry(b"f"),
                "archive holds '../x', which leaves the root",
                id="a record's name",
            ),
            pytest.param(
                entry(b"L", b"../x\0", b"L") + entry(b"f"),
                "archive holds '../x', which leaves the root",
                id="a long name",
            ),
            pytest.param(entry(b"f", prefix=b".."), "archive holds '../f', which leaves the root", id="a prefix"),
            pytest.param(
                entry(b"f") + pax((b"path", b"x")), "archive ends after an extended header", id="records for no entry"
            ),
        ],
    )
    def test_what_readers_disagree_about_is_refused(self, data: bytes, message: str) -> None:
        with pytest.raises(InvalidArchive) as caught:
            read(data + END)

        assert str(caught.value) == message.replace("\\\\x", "\\x")

    @pytest.mark.parametrize(
        "body",
        [
            b"5 a=",
            b"99 a=b\n",
            b"6 a=b",
            b"3 \n",
            b"x a=b\n",
            b"6 =ab\n",
            b"6 abc\n",
            b"-6 a=b\n",
            b"\0",
            b"0 ",
            b"9 a\0b=cd\n",
        ],
    )
    def test_malformed_records_are_refused(self, body: bytes) -> None:
        for flag in (b"x", b"g"):
            with pytest.raises(InvalidArchive, match=r"^archive is damaged: malformed PAX header$"):
                read(entry(b"x", body, flag) + entry(b"f") + END)


class TestDamage:
    TREE = Directory.of(
        {"a/b.yaml": b"kind: B\n" * 90, "run.sh": b"#!/bin/sh\n", "n" * 110: b"long", "z": b""}, executable=["run.sh"]
    )

    def packed(self) -> bytes:
        out = io.BytesIO()
        tar.write_archive(self.TREE, out)
        return out.getvalue()

    def test_an_archive_cut_at_any_byte_is_refused(self) -> None:
        packed = self.packed()

        for end in range(len(packed)):
            with pytest.raises(InvalidArchive, match=r"^archive (is empty|ends before its gzip stream does)"):
                read_archive(packed[:end])

    def test_a_stream_cut_inside_a_block_is_refused_unless_only_padding_is_missing(self) -> None:
        stream = b"".join(tar.tar_stream(self.TREE))
        with tarfile.open(fileobj=io.BytesIO(stream)) as archive:
            ends = [member.offset_data + member.size for member in archive]
        padding = {at for end in ends for at in range(end, end + -end % 512)}

        for end in range(len(stream)):
            if end in padding:
                read(stream[:end])
            elif end % 512:
                cut = f"^archive (is cut: it ends at byte {end}, inside |ends after an extended header$)"
                with pytest.raises(InvalidArchive, match=cut):
                    read(stream[:end])

    def test_what_comes_before_missing_padding_is_read(self) -> None:
        assert read(entry(b"f", b"x" * 1000)[:1513]) == {"f": b"x" * 1000}

    def test_a_stream_cut_inside_a_file_is_refused(self) -> None:
        with pytest.raises(InvalidArchive, match=r"^archive is cut: it ends at byte 1024, inside a file$"):
            read(entry(b"f", b"x" * 1000)[:1024])

    @pytest.mark.parametrize("mask", [0xFF, 0x01, 0x20, 0x80])
    def test_a_flipped_byte_is_refused_or_without_effect(self, mask: int) -> None:
        packed = self.packed()
        refused = 0

        for at in range(len(packed)):
            damaged = bytearray(packed)
            damaged[at] ^= mask
            try:
                tree = read_archive(bytes(damaged))
            except InvalidArchive:
                refused += 1
            else:
                assert tree.digest == self.TREE.digest
        # Some bytes of gzip and deflate mean nothing: the time, codes that are never used.
        assert refused > 0.9 * len(packed)

    @pytest.mark.parametrize("mask", [0xFF, 0x01, 0x20])
    def test_a_flipped_byte_of_a_header_is_refused_or_without_effect(self, mask: int) -> None:
        stream = b"".join(tar.tar_stream(self.TREE))
        refused = 0

        for at in range(512):
            damaged = bytearray(stream)
            damaged[1024 + at] ^= mask
            try:
                tree = index([bytes(damaged)], MemoryContent(b""), SOURCE, DEFAULT_LIMITS)
            except InvalidArchive as error:
                assert str(error) == "archive is damaged: wrong checksum of the header at byte 1024"  # noqa: PT017  # not each raises
                refused += 1
            else:
                assert tree.digest == self.TREE.digest
        # All but the padding of the checksum itself, which may be a blank or NUL.
        assert refused >= 510

    @pytest.mark.parametrize(
        ("data", "message"),
        [
            pytest.param(b"", "archive is empty (gzip is needed)", id="empty"),
            pytest.param(b"kind: ConfigMap\n", "archive is not gzip", id="text"),
            pytest.param(b"P", "archive is not gzip", id="one byte"),
            pytest.param(b"\x1f", "archive ends before its gzip stream does", id="half of the magic number"),
            pytest.param(entry(b"f") + END, "archive is not gzip", id="a plain tar"),
            pytest.param(gzip.compress(END) + b"x", "archive has other bytes after its gzip stream", id="a byte more"),
            pytest.param(
                gzip.compress(END) + bytes(512), "archive has other bytes after its gzip stream", id="padding"
            ),
            pytest.param(
                gzip.compress(END) + b"\x1f", "archive ends before its gzip stream does", id="half a member more"
            ),
            pytest.param(
                gzip.compress(END)[:-8] + bytes(8),
                "archive is damaged: gzip: incorrect checksum found",
                id="a wrong checksum",
            ),
            pytest.param(
                gzip.compress(END)[:-4] + bytes(4),
                "archive is damaged: gzip: incorrect checksum found",
                id="a wrong length",
            ),
            pytest.param(
                gzip.compress(END * 2)[:-8] + bytes(8) + gzip.compress(b""),
                "archive is damaged: gzip: incorrect checksum found",
                id="a wrong checksum after the end marker",
            ),
            pytest.param(
                b"\x1f\x8b\x07" + gzip.compress(END)[3:],
                "archive is damaged: gzip: gzip/zlib wrapper specifies unsupported compress method",
                id="another method",
            ),
        ],
    )
    def test_gzip_that_is_not_right(self, data: bytes, message: str) -> None:
        with pytest.raises(InvalidArchive) as caught:
            read_archive(data)

        assert str(caught.value) == message


class TestLimits:
    @pytest.mark.parametrize(
        ("data", "limits", "message"),
        [
            pytest.param(
                entry(b"a") + entry(b"b") + entry(b"c"),
                Limits(entries=2),
                "archive holds more than 2 entries (limit: 2, entries)",
                id="entries",
            ),
            pytest.param(
                block(b"l", b"2", link=b"x") * 3,
                Limits(entries=2),
                "archive holds more than 2 entries (limit: 2, entries)",
                id="links count although they are left out",
            ),
            pytest.param(
                entry(b"a/b/c/f"),
                Limits(entries=2),
                "archive makes more than 2 directories (limit: 2, entries)",
                id="directories that no entry names",
            ),
            pytest.param(
                entry(b"n" * 11),
                Limits(name_length=10),
                "archive holds 'nnnnnnnnnnn', a name of 11 bytes (limit: 10, name_length)",
                id="a name",
            ),
            pytest.param(
                entry(b"aaaa") + entry(b"bbbb"),
                Limits(names_size=7),
                "names and extended headers of the archive take more than 7 bytes (limit: 7, names_size)",
                id="all names",
            ),
            pytest.param(
                pax((b"comment", b"x" * 100)) * 9 + entry(b"f"),
                Limits(names_size=500),
                "names and extended headers of the archive take more than 500 bytes (limit: 500, names_size)",
                id="records",
            ),
            pytest.param(
                entry(b"a/b/c/d"),
                Limits(depth=2),
                "archive holds 'a/b/c/d', which is 3 directories deep (limit: 2, depth)",
                id="depth",
            ),
            pytest.param(
                entry(b"a", b"123") + entry(b"b", b"45"),
                Limits(source_size=4),
                "archive holds 'b', which brings its files to 5 bytes (limit: 4, source_size)",
                id="size",
            ),
            pytest.param(
                block(b"big", size=base256(1 << 62)),
                DEFAULT_LIMITS,
                f"archive holds 'big', which brings its files to {1 << 62} bytes (limit: {8 * GIB}, source_size)",
                id="a size is refused before its bytes are read",
            ),
            pytest.param(
                entry(b"a", b"12345") + block(b"b", b"1", link=b"a"),
                Limits(source_size=9),
                "archive holds 'b', which brings its files to 10 bytes (limit: 9, source_size)",
                id="a hard link counts like the file",
            ),
        ],
    )
    def test_too_much_of_something(self, data: bytes, limits: Limits, message: str) -> None:
        with pytest.raises(LimitExceeded) as caught:
            read(data + END, limits=limits)

        assert str(caught.value) == message
        assert caught.value.code is Code.LIMIT

    @pytest.mark.parametrize("flag", [b"x", b"g", b"L", b"K"])
    def test_an_extended_header_that_claims_gigabytes(self, flag: bytes) -> None:
        with pytest.raises(InvalidArchive) as caught:
            read(block(b"x", flag, size=base256(8 * GIB)) + END)

        assert str(caught.value) == f"archive holds an extended header of {8 * GIB} bytes (at most {MIB})"

    def test_extract_counts_files_and_not_headers(self) -> None:
        limits = Limits(extract_size=4)
        exact = gzip.compress(entry(b"a", b"1234") + END)
        more = gzip.compress(entry(b"a", b"1234") + entry(b"b", b"5") + END)

        assert read_archive(exact, limits, EXTRACT).size == 4
        with pytest.raises(LimitExceeded) as caught:
            read_archive(more, limits, EXTRACT)
        assert str(caught.value) == "archive holds 'b', which brings its files to 5 bytes (limit: 4, extract_size)"

    def test_a_source_counts_all_that_is_decompressed(self) -> None:
        packed = gzip.compress(END + bytes(9000))

        with pytest.raises(LimitExceeded) as caught:
            read_archive(packed, Limits(source_size=10_000))
        assert str(caught.value) == "archive decompresses to more than 10000 bytes (limit: 10000, source_size)"

    def test_a_high_ratio_is_refused_beyond_the_threshold(self) -> None:
        packed = gzip.compress(bytes(MIB))
        limits = Limits(ratio=10, ratio_threshold=512 * KIB)

        with pytest.raises(LimitExceeded, match=r"\(limit: 10, ratio\)$"):
            read_archive(packed, limits)
        assert read_archive(packed, Limits(ratio=10, ratio_threshold=MIB)).files == 0

    def test_members_without_end_are_refused(self) -> None:
        with pytest.raises(LimitExceeded) as caught:
            read_archive(gzip.compress(b"") * 4, Limits(entries=3))
        assert str(caught.value) == "archive has too many gzip members (limit: 3, entries)"


BOMBS = r"""
import itertools, json, sys
from isal import isal_zlib
from sluice.core import untar
from sluice.core.errors import BuildError
from sluice.core.limits import DEFAULT_LIMITS
from sluice.core.tree import MemoryContent
import msgspec

kept = {"depth", "name_length"}
tiny = type(DEFAULT_LIMITS)(
    **{k: v if k in kept else v // 100 for k, v in msgspec.structs.asdict(DEFAULT_LIMITS).items()}
)
lax = msgspec.structs.replace(tiny, ratio=10**9)

def block(name, flag=b"0", size=0, link=b""):
    number = b"%011o\0" % size if size < 8**11 else b"\x80" + size.to_bytes(11, "big")
    before = name.ljust(100, b"\0") + b"0000644\0" + b"0000000\0" * 2 + number + b"00000000000\0"
    after = flag + link.ljust(100, b"\0") + b"ustar\x0000" + bytes(247)
    return before + b"%06o\0 " % sum(before + b" " * 8 + after) + after

def long_name(name):
    return block(b"L", b"L", len(name)) + name + bytes(-len(name) % 512)

def zeros():
    while True:
        yield bytes(1 << 18)

def deep():
    for i in itertools.count():
        yield long_name(b"/".join(b"%015x" % (i * 255 + d) for d in range(255))) + block(b"x")

def records():
    body = b"".join(b"%d %07d=\n" % (12, i) for i in range(80_000))
    for i in itertools.count():
        yield block(b"x", b"x", len(body)) + body + bytes(-len(body) % 512)

def gzipped(chunks):
    packer = isal_zlib.compressobj(2, isal_zlib.DEFLATED, 31)
    for chunk in chunks:
        yield packer.compress(chunk)
    yield packer.flush()

def members():
    packer = isal_zlib.compressobj(2, isal_zlib.DEFLATED, 31)
    empty = packer.flush()
    while True:
        yield empty * 1000

class Nowhere:
    def write(self, data):
        return len(data)

CASES = {
    "size, claimed": lambda: gzipped([block(b"big", size=1 << 40)]),
    "size, sent": lambda: gzipped(itertools.chain([block(b"big", size=tiny.source_size)], zeros())),
    "size, after the end": lambda: gzipped(zeros()),
    "count": lambda: gzipped(block(b"%d" % i) for i in itertools.count()),
    "count of links": lambda: gzipped(block(b"%d" % i, b"2", link=b"x") for i in itertools.count()),
    "count of directories": lambda: gzipped(block(b"%d" % i, b"5") for i in itertools.count()),
    "implied directories": lambda: gzipped(deep()),
    "names": lambda: gzipped(long_name(b"%04080d" % i) + block(b"x") for i in itertools.count()),
    "hard links": lambda: gzipped(
        itertools.chain(
            [block(b"f", size=1 << 19), bytes(1 << 19)], (block(b"%d" % i, b"1", link=b"f") for i in itertools.count())
        )
    ),
    "records": lambda: gzipped(records()),
    "a record of gigabytes": lambda: gzipped(itertools.chain([block(b"x", b"x", 8 << 30)], zeros())),
    "a name of gigabytes": lambda: gzipped(itertools.chain([block(b"x", b"L", 1 << 30)], zeros())),
    "members": members,
}

def peak():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM:"))

def attempt(chunks, rules, limits):
    try:
        untar.unpack(chunks, Nowhere(), MemoryContent(b""), rules, limits)
    except BuildError as error:
        return str(error)

attempt(gzipped([block(b"f", size=1 << 19), bytes(1 << 19)]), untar.SOURCE, tiny)
idle = peak()
error = attempt(CASES[sys.argv[1]](), getattr(untar, sys.argv[2]), {"tiny": tiny, "lax": lax}[sys.argv[3]])
json.dump({"error": error, "grown": peak() - idle}, sys.stdout)
"""


@pytest.mark.parametrize(
    ("bomb", "rules", "limits", "error"),
    [
        ("size, claimed", "SOURCE", "tiny", r"archive holds 'big', which brings .*, source_size\)"),
        ("size, claimed", "EXTRACT", "tiny", r"archive holds 'big', which brings .*, extract_size\)"),
        ("size, sent", "SOURCE", "lax", r"archive decompresses to more than .*, source_size\)"),
        ("size, sent", "SOURCE", "tiny", r"archive of .* bytes decompresses to .*, ratio\)"),
        ("size, after the end", "SOURCE", "lax", r"archive decompresses to more than .*, source_size\)"),
        ("size, after the end", "EXTRACT", "lax", r"archive decompresses to more than .*, extract_size\)"),
        ("size, after the end", "SOURCE", "tiny", r"archive of .* bytes decompresses to .*, ratio\)"),
        ("count", "SOURCE", "lax", r"archive holds more than 10000 entries .*, entries\)"),
        ("count of links", "SOURCE", "lax", r"archive holds more than 10000 entries .*, entries\)"),
        ("count of directories", "SOURCE", "lax", r"archive .* more than 10000 .*, entries\)"),
        ("implied directories", "SOURCE", "lax", r"archive makes more than 10000 directories .*, entries\)"),
        ("names", "SOURCE", "lax", r"names and extended headers of the archive take .*, names_size\)"),
        ("hard links", "SOURCE", "lax", r"archive holds '\d+', which brings .*, source_size\)"),
        ("records", "SOURCE", "lax", r"names and extended headers of the archive take .*, names_size\)"),
        (
            "a record of gigabytes",
            "SOURCE",
            "lax",
            r"archive holds an extended header of 8589934592 bytes \(at most 1048576\)",
        ),
        (
            "a name of gigabytes",
            "EXTRACT",
            "lax",
            r"archive holds an extended header of 1073741824 bytes \(at most 1048576\)",
        ),
        ("members", "SOURCE", "lax", r"archive has too many gzip members \(limit: 10000, entries\)"),
    ],
)
def test_a_bomb_takes_little_memory(bomb: str, rules: str, limits: str, error: str) -> None:
    """With the limits at a hundredth of their defaults, at most 32 MiB more than idle."""
    ran = subprocess.run(
        [sys.executable, "-c", BOMBS, bomb, rules, limits], check=True, capture_output=True, timeout=60
    )
    seen = json.loads(ran.stdout)

    assert re.fullmatch(error, seen["error"])
    assert seen["grown"] < 32 * KIB
