"""The environment variables each function reads: the one place that looks at them.

``infra`` sets them; a test holds the synthesized template against these classes.
"""

import os
from dataclasses import dataclass, field, fields
from typing import Self

from stepvault.errors import ConfigInvalid


@dataclass(frozen=True)
class FunctionEnv:
    """What every function reads."""

    vault: str = field(metadata={"variable": "STEPVAULT_VAULT"})
    """Name of the vault bucket."""
    stack: str = field(metadata={"variable": "STEPVAULT_STACK"})
    """Name of the stack, which keeps apart the metrics of several."""

    @classmethod
    def read(cls) -> Self:
        """Read the variables.

        Raises:
            ConfigInvalid: naming every variable that is missing.
        """
        names = cls.variables()
        if missing := [variable for variable in names.values() if not os.environ.get(variable)]:
            raise ConfigInvalid(
                f"The environment lacks {', '.join(missing)}", "Deploy the stack again"
            )
        return cls(**{name: os.environ[variable] for name, variable in names.items()})

    @classmethod
    def variables(cls) -> dict[str, str]:
        """Field name to environment variable."""
        return {f.name: f.metadata["variable"] for f in fields(cls)}


@dataclass(frozen=True)
class PlanEnv(FunctionEnv):
    """What ``plan`` and ``prune`` read beside."""

    config: str = field(metadata={"variable": "STEPVAULT_CONFIG"})
    """Path of the bundled configuration, relative to the function's code or absolute."""


#: Function file to what it reads.
FUNCTIONS: dict[str, type[FunctionEnv]] = {
    "plan": PlanEnv,
    "plan_source": FunctionEnv,
    "collect_units": FunctionEnv,
    "check_schedules": PlanEnv,
    "back_up": FunctionEnv,
    "seal": FunctionEnv,
    "prune": PlanEnv,
    "plan_restore": PlanEnv,
    "restore": FunctionEnv,
    "report_restore": FunctionEnv,
}


def memory_limit() -> int:
    """Bytes of memory the platform allows this function; 0 where there is no limit to know."""
    return int(os.environ.get("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "0")) << 20


def stack_name() -> str:
    """Give the name of the stack that the function belongs to; ``Stepvault`` outside of one."""
    return os.environ.get("STEPVAULT_STACK", "Stepvault")
