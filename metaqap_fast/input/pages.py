"""What is in a folder of an S3 bucket, page by page.

libcurl asks for pages too: s3fs takes five times as long to read one, and as much as for an object itself.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import quote, unquote_plus, urlencode
from xml.etree import ElementTree

from metaqap_fast.input.objects import listing, regular

ROOT = "ListBucketResult"
SLASH = ord("/")


def page(files: Any, path: str, token: str, seconds: float) -> tuple[list[dict[str, Any]], str]:
    """Some of what is in a folder, 1,000 names at most, and a token for the page after it; empty if there is none.

    Pages are in the order of the bytes of their names, those of folders with a slash at their end.

    Args: an s3fs file system; bucket and folder; an earlier page's token; how long to wait.

    Raises:
        OSError: there is no answer, or it is not such a page.
    """
    bucket, folder, _ = files.split_path(path)
    if files.version_aware or not regular(bucket):  # in no order
        return files.ls(path, detail=True), ""
    prefix = folder.rstrip("/") + "/" if folder else ""
    # In the order of their names, as they are signed.
    asked = {"delimiter": "/", "encoding-type": "url", "list-type": "2", "prefix": prefix}
    if token:
        asked = {"continuation-token": token, **asked}
    return _read(listing(files, bucket, urlencode(asked, quote_via=quote, safe="~"), seconds).result(), bucket)


def _read(answer: bytes, bucket: str) -> tuple[list[dict[str, Any]], str]:
    try:
        root = ElementTree.fromstring(answer)
    except ElementTree.ParseError as error:
        raise OSError(f"a list of names that is not whole: {error}") from None
    space, name = root.tag[: -len(ROOT)], root.tag[-len(ROOT) :]
    if name != ROOT:
        raise OSError(f"the answer is {root.tag}, not a list of names")
    key, prefix, size, etag, date = (space + name for name in ("Key", "Prefix", "Size", "ETag", "LastModified"))
    # A control character cannot be in XML. Few servers leave names as they are.
    text = unquote_plus if root.findtext(f"{space}EncodingType") == "url" else str
    found: list[dict[str, Any]] = [
        {"name": f"{bucket}/{text(each.findtext(prefix, ''))[:-1]}", "type": "directory"}
        for each in root.iterfind(f"{space}CommonPrefixes")
    ]
    for each in root.iterfind(f"{space}Contents"):
        found.append(
            {
                "name": f"{bucket}/{text(each.findtext(key, ''))}",
                "type": "file",
                "size": int(each.findtext(size, "")),
                "ETag": each.findtext(etag, ""),
                "LastModified": each.findtext(date, ""),
            }
        )
    more = root.findtext(f"{space}IsTruncated") == "true"
    return found, root.findtext(f"{space}NextContinuationToken", "") if more else ""


def settled(name: bytes, last: bytes) -> bool:
    """Whether no later page can hold what comes before a name in the order of keys.

    Keys have a folder before all names that go on where its own ends: `a/` before `a-1.jpg`; pages have it after them.

    Args: a name in a folder; the last one of the pages so far.
    """
    return all(name[:end] + b"/" <= last for end, letter in enumerate(name) if letter < SLASH)
