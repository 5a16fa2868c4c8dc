"""Where functions that touch sources run: the VPC and file system of the settings, if any.

Plain CloudFormation, so that a synth needs no look-ups in the account.
"""

from aws_cdk import aws_ec2 as ec2
from aws_cdk import aws_lambda as lambda_
from constructs import Construct

from infra import settings
from infra.roles import Allow


class Network(Construct):
    """Puts functions into the subnets and mounts the file system."""

    def __init__(self, scope: Construct, name: str, chosen: settings.Network) -> None:
        super().__init__(scope, name)
        self._chosen = chosen
        self._groups = list(chosen.security_group_ids)
        if chosen.subnet_ids and chosen.vpc_id and not self._groups:
            group = ec2.CfnSecurityGroup(
                self,
                "SecurityGroup",
                group_description="Stepvault functions: out to sources and AWS, nothing in",
                vpc_id=chosen.vpc_id,
            )
            self._groups = [group.attr_group_id]

    def grants(self, *, writes: bool = False) -> list[Allow]:
        """Grant what a role needs to run there."""
        grants = []
        if self._chosen.subnet_ids:
            grants.append(
                Allow(
                    [
                        "ec2:CreateNetworkInterface",
                        "ec2:DescribeNetworkInterfaces",
                        "ec2:DescribeSubnets",
                        "ec2:DeleteNetworkInterface",
                        "ec2:AssignPrivateIpAddresses",
                        "ec2:UnassignPrivateIpAddresses",
                    ],
                    ["*"],
                    "Lambda makes the function's network interfaces; they have no ARN before",
                )
            )
        if point := self._chosen.efs_access_point_arn:
            own = ":".join(point.split(":")[:5])
            grants.append(
                Allow(
                    # An access point for root is squashed to nobody without ClientRootAccess.
                    [
                        "elasticfilesystem:ClientMount",
                        "elasticfilesystem:ClientRootAccess",
                        *(["elasticfilesystem:ClientWrite"] if writes else []),
                    ],
                    [f"{own}:file-system/*"],
                    "the access point, in the condition, names the file system",
                    {"StringEquals": {"elasticfilesystem:AccessPointArn": point}},
                )
            )
        return grants

    def attach(self, function: lambda_.Function) -> None:
        """Run the function in the subnets, with the file system mounted."""
        resource = function.node.default_child
        assert isinstance(resource, lambda_.CfnFunction)  # noqa: S101 - tells mypy what CDK makes
        if self._chosen.subnet_ids:
            resource.vpc_config = lambda_.CfnFunction.VpcConfigProperty(
                subnet_ids=list(self._chosen.subnet_ids), security_group_ids=self._groups
            )
        if self._chosen.efs_access_point_arn:
            resource.file_system_configs = [
                lambda_.CfnFunction.FileSystemConfigProperty(
                    arn=self._chosen.efs_access_point_arn, local_mount_path=self._chosen.efs_mount
                )
            ]
