"""Synthesizes the stack as ``cdk synth`` does and reads what came out."""

import fnmatch
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).parent


def synthesize(
    config: Path, out: Path, *, check: bool = True, **context: str
) -> subprocess.CompletedProcess[str]:
    """Run the app on that configuration, with its cloud assembly in ``out``.

    A finding of cdk-nag fails it.
    """
    given = json.loads((ROOT / "cdk.json").read_text())["context"]
    done = subprocess.run(
        [sys.executable, "-m", "infra.app"],
        cwd=ROOT,
        env=os.environ
        | {
            "CDK_OUTDIR": str(out),
            # The CDK's own linter, not cdk-nag: takes most of a synth's time, runs in `make synth`.
            "CDK_VALIDATION": "false",
            "CDK_CONTEXT_JSON": json.dumps(given | context | {"config": str(config)}),
        },
        capture_output=True,
        text=True,
    )
    assert not check or done.returncode == 0, done.stdout + done.stderr
    return done


@dataclass(frozen=True)
class Template:
    """A synthesized template, with CloudFormation's references flattened to ``<Id.Attribute>``."""

    resources: dict[str, dict[str, Any]]
    outputs: dict[str, Any]
    assembly: Path

    @classmethod
    def read(cls, out: Path) -> "Template":
        raw = json.loads((out / "Stepvault.template.json").read_text())
        resources = {k: flatten(v) for k, v in raw["Resources"].items()}
        return cls(resources, flatten(raw["Outputs"]), out)

    def of_type(self, kind: str) -> dict[str, dict[str, Any]]:
        """Properties by logical id."""
        return {k: r["Properties"] for k, r in self.resources.items() if r["Type"] == kind}

    def only(self, kind: str) -> dict[str, Any]:
        (found,) = self.of_type(kind).values()
        return found

    @property
    def vault(self) -> dict[str, Any]:
        """Properties of the vault's bucket."""
        (vault,) = [
            b for k, b in self.of_type("AWS::S3::Bucket").items() if k.startswith("VaultBucket")
        ]
        return vault

    @property
    def vault_id(self) -> str:
        """The logical id of the vault's bucket."""
        return next(k for k in self.of_type("AWS::S3::Bucket") if k.startswith("VaultBucket"))

    @property
    def functions(self) -> dict[str, dict[str, Any]]:
        """Properties by the function's name without the stack's."""
        return {
            f["FunctionName"].removeprefix("Stepvault-"): f
            for f in self.of_type("AWS::Lambda::Function").values()
        }

    @property
    def core(self) -> Path:
        """What goes to Lambda as the core layer."""
        layers = self.of_type("AWS::Lambda::LayerVersion")
        (key,) = (v["Content"]["S3Key"] for k, v in layers.items() if "CoreLayer" in k)
        return self.assembly / f"asset.{Path(key).stem}"

    @property
    def handlers(self) -> Path:
        """What goes to Lambda as the functions' code."""
        (key,) = {f["Code"]["S3Key"] for f in self.functions.values()}
        return self.assembly / f"asset.{Path(key).stem}"

    def machine(self, name: str) -> dict[str, Any]:
        """The definition of a state machine."""
        for machine in self.of_type("AWS::StepFunctions::StateMachine").values():
            if machine["StateMachineName"] == f"Stepvault-{name}":
                return dict(json.loads(machine["DefinitionString"]))
        raise AssertionError(f"no state machine {name}")

    def policies(self, role: str) -> list[dict[str, Any]]:
        """The policies of the role with that logical id, or ``<id.Arn>``: its own, then managed."""
        properties = self.resources[role.strip("<>").removesuffix(".Arn")]["Properties"]
        managed = [m.strip("<>") for m in properties.get("ManagedPolicyArns", [])]
        return [p["PolicyDocument"] for p in properties["Policies"]] + [
            self.resources[name]["Properties"]["PolicyDocument"] for name in managed
        ]

    def statements(self, role: str) -> list[dict[str, Any]]:
        """What the role with that logical id, or ``<id.Arn>``, allows."""
        statements = [s for policy in self.policies(role) for s in policy["Statement"]]
        assert all(s["Effect"] == "Allow" for s in statements)
        return statements

    @property
    def roles(self) -> list[str]:
        return list(self.of_type("AWS::IAM::Role"))

    def may(self, role: str, action: str, resource: str) -> bool:
        """Whether the role allows the action on the resource, as IAM matches patterns."""
        return any(
            any(fnmatch.fnmatchcase(action, a) for a in listed(s["Action"]))
            and any(fnmatch.fnmatchcase(resource, r) for r in listed(s["Resource"]))
            for s in self.statements(role)
        )


def flatten(value: Any) -> Any:
    """CloudFormation's Join, GetAtt and Ref as plain text."""
    match value:
        case {"Fn::Join": [separator, parts]}:
            return str(separator).join(flatten(p) for p in parts)
        case {"Fn::GetAtt": [resource, attribute]}:
            return f"<{resource}.{attribute}>"
        case {"Ref": resource}:
            return f"<{resource}>"
        case dict():
            return {k: flatten(v) for k, v in value.items()}
        case list():
            return [flatten(v) for v in value]
    return value


def listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def states(definition: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every state of a machine, those inside Parallels and Maps too."""
    for name, state in definition["States"].items():
        yield name, state
        for inner in [*state.get("Branches", []), state.get("ItemProcessor")]:
            if inner:
                yield from states(inner)
