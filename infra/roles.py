"""Roles that may do what they are given here and nothing else.

CDK's ``grant_…`` helpers add rights that are wider than ours and scattered over the stack. A
role here is closed: all it may do stands in the list that made it, and every wildcard carries
its reason, which is what cdk-nag gets to read.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from aws_cdk import Acknowledgment, Stack, Validations
from aws_cdk import aws_iam as iam
from constructs import Construct


@dataclass(frozen=True)
class Allow:
    """One statement of a role."""

    actions: Sequence[str]
    resources: Sequence[str]
    why: str = ""
    """Why a wildcard in ``resources`` is as narrow as it can be."""
    conditions: dict[str, Any] = field(default_factory=dict)


def closed_role(scope: Construct, name: str, service: str, grants: Sequence[Allow]) -> iam.IRole:
    """A role that the service takes on, with these grants; no construct can add to it."""
    made = iam.Role(
        scope,
        name,
        assumed_by=iam.ServicePrincipal(service),
        inline_policies={
            "Access": iam.PolicyDocument(
                statements=[
                    iam.PolicyStatement(
                        actions=list(g.actions),
                        resources=list(g.resources),
                        conditions=g.conditions or None,
                    )
                    for g in grants
                ]
            )
        },
    )
    seen: set[str] = set()
    for grant in grants:
        for finding in _wildcards(made, grant):
            if finding not in seen:
                seen.add(finding)
                Validations.of(made).acknowledge(Acknowledgment(id=finding, reason=grant.why))
    return made.without_policy_updates()


def _wildcards(scope: Construct, grant: Allow) -> list[str]:
    """cdk-nag's names of the findings that the statement's wildcards will raise."""
    resolved = [_flatten(Stack.of(scope).resolve(r)) for r in grant.resources]
    found = [f"AwsSolutions-IAM5[Resource::{r}]" for r in resolved if "*" in r]
    if found and not grant.why:
        raise ValueError(f"{scope.node.path}: say why {grant.resources} needs a wildcard")
    return found


def _flatten(value: Any) -> str:
    """A resolved CloudFormation value in cdk-nag's notation: ``<VaultBucket.Arn>/runs/*``."""
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
