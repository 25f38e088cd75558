"""A store: a bucket and prefix on an S3-compatible server, which holds our releases and serves as a DVC remote.

Endpoint, region and credentials come from the environment as boto3 reads them. Every exception of boto3 is turned into
a `ReleaseError` that says what to do.
"""

from __future__ import annotations

import re
import secrets
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from email.utils import parsedate_to_datetime
from pathlib import Path

import boto3
from botocore import exceptions
from botocore.config import Config
from botocore.parsers import ResponseParserError

from world2act_client.errors import Conflict, Denied, NotFound, ReleaseError, Tampered, Unreachable
from world2act_client.s3 import Body, S3Client

_URL = re.compile(r"s3://(?P<bucket>[a-z0-9][a-z0-9.-]{1,61}[a-z0-9])(?:/(?P<prefix>[^?#]*))?")
_TAKEN = {"PreconditionFailed", "ConditionalRequestConflict"}
_OVERLOADED = {"SlowDown", "ServiceUnavailable", "InternalError", "RequestTimeout", "Throttling", "ThrottlingException"}
_WRONG_KEY = {
    "InvalidAccessKeyId",
    "SignatureDoesNotMatch",
    "InvalidToken",
    "ExpiredToken",
    "AuthorizationHeaderMalformed",
}
_CUT = (exceptions.HTTPClientError, exceptions.ConnectionError, exceptions.IncompleteReadError)
_CONNECT_TIMEOUT_S, _READ_TIMEOUT_S, _TRIES = 5, 30, 4  # a robot without a network must notice within a minute
_AT_ONCE = 32  # connections kept open: as many as a reader has threads
_BUFFER = 2**20  # bytes read at a time
_PAGE = 1000  # keys that S3 lists or deletes per request


