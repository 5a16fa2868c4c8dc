"""What it takes to reach sources and targets: their secrets, their buckets, their sign-in."""

from collections.abc import Iterable, Sequence

from aws_cdk import Stack

from infra.roles import Allow
from infra.settings import Place

#: Secrets, parameters or buckets that a statement's condition names; a condition cannot be cut.
NAMED_IN_CONTEXT = 10


class Access:
    """Rights to exactly what the configuration names, in the stack's account and region."""

    def __init__(self, stack: Stack) -> None:
        self._stack = stack

    def credentials(self, places: Sequence[Place]) -> list[Allow]:
        """Read the secrets and parameters that the places name, or sign in as their users."""
        named = [place.credentials for place in places]
        secrets = _unique(self._secret(n.secret) for n in named if n.secret)
        parameters = _unique(self._parameter(n.parameter) for n in named if n.parameter)
        users = _unique(self._arn("rds-db", f"dbuser:*/{n.iam_user}") for n in named if n.iam_user)
        grants = []
        if secrets:
            why = "six random characters end the ARN"
            grants.append(Allow(["secretsmanager:GetSecretValue"], secrets, why))
            grants += self._decrypt_at_home("secretsmanager", "SecretARN", secrets)
        if parameters:
            grants.append(Allow(["ssm:GetParameter"], parameters))
            grants += self._decrypt_at_home("ssm", "PARAMETER_ARN", parameters)
        if users:
            why = "a host name does not tell the database's resource id; the user is named"
            grants.append(Allow(["rds-db:connect"], users, why))
        return grants

    def buckets(self, places: Sequence[Place]) -> list[Allow]:
        """Read the sources that lie in S3."""
        sources = _unique(place.s3 for place in places if place.s3)
        if not sources:
            return []
        whole = _unique(bucket for bucket, prefix in sources if not prefix)
        below: dict[str, list[str]] = {}
        for bucket, prefix in sources:
            if prefix and bucket not in whole:
                below.setdefault(bucket, []).append(f"{prefix}*")
        objects = [self._bucket(f"{bucket}/{prefix}*") for bucket, prefix in sources]
        grants = [
            Allow(
                ["s3:ListBucket"],
                [self._bucket(bucket)],
                conditions={"StringLike": {"s3:prefix": prefixes}},
            )
            for bucket, prefixes in below.items()
        ]
        if whole:
            grants.append(Allow(["s3:ListBucket"], [self._bucket(bucket) for bucket in whole]))
        return [
            *grants,
            Allow(["s3:GetObject", "s3:GetObjectTagging"], objects, "every object of the source"),
            # The key of a bucket may be another account's; its policy has to agree, too.
            self._decrypt(
                "s3",
                ("*", "*"),
                "aws:s3:arn",
                _unique(self._bucket(f"{bucket}*") for bucket, _ in sources),
            ),
        ]

    def _bucket(self, path: str) -> str:
        return f"arn:{self._stack.partition}:s3:::{path}"

    def _secret(self, name: str) -> str:
        # Secrets Manager ends every ARN with six characters that the name does not tell.
        own = self._arn("secretsmanager", f"secret:{name}-??????")
        return name if name.startswith("arn:") else own

    def _parameter(self, name: str) -> str:
        own = self._arn("ssm", f"parameter/{name.lstrip('/')}")
        return name if name.startswith("arn:") else own

    def _decrypt_at_home(self, service: str, context: str, arns: Sequence[str]) -> list[Allow]:
        """Decrypt those secrets or parameters; those of other accounts and regions have keys there."""
        homes: dict[tuple[str, str], list[str]] = {}
        for arn in arns:
            region, account = arn.split(":")[3:5]
            homes.setdefault((region, account), []).append(arn)
        return [self._decrypt(service, home, context, of_home) for home, of_home in homes.items()]

    def _decrypt(
        self, service: str, home: tuple[str, str], context: str, arns: Sequence[str]
    ) -> Allow:
        """Decrypt with whatever keys hold those, and only through that service.

        The service hands out nothing but what the other statements name. Few are named here once
        more, as keys see them; many would not fit.
        """
        region, account = home
        named = {f"kms:EncryptionContext:{context}": list(arns)}
        return Allow(
            ["kms:Decrypt"],
            [f"arn:{self._stack.partition}:kms:{region}:{account}:key/*"],
            "only through that service, which gives what is named alone",
            {
                "StringLike": {"kms:ViaService": self._via(service, region)}
                | (named if len(arns) <= NAMED_IN_CONTEXT else {})
            },
        )

    def _via(self, service: str, region: str) -> list[str]:
        # The documents name no domain but amazonaws.com; China has one of its own.
        return _unique(
            f"{service}.{region}.{domain}" for domain in ("amazonaws.com", self._stack.url_suffix)
        )

    def _arn(self, service: str, resource: str) -> str:
        stack = self._stack
        return f"arn:{stack.partition}:{service}:{stack.region}:{stack.account}:{resource}"


def _unique[T](values: Iterable[T]) -> list[T]:
    """Give the values in order, each once."""
    return list(dict.fromkeys(values))
