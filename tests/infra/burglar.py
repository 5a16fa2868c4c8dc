"""A Lambda handler that tries one AWS call with the rights of the function it sits in."""

from typing import Any

import boto3


def handler(event: dict[str, Any], _context: Any) -> str:
    client = boto3.client(event["service"])
    try:
        getattr(client, event["call"])(**event["arguments"])
    except client.exceptions.ClientError as error:
        return str(error.response["Error"]["Code"])
    return "allowed"
