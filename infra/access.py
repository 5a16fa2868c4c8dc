"""What it takes to reach sources and targets: their secrets, their buckets, their sign-in."""

from collections.abc import Sequence

from aws_cdk import Stack

from infra.roles import Allow
from infra.settings import Place


class Access:
    """Rights to exactly what the configuration names, in the stack's account and region."""

    def __init__(self, stack: Stack) -> None:
        self._stack = stack

    def credentials(self, places: Sequence[Place]) -> list[Allow]:
        """Read the secrets and parameters that the places name, or sign in as their users."""
        named = [place.credentials for place in places]
        secrets = [self._secret(n.secret) for n in named if n.secret]
        parameters = [self._parameter(n.parameter) for n in named if n.parameter]
        users = [self._arn("rds-db", f"dbuser:*/{n.iam_user}") for n in named if n.iam_user]
        # One statement each, however many: a role's policies have 10,240 characters.
        grants = []
        if secrets:
            why = "six random characters end the ARN"
            grants.append(Allow(["secretsmanager:GetSecretValue"], secrets, why))
            grants.append(self._decrypt("secretsmanager", "SecretARN", secrets))
        if parameters:
            grants.append(Allow(["ssm:GetParameter"], parameters))
            grants.append(self._decrypt("ssm", "PARAMETER_ARN", parameters))
        if users:
            why = "a host name does not tell the database's resource id; the user is named"
            grants.append(Allow(["rds-db:connect"], users, why))
        return grants

    def buckets(self, places: Sequence[Place]) -> list[Allow]:
        """Read the sources that lie in S3."""
        return [allow for place in places if place.s3 for allow in self._bucket(*place.s3)]

    def _bucket(self, bucket: str, prefix: str) -> list[Allow]:
        arn = f"arn:{self._stack.partition}:s3:::{bucket}"
        condition = {"StringLike": {"s3:prefix": [f"{prefix}*"]}} if prefix else {}
        return [
            Allow(["s3:ListBucket"], [arn], conditions=condition),
            Allow(["s3:GetObject"], [f"{arn}/{prefix}*"], "every object of the source"),
            self._decrypt("s3", "aws:s3:arn", [f"{arn}*"]),
        ]

    def _secret(self, name: str) -> str:
        # Secrets Manager ends every ARN with six characters that the name does not tell.
        made = self._arn("secretsmanager", f"secret:{name}-??????")
        return name if name.startswith("arn:") else made

    def _parameter(self, name: str) -> str:
        return (
            name if name.startswith("arn:") else self._arn("ssm", f"parameter/{name.lstrip('/')}")
        )

    def _decrypt(self, service: str, context: str, arns: list[str]) -> Allow:
        """Decrypt with whatever key holds those secrets, parameters or buckets, and nothing else."""
        endpoint = f"{service}.{self._stack.region}.{self._stack.url_suffix}"
        return Allow(
            ["kms:Decrypt"],
            [self._arn("kms", "key/*")],
            "only what the condition names, and only through that service",
            {
                "StringEquals": {"kms:ViaService": endpoint},
                "StringLike": {f"kms:EncryptionContext:{context}": arns},
            },
        )

    def _arn(self, service: str, resource: str) -> str:
        stack = self._stack
        return f"arn:{stack.partition}:{service}:{stack.region}:{stack.account}:{resource}"
