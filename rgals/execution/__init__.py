"""Who runs the tasks of a job: the `Executor` protocol and its implementations."""

from rgals.execution.executor import Executor, InProcessExecutor

__all__ = ["Executor", "InProcessExecutor"]