class Store:
    """Reads, writes and lists the objects of one store.

    Args:
        url: `s3://bucket/prefix`.
        endpoint_url: the server, if it is another than the environment names.
    """

    def __init__(self, url: str, endpoint_url: str | None = None) -> None:
        found = _URL.fullmatch(url)
        if not found:
            remedy = "give it as WORLD2ACT_STORE or --store"
            raise NotFound(f"store {url!r}", "not an S3 URL", "s3://bucket/prefix", remedy)
        self.bucket: str = found["bucket"]
        self.prefix: str = (found["prefix"] or "").strip("/")
        self.url = f"s3://{self.bucket}/{self.prefix}".rstrip("/")
        config = Config(
            connect_timeout=_CONNECT_TIMEOUT_S,
            read_timeout=_READ_TIMEOUT_S,
            max_pool_connections=_AT_ONCE,
            retries={"mode": "standard", "total_max_attempts": _TRIES},
            # every object is verified against a signed sha256; some S3-compatible servers lack the newer checksums
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
            s3={"payload_signing_enabled": True},
        )
        with _translated(self.url):
            self.s3: S3Client = boto3.session.Session().client("s3", endpoint_url=endpoint_url, config=config)

    def key(self, relative: str) -> str:
        """The full key of a name inside the store."""
        return f"{self.prefix}/{relative}" if self.prefix else relative

    def read(self, relative: str) -> bytes:
        """Read a small object. Raises `NotFound`, `Denied` or `Unreachable`."""
        with _translated(self._where(relative)):
            try:
                return self.s3.get_object(Bucket=self.bucket, Key=self.key(relative))["Body"].read()
            except _CUT:  # boto3 retries a request, but not the reading of its answer
                return self.s3.get_object(Bucket=self.bucket, Key=self.key(relative))["Body"].read()

    def open_range(self, relative: str, begin: int, end: int, etag: str | None) -> tuple[Body, str, int]:
        """Request the bytes [begin, end) of an object.

        Args:
            etag: the ETag of an earlier answer, if the object must still be the same.

        Returns: the body, which may still raise errors of boto3 while it is read; the object's ETag; its size in bytes.

        Raises:
            Conflict: the object was replaced.
            Tampered: the object ends before `begin`.
        """
        request = {"Bucket": self.bucket, "Key": self.key(relative), "Range": f"bytes={begin}-{end - 1}"}
        if etag is not None:
            request["IfMatch"] = etag
        with _translated(self._where(relative)):
            answer = self.s3.get_object(**request)
        return answer["Body"], answer["ETag"], int(answer["ContentRange"].rpartition("/")[2])

    def download(self, relative: str, etag: str, path: Path) -> None:
        """Download an object to a new file, provided that it still has this ETag.

        Raises:
            Conflict, NotFound: it was replaced or deleted. Also what `read` raises.
        """
        with _translated(self._where(relative)), path.open("xb") as file:
            body = self.s3.get_object(Bucket=self.bucket, Key=self.key(relative), IfMatch=f'"{etag}"')["Body"]
            shutil.copyfileobj(body, file, _BUFFER)

    def put_new(self, relative: str, content: bytes) -> bool:
        """Write an object unless one exists. Returns: whether the object is ours."""
        request = {"Bucket": self.bucket, "Key": self.key(relative)}
        attempt = secrets.token_hex(16)
        try:
            with _translated(self._where(relative)):
                self.s3.put_object(**request, Body=content, IfNoneMatch="*", Metadata={"attempt": attempt})
        except Conflict:  # unless it was written, the answer was lost, and boto3 tried again and found our object
            try:
                with _translated(self._where(relative)):
                    return self.s3.head_object(**request)["Metadata"].get("attempt") == attempt
            except NotFound:
                return False
        return True

    def list(self, relative_prefix: str, start_after: str | None = None) -> Iterator[tuple[str, int, str, datetime]]:
        """Every object below a prefix, sorted by key, page by page: (relative key, bytes, ETag, time of writing)."""
        request = {"Bucket": self.bucket, "Prefix": self.key(relative_prefix)}
        if start_after is not None:
            request["StartAfter"] = self.key(start_after)
        skip = len(self.key(""))
        with _translated(self._where(relative_prefix)):
            for page in self.s3.get_paginator("list_objects_v2").paginate(**request):
                for found in page.get("Contents", []):
                    yield found["Key"][skip:], found["Size"], found["ETag"].strip('"'), found["LastModified"]

    def keys(self, relative_prefix: str) -> Iterator[str]:
        """The relative keys of every object below a prefix, sorted."""
        return (key for key, *_ in self.list(relative_prefix))

    def size_of(self, relative: str) -> int | None:
        """The size of an object in bytes; None where there is no such object."""
        try:
            with _translated(self._where(relative)):
                return self.s3.head_object(Bucket=self.bucket, Key=self.key(relative))["ContentLength"]
        except NotFound:
            return None

    def delete(self, relatives: Iterable[str]) -> None:
        """Delete objects; one that does not exist is not an error."""
        keys = [self.key(relative) for relative in relatives]
        for begin in range(0, len(keys), _PAGE):
            with _translated(self.url):
                answer = self.s3.delete_objects(
                    Bucket=self.bucket,
                    Delete={"Objects": [{"Key": key} for key in keys[begin : begin + _PAGE]], "Quiet": True},
                )
            for failed in answer.get("Errors", []):
                raise _denied(f"s3://{self.bucket}/{failed['Key']}", failed.get("Code", "an error"))

    def clock(self) -> datetime:
        """The time on the server's clock, by which it also dates its objects."""
        with _translated(self.url):
            answer = self.s3.list_objects_v2(Bucket=self.bucket, Prefix=self.key("releases/"), MaxKeys=1)
        return parsedate_to_datetime(answer["ResponseMetadata"]["HTTPHeaders"]["date"])

    def _where(self, relative: str) -> str:
        return f"s3://{self.bucket}/{self.key(relative)}"


