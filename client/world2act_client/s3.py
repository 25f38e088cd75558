"""The part of boto3's S3 client that `Store` uses, as types. boto3 itself has none."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import NotRequired, Protocol, TypedDict


class Body(Protocol):
    """The content of an object on its way."""

    def read(self, amt: int | None = None) -> bytes: ...

    def close(self) -> None: ...


class Metadata(TypedDict):
    HTTPStatusCode: int
    HTTPHeaders: dict[str, str]


class GetAnswer(TypedDict):
    Body: Body
    ETag: str
    ContentRange: str


class HeadAnswer(TypedDict):
    ContentLength: int
    Metadata: dict[str, str]


class ListedObject(TypedDict):
    Key: str
    Size: int
    ETag: str
    LastModified: datetime


class ListAnswer(TypedDict):
    Contents: NotRequired[list[ListedObject]]
    ResponseMetadata: Metadata


class FailedDeletion(TypedDict):
    Key: str
    Code: NotRequired[str]


class DeleteAnswer(TypedDict):
    Errors: NotRequired[list[FailedDeletion]]


class Paginator(Protocol):
    def paginate(self, **request: str) -> Iterable[ListAnswer]: ...


class S3Client(Protocol):
    def get_object(self, **request: str) -> GetAnswer: ...

    def head_object(self, **request: str) -> HeadAnswer: ...

    def put_object(
        self, *, Bucket: str, Key: str, Body: bytes, IfNoneMatch: str, Metadata: Mapping[str, str]
    ) -> object: ...

    def delete_objects(self, *, Bucket: str, Delete: Mapping[str, object]) -> DeleteAnswer: ...

    def list_objects_v2(self, *, Bucket: str, Prefix: str, MaxKeys: int) -> ListAnswer: ...

    def get_paginator(self, operation: str) -> Paginator: ...
