"""A Lambda handler that tries AWS calls with the rights of the function it sits in."""

from typing import Any

import boto3


def handler(event: list[dict[str, Any]], _context: Any) -> list[str]:
    return [attempt(**wanted) for wanted in event]


def attempt(service: str, call: str, **arguments: Any) -> str:
    client: Any = boto3.Session().client(service)  # type: ignore[call-overload]
    try:
        getattr(client, call)(**arguments)
    except client.exceptions.ClientError as error:
        return str(error.response["Error"]["Code"])
    return "allowed"