def object_key(md5: str) -> str:
    """The key under which DVC stores the content with this md5."""
    return f"files/md5/{md5[:2]}/{md5[2:]}"


def manifest_key(name: str, version: int) -> str:
    """The key of a version's manifest."""
    return f"releases/{name}/versions/v{version:06d}.json"


def pointer_key(name: str, channel: str, serial: int) -> str:
    """The key of a channel's pointer with this serial."""
    return f"releases/{name}/channels/{channel}/{serial:06d}.json"


@contextmanager
def _translated(where: str) -> Iterator[None]:
    """Turn exceptions of boto3 into a `ReleaseError`, whose message never contains a key or a signature."""
    try:
        yield
    except exceptions.ClientError as error:
        raise _from_answer(where, error) from error
    except (
        exceptions.NoCredentialsError,
        exceptions.PartialCredentialsError,
        exceptions.CredentialRetrievalError,
    ) as e:
        remedy = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"
        raise Denied(where, "no credentials", "credentials in the environment", remedy) from e
    except (exceptions.NoRegionError, exceptions.ProfileNotFound, exceptions.InvalidRegionError, ValueError) as error:
        raise ReleaseError(where, str(error), "a usable AWS configuration", "see the AWS_* variables") from error
    except exceptions.SSLError as error:
        remedy = "if it is the right server, name its certificate in AWS_CA_BUNDLE"
        raise Unreachable(where, "a failed TLS handshake", "a certificate that this machine trusts", remedy) from error
    except (*_CUT, ResponseParserError) as error:
        remedy = "check the network and AWS_ENDPOINT_URL, then try again"
        raise Unreachable(where, type(error).__name__, "an answer from the server", remedy) from error


def _from_answer(where: str, error: exceptions.ClientError) -> ReleaseError:
    code = error.response.get("Error", {}).get("Code", "")
    answer = error.response.get("ResponseMetadata", {})
    status = answer.get("HTTPStatusCode", 0)
    if code == "NoSuchBucket":
        return NotFound(where, "no such bucket", "a bucket", "check WORLD2ACT_STORE and AWS_ENDPOINT_URL")
    if code in _TAKEN or status in (409, 412):
        return Conflict(
            where, code, "no such object yet, or an unchanged one", "check what exists there, then try again"
        )
    if code == "RequestTimeTooSkewed":
        return Denied(
            where, f"a clock that is {_skew(answer)}", "the server's time, ±15 min", "set this machine's clock"
        )
    if status == 416:
        return Tampered(where, "a truncated object", "the whole object", "publish the version again")
    if code in _WRONG_KEY:
        remedy = "check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN"
        return Denied(where, f"credentials that the server rejects ({code})", "credentials that it knows", remedy)
    if status == 404:
        return NotFound(where, "no such object", "an object", "check the reference; `world2act-client list` shows all")
    if status in (401, 403):
        return _denied(where, code)
    if status >= 500 or code in _OVERLOADED:
        remedy = "the server is overloaded or down: try again later"
        return Unreachable(where, f"{code or 'an error'} ({status}), repeatedly", "an answer", remedy)
    return ReleaseError(where, f"{code or 'an error'} ({status})", "success", "ask the operator of the store")


def _denied(where: str, code: str) -> Denied:
    remedy = "ask for s3:GetObject and s3:ListBucket (to publish, s3:PutObject too) on this bucket and prefix"
    return Denied(where, f"an action that these credentials do not permit ({code})", "permission", remedy)


def _skew(answer: Mapping[str, dict[str, str]]) -> str:
    """The difference between this clock and the server's, from the answer's Date."""
    date = answer.get("HTTPHeaders", {}).get("date")
    if not date:
        return "off"
    theirs = parsedate_to_datetime(date)
    seconds = (datetime.now(theirs.tzinfo) - theirs).total_seconds()
    return f"{abs(seconds):.0f} s {'ahead' if seconds > 0 else 'behind'}"
