"""Roles that may do what they are given here and nothing else.

CDK's ``grant_…`` helpers add rights that are wider than ours and scattered over the stack. A
role here is closed: all it may do stands in the list that made it, and every wildcard carries
its reason, which is what cdk-nag gets to read.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from aws_cdk import Acknowledgment, Stack, Validations
from aws_cdk import aws_iam as iam
from constructs import Construct

from infra.settings import SettingsError

#: Characters that IAM allows, white space not counted: of all inline policies of a role together,
#: of one managed policy, and managed policies per role
#: (https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_iam-quotas.html).
INLINE_CHARACTERS = 10_240
MANAGED_CHARACTERS = 6_144
MANAGED_PER_ROLE = 10
#: Characters for what surrounds the statements of a policy.
SPARE = 100
#: What a reference becomes once it is deployed: the longest partition is ``aws-us-gov``, an account
#: has 12 digits, a region up to 14 characters, a bucket's name up to 63, a function's ARN up to 140.
_LONGEST = {"<AWS::Partition>": 10, "<AWS::AccountId>": 12, "<AWS::Region>": 14}
_REFERENCE = 140


@dataclass(frozen=True)
class Allow:
    """One statement of a role."""

    actions: Sequence[str]
    resources: Sequence[str]
    why: str = ""
    """Why a wildcard in ``resources`` is as narrow as it can be."""
    conditions: dict[str, Any] = field(default_factory=dict)


def closed_role(scope: Construct, name: str, service: str, grants: Sequence[Allow]) -> iam.IRole:
    """Make a role that the service takes on, with these grants; no construct can add to it.

    What does not fit into the role's own policies goes into managed policies of its own.

    Raises:
        SettingsError: the grants are more than IAM lets one role have.
    """
    own, *others = _packed(scope, name, grants)
    managed = [
        iam.ManagedPolicy(scope, f"{name}Policy{number}", document=_document(some))
        for number, some in enumerate(others, start=1)
    ]
    role = iam.Role(
        scope,
        name,
        assumed_by=iam.ServicePrincipal(service),
        inline_policies={"Access": _document(own)},
        managed_policies=list(managed),
    )
    _acknowledge(role, own)
    for policy, some in zip(managed, others, strict=True):
        _acknowledge(policy, some)
    return role.without_policy_updates()


def _document(grants: Sequence[Allow]) -> iam.PolicyDocument:
    return iam.PolicyDocument(
        statements=[
            iam.PolicyStatement(
                actions=list(grant.actions),
                resources=list(grant.resources),
                conditions=grant.conditions or None,
            )
            for grant in grants
        ]
    )


def _packed(scope: Construct, name: str, grants: Sequence[Allow]) -> list[list[Allow]]:
    """Divide the grants: first those of the role itself, then those of each managed policy."""
    policies: list[list[Allow]] = [[]]
    room = INLINE_CHARACTERS - SPARE
    # Those that cannot be cut come first.
    for grant in sorted(grants, key=lambda g: len(g.resources)):
        rest: Allow | None = grant
        while rest:
            piece, rest = _fitting(scope, rest, room)
            if piece is None:
                policies.append([])
                room = MANAGED_CHARACTERS - SPARE
                continue
            policies[-1].append(piece)
            room -= _characters(scope, piece)
    if len(policies) > MANAGED_PER_ROLE + 1:
        raise SettingsError(
            f"The role {name!r} would need {len(policies) - 1} managed policies, and IAM allows "
            f"{MANAGED_PER_ROLE}: the sources name more secrets, parameters or buckets than fit. "
            "Shorten the secrets' names, or divide the sources among several stacks"
        )
    return policies


def _fitting(scope: Construct, grant: Allow, room: int) -> tuple[Allow | None, Allow | None]:
    """Cut off what fits into that many characters: that piece, and the rest."""
    size = _characters(scope, replace(grant, resources=[]))
    for count, resource in enumerate(grant.resources):
        size += _resource_characters(scope, resource)
        if size > room:
            if count == 0:
                if room >= MANAGED_CHARACTERS - SPARE:
                    raise SettingsError(f"A statement has {size} characters, more than IAM allows")
                return None, grant
            return (
                replace(grant, resources=grant.resources[:count]),
                replace(grant, resources=grant.resources[count:]),
            )
    return grant, None


def _characters(scope: Construct, grant: Allow) -> int:
    """Count the characters of the statement once it is deployed, rounded up."""
    text = json.dumps([list(grant.actions), grant.conditions], separators=(",", ":"), default=str)
    return len(text) + 60 + sum(_resource_characters(scope, r) for r in grant.resources)


def _resource_characters(scope: Construct, resource: str) -> int:
    return _deployed_length(_flatten(Stack.of(scope).resolve(resource))) + 3


def _deployed_length(resource: str) -> int:
    length, rest = 0, resource
    while (start := rest.find("<")) >= 0 and (end := rest.find(">", start)) >= 0:
        length += start + _LONGEST.get(rest[start : end + 1], _REFERENCE)
        rest = rest[end + 1 :]
    return length + len(rest)


def _acknowledge(policy: Construct, grants: Sequence[Allow]) -> None:
    """Tell cdk-nag why the wildcards are as narrow as they can be."""
    reasons = {finding: g.why for g in reversed(grants) for finding in _wildcards(policy, g)}
    for finding, reason in reasons.items():
        Validations.of(policy).acknowledge(Acknowledgment(id=finding, reason=reason))


def _wildcards(scope: Construct, grant: Allow) -> list[str]:
    """cdk-nag's names of the findings that the statement's wildcards will raise."""
    resolved = [_flatten(Stack.of(scope).resolve(r)) for r in grant.resources]
    found = [f"AwsSolutions-IAM5[Resource::{r}]" for r in resolved if "*" in r]
    if found and not grant.why:
        raise ValueError(f"{scope.node.path}: say why {grant.resources} needs a wildcard")
    return found


def _flatten(value: Any) -> str:
    """Write a resolved CloudFormation value in cdk-nag's notation: ``<VaultBucket.Arn>/runs/*``."""
    match value:
        case str():
            return value
        case list():
            return "".join(_flatten(v) for v in value)
        case {"Fn::Join": [separator, parts]}:
            return str(separator).join(_flatten(p) for p in parts)
        case {"Fn::GetAtt": [resource, attribute]}:
            return f"<{resource}.{attribute}>"
        case {"Ref": resource}:
            return f"<{resource}>"
    return str(value)
