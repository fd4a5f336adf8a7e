"""What the Dockerfile says, as far as the tests need to know."""

import shlex
from dataclasses import dataclass, field
from pathlib import Path

from tests.deploy.compose_file import REPOSITORY

DOCKERFILE = REPOSITORY / "Dockerfile"


@dataclass
class Stage:
    """One FROM with what follows it: pairs of an instruction and its text, in order."""

    base: str
    name: str
    steps: list[tuple[str, str]] = field(default_factory=list)

    def texts(self, instruction: str) -> list[str]:
        return [text for word, text in self.steps if word == instruction]

    def environment(self) -> dict[str, str]:
        pairs = [pair.partition("=") for text in self.texts("ENV") for pair in shlex.split(text)]
        return {name: value for name, _, value in pairs}


def read_stages(path: Path = DOCKERFILE) -> list[Stage]:
    """Read the stages; lines ending in a backslash go on, comments are left out."""
    lines = [line for line in path.read_text().splitlines() if line.strip() and not line.lstrip().startswith("#")]
    stages: list[Stage] = []
    for line in "\n".join(lines).replace("\\\n", " ").splitlines():
        instruction, _, text = line.partition(" ")
        if instruction == "FROM":
            base, _, name = text.partition(" AS ")
            stages.append(Stage(base.strip(), name.strip()))
        else:
            stages[-1].steps.append((instruction, " ".join(text.split())))
    return stages
