"""Lists of names in a bucket, as servers give them."""

from __future__ import annotations

from concurrent.futures import Future
from types import SimpleNamespace

import pytest

from metaqap_fast.input import pages

ANSWER = """<?xml version="1.0" encoding="UTF-8"?>
<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Name>data</Name><Prefix>a/</Prefix>
<EncodingType>url</EncodingType><IsTruncated>true</IsTruncated><NextContinuationToken>t+/=</NextContinuationToken>
<Contents><Key>a/b+c%2B%26%C3%BC%01.jpg</Key><LastModified>2026-01-01T00:00:00.000Z</LastModified>
<ETag>&quot;0f&quot;</ETag><Size>7</Size><Owner><ID>me</ID></Owner></Contents>
<Contents><Key>a/d</Key><Size>0</Size></Contents>
<CommonPrefixes><Prefix>a/x%20y/</Prefix></CommonPrefixes></ListBucketResult>"""


def read(monkeypatch: pytest.MonkeyPatch, answer: str, token: str = "") -> tuple[object, str]:
    asked: list[str] = []

    def listing(files: object, bucket: str, query: str, seconds: float) -> Future[bytes]:
        asked.append(query)
        found = Future[bytes]()
        found.set_result(answer.encode())
        return found

    monkeypatch.setattr(pages, "listing", listing)
    files = SimpleNamespace(version_aware=False, split_path=lambda path: (*path.split("/", 1), None))
    found, more = pages.page(files, "data/a b", token, 1)
    expected = "delimiter=%2F&encoding-type=url&list-type=2&prefix=a%20b%2F"
    assert asked == [f"continuation-token=t%2B%2F%3D&{expected}" if token else expected]
    return found, more


@pytest.mark.parametrize("token", ["", "t+/="])
def test_names(monkeypatch: pytest.MonkeyPatch, token: str) -> None:
    found, more = read(monkeypatch, ANSWER, token)
    assert more == "t+/=" and found == [
        {"name": "data/a/x y", "type": "directory"},
        {
            "name": "data/a/b c+&ü\x01.jpg",
            "type": "file",
            "size": 7,
            "ETag": '"0f"',
            "LastModified": "2026-01-01T00:00:00.000Z",
        },
        {"name": "data/a/d", "type": "file", "size": 0, "ETag": "", "LastModified": ""},
    ]


def test_servers_that_leave_names_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    answer = ANSWER.replace("<EncodingType>url</EncodingType>", "").replace(
        ' xmlns="http://s3.amazonaws.com/doc/2006-03-01/"', ""
    )
    found, more = read(monkeypatch, answer.replace("<IsTruncated>true", "<IsTruncated>false"))
    assert not more and isinstance(found, list)
    assert [each["name"] for each in found] == ["data/a/x%20y", "data/a/b+c%2B%26%C3%BC%01.jpg", "data/a/d"]


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (ANSWER[:300], "a list of names that is not whole"),
        ("", "a list of names that is not whole"),
        ("<html/>", "the answer is html, not a list of names"),
    ],
)
def test_what_is_no_page(monkeypatch: pytest.MonkeyPatch, answer: str, why: str) -> None:
    with pytest.raises(OSError, match=why):
        read(monkeypatch, answer)
